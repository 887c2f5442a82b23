package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// executor answers as it is told, and notes what was ordered.
type executor struct {
	orders   []provision.Order
	progress []provision.Progress
	result   *provision.Result
	err      error
	wait     bool // until the context ends
}

func (e *executor) Execute(ctx context.Context, o provision.Order, report func(provision.Progress)) (*provision.Result, error) {
	e.orders = append(e.orders, o)
	if report != nil {
		for _, p := range e.progress {
			report(p)
		}
	}
	if e.wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if e.result == nil && e.err == nil {
		return &provision.Result{Changed: true}, nil
	}
	return e.result, e.err
}

func serve(t *testing.T, e provision.Executor) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(Handler(e, Options{Version: "1.2.3", Who: func(*http.Request) string { return "anna" }}))
	t.Cleanup(s.Close)
	return s
}

func call(t *testing.T, s *httptest.Server, method, path, body string, header ...string) (code int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// What is ordered is what path, query and body say.
func TestOrders(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		request, body string
		want          provision.Order
	}{
		{"GET /v1/tenants", "", provision.Order{Verb: "list"}},
		{"GET /v1/tenants?removed", "", provision.Order{Verb: "list", Removed: true}},
		{"GET /v1/tenants?removed=false", "", provision.Order{Verb: "list"}},
		{"GET /v1/tenants/acme", "", provision.Order{Verb: "show", Tenant: "acme"}},
		{"GET /v1/tenants/a%2Fb", "", provision.Order{Verb: "show", Tenant: "a/b"}},
		{"GET /v1/tenants/acme/logs?lines=7", "", provision.Order{Verb: "logs", Tenant: "acme", Lines: 7}},
		{"GET /v1/tenants/acme/stats", "", provision.Order{Verb: "stats", Tenant: "acme"}},
		{"GET /v1/tenants/acme/backups", "", provision.Order{Verb: "backups", Tenant: "acme"}},
		{"GET /v1/tenants/acme/audit?limit=3", "", provision.Order{Verb: "audit", Tenant: "acme", Limit: 3}},
		{"GET /v1/audit", "", provision.Order{Verb: "audit"}},
		{"GET /v1/stats", "", provision.Order{Verb: "stats"}},
		{"DELETE /v1/tenants/acme?now=true", "", provision.Order{Verb: "remove", Tenant: "acme", Now: true}},
		{"POST /v1/repair", "", provision.Order{Verb: "repair"}},
		{"POST /v1/rekey", "", provision.Order{Verb: "rekey"}},
		{"POST /v1/tenants/x/drop", "", provision.Order{Verb: "drop", Tenant: "x"}},
		{"POST /v1/tenants/acme/stop", "", provision.Order{Verb: "stop", Tenant: "acme"}},
		{"POST /v1/tenants/acme/stop", `{"verb":"stop","tenant":"acme","now":true}`, provision.Order{Verb: "stop", Tenant: "acme", Now: true}},
		{"POST /v1/tenants", `{"tenant":"acme","limits":{"cpu":"0.5","memory":"256MB","disk":1024,"io":"64MB","connections":5},"suspend_after":"10m","backup_every":1000}`, provision.Order{
			Verb: "create", Tenant: "acme", Limits: &tenant.Limits{CPU: 500, Memory: 256 << 20, Disk: 1024, IO: 64 << 20, Connections: 5},
			SuspendAfter: new(10 * time.Minute), Every: new(time.Microsecond),
		}},
		{"POST /v1/tenants/acme/set", `{"limits":{},"settings":{"work_mem":""},"backup_keep":0}`, provision.Order{
			Verb: "set", Tenant: "acme", Limits: &tenant.Limits{}, Settings: map[string]string{"work_mem": ""}, Keep: new(0),
		}},
	} {
		e := &executor{}
		s := serve(t, e)
		method, path, _ := strings.Cut(x.request, " ")
		if code, answer := call(t, s, method, path, x.body); code != http.StatusOK || answer != "{\"changed\":true}\n" {
			t.Errorf("%s %s: %d %s", x.request, x.body, code, answer)
			continue
		}
		x.want.By = "anna"
		if diff := cmp.Diff([]provision.Order{x.want}, e.orders); diff != "" {
			t.Errorf("%s %s: %s", x.request, x.body, diff)
		}
	}
}

