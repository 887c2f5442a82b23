package backend

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

func TestAnswersReachTheirSteps(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		steps, stream string
		want          []string
	}{
		"simple": {"Q", "T D:1 D:2 C:SELECT_2 Z", []string{
			"relay TDDC", "complete Query #1 SELECT 2", "ready Query #1 I",
		}},
		"several statements": {"Q", "T D:1 C:SELECT_1 C:SET T C:SELECT_0 Z:T", []string{
			"relay TDC", "complete Query #1 SELECT 1", "relay C", "complete Query #1 SET", "relay TC", "complete Query #1 SELECT 0", "ready Query #1 T",
		}},
		"empty": {"Q", "I Z", []string{"relay I", "complete Query #1", "ready Query #1 I"}},
		"error in the second statement": {"Q", "C:SET E:22012 Z:E", []string{
			"relay C", "complete Query #1 SET", "failed Query #1 22012", "ready Query #1 E",
		}},
		"extended": {"P B d E S", "1 2 T D:1 C:SELECT_1 Z", []string{
			"relay 1", "complete Parse #1", "relay 2", "complete Bind #2", "relay T", "complete Describe portal #3",
			"relay DC", "complete Execute #4 SELECT 1", "ready Sync #5 I",
		}},
		"statement without rows": {"D C S", "t n 3 Z", []string{
			"relay tn", "complete Describe statement #1", "relay 3", "complete Close #2", "ready Sync #3 I",
		}},
		"statement with rows": {"D S", "t T Z", []string{"relay tT", "complete Describe statement #1", "ready Sync #2 I"}},
		"suspended": {"E E S", "D:1 s D:2 C:SELECT_1 Z", []string{
			"relay Ds", "complete Execute #1", "relay DC", "complete Execute #2 SELECT 1", "ready Sync #3 I",
		}},
		"empty portal": {"E S", "I Z", []string{"relay I", "complete Execute #1", "ready Sync #2 I"}},
		"what is behind an error is skipped": {"P B E P S Q", "1 E:42P01 Z C:SET Z", []string{
			"relay 1", "complete Parse #1", "failed Bind #2 42P01", "skipped Execute #3", "skipped Parse #4", "ready Sync #5 I",
			"relay C", "complete Query #6 SET", "ready Query #6 I",
		}},
		"a Query behind an error is skipped, too": {"E Q B S", "E Z", []string{
			"failed Execute #1 42601", "skipped Query #2", "skipped Bind #3", "ready Sync #4 I",
		}},
		"commit fails at Sync": {"E S", "C:INSERT_0_1 E:23503 Z", []string{
			"relay C", "complete Execute #1 INSERT 0 1", "failed Sync #2 23503", "ready Sync #2 I",
		}},
		"internal first": {"Qi Q", "C:SET T D:x C:SELECT_1 N:x Z T D:1 C:SELECT_1 Z", []string{
			"complete Query internal #1 SET", "complete Query internal #1 SELECT 1", "ready Query internal #1 I",
			"relay TDC", "complete Query #2 SELECT 1", "ready Query #2 I",
		}},
		"internal among others": {"P Ci Pi B Ei S", "1 3 1 2 D:1 C:X Z", []string{
			"relay 1", "complete Parse #1", "complete Close internal #2", "complete Parse internal #3", "relay 2", "complete Bind #4",
			"complete Execute internal #5 X", "ready Sync #6 I",
		}},
		"internal copy out": {"Qi", "H d:1 d:2 c C:COPY_2 Z", []string{"complete Query internal #1 COPY 2", "ready Query internal #1 I"}},
		"local in its turn": {"P L B L S", "1 2 Z", []string{
			"relay 1", "complete Parse #1", "relay 1", "complete local #2", "relay 2", "complete Bind #3", "relay 1", "complete local #4", "ready Sync #5 I",
		}},
		"local first": {"L L Q", "C:SET Z", []string{
			"relay 1", "complete local #1", "relay 1", "complete local #2", "relay C", "complete Query #3 SET", "ready Query #3 I",
		}},
		"local behind Sync": {"S L", "Z", []string{"ready Sync #1 I", "relay 1", "complete local #2"}},
		"local skipped":     {"B L S L", "E Z", []string{"failed Bind #1 42601", "skipped local #2", "ready Sync #3 I", "relay 1", "complete local #4"}},
		"notices in their place": {"Qi Q", "N:ours Z N:a T N:b D:1 N:c C:SELECT_1 N:d Z", []string{
			"ready Query internal #1 I", "relay NTNDNC", "complete Query #2 SELECT 1", "relay N", "ready Query #2 I",
		}},
		"notice before Sync is answered": {"E S", "C:DO N:x Z", []string{"relay C", "complete Execute #1 DO", "relay N", "ready Sync #2 I"}},
		"parameters are never relayed": {"Q", "T S:a=1 D:1 S:a=2 C:SET S:TimeZone=CET Z", []string{
			"relay T", "parameter a=1", "relay D", "parameter a=2", "relay C", "complete Query #1 SET", "parameter TimeZone=CET", "ready Query #1 I",
		}},
		"notifications belong to no step": {"Qi Q", "A:x Z A:y T A:z C:X Z A:w", []string{
			"relay A", "ready Query internal #1 I", "relay ATAC", "complete Query #2 X", "ready Query #2 I", "relay A",
		}},
		"copy out": {"Q", "H d:1 d:2 c C:COPY_2 Z", []string{"relay HddcC", "complete Query #1 COPY 2", "ready Query #1 I"}},
		"copy in":  {"Q", "G C:COPY_2 Z", []string{"copy in Query #1 G", "relay C", "complete Query #1 COPY 2", "ready Query #1 I"}},
		"copy in fails": {"Q", "G E:57014 Z", []string{
			"copy in Query #1 G", "failed Query #1 57014", "ready Query #1 I",
		}},
		"copy in, another statement": {"Q", "G C:COPY_2 T D:1 C:SELECT_1 Z", []string{
			"copy in Query #1 G", "relay C", "complete Query #1 COPY 2", "relay TDC", "complete Query #1 SELECT 1", "ready Query #1 I",
		}},
		"copy in voids the Sync behind it": {"P B E S", "1 2 G C:COPY_1", []string{
			"relay 1", "complete Parse #1", "relay 2", "complete Bind #2", "copy in Execute #3 G", "relay C", "complete Execute #3 COPY 1",
		}},
		"copy in voids all Syncs, behind answers of ours, too": {"E S L S L", "G C:COPY_1", []string{
			"copy in Execute #1 G", "relay C", "complete Execute #1 COPY 1", "relay 1", "complete local #3", "relay 1", "complete local #5",
		}},
		"copy in voids no Sync behind other messages": {"E S P S", "G E Z", []string{
			"copy in Execute #1 G", "failed Execute #1 42601", "skipped Parse #3", "ready Sync #4 I",
		}},
	} {
		conn, r := newConn(steps(c.steps))
		if err := conn.Feed(stream(c.stream)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(c.want, r.take()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if conn.Pending() != 0 {
			t.Errorf("%s: %d answers owed", name, conn.Pending())
		}
	}
}

// answers lists which messages may answer a step of each kind, besides what may come at any time.
var answers = map[StepKind]string{
	0:                     "",
	StepParse:             "1",
	StepBind:              "2",
	StepClose:             "3",
	StepDescribeStatement: "tTn",
	StepDescribePortal:    "Tn",
	StepExecute:           "DdHcGCIs",
	StepSync:              "Z",
	StepQuery:             "TDdHcGCIZ",
}

// TestEveryMessageInAndOutOfTurn sends every type of message to every kind of step, of ours and of the client's, in both states of the pipeline.
func TestEveryMessageInAndOutOfTurn(t *testing.T) {
	t.Parallel()
	for kind, allowed := range answers {
		for _, internal := range []bool{false, true} {
			for n := range 256 {
				typ := byte(n)
				var list []Step
				if kind != 0 {
					list = []Step{{Kind: kind, Internal: internal}}
				}
				conn, r := newConn(list)
				arg := ""
				if typ == pgwire.MsgParameterStatus {
					arg = "name=value"
				}
				err := conn.Feed(appendMessage(nil, typ, arg))
				want := strings.IndexByte(allowed+"SNA", typ) >= 0 || typ == pgwire.MsgErrorResponse && kind != 0
				if internal && typ == pgwire.MsgCopyIn {
					want = false // nobody is there to send the data
				}
				switch {
				case want && err != nil:
					t.Errorf("%q in answer to %v, internal %v: %v", typ, kind, internal, err)
				case !want && typ == pgwire.MsgErrorResponse:
					if !errors.Is(err, ErrServerClosed) {
						t.Errorf("an error that nobody asked for: got %v", err)
					}
				case !want && !errors.Is(err, ErrProtocol):
					t.Errorf("%q in answer to %v, internal %v: got %v, want it to break the connection", typ, kind, internal, err)
				}
				if err != nil && (len(r.events) > 0 || len(r.all) > 0) {
					t.Errorf("%q in answer to %v: the owner heard %v, %q", typ, kind, r.events, r.all)
				}
				if err != nil && conn.Clean() {
					t.Errorf("%q in answer to %v: a broken connection is clean", typ, kind)
				}
				if internal && typ != pgwire.MsgNotification && len(r.all) > 0 {
					t.Errorf("%q in answer to an internal %v was relayed", typ, kind)
				}
				if err != nil && !errors.Is(conn.Feed(stream("N:x")), err) {
					t.Errorf("a broken connection takes more")
				}
			}
		}
	}
}

func TestBrokenMessagesBreakTheConnection(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		steps  string
		stream []byte
	}{
		"length under 4":        {"Q", []byte{'D', 0, 0, 0, 3, 0}},
		"negative length":       {"Q", []byte{'D', 0xff, 0xff, 0xff, 0xff}},
		"ready without status":  {"Q", []byte{'Z', 0, 0, 0, 4}},
		"ready, unknown status": {"Q", []byte{'Z', 0, 0, 0, 5, 'X'}},
		"tag without end":       {"Q", []byte{'C', 0, 0, 0, 6, 'X', 'Y'}},
		"parameter without end": {"", []byte{'S', 0, 0, 0, 6, 'X', 'Y'}},
		"ready too early":       {"P B S", stream("1 Z")},
		"ready after an error":  {"Q", stream("E Z Z")},
		"an answer too many":    {"P S", stream("1 1")},
		"an answer after an error": {
			"P B S", stream("E 2"),
		},
		"a row after the end":              {"Q", stream("C:X Z D:1")},
		"description of two kinds":         {"d", stream("t")},
		"long answer that is not streamed": {"Q", []byte{'T', 0x7f, 0, 0, 0}},
		"long tag":                         {"Q", []byte{'C', 0, 0x10, 0, 5}},
		"unreadable error":                 {"", []byte{'E', 0, 0, 0, 6, 'X', 'Y'}},
		"unreadable error in an answer":    {"Q", []byte{'E', 0, 0, 0, 6, 'X', 'Y'}},
		"error without an end":             {"Q", []byte{'E', 0, 0, 0, 7, 'X', 'Y', 0}},
		"error and more":                   {"Q", []byte{'E', 0, 0, 0, 9, 'X', 'Y', 0, 0, 0}},
	} {
		conn, _ := newConn(steps(c.steps))
		if err := conn.Feed(c.stream); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %v, want it to break the connection", name, err)
		}
	}
}

