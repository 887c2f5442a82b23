package kubernetes_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// apiServer is a Kubernetes of a test's own: etcd and kube-apiserver, without anything that runs pods.
type apiServer struct {
	url   string
	admin dynamic.Interface
}

// The tokens of who may do everything, and of pgkennel, which may do what docs/provisioning.md says.
const adminToken, driverToken = "admin-token", "driver-token"

// binaries finds kube-apiserver and etcd; empty = they are not here.
func binaries() (api, etcd string) {
	look := func(name string) string {
		if path := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), name); filepath.IsAbs(path) {
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
		path, _ := exec.LookPath(name) // empty
		return path
	}
	return look("kube-apiserver"), look("etcd")
}

// startAPIServer starts one that ends with the test.
func startAPIServer(t *testing.T, api, etcd string) *apiServer {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	accounts := write("accounts.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	tokens := write("tokens.csv", adminToken+",admin,1,system:masters\n"+driverToken+",pgkennel,2\n")
	store := "http://127.0.0.1:" + strconv.Itoa(freePort(t))
	peer := "http://127.0.0.1:" + strconv.Itoa(freePort(t))
	run(t, etcd, dir, "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls="+store, "--advertise-client-urls="+store, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--unsafe-no-fsync")
	at := freePort(t)
	run(t, api, dir, "--etcd-servers="+store, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+strconv.Itoa(at),
		"--cert-dir="+filepath.Join(dir, "certs"), "--service-cluster-ip-range=10.0.0.0/24", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+accounts, "--service-account-signing-key-file="+accounts, "--authorization-mode=RBAC", "--token-auth-file="+tokens,
		"--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount,ResourceQuota,StorageObjectInUseProtection", "--profiling=false")
	s := &apiServer{url: "https://127.0.0.1:" + strconv.Itoa(at)}
	s.admin, err = dynamic.NewForConfig(&rest.Config{Host: s.url, BearerToken: adminToken, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	text, err := os.ReadFile("testdata/cluster.crd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	crd := objects(t, string(text))[0]
	eventually(t, "Kubernetes serves", func() error {
		ready := s.admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
		_, err := ready.Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	if _, err := s.admin.Resource(crds).Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Kubernetes has Clusters", func() error {
		_, err := s.admin.Resource(clusters).List(t.Context(), metav1.ListOptions{})
		return err
	})
	return s
}

// run has a program run until the test ends; what it says is shown if that fails.
func run(t *testing.T, program, dir string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(program)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			end, _ := log.Seek(0, io.SeekEnd)
			text := make([]byte, min(end, 1000))
			_, _ = log.ReadAt(text, end-int64(len(text)))
			t.Logf("%s said at last:\n%s", filepath.Base(program), text)
		}
		log.Close()
	})
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it is one
}

func eventually(t *testing.T, what string, do func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it never came to it that %s: %v", what, err)
		}
	}
}

// objects reads a document of YAML.
func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var list []*unstructured.Unstructured
	for doc := range strings.SplitSeq(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatal(err)
		}
		list = append(list, u)
	}
	return list
}

// rules are those that the documentation gives pgkennel.
func rules(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile("../../docs/provisioning.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(apiVersion: rbac.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("docs/provisioning.md has no roles for pgkennel")
	}
	return objects(t, string(m[1]))
}

var roles = map[string]schema.GroupVersionResource{
	"Role":        {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
	"ClusterRole": {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
}

// namespace makes one, with what pgkennel may do there, and a quota.
func (s *apiServer) namespace(t testing.TB, documented []*unstructured.Unstructured, name string) {
	t.Helper()
	put := func(r schema.GroupVersionResource, namespaced bool, u map[string]any) {
		t.Helper()
		o := (&unstructured.Unstructured{Object: u}).DeepCopy()
		if namespaced {
			o.SetNamespace(name)
		}
		body, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var on dynamic.ResourceInterface = s.admin.Resource(r)
		if namespaced {
			on = s.admin.Resource(r).Namespace(name)
		}
		if _, err := on.Patch(context.Background(), o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "test", Force: new(true)}); err != nil {
			t.Fatal(err)
		}
	}
	put(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, false, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}})
	put(quotas, true, map[string]any{
		"apiVersion": "v1", "kind": "ResourceQuota", "metadata": map[string]any{"name": "room"},
		"spec": map[string]any{"hard": map[string]any{"requests.cpu": "8", "requests.memory": "16Gi", "requests.storage": "20Gi"}},
	})
	for _, u := range documented {
		kind := u.GetKind()
		put(roles[kind], kind == "Role", u.Object)
		binding := map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind + "Binding", "metadata": map[string]any{"name": u.GetName()},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": u.GetName()},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "pgkennel"}},
		}
		put(schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: strings.ToLower(kind) + "bindings"}, kind == "Role", binding)
	}
}

// kubeconfig is how pgkennel reaches it.
func (s *apiServer) kubeconfig(t testing.TB, namespace string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: other
clusters: [{name: test, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: pgkennel, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: pgkennel, namespace: %s}}, {name: other, context: {cluster: none, user: none}}]
`, s.url, driverToken, namespace), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
