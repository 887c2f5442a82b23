package kubernetes_test

import (
	"context"
	"errors"
	"flag"
	"hash/fnv"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/provision/kubernetes"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Tests wait more than they work: more of them at once than there are cores.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("4"); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// TestRefused holds on all hosts.
func TestRefused(t *testing.T) {
	t.Parallel()
	nowhere := (&apiServer{url: "https://127.0.0.1:1"}).kubeconfig(t, "tenants")
	for name, c := range map[string]struct {
		change func(*kubernetes.Options)
		want   string
	}{
		"no kubeconfig": {func(o *kubernetes.Options) { o.Kubeconfig = "/nonexistent/kubeconfig" }, "/nonexistent/kubeconfig"},
		"no context":    {func(o *kubernetes.Options) { o.Context = "none" }, `context "none" does not exist`},
		"namespace":     {func(o *kubernetes.Options) { o.Namespace = "Tenants/x" }, `"Tenants/x" can't be a namespace`},
		"image":         {func(o *kubernetes.Options) { o.Image = "postgresql:17" }, "{version} is not in it"},
		"version":       {func(o *kubernetes.Options) { o.Version = "9.6" }, `no image of PostgreSQL "9.6"`},
	} {
		o := kubernetes.Options{Kubeconfig: nowhere, Context: "test"}
		c.change(&o)
		if d, err := kubernetes.New(o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want an error with %q", name, d, err, c.want)
		}
	}
	// That nothing answers is for Plan to say: pgkennel starts, and serves whom it knows.
	d, err := kubernetes.New(kubernetes.Options{Kubeconfig: nowhere, Context: "test"})
	if err != nil {
		t.Fatal(err)
	}
	in := &provision.Instance{ID: "abc"}
	if err := d.Plan(t.Context(), in, nil); drivertest.Kind(err) != provision.KindFailed || !strings.Contains(err.Error(), "can't be reached") || in.Facts != nil {
		t.Errorf("plan where nothing answers: %v, facts %v", err, in.Facts)
	}
}

// TestDriver runs the tests of all drivers with an API server of its own, of $KUBEBUILDER_ASSETS or the PATH, as a user who may do what the documentation
// says. Where there is none, what needs none is tested; `make provisioners` builds one.
func TestDriver(t *testing.T) {
	t.Parallel()
	api, etcd := binaries()
	if api == "" || etcd == "" {
		t.Log("there is no kube-apiserver here: the other tests are those of what it is told")
		return
	}
	s := startAPIServer(t, api, etcd)
	documented := rules(t)
	var mu sync.Mutex
	operators := map[string]*operator{}
	startKubelet(t, s, func(namespace string) *operator {
		mu.Lock()
		defer mu.Unlock()
		return operators[namespace]
	})
	options := func(t testing.TB) kubernetes.Options {
		h := fnv.New32a()
		h.Write([]byte(t.Name()))
		namespace := "test-" + strconv.Itoa(int(h.Sum32()))
		mu.Lock()
		defer mu.Unlock()
		if operators[namespace] == nil {
			s.namespace(t, documented, namespace)
			operators[namespace] = startOperator(t, s, namespace, drivertest.Dir(t, pgtest.Root()))
		}
		return kubernetes.Options{
			Kubeconfig: s.kubeconfig(t, namespace), Context: "test", Version: "15", DefaultDisk: noLimit, Timeout: time.Minute, Address: address,
		}
	}
	open := func(t testing.TB) provision.Driver {
		t.Helper()
		d, err := kubernetes.New(options(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	root := os.Geteuid() == 0
	t.Run("all", func(t *testing.T) { // so that the API server ends after them
		drivertest.Run(t, open, drivertest.Caps{CPU: root, Memory: root, Disk: root, Replicas: true, Elsewhere: true})
		t.Run("Objects", func(t *testing.T) { t.Parallel(); objectsOf(t, s, options(t)) })
		t.Run("Manager", func(t *testing.T) { t.Parallel(); managed(t, open(t)) })
		t.Run("Broken", func(t *testing.T) { t.Parallel(); broken(t, options(t)) })
	})
}

// objectsOf looks at what there is of an instance, how it is reached, and what is told of it.
func objectsOf(t *testing.T, s *apiServer, o kubernetes.Options) {
	t.Helper()
	d, err := kubernetes.New(o)
	if err != nil {
		t.Fatal(err)
	}
	k := drivertest.Kit{TB: t, Driver: d}
	in := k.Instance()
	k.Up(in)
	namespace := in.Facts["namespace"]
	u, err := s.admin.Resource(clusters).Namespace(namespace).Get(t.Context(), "t-"+in.ID, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range u.GetManagedFields() {
		if strings.HasPrefix(m.Manager, "pgkennel") && m.Subresource == "" && m.Operation != metav1.ManagedFieldsOperationApply {
			t.Errorf("field manager %s: %s", m.Manager, m.Operation)
		}
	}
	text, err := u.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), in.Password) || strings.Contains(string(text), "pässwörd") {
		t.Error("the password is in the Cluster")
	}

	// Only TLS, and only with a certificate for this host of that authority.
	other := *in
	if other.Endpoint.CA = ""; true {
		if _, err := k.Try(&other, in.Password, "SELECT 1"); err == nil {
			t.Error("a connection without TLS was let in")
		}
	}
	second := k.Instance()
	k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, second, []*provision.Instance{in}) })
	if second.Endpoint.CA != in.Endpoint.CA || second.Endpoint.CA == "" {
		t.Error("two instances of a namespace have not one authority")
	}
	if dump, err := exec.LookPath("psql"); err == nil && dump != "" {
		tool, err := k.Tool(t.Context(), in, "psql", "-d", "postgres", "-Atc", "SELECT 1")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := tool.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "1" {
			t.Errorf("psql: %v: %s", err, out)
		}
		wrong := *in
		if wrong.Endpoint.CA, err = kubernetes.NewAuthority(); err != nil {
			t.Fatal(err)
		}
		if tool, err = k.Tool(t.Context(), &wrong, "psql", "-d", "postgres", "-Atc", "SELECT 1"); err != nil {
			t.Fatal(err)
		}
		if out, err := tool.CombinedOutput(); err == nil {
			t.Errorf("psql connects to a server of another authority: %s", out)
		}
		if _, err := k.Try(&wrong, in.Password, "SELECT 1"); err == nil {
			t.Error("a server of another authority is believed")
		}
	}

	// A password that was changed is in its Secret; the certificate stays.
	before := secretOf(t, s, namespace, "t-"+in.ID+"-server", "tls.crt")
	in.Password = "another"
	k.Twice("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	if got := secretOf(t, s, namespace, "t-"+in.ID+"-admin", "password"); got != "another" {
		t.Errorf("password in the Secret: %q", got)
	}
	if secretOf(t, s, namespace, "t-"+in.ID+"-server", "tls.crt") != before {
		t.Error("the server's certificate was made anew without need")
	}

	// Without the authority that poolers were told, what is good goes on, and nothing is made that they would not believe.
	drop := func(name string) {
		t.Helper()
		if err := s.admin.Resource(secrets).Namespace(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	drop("pgkennel-ca")
	k.Do("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	drop("t-" + in.ID + "-server")
	if err := k.Volume(t.Context(), in); drivertest.Kind(err) != provision.KindFailed || !strings.Contains(err.Error(), "pgkennel-ca") {
		t.Errorf("a certificate of another authority: %v", err)
	}

	// An instance of another namespace is not made a second time, nor taken for gone.
	moved := *in
	moved.Facts = map[string]string{"cluster": in.Facts["cluster"], "namespace": "elsewhere"}
	for _, err := range []error{k.Start(t.Context(), &moved), k.Destroy(t.Context(), &moved)} {
		if drivertest.Kind(err) != provision.KindFailed || !strings.Contains(err.Error(), "is in namespace elsewhere") {
			t.Errorf("one of another namespace: %v", err)
		}
	}
	k.Twice("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
	k.Nothing()
	for r, want := range map[string]int{"secrets": 1, "pods": 0, "persistentvolumeclaims": 0} { // the authority stays
		gvr := secrets
		gvr.Resource = r
		list, err := s.admin.Resource(gvr).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != want {
			t.Errorf("%d %s are left, %v; want %d", len(list.Items), r, err, want)
		}
	}
}

// broken has an instance that can't start, and then can.
func broken(t *testing.T, o kubernetes.Options) {
	t.Helper()
	o.Timeout = time.Second
	d, err := kubernetes.New(o)
	if err != nil {
		t.Fatal(err)
	}
	k := drivertest.Kit{TB: t, Driver: d}
	in := k.Instance()
	in.Settings = map[string]string{"work_mem": "much"} // before there is a server, nobody knows
	k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, in, nil) })
	k.Do("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	k.Do("init", func(ctx context.Context) error { return k.Init(ctx, in) })
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	k.Eventually("a start says what the operator says of work_mem", func() bool {
		e := (*provision.Error)(nil)
		return errors.As(k.Start(t.Context(), in), &e) && strings.Contains(e.Detail, "work_mem")
	})
	in.Settings = nil
	o.Timeout = time.Minute
	if k.Driver, err = kubernetes.New(o); err != nil {
		t.Fatal(err)
	}
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	k.Twice("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	k.SQL(in, "SELECT 1")
}