// TestRowsBeforeTheBreakAreRelayed: or not, but never in part.
func TestRelayStopsAtMessages(t *testing.T) {
	t.Parallel()
	conn, r := newConn(steps("Q"))
	if err := conn.Feed(append(stream("T D:1"), 'Z', 0, 0, 0, 3)); err == nil {
		t.Fatal("no error")
	}
	if conn.MidMessage() || strings.Contains(outline(r.all), "[") {
		t.Errorf("relayed %s", outline(r.all))
	}
}

func TestLargeMessagesAreStreamed(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 3*maxTestMessage)
	for _, internal := range []string{"", "i"} {
		for _, typ := range []string{"D", "d", "N"} {
			conn, r := newConn(steps("Q" + internal))
			b := append(stream("T "+typ+":"+large), stream("C:X Z")...)
			held := 0
			for piece := range slices.Chunk(b, 1000) {
				if err := conn.Feed(piece); err != nil {
					t.Fatalf("%s%s: %v", typ, internal, err)
				}
				held = max(held, cap(conn.in))
				if conn.MidMessage() != (conn.stream > 0 && internal == "") {
					t.Fatalf("%s%s: mid message is %v", typ, internal, conn.MidMessage())
				}
			}
			want := []string{"relay T" + typ + "C", "complete Query #1 X", "ready Query #1 I"}
			if internal != "" {
				want = []string{"complete Query internal #1 X", "ready Query internal #1 I"}
			}
			if d := cmp.Diff(want, r.take()); d != "" {
				t.Errorf("%s%s (-want +got):\n%s", typ, internal, d)
			}
			if held > 8<<10 {
				t.Errorf("%s%s: %d bytes were held", typ, internal, held)
			}
			if !conn.Clean() {
				t.Errorf("%s%s: not clean", typ, internal)
			}
		}
	}
}

