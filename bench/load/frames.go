package load

import "encoding/binary"

// header is a message's type and length.
const header = 5

// frames finds the messages in a stream that comes in pieces, without keeping them.
type frames struct {
	head [header]byte
	have int // bytes of the header
	left int // bytes of the body that are still to come
}

// feed calls each for every message that begins in b, with its type and what of its body is in b. The length of a message is not checked
// against anything: the server is trusted here.
func (f *frames) feed(b []byte, each func(kind byte, body []byte)) {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, len(b))
			f.left -= n
			b = b[n:]
			continue
		}
		n := copy(f.head[f.have:], b)
		f.have += n
		b = b[n:]
		if f.have < header {
			return
		}
		f.have = 0
		f.left = max(0, int(binary.BigEndian.Uint32(f.head[1:]))-4)
		each(f.head[0], b[:min(f.left, len(b))])
	}
}

// message is what an ErrorResponse says, as far as it is at hand.
func message(body []byte) string {
	for len(body) > 1 {
		end := 1
		for end < len(body) && body[end] != 0 {
			end++
		}
		if body[0] == 'M' {
			return string(body[1:end])
		}
		body = body[min(end+1, len(body)):]
	}
	return "an error without a message"
}

// AppendQuery appends a Query message.
func AppendQuery(dst []byte, sql string) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, 'Q'), uint32(4+len(sql)+1)) //nolint:gosec // statements are short
	return append(append(dst, sql...), 0)
}

// appendStartup appends a startup message.
func appendStartup(dst []byte, user, database string) []byte {
	body := "user\x00" + user + "\x00database\x00" + database + "\x00\x00"
	dst = binary.BigEndian.AppendUint32(dst, uint32(8+len(body))) //nolint:gosec // names are short
	return append(binary.BigEndian.AppendUint32(dst, 3<<16), body...)
}
