package pgwire

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
)

// Protocol versions as the startup packet's second word has them.
const (
	Version30 uint32 = 3 << 16
	Version32 uint32 = 3<<16 | 2
)

// The numbers that stand in place of a version.
const (
	cancelRequestCode = 1234<<16 | 5678
	sslRequestCode    = 1234<<16 | 5679
	gssencRequestCode = 1234<<16 | 5680
)

// MaxStartupBytes is the longest startup packet PostgreSQL accepts, its length word included.
const MaxStartupBytes = 10_000 + 4

// StartupKind says which of the packets that open a connection it was.
type StartupKind uint8

// The four packets.
const (
	StartupMessage StartupKind = iota + 1
	StartupSSLRequest
	StartupGSSENCRequest
	StartupCancelRequest
)

// String names the packet.
func (k StartupKind) String() string {
	switch k {
	case StartupMessage:
		return "StartupMessage"
	case StartupSSLRequest:
		return "SSLRequest"
	case StartupGSSENCRequest:
		return "GSSENCRequest"
	case StartupCancelRequest:
		return "CancelRequest"
	default:
		return "unknown"
	}
}

// Param is a run-time parameter and its value.
type Param struct {
	Name  string
	Value string
}

// Startup is a decoded startup packet. It holds copies, no views.
type Startup struct {
	Kind StartupKind

	// Major and Minor are the protocol version of a StartupMessage. Any version is decoded; see UnsupportedProtocol.
	Major uint16
	Minor uint16
	// Params are a StartupMessage's parameters in the order they came, duplicates included. See Lookup.
	Params []Param

	// PID and Secret (4 to 256 bytes) are a CancelRequest's.
	PID    uint32
	Secret []byte
}

// Lookup gives a parameter's value. Of duplicates the last one counts, as in PostgreSQL.
func (s *Startup) Lookup(name string) (value string, ok bool) {
	for _, p := range slices.Backward(s.Params) {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// User is the user's name; empty when the packet has none, which PostgreSQL refuses with 28000.
func (s *Startup) User() string {
	u, _ := s.Lookup("user")
	return u
}

// Database is the database's name, which defaults to the user's.
func (s *Startup) Database() string {
	if d, _ := s.Lookup("database"); d != "" {
		return d
	}
	return s.User()
}

// ProtocolOptions are the names of the "_pq_." parameters, which ask for protocol extensions rather than set anything. A server
// lists those it does not know in NegotiateProtocolVersion.
func (s *Startup) ProtocolOptions() []string {
	var names []string
	for _, p := range s.Params {
		if strings.HasPrefix(p.Name, "_pq_.") {
			names = append(names, p.Name)
		}
	}
	return names
}

// UnsupportedProtocol is PostgreSQL's answer to a version outside 3.0 to 3.maxMinor's major version.
func UnsupportedProtocol(major, minor, maxMinor uint16) *Error {
	return Fatalf(CodeFeatureNotSupported, "unsupported frontend protocol %d.%d: server supports 3.0 to 3.%d", major, minor, maxMinor)
}

// StartupHeader reads the length word of a startup packet: total includes the word itself. ok is false while b is shorter than the
// word. total is -1 when the length is out of PostgreSQL's bounds; nothing is answered then, the connection is closed.
func StartupHeader(b []byte) (total int, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	n := binary.BigEndian.Uint32(b)
	if n < 8 || n > MaxStartupBytes {
		return -1, true
	}
	return int(n), true
}

// DecodeStartup decodes a whole startup packet, its length word included.
func DecodeStartup(packet []byte) (Startup, error) {
	total, ok := StartupHeader(packet)
	if !ok || total != len(packet) {
		return Startup{}, Fatalf(CodeProtocolViolation, "invalid length of startup packet")
	}
	code, body := binary.BigEndian.Uint32(packet[4:]), packet[8:]
	switch code {
	case cancelRequestCode:
		if len(body) < 8 || len(body) > 4+MaxSecretBytes {
			return Startup{}, Fatalf(CodeProtocolViolation, "invalid length of cancel packet")
		}
		return Startup{Kind: StartupCancelRequest, PID: binary.BigEndian.Uint32(body), Secret: bytes.Clone(body[4:])}, nil
	case sslRequestCode, gssencRequestCode:
		if len(body) != 0 {
			return Startup{}, Fatalf(CodeProtocolViolation, "invalid length of startup packet")
		}
		if code == sslRequestCode {
			return Startup{Kind: StartupSSLRequest}, nil
		}
		return Startup{Kind: StartupGSSENCRequest}, nil
	}
	s := Startup{Kind: StartupMessage, Major: uint16(code >> 16), Minor: uint16(code)} //nolint:gosec // two halves of a word
	if s.Major != 3 {
		return s, nil // other versions lay their parameters out in other ways
	}
	var err error
	s.Params, err = decodeParams(body)
	if err != nil {
		return Startup{}, err
	}
	return s, nil
}

// decodeParams reads pairs of strings up to an empty name, which must be the packet's last byte (ProcessStartupPacket).
func decodeParams(body []byte) ([]Param, error) {
	r := reader{b: body}
	var params []Param
	for {
		name := r.cstring()
		if len(name) == 0 { // the terminator, or a fault
			break
		}
		p := Param{Name: string(name), Value: string(r.cstring())}
		if r.fault != faultNone {
			break
		}
		params = append(params, p)
	}
	if r.end() != nil {
		return nil, Fatalf(CodeProtocolViolation, "invalid startup packet layout: expected terminator as last byte")
	}
	return params, nil
}

// beginStartup appends the length word that endStartup fills in, and the code.
func beginStartup(dst []byte, code uint32) (out []byte, start int) {
	start = len(dst)
	dst = append(dst, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint32(dst, code), start
}

func endStartup(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start)) //nolint:gosec // bounded by the caller's parameters
	return dst
}

// AppendStartupMessage appends a StartupMessage of the given version with the parameters in order. A parameter without a name is
// left out: it would end the list.
func AppendStartupMessage(dst []byte, version uint32, params []Param) []byte {
	dst, start := beginStartup(dst, version)
	for _, p := range params {
		if p.Name != "" && p.Name[0] != 0 {
			dst = appendString(appendString(dst, p.Name), p.Value)
		}
	}
	return endStartup(append(dst, 0), start)
}

// AppendSSLRequest appends an SSLRequest.
func AppendSSLRequest(dst []byte) []byte {
	dst, start := beginStartup(dst, sslRequestCode)
	return endStartup(dst, start)
}

// AppendGSSENCRequest appends a GSSENCRequest.
func AppendGSSENCRequest(dst []byte) []byte {
	dst, start := beginStartup(dst, gssencRequestCode)
	return endStartup(dst, start)
}

// AppendCancelRequest appends a CancelRequest.
func AppendCancelRequest(dst []byte, pid uint32, secret []byte) []byte {
	dst, start := beginStartup(dst, cancelRequestCode)
	dst = binary.BigEndian.AppendUint32(dst, pid)
	return endStartup(append(dst, secret...), start)
}
