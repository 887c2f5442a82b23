// Package api takes orders for tenants over HTTP, as JSON, and gives them to a provision.Executor; its Client is one. It neither listens nor finds out who
// somebody is: that is done by whoever serves the handler. docs/api.md describes it for those who call it.
package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/provision"
)

// Options of a Handler.
type Options struct {
	// Version is the program's.
	Version string
	// Who says who sent a request, for the audit; nil = nobody is known.
	Who func(*http.Request) string
}

// route is one path of the API, and what is ordered by it.
type route struct {
	method, path string
	verb         string // empty = the path has it
	query        bool   // fields come from the URL's query, and not from a body
}

// routes are all of them.
var routes = []route{
	{"GET", "/v1/tenants", provision.VerbList, true},
	{"POST", "/v1/tenants", provision.VerbCreate, false},
	{"GET", "/v1/tenants/{name}", provision.VerbShow, true},
	{"DELETE", "/v1/tenants/{name}", provision.VerbRemove, true},
	{"GET", "/v1/tenants/{name}/logs", provision.VerbLogs, true},
	{"GET", "/v1/tenants/{name}/stats", provision.VerbStats, true},
	{"GET", "/v1/tenants/{name}/backups", provision.VerbBackups, true},
	{"GET", "/v1/tenants/{name}/audit", provision.VerbAudit, true},
	{"POST", "/v1/tenants/{name}/{verb}", "", false},
	{"GET", "/v1/stats", provision.VerbStats, true},
	{"GET", "/v1/audit", provision.VerbAudit, true},
	{"POST", "/v1/{verb}", "", false},
}

// ofTenant are the verbs that a path with a tenant may have, ofAll those of one without. Others are the runner's own.
var (
	ofTenant = verbs(
		provision.VerbCreate, provision.VerbShow, provision.VerbStart, provision.VerbStop, provision.VerbRestart, provision.VerbSuspend, provision.VerbResume,
		provision.VerbEnable, provision.VerbDisable, provision.VerbReadOnly, provision.VerbRename, provision.VerbSet, provision.VerbPassword, provision.VerbConnect,
		provision.VerbLogs, provision.VerbStats, provision.VerbBackup, provision.VerbBackups, provision.VerbVerify, provision.VerbRestore, provision.VerbClone,
		provision.VerbRemove, provision.VerbRepair, provision.VerbImport, provision.VerbExport, provision.VerbUser, provision.VerbReplica, provision.VerbAudit,
		provision.VerbRekey, provision.VerbDrop,
	)
	ofAll = verbs(provision.VerbList, provision.VerbRepair, provision.VerbRekey, provision.VerbStats, provision.VerbAudit)
)

func verbs(list ...string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}

// status is the HTTP status of each kind of error.
var status = map[provision.ErrorKind]int{
	provision.KindInvalid: http.StatusBadRequest, provision.KindNotFound: http.StatusNotFound,
	provision.KindTaken: http.StatusConflict, provision.KindState: http.StatusConflict, provision.KindBusy: http.StatusConflict,
	provision.KindRefused: http.StatusUnprocessableEntity, provision.KindFailed: http.StatusInternalServerError,
}

const (
	// maxBody bounds what a request may bring: SQL of init, above all.
	maxBody = 16 << 20

	typeJSON, typeLines = "application/json", "application/x-ndjson"
)

// message is one line of an answer that tells of progress; the last has a result or an error. An answer in one piece is a reply, or a message with an error.
type message struct {
	Progress *provision.Progress `json:"progress,omitempty"`
	Result   *provision.Result   `json:"result,omitempty"`
	Error    *provision.Error    `json:"error,omitempty"`
}

// reply is an answer in one piece: the result, and the lines of a log.
type reply struct {
	*provision.Result
	Lines []string `json:"lines,omitempty"`
}

// Handler serves the API below /v1, for somebody who may do anything.
func Handler(exec provision.Executor, o Options) http.Handler {
	return newHandler(exec, o).routes()
}

func newHandler(exec provision.Executor, o Options) *handler {
	return &handler{exec: exec, opts: o, bodyGrace: bodyGrace, answerGrace: answerGrace}
}

