package kubernetes

import (
	"bytes"
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/google/go-cmp/cmp"

	"github.com/pgkennel/pgkennel/internal/pki"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// testDriver is one that never connects.
func testDriver(t *testing.T, o Options) *Driver {
	t.Helper()
	o.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	err := os.WriteFile(o.Kubeconfig, []byte("current-context: x\nclusters: [{name: x, cluster: {server: 'https://127.0.0.1:1'}}]\ncontexts: [{name: x, context: {cluster: x, namespace: tenants}}]\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestRender(t *testing.T) {
	t.Parallel()
	d := testDriver(t, Options{StorageClass: "fast"})
	in := &provision.Instance{
		ID: "abc", Version: "16", Password: "pa55w0rd", Limits: tenant.Limits{CPU: 1500, Memory: 1 << 30, Disk: 2 << 30, Connections: 20},
		Settings: map[string]string{"Work_Mem": "5MB", "shared_preload_libraries": "pg_stat_statements, 'auto_explain'", "app.motto": `it's "x"`},
	}
	u := d.render(in, parameters(in))
	if u.GetName() != "t-abc" || u.GetNamespace() != "tenants" || !cmp.Equal(u.GetLabels(), map[string]string{idLabel: "abc"}) || len(u.GetAnnotations()) > 0 {
		t.Errorf("metadata is %v", u.Object["metadata"])
	}
	spec := u.Object["spec"].(object)
	limits := object{"cpu": "1500m", "memory": "1073741824"}
	for name, want := range map[string]any{
		"imageName": "ghcr.io/cloudnative-pg/postgresql:16", "enableSuperuserAccess": false, "instances": nil,
		"resources": object{"limits": limits, "requests": limits}, "storage": object{"size": "2147483648", "storageClass": "fast"},
		"certificates": object{"serverCASecret": "t-abc-server", "serverTLSSecret": "t-abc-server"},
	} {
		if diff := cmp.Diff(want, spec[name]); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", name, diff)
		}
	}
	params := spec["postgresql"].(object)["parameters"].(object)
	for name, want := range map[string]any{
		"work_mem": "5MB", "app.motto": `it's "x"`, "max_connections": "35", "superuser_reserved_connections": "15", "shared_buffers": "262144kB", preload: nil,
	} {
		if params[name] != want {
			t.Errorf("parameter %s is %v, want %v", name, params[name], want)
		}
	}
	if diff := cmp.Diff([]any{"pg_stat_statements", "auto_explain"}, spec["postgresql"].(object)[preload]); diff != "" {
		t.Errorf("libraries differ (-want +got):\n%s", diff)
	}
	text, err := u.MarshalJSON()
	if err != nil || strings.Contains(string(text), in.Password) {
		t.Errorf("%v: the password is in %s", err, text)
	}
	// What it says is what it has: nothing is left to be changed.
	if names := provision.Changed(said(u), parameters(in)); len(names) != 1 || names[0] != preload {
		t.Errorf("what was just rendered differs in %v", names)
	}
	if !same(u, d.render(in, nil)) {
		t.Error("resources differ from themselves")
	}
	in.Limits.Memory = 0
	if same(u, d.render(in, nil)) {
		t.Error("a limit that was taken back is not seen")
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	d := testDriver(t, Options{})
	for name, c := range map[string]struct {
		change func(*provision.Instance)
		want   provision.ErrorKind
	}{
		"ID":           {func(in *provision.Instance) { in.ID = "A/b" }, provision.KindInvalid},
		"superuser":    {func(in *provision.Instance) { in.Superuser = true }, provision.KindRefused},
		"archive":      {func(in *provision.Instance) { in.Archive = true }, provision.KindRefused},
		"little room":  {func(in *provision.Instance) { in.Limits.Memory = 64 << 20 }, provision.KindRefused},
		"I/O":          {func(in *provision.Instance) { in.Limits.IO = 64 << 20 }, provision.KindRefused},
		"below zero":   {func(in *provision.Instance) { in.Limits.Disk = -1 }, provision.KindInvalid},
		"the operator": {func(in *provision.Instance) { in.Settings = map[string]string{"Wal_Level": "replica"} }, provision.KindInvalid},
		"pgkennel":     {func(in *provision.Instance) { in.Settings = map[string]string{"ssl": "off"} }, provision.KindInvalid},
	} {
		in := &provision.Instance{ID: "abc", Version: "16"}
		if err := d.check(in); err != nil {
			t.Fatal(err)
		}
		c.change(in)
		e, ok := d.check(in).(*provision.Error) //nolint:errorlint // it is one
		if !ok || e.Kind != c.want {
			t.Errorf("%s: %v, want %s", name, e, c.want)
		}
	}
	if err := d.here(&provision.Instance{ID: "abc", Facts: map[string]string{clusterFact: "t-abc", namespaceFact: "other"}}); err == nil {
		t.Error("an instance of another namespace is this driver's")
	}
	if d.Spool(nil) != "" {
		t.Error("there is a spool")
	}
	if dir, _, _ := d.DataDir(nil); dir != "" {
		t.Error("there is a data directory")
	}
}

func TestAuthority(t *testing.T) {
	t.Parallel()
	d := testDriver(t, Options{Address: func(service, _ string) string { return service + ".db.example.com" }})
	cert, key, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	a, err := pki.Open(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	hosts := d.hosts("abc")
	s := pki.Template("t-abc", time.Now(), lifetime)
	s.DNSNames = hosts
	s.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	made, _, err := a.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	secret := func(crt []byte, ca string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: object{"data": object{"tls.crt": encode(crt), certField: encode([]byte(ca))}}}
	}
	if !signed(secret(made, a.PEM), a.PEM, hosts) {
		t.Error("its own certificate is not good")
	}
	if c, err := pki.Parse(made); err != nil || !c.NotBefore.Equal(a.Cert.NotBefore) || time.Since(c.NotBefore) < 24*time.Hour {
		t.Errorf("it is good from what the clock says on: %v, %v", c, err)
	}
	for _, want := range []string{"t-abc-rw.db.example.com", "t-abc-ro.db.example.com", "t-abc-rw.tenants.svc"} {
		c, err := pki.Parse(made)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(a.Cert)
		if _, err := c.Verify(x509.VerifyOptions{DNSName: want, Roots: roots}); err != nil {
			t.Errorf("certificate for %s: %v", want, err)
		}
	}
	other, otherKey, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	b, err := pki.Open(other, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Open(cert, otherKey); err == nil {
		t.Error("an authority has another one's key")
	}
	late := pki.Template("t-abc", time.Now(), lifetime)
	late.DNSNames, late.NotAfter = hosts, time.Now().Add(renewal/2)
	old, _, err := a.Sign(late)
	if err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{
		"another authority's": signed(secret(made, b.PEM), b.PEM, hosts), "one beside another authority": signed(secret(made, b.PEM), a.PEM, hosts),
		"one that ends": signed(secret(old, a.PEM), a.PEM, hosts), "another host's": signed(secret(made, a.PEM), a.PEM, d.hosts("xyz")), "none": signed(secret(nil, a.PEM), a.PEM, hosts), "no authority": signed(secret(made, ""), "", hosts),
	} {
		if good {
			t.Errorf("certificate of %s is good", name)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	u := &unstructured.Unstructured{Object: object{
		"metadata": object{"annotations": object{hibernation: "on"}, "labels": object{replicaLabel: "r"}},
		"status": object{
			"currentPrimary": "t-abc-1", "readyInstances": int64(0), "phase": "Cluster in healthy state",
			"conditions": []any{object{"type": hibernation, "status": "True"}, object{"type": "Ready", "lastTransitionTime": "2026-01-31T23:59:59Z"}},
		},
	}}
	want := status{data: true, down: true, phase: "Cluster in healthy state", since: "2026-01-31T23:59:59Z", replica: "r"}
	if got := statusOf(u); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if running(u) {
		t.Error("one that sleeps runs")
	}
	u.SetAnnotations(nil)
	unstructured.RemoveNestedField(u.Object, "status", "conditions")
	if !running(u) { // it is on its way
		t.Error("one that is to be up does not run")
	}
	if got := statusOf(&unstructured.Unstructured{Object: object{"status": object{"conditions": []any{"x"}, "readyInstances": "y"}}}); got != (status{on: true}) {
		t.Errorf("of nonsense: %+v", got)
	}
}

func TestLogLines(t *testing.T) {
	t.Parallel()
	in := `{"level":"info","ts":"2026-01-31T23:59:59Z","logger":"postgres","msg":"record","record":{"log_time":"2026-01-31 23:59:59 UTC","process_id":"7","user_name":"u","database_name":"d","error_severity":"ERROR","message":"a\nb","detail":"c"}}
{"level":"info","ts":"T","logger":"instance-manager","msg":"Starting"}
no JSON`
	const want = "2026-01-31 23:59:59 UTC [7] u@d ERROR:  a b (c)\nT instance-manager: Starting\nno JSON"
	r := plain(io.NopCloser(bytes.NewReader([]byte(in))))
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	// Who stops reading leaves nothing that waits.
	r = plain(io.NopCloser(bytes.NewReader([]byte(in))))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestUsageOfProcesses(t *testing.T) {
	t.Parallel()
	const stat = "42 (a) b) S 1 1 1 0 -1 4194304 1 2 3 4 100 50 30 20 20 0 1 0 5 6 7"
	if got, ok := cpuTime(stat, false); !ok || got != 1500*time.Millisecond {
		t.Errorf("a child: %v, %t, want 1.5s", got, ok)
	}
	if got, ok := cpuTime(stat, true); !ok || got != 2*time.Second {
		t.Errorf("the server: %v, %t, want 2s", got, ok)
	}
	if _, ok := cpuTime("", true); ok {
		t.Error("of a process that is gone, there is something")
	}
	if got := share("Rss:  9 kB\nPss:               7 kB\nPss_Dirty: 3 kB\n"); got != 7<<10 {
		t.Errorf("share is %d, want 7 kB", got)
	}
}
