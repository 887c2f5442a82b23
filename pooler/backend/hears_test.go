package backend

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// notification is a NotificationResponse by a process.
func notification(pid uint32, payload string) []byte {
	body := append(binary.BigEndian.AppendUint32(nil, pid), "c\x00"+payload+"\x00"...)
	return append(binary.BigEndian.AppendUint32([]byte{'A'}, uint32(4+len(body))), body...)
}

func TestNotificationsOfOthersAreDropped(t *testing.T) {
	t.Parallel()
	conn, r := newConn(steps("Q"))
	conn.Hears = func(pid uint32) (uint32, bool) { return pid + 0x70000, pid == 7 }
	var in []byte
	for _, part := range [][]byte{notification(8, "x"), stream("T D:1"), notification(8, "y"), notification(7, "z"), stream("C:SELECT_1 Z"), notification(9, "w")} {
		in = append(in, part...)
	}
	for _, b := range in { // wherever they are cut
		if err := conn.Feed([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]string{"relay TDAC", "complete Query #1 SELECT 1", "ready Query #1 I"}, r.take()); d != "" {
		t.Error(d)
	}
	if !strings.Contains(string(r.all), string(notification(0x70007, "z"))) {
		t.Errorf("relayed %q: not by whom the notification is", r.all)
	}
	if err := conn.Feed([]byte("A\x00\x00\x00\x06ab")); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "notification") {
		t.Errorf("got %v", err)
	}
}
