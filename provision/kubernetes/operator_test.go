package kubernetes_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/process"
)

var (
	clusters = schema.GroupVersionResource{Group: "postgresql.cnpg.io", Version: "v1", Resource: "clusters"}
	secrets  = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	pods     = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	claims   = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	quotas   = schema.GroupVersionResource{Version: "v1", Resource: "resourcequotas"}
	nodes    = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
)

// noLimit is the size of volumes of instances without a disk limit, in tests.
const noLimit = 100 << 20

// operator is to Clusters of one namespace what CloudNativePG's is, as far as the driver can tell: it has PostgreSQL run (on this host, by the process driver,
// behind TLS), keeps the status, and makes pods, volumes and what else there would be. It takes away what Kubernetes' own controllers would.
type operator struct {
	t         testing.TB
	api       func(schema.GroupVersionResource) dynamicInterface
	servers   *process.Driver
	namespace string

	wake chan string
	mu   struct {
		sync.Mutex
		members map[string]*member // by the Cluster's name
	}
}

type dynamicInterface interface {
	Get(ctx context.Context, name string, o metav1.GetOptions, sub ...string) (*unstructured.Unstructured, error)
	Create(ctx context.Context, u *unstructured.Unstructured, o metav1.CreateOptions, sub ...string) (*unstructured.Unstructured, error)
	UpdateStatus(ctx context.Context, u *unstructured.Unstructured, o metav1.UpdateOptions) (*unstructured.Unstructured, error)
	Delete(ctx context.Context, name string, o metav1.DeleteOptions, sub ...string) error
	List(ctx context.Context, o metav1.ListOptions) (*unstructured.UnstructuredList, error)
}

// member is a Cluster at work.
type member struct {
	sync.Mutex
	in, second *provision.Instance
	proxies    []*proxy
	known      bool // it was ready once
	ready      int
	pid        int // of the server
	since      string
}

// address is where a service is, in tests: on the loopback network, with PostgreSQL's own port.
func address(service, namespace string) string {
	h := fnv.New32a()
	h.Write([]byte(namespace + "/" + service))
	n := h.Sum32()
	return fmt.Sprintf("127.%d.%d.%d", n>>16&127+64, n>>8&255, n&127+2)
}

// startOperator has one run until the test ends.
func startOperator(t testing.TB, s *apiServer, namespace, dir string) *operator {
	t.Helper()
	servers, err := process.New(process.Options{DataDir: dir, NoSync: true, NoTCP: true})
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{t: t, servers: servers, namespace: namespace, wake: make(chan string, 1000)}
	o.api = func(r schema.GroupVersionResource) dynamicInterface { return s.admin.Resource(r).Namespace(namespace) }
	o.mu.members = map[string]*member{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				o.probe(ctx)
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			list, err := s.admin.Resource(clusters).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for i := range list.Items {
				o.wake <- list.Items[i].GetName()
			}
			w, err := s.admin.Resource(clusters).Namespace(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
			if err != nil {
				continue
			}
			for e := range w.ResultChan() {
				if u, ok := e.Object.(*unstructured.Unstructured); ok {
					o.wake <- u.GetName()
				}
			}
		}
	})
	wg.Go(func() {
		var work sync.WaitGroup
		defer work.Wait()
		for {
			select {
			case <-ctx.Done():
				return
			case name := <-o.wake:
				work.Go(func() {
					if err := o.reconcile(ctx, name); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
						t.Logf("operator: %s: %v", name, err)
					}
				})
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		for name, m := range o.mu.members {
			t.Errorf("the Cluster %s is left", name)
			o.end(m)
		}
	})
	return o
}

// probe looks for servers that ended by themselves.
func (o *operator) probe(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, m := range o.mu.members {
		if !m.TryLock() {
			continue // it is being looked at
		}
		if m.ready > 0 {
			if st, err := o.servers.State(ctx, m.in); err == nil && st.PID != m.pid {
				o.wake <- name
			}
		}
		m.Unlock()
	}
}

