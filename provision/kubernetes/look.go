package kubernetes

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pgkennel/pgkennel/provision"
)

// watchFor is when a watch is begun anew, in seconds: one that was cut off without a word is not waited for longer.
const watchFor = 60

// follow calls done with a Cluster, nil if it is not there, each time that it changed, until that says so.
func (d *Driver) follow(ctx context.Context, name string, done func(*unstructured.Unstructured) (bool, error)) error {
	selector := "metadata.name=" + name
	for {
		list, err := d.of(clusters).List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil {
			return d.explain(ctx, "read "+clusters.Resource, err)
		}
		var u *unstructured.Unstructured
		if len(list.Items) > 0 {
			u = &list.Items[0]
		}
		if ok, err := done(u); ok || err != nil {
			return err
		}
		w, err := d.of(clusters).Watch(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: list.GetResourceVersion(), TimeoutSeconds: new(int64(watchFor))})
		if err != nil {
			return d.explain(ctx, "watch "+clusters.Resource, err)
		}
		ok, err := events(ctx, w, done)
		if ok || err != nil {
			return err
		}
	}
}

// events has done look at what a watch tells. Its end is no error.
func events(ctx context.Context, w watch.Interface, done func(*unstructured.Unstructured) (bool, error)) (bool, error) {
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case e, ok := <-w.ResultChan():
			if !ok {
				return false, nil
			}
			u, is := e.Object.(*unstructured.Unstructured)
			switch e.Type {
			case watch.Added, watch.Modified:
			case watch.Deleted:
				u = nil
			case watch.Bookmark, watch.Error:
				return false, nil // all is read anew
			}
			if u == nil || is {
				if ok, err := done(u); ok || err != nil {
					return ok, err
				}
			}
		}
	}
}

// Watch implements provision.Driver.
func (d *Driver) Watch(ctx context.Context, changed func(id string)) error {
	type seen struct {
		id, replica string
		on          bool
		ready       int
	}
	known := map[string]seen{}
	look := func(u *unstructured.Unstructured) {
		s, id := statusOf(u), u.GetLabels()[idLabel]
		now := seen{id, s.replica, s.on, s.ready}
		was, is := known[u.GetName()]
		known[u.GetName()] = now
		if was == now || !is && s.ready > 0 {
			return
		}
		changed(id)
		for _, r := range []string{was.replica, now.replica} {
			if r != "" {
				changed(r)
			}
		}
	}
	for {
		list, err := d.of(clusters).List(ctx, metav1.ListOptions{LabelSelector: idLabel})
		if err != nil {
			return d.explain(ctx, "list "+clusters.Resource, err)
		}
		have := map[string]bool{}
		for i := range list.Items {
			have[list.Items[i].GetName()] = true
			look(&list.Items[i])
		}
		for name, s := range known {
			if !have[name] {
				delete(known, name)
				changed(s.id)
			}
		}
		w, err := d.of(clusters).Watch(ctx, metav1.ListOptions{LabelSelector: idLabel, ResourceVersion: list.GetResourceVersion(), TimeoutSeconds: new(int64(watchFor))})
		if err != nil {
			return d.explain(ctx, "watch "+clusters.Resource, err)
		}
		if _, err := events(ctx, w, func(u *unstructured.Unstructured) (bool, error) {
			if u == nil {
				return true, nil // which one, the list tells
			}
			if _, is := known[u.GetName()]; !is {
				known[u.GetName()] = seen{}
			}
			look(u)
			return false, nil
		}); err != nil {
			return err
		}
	}
}