// What makes no sense is never given to the executor.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		request, body string
		code          int
		want          string
	}{
		{"POST /v1/tenants", `{"tenant":"a","colour":"red"}`, 400, `unknown field \"colour\"`},
		{"POST /v1/tenants", `{"tenant":"a"} {}`, 400, "something follows the order"},
		{"POST /v1/tenants", `{"tenant":"a","by":"root"}`, 400, `unknown field \"by\"`},
		{"POST /v1/tenants", `{"tenant":7}`, 400, "cannot unmarshal number"},
		{"POST /v1/tenants", `["a"]`, 400, "cannot unmarshal array"},
		{"POST /v1/tenants", `{"limits":{"memory":"lots"}}`, 400, "no size such as"},
		{"POST /v1/tenants", `{"limits":{"memori":1}}`, 400, `unknown field \"memori\"`},
		{"POST /v1/tenants", `{"suspend_after":"soon"}`, 400, "no time such as"},
		{"POST /v1/tenants", `{"init":"` + strings.Repeat("x", maxBody) + `"}`, 400, "more than 16777216 bytes"},
		{"POST /v1/tenants/a/stop", `{"verb":"start"}`, 400, "the path says stop"},
		{"POST /v1/tenants/a/stop", `{"tenant":"b"}`, 400, `the path says tenant \"a\"`},
		{"POST /v1/tenants/a/wake", "", 404, "there is no POST /v1/tenants/NAME/wake"},
		{"POST /v1/tenants/a/reconcile", "", 404, "there is no POST"},
		{"POST /v1/tenants/a/list", "", 404, "there is no POST"},
		{"POST /v1/remove", `{"tenant":"a"}`, 404, "there is no POST /v1/remove"},
		{"POST /v1/repair", `{"tenant":"a"}`, 400, "named in the path"},
		{"PUT /v1/tenants/a", "", 404, "there is no PUT"},
		{"GET /v1/nothing", "", 404, "there is no GET"},
		{"GET /v1/tenants?colour=red", "", 400, `there is no parameter \"colour\"`},
		{"GET /v1/tenants?removed=maybe", "", 400, "removed can't be"},
		{"GET /v1/tenants/a/logs?lines=1&lines=2", "", 400, "given 2 times"},
		{"GET /v1/tenants/a/logs?lines=many", "", 400, "lines can't be"},
		{"GET /v1/tenants/a/logs?follow", "", 400, "send Accept: application/x-ndjson"},
	} {
		e := &executor{}
		method, path, _ := strings.Cut(x.request, " ")
		code, answer := call(t, serve(t, e), method, path, x.body)
		if code != x.code || !strings.Contains(answer, x.want) || len(e.orders) > 0 {
			t.Errorf("%s: got %d %.300s, want %d and %s; ordered %v", x.request, code, answer, x.code, x.want, e.orders)
		}
	}
	e := &executor{}
	if code, answer := call(t, serve(t, e), "POST", "/v1/tenants", `{}`, "Content-Type", "text/plain"); code != 400 || len(e.orders) > 0 {
		t.Errorf("text/plain: got %d %s", code, answer)
	}
}

// Each kind of error has its status, and comes back as it was; an error without one is a failure.
func TestErrors(t *testing.T) {
	t.Parallel()
	for kind, want := range map[provision.ErrorKind]int{
		provision.KindInvalid: 400, provision.KindNotFound: 404, provision.KindTaken: 409, provision.KindState: 409, provision.KindBusy: 409,
		provision.KindRefused: 422, provision.KindFailed: 500,
	} {
		sent := provision.Errorf(kind, "no").WithDetail("because").WithHint("try")
		s := serve(t, &executor{err: fmt.Errorf("wrapped: %w", sent)})
		code, answer := call(t, s, "GET", "/v1/tenants/a", "")
		var m message
		if err := json.Unmarshal([]byte(answer), &m); err != nil || code != want || !reflect.DeepEqual(m.Error, sent) {
			t.Errorf("%s: got %d %s, want %d", kind, code, answer, want)
		}
		_, err := client(t, s).Execute(t.Context(), provision.Order{Verb: "show", Tenant: "a"}, nil)
		if got, ok := errors.AsType[*provision.Error](err); !ok || *got != *sent {
			t.Errorf("%s: the client got %v", kind, err)
		}
	}
	if code, answer := call(t, serve(t, &executor{err: errors.New("bang")}), "GET", "/v1/tenants/a", ""); code != 500 || !strings.Contains(answer, `"kind":"failed"`) {
		t.Errorf("got %d %s", code, answer)
	}
}