func (o *operator) reconcile(ctx context.Context, name string) error {
	o.mu.Lock()
	m := o.mu.members[name]
	if m == nil {
		m = &member{}
		o.mu.members[name] = m
	}
	o.mu.Unlock()
	m.Lock()
	defer m.Unlock()
	u, err := o.api(clusters).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		o.end(m)
		o.mu.Lock()
		delete(o.mu.members, name)
		o.mu.Unlock()
		return o.sweep(ctx, name, pods, claims)
	}
	if err != nil {
		return err
	}
	if m.in == nil {
		if m.in, err = o.first(ctx, u); err != nil {
			return err
		}
	}
	o.desire(u, m.in)
	if u.GetAnnotations()["cnpg.io/hibernation"] == "on" && m.known {
		if err := errors.Join(o.stop(ctx, m.second), o.stop(ctx, m.in)); err != nil {
			return err
		}
		m.ready = 0
		if err := o.sweep(ctx, name, pods); err != nil {
			return err
		}
		return o.report(ctx, u, m, "Cluster in healthy state", "")
	}
	if st, err := o.servers.State(ctx, m.in); err == nil && !st.Running && m.ready > 0 {
		m.ready = 0
		if err := o.report(ctx, u, m, "Failing over", ""); err != nil {
			return err
		}
		o.wake <- name
		return nil
	}
	if err := o.up(ctx, m.in, u, m, "-rw", 1); err != nil {
		return errors.Join(err, o.report(ctx, u, m, "Waiting for the instances to become active", explain(err)))
	}
	st, err := o.servers.State(ctx, m.in)
	if err != nil {
		return err
	}
	if m.ready > 0 && m.pid != st.PID { // it ended, and nobody has heard of that
		m.ready = 0
		if err := o.report(ctx, u, m, "Failing over", ""); err != nil {
			return err
		}
	}
	m.pid = st.PID
	ready := 1
	if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "instances"); n > 1 {
		if m.second == nil {
			second := *m.in
			second.ID, second.Facts, second.Primary = strings.Repeat("r", 4)+m.in.ID[4:], nil, m.in
			if err := o.servers.Plan(ctx, &second, []*provision.Instance{m.in}); err != nil {
				return err
			}
			m.second = &second
		}
		if err := o.up(ctx, m.second, u, m, "-ro", 2); err != nil {
			return errors.Join(err, o.report(ctx, u, m, "Creating a new replica", explain(err)))
		}
		ready = 2
	} else if m.second != nil {
		if err := o.servers.Destroy(ctx, m.second); err != nil {
			return err
		}
		m.second = nil
		_ = o.api(pods).Delete(ctx, name+"-2", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		_ = o.api(claims).Delete(ctx, name+"-2", metav1.DeleteOptions{})
	}
	if m.ready == 0 {
		m.since = time.Now().UTC().Format(time.RFC3339)
	}
	m.ready, m.known = ready, true
	return o.report(ctx, u, m, "Cluster in healthy state", "")
}

func explain(err error) string {
	if e := (*provision.Error)(nil); errors.As(err, &e) {
		return e.Message + " " + e.Detail
	}
	return err.Error()
}

func (o *operator) secret(ctx context.Context, name, field string) ([]byte, error) {
	u, err := o.api(secrets).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	s, _, _ := unstructured.NestedString(u.Object, "data", field)
	return base64.StdEncoding.DecodeString(s)
}

// first is what a new Cluster says once and for all.
func (o *operator) first(ctx context.Context, u *unstructured.Unstructured) (*provision.Instance, error) {
	roles, _, _ := unstructured.NestedSlice(u.Object, "spec", "managed", "roles")
	if len(roles) != 1 {
		return nil, fmt.Errorf("%d roles", len(roles))
	}
	role := roles[0].(map[string]any) //nolint:forcetypeassert // its schema says so
	name, _, _ := unstructured.NestedString(role, "passwordSecret", "name")
	password, err := o.secret(ctx, name, "password")
	if err != nil {
		return nil, err
	}
	if role["name"] != provision.Superuser || role["superuser"] != true || role["login"] != true {
		return nil, fmt.Errorf("role %v", role)
	}
	in := &provision.Instance{ID: strings.TrimPrefix(u.GetName(), "t-"), Password: string(password)}
	o.desire(u, in)
	return in, o.servers.Plan(ctx, in, nil)
}

// desire reads what an instance is to be like.
func (o *operator) desire(u *unstructured.Unstructured, in *provision.Instance) {
	params, _, _ := unstructured.NestedStringMap(u.Object, "spec", "postgresql", "parameters")
	in.Settings = maps.Clone(params)
	most, _ := strconv.Atoi(params["max_connections"])
	in.Limits.Connections = most - 15
	for _, name := range []string{"max_connections", "superuser_reserved_connections", "password_encryption"} {
		delete(in.Settings, name)
	}
	number := func(at ...string) resource.Quantity {
		s, _, _ := unstructured.NestedString(u.Object, at...)
		q, _ := resource.ParseQuantity(s) // zero
		return q
	}
	cpu, memory, disk := number("spec", "resources", "limits", "cpu"), number("spec", "resources", "limits", "memory"), number("spec", "storage", "size")
	in.Limits.CPU, in.Limits.Memory, in.Limits.Disk = int(cpu.MilliValue()), memory.Value(), disk.Value()
	if in.Limits.Disk == noLimit {
		in.Limits.Disk = 0
	}
}

