package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Readiness says whether this process can serve clients.
type Readiness struct {
	// Serving: it listens and takes new clients; false before the first listener is open and from the start of a shutdown.
	Serving bool
	// Shards that no endpoint answers for. A process that serves is ready when there are none.
	Down []DownShard
	// Directory is what is known of the directory of tenants; nil = there is none. Without it a process goes on with what it knows, and is ready.
	Directory *Directory
}

// DownShard is a shard that no endpoint answers for.
type DownShard struct {
	Cluster string           `json:"cluster"`
	Shard   topology.ShardID `json:"shard"`
	Reason  string           `json:"reason,omitempty"`
}

// Options are what Handler serves beside the metrics.
type Options struct {
	// Gatherer is the registry given to New.
	Gatherer prometheus.Gatherer
	// Ready is asked for each /readyz. It must answer at once, from what health checks found last. Nil = always ready.
	Ready func() Readiness
	// Pprof serves Go's profiles under /debug/pprof/.
	Pprof bool
	// Log gets what a scrape could not collect or send. Nil = nobody.
	Log *slog.Logger
}

const (
	maxScrapes      = 8 // at the same time; more get 503
	readTimeout     = 5 * time.Second
	writeTimeout    = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	maxHeaderBytes  = 16 << 10
	shutdownTimeout = 5 * time.Second
)

// Handler serves /metrics, /healthz (200 while the process runs), /readyz (200 when ready, else 503; the body says why) and
// on wish /debug/pprof/. As with PgDog, metrics are found on any other path as well, but nothing else is under /debug/.
func Handler(o Options) http.Handler {
	opts := promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes}
	if o.Log != nil {
		opts.ErrorLog = slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn)
	}
	mux := http.NewServeMux()
	mux.Handle("/", readOnly(promhttp.HandlerFor(o.Gatherer, opts)))
	mux.Handle("/healthz", readOnly(http.HandlerFunc(healthz)))
	mux.Handle("/readyz", readOnly(readyz(o.Ready)))
	mux.Handle("/debug/", http.NotFoundHandler())
	if o.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// HealthcheckHandler is PgDog's healthcheck_port: on any path 200 and "up" while up says so, else 502 and "down".
func HealthcheckHandler(up func() bool) http.Handler {
	return readOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if up() {
			plain(w, http.StatusOK, "up")
			return
		}
		plain(w, http.StatusBadGateway, "down")
	}))
}

func healthz(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") }

func readyz(ready func() Readiness) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r := Readiness{Serving: true}
		if ready != nil {
			r = ready()
		}
		type directory struct {
			Current bool    `json:"current"`
			Age     float64 `json:"age_seconds"`
			Tenants int     `json:"tenants"`
		}
		answer := struct {
			Ready     bool        `json:"ready"`
			Serving   bool        `json:"serving"`
			Down      []DownShard `json:"down"`
			Directory *directory  `json:"directory,omitempty"`
		}{Ready: r.Serving && len(r.Down) == 0, Serving: r.Serving, Down: r.Down}
		if d := r.Directory; d != nil {
			answer.Directory = &directory{d.Current, d.Age.Seconds(), d.Tenants}
		}
		if answer.Down == nil {
			answer.Down = []DownShard{}
		}
		body, err := json.Marshal(answer)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !answer.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(append(body, '\n'))
	})
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}

func readOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		// A reader that never reads would keep its place among the scrapes. Profiles take as long as they were asked to.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		h.ServeHTTP(w, r)
	})
}

// Serve answers HTTP on l until ctx is done; requests under way then get a few seconds to end. It closes l, and returns nil
// when ctx ended it.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	if log != nil {
		srv.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	}
	return Run(ctx, l, srv)
}

// Run has srv answer on l until ctx is done; requests under way then get a few seconds to end. It closes l, and returns nil when ctx ended it.
func Run(ctx context.Context, l net.Listener, srv *http.Server) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