func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, rt) })
	}
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, r *http.Request) {
		write(w, http.StatusOK, map[string]string{"version": h.opts.Version})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, provision.Errorf(provision.KindNotFound, "there is no %s %s", r.Method, r.URL.Path).WithHint("docs/api.md has all paths"))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := pace(w, r, h.bodyGrace); err != nil { // also for who has no use of it: the server waits for the rest of it before the next request
			fail(w, provision.Errorf(provision.KindFailed, "the connection is gone: %v", err))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

type handler struct {
	exec                   provision.Executor
	opts                   Options
	bodyGrace, answerGrace time.Duration
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, rt route) {
	w.Header().Set("Cache-Control", "no-store") // answers hold passwords
	// An order may take longer than a server gives its requests; to send it, and to read the answer, may not.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		fail(w, provision.Errorf(provision.KindFailed, "the connection is gone: %v", err))
		return
	}
	o, err := order(w, r, rt)
	if err != nil {
		turnAway(w)
		fail(w, err)
		return
	}
	if h.opts.Who != nil {
		o.By = h.opts.Who(r)
	}
	if strings.Contains(r.Header.Get("Accept"), typeLines) {
		h.stream(w, r, o)
		return
	}
	if o.Follow {
		fail(w, provision.Errorf(provision.KindInvalid, "a log is followed line by line").WithHint("send Accept: "+typeLines))
		return
	}
	var lines collected
	result, e := h.exec.Execute(r.Context(), o, lines.add)
	if e != nil {
		fail(w, e)
		return
	}
	write(w, http.StatusOK, reply{result, lines.end()})
}

// collected are the lines of a log.
type collected struct {
	mu    sync.Mutex
	lines []string
	ended bool
}

func (c *collected) add(p provision.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Line != "" && !c.ended {
		c.lines = append(c.lines, p.Line)
	}
}

func (c *collected) end() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	return c.lines
}

// stream answers line by line, as it goes on.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, o provision.Order) {
	var mu sync.Mutex
	begun, ended := false, false
	to := answerTo(w, h.answerGrace)
	line := func(code int, m message) {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", typeLines)
			w.WriteHeader(code)
		}
		encode(to, m)
		_ = to.Flush() // who is gone is known by the request's context
	}
	result, err := h.exec.Execute(r.Context(), o, func(p provision.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			line(http.StatusOK, message{Progress: &p})
		}
	})
	mu.Lock()
	defer mu.Unlock()
	ended = true
	if err != nil {
		e := asError(err)
		line(code(e), message{Error: e})
		return
	}
	line(http.StatusOK, message{Result: result})
}

// asError gives every error a kind.
func asError(err error) *provision.Error {
	if e, ok := errors.AsType[*provision.Error](err); ok {
		return e
	}
	return provision.Errorf(provision.KindFailed, "%v", err)
}

func code(e *provision.Error) int {
	if c, ok := status[e.Kind]; ok {
		return c
	}
	return http.StatusInternalServerError
}

func fail(w http.ResponseWriter, err error) {
	e := asError(err)
	write(w, code(e), message{Error: e})
}

func write(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(code)
	encode(answerTo(w, answerGrace), v)
}

// encode writes JSON and the end of a line. Who can't be written to is gone.
func encode(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
}

// order reads what is ordered.
func order(w http.ResponseWriter, r *http.Request, rt route) (o provision.Order, err error) {
	if rt.query {
		if err = fromQuery(r, &o); err == nil {
			_, err = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody)) // nobody is to be waited for later
		}
		if errors.Is(err, errSlow) {
			err = tooSlow()
		}
	} else {
		o, err = fromBody(w, r)
	}
	if err != nil {
		return o, err
	}
	verb, name := rt.verb, r.PathValue("name")
	if verb == "" {
		verb = r.PathValue("verb")
	}
	if o.Verb != "" && o.Verb != verb {
		return o, provision.Errorf(provision.KindInvalid, "the path says %s and the body %s", verb, strconv.Quote(o.Verb))
	}
	o.Verb = verb
	if !strings.Contains(rt.path, "{name}") { // a tenant that isn't there yet is named in the body
		if rt.verb == "" && !ofAll[verb] {
			return o, provision.Errorf(provision.KindNotFound, "there is no POST /v1/%s", verb).WithHint("docs/api.md has all paths")
		}
		if verb != provision.VerbCreate && o.Tenant != "" {
			return o, provision.Errorf(provision.KindInvalid, "a tenant is named in the path: /v1/tenants/NAME/%s", verb)
		}
		return o, nil
	}
	if !ofTenant[verb] {
		return o, provision.Errorf(provision.KindNotFound, "there is no POST /v1/tenants/NAME/%s", verb).WithHint("docs/api.md has all paths")
	}
	if o.Tenant != "" && o.Tenant != name {
		return o, provision.Errorf(provision.KindInvalid, "the path says tenant %s and the body %s", strconv.Quote(name), strconv.Quote(o.Tenant))
	}
	o.Tenant = name
	return o, nil
}