// up has an instance run as it is to be, with its pod and volume.
func (o *operator) up(ctx context.Context, in *provision.Instance, u *unstructured.Unstructured, m *member, service string, n int) error {
	d := o.servers
	if err := d.Volume(ctx, in); err != nil {
		return err
	}
	if err := d.Init(ctx, in); err != nil {
		return err
	}
	need, err := d.Configure(ctx, in)
	if err != nil {
		return err
	}
	switch need {
	case provision.NeedNothing:
	case provision.NeedReload:
		err = d.Reload(ctx, in)
	case provision.NeedRestart:
		err = d.Stop(ctx, in)
	}
	if err != nil {
		return err
	}
	if err := d.Start(ctx, in); err != nil {
		return err
	}
	if len(m.proxies) < n {
		p, err := o.listen(ctx, u, in, u.GetName()+service)
		if err != nil {
			return err
		}
		m.proxies = append(m.proxies, p)
	}
	m.proxies[n-1].to(in)
	name := u.GetName() + "-" + strconv.Itoa(n)
	labels := map[string]any{"cnpg.io/cluster": u.GetName(), "cnpg.io/podRole": "instance"}
	inherited, _, _ := unstructured.NestedMap(u.Object, "spec", "inheritedMetadata", "labels")
	maps.Copy(labels, inherited)
	size, _, _ := unstructured.NestedString(u.Object, "spec", "storage", "size")
	pod := object("v1", "Pod", name, labels, map[string]any{
		"nodeName": "n1", "containers": []any{map[string]any{"name": "postgres", "image": "x"}}, "enableServiceLinks": false,
	})
	claim := object("v1", "PersistentVolumeClaim", name, labels, map[string]any{
		"accessModes": []any{"ReadWriteOnce"}, "resources": map[string]any{"requests": map[string]any{"storage": size}},
	})
	if _, err := o.api(pods).Create(ctx, pod, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if _, err := o.api(claims).Create(ctx, claim, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	have, err := o.api(claims).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	have.Object["status"] = map[string]any{"phase": "Bound", "capacity": map[string]any{"storage": size}}
	_, err = o.api(claims).UpdateStatus(ctx, have, metav1.UpdateOptions{})
	return err
}

func object(version, kind, name string, labels, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": name, "labels": labels}, "spec": spec,
	}}
}

func (o *operator) stop(ctx context.Context, in *provision.Instance) error {
	if in == nil {
		return nil
	}
	return o.servers.Stop(ctx, in)
}

// end takes away what runs of a Cluster that is gone.
func (o *operator) end(m *member) {
	for _, p := range m.proxies {
		p.close()
	}
	for _, in := range []*provision.Instance{m.second, m.in} {
		if in == nil {
			continue
		}
		if err := o.servers.Destroy(context.Background(), in); err != nil {
			o.t.Errorf("operator: %v", err)
		}
	}
	m.proxies, m.second, m.in = nil, nil, nil
}