func client(t *testing.T, s *httptest.Server) *Client {
	t.Helper()
	c, err := NewClient(ClientOptions{URL: s.URL, Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// An order arrives whole, and so do its progress and its result.
func TestClient(t *testing.T) {
	t.Parallel()
	e := &executor{
		progress: []provision.Progress{{Tenant: "acme", Step: "volume", Done: 1, Total: 3}, {Line: "a <line>"}},
		result: &provision.Result{
			Changed: true, Tenants: []*provision.View{{ID: "x", Name: "acme", SuspendAfter: time.Minute}}, Secrets: []provision.Secret{{Login: "acme", Password: "p&w"}},
		},
	}
	s := serve(t, e)
	order := full(t)
	for _, verb := range []string{"create", "set"} {
		order.Verb = verb
		e.orders = nil
		var seen []provision.Progress
		got, err := client(t, s).Execute(t.Context(), order, func(p provision.Progress) { seen = append(seen, p) })
		if err != nil {
			t.Fatal(err)
		}
		order.By = "anna"
		if diff := cmp.Diff([]provision.Order{order}, e.orders, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("order: %s", diff)
		}
		if diff := cmp.Diff(e.result, got); diff != "" {
			t.Errorf("result: %s", diff)
		}
		if diff := cmp.Diff(e.progress, seen); diff != "" {
			t.Errorf("progress: %s", diff)
		}
	}
	if err := client(t, s).Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// full is an order with a value in each field, for what a new field of it needs here.
func full(t *testing.T) (o provision.Order) {
	t.Helper()
	text := `{"limits":{"cpu":1,"memory":2,"disk":3,"io":5,"connections":4},"networks":["10.0.0.0/8"],"to_time":"2026-01-02T03:04:05Z","settings":{"a":"b"},"extensions":["e"],"limits_only":["cpu"]}`
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(&o).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		if !f.IsZero() || v.Type().Field(i).Tag.Get("json") == "-" {
			continue
		}
		if f.Kind() == reflect.Pointer {
			f.Set(reflect.New(f.Type().Elem()))
			f = f.Elem()
		}
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int, reflect.Int64:
			f.SetInt(7)
		default:
			t.Fatalf("field %s of an order has a kind that this test does not know", v.Type().Field(i).Name)
		}
	}
	return o
}

// Over a socket, and without somebody at it.
func TestClientSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	c, err := NewClient(ClientOptions{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ping without a socket: %v", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	e := &executor{}
	s := &http.Server{Handler: Handler(e, Options{}), WriteTimeout: time.Nanosecond, ReadHeaderTimeout: time.Minute} // orders take longer than requests may
	go s.Serve(ln)                                                                                                   //nolint:errcheck // it ends with the test
	defer s.Close()
	if _, err := c.Execute(t.Context(), provision.Order{Verb: "start", Tenant: "a"}, nil); err != nil || len(e.orders) != 1 {
		t.Errorf("got %v, ordered %v", err, e.orders)
	}
}

// A client whose context ends returns; the order is told so, and goes on or not.
func TestClientCancelled(t *testing.T) {
	t.Parallel()
	e := &executor{wait: true, progress: []provision.Progress{{Step: "one"}}}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := client(t, serve(t, e)).Execute(ctx, provision.Order{Verb: "start", Tenant: "a"}, func(provision.Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// What others answer is an error, and never a result.
func TestStrangers(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		code       int
		kind, text string
		want       string
	}{
		{401, "text/plain", "who are you", "the API answered 401 Unauthorized"},
		{301, "text/html", "", "the API answered 301"},
		{200, "text/html", "<html>", "the API answered 200 OK"},
		{200, typeJSON, "", "ended before the order did"},
		{200, typeJSON, `{"changed":true}`, "ended before the order did"},
		{200, typeLines, `{"progress":{}}`, "ended before the order did"},
		{200, typeLines, `{"result`, "can't be reached"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer secret" {
				t.Error("no token was sent")
			}
			w.Header().Set("Content-Type", x.kind)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(x.code)
			fmt.Fprint(w, x.text)
		}))
		if _, err := client(t, s).Execute(t.Context(), provision.Order{Verb: "show", Tenant: "a"}, nil); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%d %s %s: got %v, want %s", x.code, x.kind, x.text, err, x.want)
		}
		s.Close()
	}
	for _, u := range []string{"", "pgkennel.example.com", "ftp://x", "http://pgkennel.example.com", "https://x/path", "https://x?q", "https://u:p@x"} {
		if _, err := NewClient(ClientOptions{URL: u, Token: "secret"}); err == nil {
			t.Errorf("%q is taken for a URL of the API", u)
		} else if strings.Contains(err.Error(), "u:p") {
			t.Errorf("%q: its password is in the error", u)
		}
	}
}

// A log comes line by line, or whole; nothing is written after the end.
func TestLines(t *testing.T) {
	t.Parallel()
	e := &executor{progress: []provision.Progress{{Step: "x"}, {Line: "one"}, {Line: "two"}}, result: &provision.Result{}}
	s := serve(t, e)
	if _, answer := call(t, s, "GET", "/v1/tenants/a/logs", ""); answer != `{"changed":false,"lines":["one","two"]}`+"\n" {
		t.Errorf("got %s", answer)
	}
	want := `{"progress":{"step":"x"}}` + "\n" + `{"progress":{"line":"one"}}` + "\n" + `{"progress":{"line":"two"}}` + "\n" + `{"result":{"changed":false}}` + "\n"
	if _, answer := call(t, s, "GET", "/v1/tenants/a/logs?follow", "", "Accept", typeLines); answer != want {
		t.Errorf("got %s", answer)
	}
	if _, answer := call(t, serve(t, &executor{err: provision.Errorf(provision.KindBusy, "no")}), "GET", "/v1/tenants/a/logs", "", "Accept", typeLines); answer != `{"error":{"kind":"busy","message":"no"}}`+"\n" {
		t.Errorf("got %s", answer)
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0": 0, "1": 1, "8kB": 8192, "256MB": 256 << 20, "1.5g": 3 << 29, " 2 TiB ": 2 << 40} {
		if got, err := provision.ParseSize(text); err != nil || got != want {
			t.Errorf("size %s: got %d %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]int{"0": 0, "0.5": 500, "2": 2000, "250m": 250, ".1": 100} {
		if got, err := provision.ParseCPU(text); err != nil || got != want {
			t.Errorf("cpu %s: got %d %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]time.Duration{"0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour} {
		if got, err := provision.ParseDuration(text); err != nil || got != want {
			t.Errorf("duration %s: got %v %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "1e400", "1 1", "NaN", "Inf", "1PB", "10x", "--1", "0.0001"} {
		if text != "0.0001" {
			if n, err := provision.ParseSize(text); err == nil {
				t.Errorf("size %q: got %d", text, n)
			}
		}
		if n, err := provision.ParseCPU(text); err == nil {
			t.Errorf("cpu %q: got %d", text, n)
		}
		if n, err := provision.ParseDuration(text); err == nil {
			t.Errorf("duration %q: got %v", text, n)
		}
	}
}

// docs/api.md has every path, verb and field, and its examples are understood.
func TestDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, rt := range routes {
		if want := "`" + rt.method + " " + strings.ReplaceAll(strings.ReplaceAll(rt.path, "{name}", "NAME"), "{verb}", "VERB") + "`"; !strings.Contains(page, want) {
			t.Errorf("no line for %s", want)
		}
	}
	for verb := range ofTenant {
		if !strings.Contains(page, "`"+verb+"`") {
			t.Errorf("no word of the verb %s", verb)
		}
	}
	for kind, code := range status {
		if want := fmt.Sprintf("| %d | `%s` |", code, kind); !strings.Contains(page, want) {
			t.Errorf("no line %s", want)
		}
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[provision.Order]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "-" && name != "verb" && !strings.Contains(page, "`"+name+"`") {
			t.Errorf("no word of the field %s", name)
		}
	}
	example := regexp.MustCompile(`(?m)^\$?\s*curl (.*(?:\\\n.*)*)$`)
	commands := example.FindAllStringSubmatch(page, -1)
	if len(commands) < 8 {
		t.Fatalf("%d examples", len(commands))
	}
	method, data, path := regexp.MustCompile(`-X (\w+)`), regexp.MustCompile(`-d '([^']*)'`), regexp.MustCompile(`https?://[^/\s']+(/[^\s']*)`)
	for _, m := range commands {
		verb, body := "GET", ""
		if x := data.FindStringSubmatch(m[1]); x != nil {
			verb, body = "POST", x[1]
		}
		if x := method.FindStringSubmatch(m[1]); x != nil {
			verb = x[1]
		}
		where := path.FindStringSubmatch(m[1])
		if where == nil {
			t.Fatalf("no path in %s", m[0])
		}
		accept := typeJSON
		if strings.Contains(m[1], typeLines) {
			accept = typeLines
		}
		e := &executor{}
		code, answer := call(t, serve(t, e), verb, where[1], body, "Accept", accept, "Content-Type", "application/x-www-form-urlencoded")
		if code != http.StatusOK || len(e.orders) != 1 && !bytes.Contains([]byte(answer), []byte("version")) {
			t.Errorf("%s: %d %s", m[0], code, answer)
		}
	}
}

// doer is an executor that is a function.
type doer func(context.Context, provision.Order, func(provision.Progress)) (*provision.Result, error)

func (d doer) Execute(ctx context.Context, o provision.Order, report func(provision.Progress)) (*provision.Result, error) {
	return d(ctx, o, report)
}

// TestPace: who sends an order slowly, or does not read its answer, is given up; who is slow but goes on is not, nor is an order that takes long.
func TestPace(t *testing.T) {
	t.Parallel()
	const grace = 100 * time.Millisecond
	ordered, let := make(chan struct{}, 10), make(chan struct{})
	ended := make(chan error, 1)
	h := newHandler(doer(func(ctx context.Context, o provision.Order, report func(provision.Progress)) (*provision.Result, error) {
		ordered <- struct{}{}
		if o.Follow { // nobody reads it
			for ctx.Err() == nil {
				report(provision.Progress{Line: strings.Repeat("x", 64<<10)})
			}
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-let:
			return &provision.Result{Changed: true}, nil
		}
	}), Options{})
	h.bodyGrace, h.answerGrace = grace, grace
	s := httptest.NewServer(h.routes())
	t.Cleanup(s.Close)
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c, bufio.NewReader(c)
	}
	for request, want := range map[string]int{
		"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{":                400,
		"POST /v1/tenants/acme/stop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
		"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n]":                400, // refused before it is all there
		"DELETE /v1/tenants/acme HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n":            400,
		"GET /v1/version HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n":                    200,
		"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n":                    404,
	} {
		c, r := dial()
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%q: got %v, %v, want %d", request, resp, err, want)
			continue
		}
		if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) { // the end, or a reset
			t.Errorf("%q: the connection is held", request)
		}
	}
	if len(ordered) > 0 {
		t.Error("something was ordered")
	}
	// What goes on may take longer than that, and so may the order itself.
	c, r := dial()
	init := strings.Repeat("x", bodyRate) // worth a second
	body := `{"tenant":"acme","init":"` + init + `"}`
	if _, err := fmt.Fprintf(c, "POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:len(body)-1]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * grace)
	if _, err := io.WriteString(c, body[len(body)-1:]); err != nil {
		t.Fatal(err)
	}
	<-ordered
	time.AfterFunc(time.Second+2*grace, func() { close(let) }) // behind the time that the body had
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("slow, but not too slow: got %v, %v", resp, err)
	}
	// The answer is not read.
	c, _ = dial()
	if _, err := fmt.Fprintf(c, "GET /v1/tenants/acme/logs?follow HTTP/1.1\r\nHost: x\r\nAccept: %s\r\n\r\n", typeLines); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it ended by %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("who does not read is waited for")
	}
}