// TestWhatIsHeldIsBounded: a message that has to be held whole grows with what arrives, and is given back.
func TestWhatIsHeldIsBounded(t *testing.T) {
	t.Parallel()
	conn, r := newConn(steps("Q"))
	b := stream("E:" + strings.Repeat("x", maxTestMessage/2) + " Z")
	if err := conn.Feed(b[:5]); err != nil || cap(conn.in) > keepBytes { // it may be a used one
		t.Errorf("%v; %d bytes are held for a promise", err, cap(conn.in))
	}
	for piece := range slices.Chunk(b[5:], 4096) {
		if err := conn.Feed(piece); err != nil {
			t.Fatal(err)
		}
	}
	if cap(conn.in) > keepBytes {
		t.Errorf("%d bytes are kept", cap(conn.in))
	}
	if got := r.take(); len(got) != 2 {
		t.Errorf("got %d events", len(got))
	}
}

func TestParametersAreBounded(t *testing.T) {
	t.Parallel()
	many := func(b []byte, n int, value string) []byte {
		for i := range n {
			b = pgwire.AppendParameterStatus(b, "p"+string(rune('a'+i%26))+strings.Repeat("x", i/26), value)
		}
		return b
	}
	for name, c := range map[string]struct {
		stream []byte
		broken bool
	}{
		"a few":     {many(nil, 100, "x"), false},
		"too many":  {many(nil, 300, "x"), true},
		"too long":  {many(nil, 3, strings.Repeat("x", maxParamBytes/2)), true},
		"grow":      {many(many(nil, 3, "x"), 3, strings.Repeat("x", maxParamBytes/2)), true},
		"the same":  {many(many(many(nil, 1, strings.Repeat("x", maxParamBytes/2)), 1, strings.Repeat("y", maxParamBytes/2)), 1, "z"), false},
		"unchanged": {many(many(nil, 100, "x"), 100, "x"), false},
	} {
		conn, _ := newConn(nil)
		if err := conn.Feed(c.stream); (err != nil) != c.broken {
			t.Errorf("%s: got %v", name, err)
		}
	}
	conn, r := newConn(nil)
	v := conn.Params().Version()
	if err := conn.Feed(stream("S:TimeZone=CET S:TimeZone=CET S:n=1")); err != nil {
		t.Fatal(err)
	}
	if got, _ := conn.Params().Get("TimeZone"); got != "CET" || conn.Params().Version() != v+2 {
		t.Errorf("got %q, version %d after %d", got, conn.Params().Version(), v)
	}
	if _, ok := conn.Params().Get("none"); ok {
		t.Error("has a parameter that nobody reported")
	}
	var all []string
	conn.Params().All(func(n, v string) { all = append(all, n+"="+v) })
	if !slices.Equal(all, []string{"TimeZone=CET", "n=1"}) {
		t.Errorf("got %v", all)
	}
	if got := r.take(); len(got) != 3 {
		t.Errorf("got %v, want every report", got)
	}
}