// sweep deletes objects as Kubernetes' own controllers do.
func (o *operator) sweep(ctx context.Context, name string, of ...schema.GroupVersionResource) error {
	for _, r := range of {
		list, err := o.api(r).List(ctx, metav1.ListOptions{LabelSelector: "cnpg.io/cluster=" + name})
		if err != nil {
			return err
		}
		for i := range list.Items {
			err := o.api(r).Delete(ctx, list.Items[i].GetName(), metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

// report writes the status, if it is another.
func (o *operator) report(ctx context.Context, u *unstructured.Unstructured, m *member, phase, reason string) error {
	u, err := o.api(clusters).Get(ctx, u.GetName(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	now := m.since
	if now == "" {
		now = time.Now().UTC().Format(time.RFC3339)
	}
	condition := func(name, status string) any {
		return map[string]any{"type": name, "status": status, "reason": "Test", "message": "", "lastTransitionTime": now}
	}
	status := map[string]any{"phase": phase, "readyInstances": int64(m.ready)}
	if reason != "" {
		status["phaseReason"] = reason
	}
	if m.known {
		status["currentPrimary"] = u.GetName() + "-1"
	}
	ready := "False"
	if m.ready > 0 {
		ready = "True"
	}
	conditions := []any{condition("Ready", ready)}
	if u.GetAnnotations()["cnpg.io/hibernation"] == "on" && m.known && m.ready == 0 && phase == "Cluster in healthy state" {
		conditions = append(conditions, condition("cnpg.io/hibernation", "True"))
	}
	status["conditions"] = conditions
	was, _ := json.Marshal(u.Object["status"])
	is, _ := json.Marshal(status)
	if string(was) == string(is) {
		return nil
	}
	u.Object["status"] = status
	_, err = o.api(clusters).UpdateStatus(ctx, u, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return o.report(ctx, u, m, phase, reason)
	}
	return err
}

// proxy is a service with a server behind it: TLS only, with the certificate of the Cluster's Secret.
type proxy struct {
	listener net.Listener
	config   *tls.Config
	wg       sync.WaitGroup
	mu       sync.Mutex
	at       string // the server's unix socket
}

func (o *operator) listen(ctx context.Context, u *unstructured.Unstructured, in *provision.Instance, service string) (*proxy, error) {
	name, _, _ := unstructured.NestedString(u.Object, "spec", "certificates", "serverTLSSecret")
	cert, err1 := o.secret(ctx, name, "tls.crt")
	key, err2 := o.secret(ctx, name, "tls.key")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address(service, o.namespace)+":5432") //nolint:noctx // at once
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, config: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}}
	p.to(in)
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	return p, nil
}

func (p *proxy) to(in *provision.Instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = path.Join(in.Endpoint.Host, ".s.PGSQL."+strconv.Itoa(in.Endpoint.Port))
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil || binary.BigEndian.Uint32(head[4:]) != 80877103 {
		return // there is no way in but by TLS
	}
	if _, err := c.Write([]byte("S")); err != nil {
		return
	}
	secured := tls.Server(c, p.config)
	p.mu.Lock()
	at := p.at
	p.mu.Unlock()
	server, err := net.Dial("unix", at) //nolint:noctx // it is there, or not
	if err != nil {
		return
	}
	defer server.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(server, secured) // either end may end it
		server.Close()
	})
	_, _ = io.Copy(secured, server)
	c.Close()
	wg.Wait()
}

func (p *proxy) close() {
	p.listener.Close()
	p.wg.Wait()
}

// startKubelet is the node n1, as far as logs of pods go: what the servers of all operators say, as CloudNativePG has it.
func startKubelet(t *testing.T, s *apiServer, find func(namespace string) *operator) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/containerLogs/"), "/")
		if len(parts) != 3 || parts[2] != "postgres" {
			http.NotFound(w, r)
			return
		}
		o, name := find(parts[0]), parts[1]
		o.mu.Lock()
		m := o.mu.members[name[:strings.LastIndex(name, "-")]]
		o.mu.Unlock()
		m.Lock()
		in := m.in
		m.Unlock()
		lines, _ := strconv.Atoi(r.URL.Query().Get("tailLines"))
		log, err := o.servers.Logs(r.Context(), in, lines, r.URL.Query().Get("follow") == "true")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer log.Close()
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush() //nolint:forcetypeassert // it is one
		for scan := bufio.NewScanner(log); scan.Scan(); {
			line, _ := json.Marshal(map[string]any{ // texts only
				"level": "info", "ts": "2026-01-31T23:59:59Z", "logger": "postgres", "msg": "record",
				"record": map[string]string{"log_time": "2026-01-31 23:59:59 UTC", "process_id": "7", "error_severity": "LOG", "message": scan.Text()},
			})
			if _, err := w.Write(append(line, '\n')); err != nil {
				return
			}
			w.(http.Flusher).Flush() //nolint:forcetypeassert // it is one
		}
	}))
	t.Cleanup(server.Close)
	node := object("v1", "Node", "n1", nil, nil)
	if _, err := s.admin.Resource(nodes).Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	node, err := s.admin.Resource(nodes).Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Object["status"] = map[string]any{
		"allocatable":     map[string]any{"cpu": "8", "memory": "16Gi"},
		"addresses":       []any{map[string]any{"type": "InternalIP", "address": "127.0.0.1"}},
		"daemonEndpoints": map[string]any{"kubeletEndpoint": map[string]any{"Port": int64(server.Listener.Addr().(*net.TCPAddr).Port)}}, //nolint:forcetypeassert // it is one
	}
	if _, err := s.admin.Resource(nodes).UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// secretOf reads a value of a Secret.
func secretOf(t *testing.T, s *apiServer, namespace, name, field string) string {
	t.Helper()
	o := &operator{api: func(r schema.GroupVersionResource) dynamicInterface { return s.admin.Resource(r).Namespace(namespace) }}
	b, err := o.secret(t.Context(), name, field)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