// Found implements provision.Driver.
func (d *Driver) Found(ctx context.Context) ([]string, error) {
	var ids []string
	for _, r := range []struct {
		label string
		list  func() (*unstructured.UnstructuredList, error)
	}{
		{idLabel, func() (*unstructured.UnstructuredList, error) {
			return d.of(clusters).List(ctx, metav1.ListOptions{LabelSelector: idLabel})
		}},
		{idLabel, func() (*unstructured.UnstructuredList, error) {
			return d.of(claims).List(ctx, metav1.ListOptions{LabelSelector: idLabel})
		}},
		{idLabel, func() (*unstructured.UnstructuredList, error) {
			return d.of(secrets).List(ctx, metav1.ListOptions{LabelSelector: idLabel})
		}},
		{replicaLabel, func() (*unstructured.UnstructuredList, error) {
			return d.of(clusters).List(ctx, metav1.ListOptions{LabelSelector: replicaLabel})
		}},
	} {
		list, err := r.list()
		if err != nil {
			return nil, d.explain(ctx, "list what there is", err)
		}
		for i := range list.Items {
			ids = append(ids, list.Items[i].GetLabels()[r.label])
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// pod is the one of an instance; empty = there is none.
func (d *Driver) pod(ctx context.Context, in *provision.Instance) (string, error) {
	u, err := d.cluster(ctx, clusterOf(in))
	if err != nil || u == nil {
		return "", err
	}
	primary, _, _ := unstructured.NestedString(u.Object, "status", "currentPrimary")
	if in.Primary == nil {
		return primary, nil
	}
	list, err := d.of(pods).List(ctx, metav1.ListOptions{LabelSelector: ofCluster + "=" + u.GetName()})
	if err != nil {
		return "", d.explain(ctx, "list "+pods.Resource, err)
	}
	for i := range list.Items {
		if name := list.Items[i].GetName(); name != primary && list.Items[i].GetLabels()["cnpg.io/podRole"] == "instance" {
			return name, nil
		}
	}
	return "", nil
}

// trouble is what is known of why a Cluster does not come up.
func (d *Driver) trouble(ctx context.Context, name string, s status) string {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var said []string
	for _, t := range []string{s.phase, s.why} {
		if t != "" {
			said = append(said, t)
		}
	}
	list, err := d.of(pods).List(ctx, metav1.ListOptions{LabelSelector: ofCluster + "=" + name})
	if err != nil {
		return strings.Join(append(said, err.Error()), ": ")
	}
	for i := range list.Items {
		conditions, _, _ := unstructured.NestedSlice(list.Items[i].Object, "status", "conditions")
		inits, _, _ := unstructured.NestedSlice(list.Items[i].Object, "status", "initContainerStatuses")
		containers, _, _ := unstructured.NestedSlice(list.Items[i].Object, "status", "containerStatuses")
		for _, c := range conditions {
			if c, ok := c.(object); ok && c["type"] == "PodScheduled" && c["status"] == "False" {
				said = append(said, fmt.Sprint(c["message"]))
			}
		}
		for _, c := range append(inits, containers...) {
			c, _ := c.(object)
			for _, state := range []string{"waiting", "terminated"} {
				reason, _, _ := unstructured.NestedString(c, "state", state, "reason")
				message, _, _ := unstructured.NestedString(c, "state", state, "message")
				if reason != "" && reason != "Completed" && reason != "PodInitializing" {
					said = append(said, strings.TrimSuffix(reason+": "+message, ": "))
				}
			}
		}
	}
	return strings.Join(slices.Compact(said), ": ")
}

// Usage implements provision.Driver. The server's own processes are asked, by itself: that needs neither metrics of Kubernetes' nor rights on its nodes.
func (d *Driver) Usage(ctx context.Context, in *provision.Instance) (provision.Usage, error) {
	var u provision.Usage
	if err := d.here(in); err != nil {
		return u, err
	}
	var err error
	if u.DiskSize, err = d.capacity(ctx, in); err != nil {
		return u, err
	}
	conn, err := connect(ctx, in)
	if err != nil {
		st, err2 := d.State(ctx, in)
		if err2 == nil && !st.Ready {
			return u, nil // nothing but its volume
		}
		return u, provision.Errorf(provision.KindFailed, "the instance can't be asked what it uses").WithDetail("%v", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, `SELECT (SELECT sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database)::bigint
		+ (SELECT coalesce(sum(size), 0) FROM pg_catalog.pg_ls_waldir())::bigint`).Scan(&u.Disk); err != nil {
		return u, err
	}
	rows, err := conn.Query(ctx, `WITH server AS (SELECT split_part(pg_catalog.pg_read_file('postmaster.pid', 0, 100), E'\n', 1)::int AS pid)
		SELECT p.pid = server.pid, coalesce(pg_catalog.pg_read_file('/proc/' || p.pid || '/stat', 0, 2000, true), ''),
			coalesce(pg_catalog.pg_read_file('/proc/' || p.pid || '/smaps_rollup', 0, 2000, true), '')
		FROM server, LATERAL (SELECT server.pid UNION SELECT a.pid FROM pg_catalog.pg_stat_activity AS a) AS p`)
	if err != nil {
		return u, err
	}
	defer rows.Close()
	for rows.Next() {
		var server bool
		var stat, maps string
		if err := rows.Scan(&server, &stat, &maps); err != nil {
			return u, err
		}
		cpu, ok := cpuTime(stat, server)
		if !ok {
			continue // it has just ended
		}
		u.CPU += cpu
		u.Memory += share(maps)
		u.Processes++
	}
	return u, rows.Err()
}

// tick is how Linux counts time in /proc.
const tick = 10 * time.Millisecond

// cpuTime reads what a process used, and, of the server itself, what its children used that have ended.
func cpuTime(stat string, server bool) (time.Duration, bool) {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]) // its name may have anything in it
	if len(fields) < 15 {
		return 0, false
	}
	n := 2
	if server {
		n = 4
	}
	var sum int64
	for _, f := range fields[11 : 11+n] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, false
		}
		sum += ticks
	}
	return time.Duration(sum) * tick, true
}

