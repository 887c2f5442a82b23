package metrics

import (
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(h http.Handler, method, path string, header http.Header) *http.Response {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, nil)
	maps.Copy(r.Header, header)
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHandlerPaths(t *testing.T) {
	t.Parallel()
	reg, _ := everything(t, "")
	plain := Handler(Options{Gatherer: reg})
	debug := Handler(Options{Gatherer: reg, Pprof: true})
	const anyMetric = "pgkennel_build_info"
	for _, c := range []struct {
		name         string
		h            http.Handler
		method, path string
		status       int
		has          string
	}{
		{"metrics", plain, "GET", "/metrics", 200, anyMetric},
		{"any other path", plain, "GET", "/", 200, anyMetric},
		{"any other deep path", plain, "GET", "/what/ever", 200, anyMetric},
		{"health", plain, "GET", "/healthz", 200, "ok"},
		{"ready without a func", plain, "GET", "/readyz", 200, `"ready":true`},
		{"profiles off", plain, "GET", "/debug/pprof/", 404, ""},
		{"a profile off", plain, "GET", "/debug/pprof/heap", 404, ""},
		{"profiles on", debug, "GET", "/debug/pprof/", 200, "goroutine"},
		{"a profile on", debug, "GET", "/debug/pprof/cmdline", 200, ""},
		{"other debug", debug, "GET", "/debug/vars", 404, ""},
		{"post", plain, "POST", "/metrics", 405, ""},
		{"head", plain, "HEAD", "/healthz", 200, ""},
	} {
		r := get(c.h, c.method, c.path, nil)
		if text := body(t, r); r.StatusCode != c.status || !strings.Contains(text, c.has) {
			t.Errorf("%s: got %d %.80q, want %d with %q", c.name, r.StatusCode, text, c.status, c.has)
		}
	}
}

func TestOpenMetricsIsSpoken(t *testing.T) {
	t.Parallel()
	reg, _ := everything(t, "")
	r := get(Handler(Options{Gatherer: reg}), "GET", "/metrics", http.Header{"Accept": {"application/openmetrics-text; version=1.0.0"}})
	if ct := r.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/openmetrics-text") {
		t.Errorf("content type %q", ct)
	}
	if text := body(t, r); !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("no end marker")
	}
}

func TestReadyzSaysWhy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		ready  Readiness
		status int
		body   string
	}{
		{"ready", Readiness{Serving: true}, 200, `{"ready":true,"serving":true,"down":[]}`},
		{"starting or stopping", Readiness{}, 503, `{"ready":false,"serving":false,"down":[]}`},
		{
			"a shard is down",
			Readiness{Serving: true, Down: []DownShard{{Cluster: "app", Shard: 2, Reason: "connection refused"}, {Cluster: "app", Shard: 3}}},
			503,
			`{"ready":false,"serving":true,"down":[{"cluster":"app","shard":2,"reason":"connection refused"},{"cluster":"app","shard":3}]}`,
		},
	} {
		h := Handler(Options{Gatherer: prometheus.NewRegistry(), Ready: func() Readiness { return c.ready }})
		r := get(h, "GET", "/readyz", nil)
		if text := strings.TrimSpace(body(t, r)); r.StatusCode != c.status || text != c.body {
			t.Errorf("%s: got %d %s, want %d %s", c.name, r.StatusCode, text, c.status, c.body)
		}
		if ct := r.Header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("%s: content type %q", c.name, ct)
		}
	}
}

func TestHealthcheckPort(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	h := HealthcheckHandler(up.Load)
	if r := get(h, "GET", "/any/path", nil); r.StatusCode != 502 || body(t, r) != "down" {
		t.Errorf("down: got %d", r.StatusCode)
	}
	up.Store(true)
	if r := get(h, "GET", "/", nil); r.StatusCode != 200 || body(t, r) != "up" {
		t.Errorf("up: got %d", r.StatusCode)
	}
}

// TestServeFinishesWhatIsUnderWay cancels the server while a request is being answered.
func TestServeFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	entered, release := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		plain(w, http.StatusOK, "late")
	})
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, h, nil) }()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		r, err := client.Get("http://" + l.Addr().String())
		if err != nil {
			answered <- answer{err: err}
			return
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		answered <- answer{string(b), err}
	}()
	<-entered
	cancel()
	close(release)
	if a := <-answered; a.err != nil || a.text != "late" {
		t.Errorf("got %q, %v", a.text, a.err)
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the listener is still open")
	}
}

func TestServeReportsABrokenListener(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), nil); err == nil {
		t.Error("no error")
	}
}

func TestServeAfterCancelReturnsAtOnce(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Serve(ctx, l, http.NotFoundHandler(), nil); err != nil {
		t.Errorf("serve: %v", err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the listener is still open")
	}
}