// TestOwnersChangeInside: an owner may let go of the connection, or hand it on, inside of a call, with more to come in the same bytes.
func TestOwnersChangeInside(t *testing.T) {
	t.Parallel()
	more := map[string]string{"Q": "N:x S:a=1 T D:1 C:X E Z", "E S": "D:1 C:X E Z", "E P S": "E Z", "Q Q": "C:X Z C:Y Z"}
	for notation, rest := range more {
		for _, leave := range []string{"ready", "copy in", "complete", "failed"} {
			conn, r := newConn(append(steps(notation), steps("E S Q L")...))
			gone := func(*Step) { conn.Own(nil) }
			head := "G"
			switch leave {
			case "ready":
				conn, r = newConn(append(steps("Q"), steps(notation)...))
				head, r.onReady = "Z", gone
			case "copy in":
				r.onCopyIn = gone
			case "complete":
				r.onComplete = gone
				head = "C:X"
			case "failed":
				r.onFailed = gone
				head = "E"
			}
			conn.Feed(append(stream(head), stream(rest)...)) //nolint:errcheck // it may be out of turn, that is not the point
			if n := len(r.take()); n != 1 && !(leave == "complete" && n == 2) {
				t.Errorf("%s, %s: the former owner heard %d events", notation, leave, n)
			}
		}
	}
}