// share is a process's proportional share of memory.
func share(maps string) int64 {
	for line := range strings.Lines(maps) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// Logs implements provision.Driver: what the pod's main container says.
func (d *Driver) Logs(ctx context.Context, in *provision.Instance, lines int, follow bool) (io.ReadCloser, error) {
	if err := d.here(in); err != nil {
		return nil, err
	}
	pod, err := d.pod(ctx, in)
	if err != nil {
		return nil, err
	}
	if pod == "" {
		return nil, provision.Errorf(provision.KindState, "instance %s has no pod, and so no log", in.ID)
	}
	query := url.Values{"container": {"postgres"}, "tailLines": {strconv.Itoa(lines)}}
	if follow {
		query.Set("follow", "true")
	}
	at := strings.TrimSuffix(d.host, "/") + "/api/v1/namespaces/" + d.o.Namespace + "/pods/" + url.PathEscape(pod) + "/log?" + query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	answer, err := d.http.Do(req)
	if err != nil {
		return nil, d.explain(ctx, "read a log", err)
	}
	switch answer.StatusCode {
	case http.StatusOK:
		return plain(answer.Body), nil
	case http.StatusNotFound:
		answer.Body.Close()
		return nil, provision.Errorf(provision.KindState, "instance %s has no pod, and so no log", in.ID)
	}
	return nil, provision.Errorf(provision.KindFailed, "Kubernetes does not show the log of pod %s: %s", pod, answer.Status).WithDetail("%s", text(answer.Body))
}

// plain turns the operator's lines of JSON into such as PostgreSQL writes. Its goroutine ends with the body, or with the reader.
func plain(body io.ReadCloser) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		lines := bufio.NewReader(body)
		for {
			line, err := lines.ReadBytes('\n')
			if len(line) > 0 {
				if _, err := w.Write(logLine(line)); err != nil {
					return // nobody reads any more, and has closed the body
				}
			}
			if err != nil {
				w.CloseWithError(err) // io.EOF, if all is well
				return
			}
		}
	}()
	return logReader{r, body}
}

type logReader struct {
	*io.PipeReader
	body io.Closer
}

func (l logReader) Close() error {
	_ = l.PipeReader.Close() // it has no errors
	return l.body.Close()
}

// logLine is one line of the operator's as one of PostgreSQL's. What it does not understand stays.
func logLine(line []byte) []byte {
	var l struct {
		Time   string `json:"ts"`
		Logger string `json:"logger"`
		Msg    string `json:"msg"`
		Record struct {
			Time     string `json:"log_time"`
			Process  string `json:"process_id"`
			User     string `json:"user_name"`
			Database string `json:"database_name"`
			Severity string `json:"error_severity"`
			Message  string `json:"message"`
			Detail   string `json:"detail"`
		} `json:"record"`
	}
	if json.Unmarshal(line, &l) != nil {
		return line
	}
	said := l.Time + " " + l.Logger + ": " + l.Msg
	if r := l.Record; r.Message != "" {
		said = fmt.Sprintf("%s [%s] %s@%s %s:  %s", r.Time, r.Process, r.User, r.Database, r.Severity, r.Message)
		if r.Detail != "" {
			said += " (" + r.Detail + ")"
		}
	}
	return []byte(strings.ReplaceAll(said, "\n", " ") + "\n")
}

var goodTool = regexp.MustCompile(`^[a-z_]+$`)

// Tool implements provision.Driver: a program of this host, of the instance's version or the next later one, that connects as everybody does.
func (d *Driver) Tool(ctx context.Context, in *provision.Instance, name string, args ...string) (*exec.Cmd, error) {
	if !goodTool.MatchString(name) {
		return nil, provision.Errorf(provision.KindInvalid, "%q is no program of PostgreSQL's", name)
	}
	path := d.program(in.Version, name)
	if path == "" {
		return nil, provision.Errorf(provision.KindRefused, "%s of PostgreSQL %s is not installed on this host", name, in.Version).
			WithHint("Install PostgreSQL's client programs of version %s or newer.", in.Version)
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // PostgreSQL's own, by its name
	cmd.Env = []string{
		"PGHOST=" + in.Endpoint.Host, "PGPORT=" + strconv.Itoa(in.Endpoint.Port), "PGUSER=" + provision.Superuser, "PGPASSWORD=" + in.Password,
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=/proc/self/fd/3", "PGGSSENCMODE=disable", "PGCONNECT_TIMEOUT=10",
		"PGREQUIREAUTH=scram-sha-256",
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C",
	}
	cmd.WaitDelay = 5 * time.Second
	// The authority's certificate is in memory: no file is left behind, nor can one be exchanged.
	fd, err := unix.MemfdCreate("authority", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "authority")
	if _, err := f.WriteString(in.Endpoint.CA); err != nil {
		f.Close()
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{f} // closed when nothing refers to it any more
	return cmd, nil
}

// program looks for one of a version, or the next later one.
func (d *Driver) program(version, name string) string {
	least, _ := strconv.Atoi(version)
	best, found := 0, ""
	usual, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	more, _ := filepath.Glob("/usr/pgsql-*/bin")
	for _, dir := range slices.Concat(d.o.Bins, usual, more) {
		v, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(dir)), "pgsql-"))
		if err != nil || v < least || best != 0 && v >= best {
			continue
		}
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			best, found = v, path
		}
	}
	return found
}