// TestOwnerAsksInside: what is asked for inside of a call is answered in its turn, from the same bytes.
func TestOwnerAsksInside(t *testing.T) {
	t.Parallel()
	conn, r := newConn(steps("Q"))
	n := 0
	r.onReady = func(s *Step) {
		if n++; n < 2000 {
			for _, next := range steps("L P B E S") {
				next.Ref = int32(n)
				conn.Ask(next)
			}
			if s.Ref != int32(max(1, n-1)) || s.Kind == 0 {
				t.Fatalf("step %d is %+v after the owner asked for others", n, s)
			}
		}
	}
	b := stream("C:X Z")
	for range 1999 {
		b = append(b, stream("1 2 D:1 C:SELECT_1 Z")...)
	}
	for piece := range slices.Chunk(b, 777) {
		if err := conn.Feed(piece); err != nil {
			t.Fatal(err)
		}
		r.events = nil
	}
	if n != 2000 || conn.Pending() != 0 || !conn.Clean() {
		t.Errorf("%d units, %d owed", n, conn.Pending())
	}
}

// TestOwnerFlushesInside: an owner that is told of a local or skipped step may ask for more of them, and have them answered.
func TestOwnerFlushesInside(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		steps, stream string
		want          []string
	}{
		"complete": {"P Li", "1", []string{
			"relay 1", "complete Parse #1", "complete local internal #2", "relay 1", "complete local #11", "relay 1", "complete local #12",
		}},
		"skipped": {"P Li B", "E Z", []string{
			"failed Parse #1 42601", "skipped local internal #2", "skipped Bind #3", "skipped local #11", "skipped local #12", "ready Sync #13 I",
		}},
	} {
		conn, r := newConn(steps(c.steps))
		more := func(s *Step) {
			if s.Ref != 2 {
				return
			}
			for i, s := range steps("L L S") {
				if s.Kind != StepSync || name == "skipped" {
					s.Ref = int32(i) + 11
					conn.Ask(s)
				}
				conn.Flush()
			}
		}
		r.onComplete, r.onSkipped = more, more
		if err := conn.Feed(stream(c.stream)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(c.want, r.take()); d != "" || conn.Pending() != 0 {
			t.Errorf("%s: %d owed (-want +got):\n%s", name, conn.Pending(), d)
		}
	}
}

// TestQueueIsGivenBack: of a pipeline that never runs dry, only what is owed is kept.
func TestQueueIsGivenBack(t *testing.T) {
	t.Parallel()
	conn, r := newConn(steps("E"))
	for range 100000 {
		conn.Ask(Step{Kind: StepExecute})
		if err := conn.Feed(stream("C:X")); err != nil {
			t.Fatal(err)
		}
		r.take()
	}
	if cap(conn.steps) > 8*keepSteps {
		t.Errorf("the queue has room for %d steps with %d owed", cap(conn.steps), conn.Pending())
	}
	for range 100000 {
		conn.Ask(Step{Kind: StepExecute})
	}
	b := []byte{}
	for range 100001 {
		b = append(b, stream("C:X")...)
	}
	if err := conn.Feed(b); err != nil || conn.Pending() != 0 {
		t.Fatalf("%v, %d owed", err, conn.Pending())
	}
	if cap(conn.steps) > keepSteps {
		t.Errorf("the queue has room for %d steps with none owed", cap(conn.steps))
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		steps, stream string
		clean         bool
	}{
		"fresh":                        {"", "", true},
		"owed":                         {"Q", "", false},
		"answered":                     {"Q", "C:X Z", true},
		"in a transaction":             {"Q", "C:BEGIN Z:T", false},
		"in a failed transaction":      {"Q", "E Z:E", false},
		"in an implicit transaction":   {"P B E", "1 2 C:INSERT_0_1", false},
		"described":                    {"D", "t n", false},
		"after its Sync":               {"P B E S", "1 2 C:INSERT_0_1 Z", true},
		"ended by a Query":             {"P B E Q", "1 2 C:INSERT_0_1 C:X Z", true},
		"an error waits for its Sync":  {"P", "E", false},
		"an error has its Sync":        {"P S", "E Z", true},
		"answers of ours need no Sync": {"L", "", true},
	} {
		conn, _ := newConn(steps(c.steps))
		if err := conn.Feed(stream(c.stream)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if conn.Clean() != c.clean {
			t.Errorf("%s: clean is %v", name, conn.Clean())
		}
	}
	conn, _ := newConn(nil)
	conn.Taint(TaintTemp)
	conn.Taint(TaintListen)
	if conn.Clean() || conn.Tainted().String() != "listen,temp" || conn.Tainted().First() != "listen" || Taint(0).First() != "none" {
		t.Errorf("got taints %q", conn.Tainted())
	}
	conn.Cleaned()
	if !conn.Clean() {
		t.Error("not clean after it was cleaned")
	}
	conn.Feed([]byte{'N', 0, 0}) //nolint:errcheck // it is not complete
	if conn.Clean() {
		t.Error("clean with half a message")
	}
}

func TestTaintsHaveNames(t *testing.T) {
	t.Parallel()
	if last := TaintProtocol; last.First() != taintNames[len(taintNames)-1] {
		t.Errorf("the last taint is called %q", last.First())
	}
}

func TestSynced(t *testing.T) {
	t.Parallel()
	for notation, want := range map[string]bool{"": true, "Q": true, "P B E": false, "P S": true, "P S L": true, "L": true, "S E": false, "E Q": true} {
		conn, _ := newConn(steps(notation))
		if conn.Synced() != want {
			t.Errorf("%q: synced is %v", notation, conn.Synced())
		}
	}
	conn, _ := newConn(steps("E"))
	conn.Feed(stream("C:X")) //nolint:errcheck // see above
	if conn.Synced() {
		t.Error("synced in an implicit transaction")
	}
}

// TestStepsAskedAfterAnError are skipped like those before.
func TestStepsAskedAfterAnError(t *testing.T) {
	t.Parallel()
	conn, r := newConn(steps("P"))
	if err := conn.Feed(stream("E")); err != nil {
		t.Fatal(err)
	}
	for _, s := range steps("B L E S") {
		conn.Ask(s)
	}
	if err := conn.Feed(stream("Z")); err != nil {
		t.Fatal(err)
	}
	want := []string{"failed Parse #1 42601", "skipped Bind #1", "skipped local #2", "skipped Execute #3", "ready Sync #4 I"}
	if d := cmp.Diff(want, r.take()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestMustFail: nothing behind it may be taken for answered.
func TestMustFail(t *testing.T) {
	t.Parallel()
	list := steps("Ei Q")
	list[0].Must = true
	conn, r := newConn(list)
	if err := conn.Feed(stream("E:57014 C:INSERT_0_1 Z")); !errors.Is(err, ErrLead) {
		t.Errorf("got %v, want %v", err, ErrLead)
	}
	if d := cmp.Diff([]string{"failed Execute internal #1 57014"}, r.take()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	conn, _ = newConn(list)
	fatal := pgwire.AppendErrorResponse(nil, pgwire.Fatalf(pgwire.CodeAdminShutdown, "bye"))
	if err := conn.Feed(fatal); !errors.Is(err, ErrServerClosed) {
		t.Errorf("got %v, want %v", err, ErrServerClosed)
	}
}

// TestRefusedStatementsDoNotRun: the portal that makes the server fail does not exist, unless a client has made one of that name.
func TestRefusedStatementsDoNotRun(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"D:1", "C:INSERT_0_1", "s", "I", "G", "H"} {
		list := steps("E S")
		list[0].Refusal = pgwire.Errorf("42501", "refused")
		conn, r := newConn(list)
		if err := conn.Feed(stream(answer)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %v, want it to break the connection", answer, err)
		}
		if len(r.all) > 0 || len(r.events) > 0 {
			t.Errorf("%s: the client got %q, the owner %v", answer, r.all, r.events)
		}
	}
}

func prepared(id uint64) *state.Prepared { return &state.Prepared{ID: id, Name: "p", SQL: "x"} }

// TestStatementsAfterErrors: what the queue assumed of statements is taken back when its messages are skipped.
func TestStatementsAfterErrors(t *testing.T) {
	t.Parallel()
	a, b := prepared(1), prepared(2)
	parse := func(p *state.Prepared) Step { return Step{Kind: StepParse, Prepared: p} }
	closes := func(p *state.Prepared) Step { return Step{Kind: StepClose, Prepared: p} }
	unnamed := func(p *state.Prepared) Step { return Step{Kind: StepParse, Prepared: p, Unnamed: true} }
	exec, sync := Step{Kind: StepExecute}, Step{Kind: StepSync}
	for name, c := range map[string]struct {
		had    []*state.Prepared // on the server before
		steps  []Step
		stream string
		has    []*state.Prepared
	}{
		"parsed":                         {nil, []Step{parse(a), sync}, "1 Z", []*state.Prepared{a}},
		"parse fails":                    {nil, []Step{parse(a), sync}, "E Z", nil},
		"parse is skipped":               {nil, []Step{exec, parse(a), sync}, "E Z", nil},
		"parsed before the error":        {nil, []Step{parse(a), exec, parse(b), sync}, "1 E Z", []*state.Prepared{a}},
		"closed":                         {[]*state.Prepared{a}, []Step{closes(a), sync}, "3 Z", nil},
		"close is skipped":               {[]*state.Prepared{a}, []Step{exec, closes(a), sync}, "E Z", []*state.Prepared{a}},
		"closed before the error":        {[]*state.Prepared{a}, []Step{closes(a), exec, sync}, "3 E Z", nil},
		"evicted for another":            {[]*state.Prepared{a}, []Step{exec, closes(a), parse(b), sync}, "E Z", []*state.Prepared{a}},
		"parsed and closed":              {nil, []Step{exec, parse(a), closes(a), sync}, "E Z", nil},
		"closed and parsed again":        {[]*state.Prepared{a}, []Step{exec, closes(a), parse(a), sync}, "E Z", []*state.Prepared{a}},
		"closed, parsed, closed":         {[]*state.Prepared{a}, []Step{exec, closes(a), parse(a), closes(a), sync}, "E Z", []*state.Prepared{a}},
		"parsed, closed, parsed":         {nil, []Step{exec, parse(a), closes(a), parse(a), sync}, "E Z", nil},
		"parse fails, parsed again":      {nil, []Step{parse(a), closes(a), parse(a), sync}, "E Z", nil},
		"closed, then the parse fails":   {[]*state.Prepared{a}, []Step{closes(a), parse(a), sync}, "3 E Z", nil},
		"two errors":                     {[]*state.Prepared{a}, []Step{exec, closes(a), sync, exec, parse(b), sync}, "E Z E Z", []*state.Prepared{a}},
		"unnamed is no named one":        {[]*state.Prepared{a}, []Step{exec, unnamed(a), closes(a), sync}, "E Z", []*state.Prepared{a}},
		"what the next batch does stays": {nil, []Step{exec, sync, parse(a), sync}, "E Z 1 Z", []*state.Prepared{a}},
	} {
		conn, _ := newConn(nil)
		for _, p := range c.had {
			conn.Statements.Add(p)
		}
		for _, s := range c.steps { // what exec does when it asks
			switch {
			case s.Prepared == nil:
			case s.Unnamed:
				conn.Unnamed = s.Prepared
			case s.Kind == StepParse:
				conn.Statements.Add(s.Prepared)
			case s.Kind == StepClose:
				conn.Statements.Remove(s.Prepared)
			}
			conn.Ask(s)
		}
		if err := conn.Feed(stream(c.stream)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, p := range []*state.Prepared{a, b} {
			if got, want := conn.Statements.Has(p), slices.Contains(c.has, p); got != want {
				t.Errorf("%s: has statement %d is %v", name, p.ID, got)
			}
		}
		if conn.Statements.Len() != len(c.has) {
			t.Errorf("%s: %d statements", name, conn.Statements.Len())
		}
	}
	conn, _ := newConn([]Step{unnamed(a), exec, unnamed(b), sync})
	conn.Unnamed = b
	if err := conn.Feed(stream("1 E Z")); err != nil || conn.Unnamed != nil {
		t.Errorf("%v; the unnamed statement is %v after its Parse was skipped", err, conn.Unnamed)
	}
}

// TestDeallocatedKeepsWhatComesLater: DEALLOCATE ALL in a pipeline drops what was prepared before it only.
func TestDeallocatedKeepsWhatComesLater(t *testing.T) {
	t.Parallel()
	a, b, d := prepared(1), prepared(2), prepared(3)
	conn, r := newConn([]Step{
		{Kind: StepExecute},
		{Kind: StepParse, Prepared: a},
		{Kind: StepParse, Prepared: d},
		{Kind: StepClose, Prepared: d},
		{Kind: StepParse, Prepared: b, Unnamed: true},
		{Kind: StepSync},
	})
	conn.Statements.Add(a)
	conn.Statements.Add(b)
	conn.Statements.Add(d)
	r.onComplete = func(s *Step) {
		if s.Kind == StepExecute {
			conn.Deallocated()
		}
	}
	if err := conn.Feed(stream("C:DEALLOCATE_ALL 1 1 3 1 Z")); err != nil {
		t.Fatal(err)
	}
	if !conn.Statements.Has(a) || conn.Statements.Len() != 1 {
		t.Errorf("got %d statements, has the later one: %v", conn.Statements.Len(), conn.Statements.Has(a))
	}
}

func TestMidMessageWithoutOwner(t *testing.T) {
	t.Parallel()
	conn, r := newConn(steps("Q"))
	row := stream("D:" + strings.Repeat("x", 100))
	if err := conn.Feed(row[:50]); err != nil || !conn.MidMessage() {
		t.Fatalf("%v, mid message is %v", err, conn.MidMessage())
	}
	conn.Own(nil)
	if err := conn.Feed(row[50:]); err != nil || conn.MidMessage() {
		t.Errorf("%v, mid message is %v", err, conn.MidMessage())
	}
	if len(r.all) != 50 {
		t.Errorf("the former owner got %d bytes", len(r.all))
	}
	if err := conn.Feed(nil); err != nil {
		t.Error(err)
	}
}

// TestCleanAtTheEndOfAnAnswerInPieces: an owner that lets go of the connection at ReadyForQuery finds it clean, however that came.
func TestCleanAtTheEndOfAnAnswerInPieces(t *testing.T) {
	t.Parallel()
	conn, r := newConn(steps("Q"))
	clean := false
	r.onReady = func(*Step) { clean = conn.Clean() }
	for _, b := range stream("C:X Z") {
		if err := conn.Feed([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if !clean {
		t.Error("it is not")
	}
}

// TestHeldDescription: the ParameterDescription in front of an error is the owner's to pass on, however it came; any other is relayed.
func TestHeldDescription(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{"t E": "t", "t T": "", "E": ""} {
		for n := range len(stream(answer)) + 1 {
			conn, r := newConn(steps("D S"))
			held := ""
			r.onFailed = func(*Step) { held = outline(conn.Held()) }
			b := stream(answer)
			for _, piece := range [][]byte{b[:n], b[n:], stream("Z")} {
				if err := conn.Feed(piece); err != nil {
					t.Fatal(err)
				}
			}
			if relayed := outline(r.all); held != want || conn.Held() != nil || (relayed != "" && relayed != "tT") || conn.Pending() != 0 {
				t.Errorf("%s, cut at %d: held %q, relayed %q", answer, n, held, relayed)
			}
		}
	}
}

// TestShapesAreLearnt from the first description of a statement, and told from each.
func TestShapesAreLearnt(t *testing.T) {
	t.Parallel()
	describe := func(kind StepKind, shape, told *state.Shape, answer string) {
		t.Helper()
		conn, _ := newConn([]Step{{Kind: kind, Shape: shape, Told: told}})
		if err := conn.Feed(stream(answer)); err != nil {
			t.Fatal(err)
		}
	}
	var shape, told, other state.Shape
	describe(StepDescribePortal, &shape, &told, "T")
	if shape.Rows == 0 || shape.Params != 0 || told != shape {
		t.Errorf("got %v, told %v", shape, told)
	}
	describe(StepDescribeStatement, &shape, &other, "t T")
	if shape.Params == 0 || other != shape || told.Params != 0 {
		t.Errorf("got %v, told %v", shape, other)
	}
	var none state.Shape
	describe(StepDescribePortal, &none, nil, "n")
	if none.Rows != state.NoRows {
		t.Errorf("got %v", none)
	}
	describe(StepDescribePortal, nil, &none, "T") // of a portal that nobody here knows
	if none.Rows != state.NoRows {
		t.Errorf("got %v", none)
	}
}
