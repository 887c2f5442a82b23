// Package kubernetes runs each tenant's instance as a Cluster of CloudNativePG: the operator of that name makes pods, volumes and services of it, and keeps them.
//
// What there is of an instance, in one namespace, each with the label pgkennel.id:
//
//	Cluster t-ID           spec by pgkennel; the replica, if there is one, is its second instance
//	Secret  t-ID-admin     the password of pgkennel's superuser
//	Secret  t-ID-server    the server's certificate, from pgkennel's own authority
//	PersistentVolumeClaims the operator's
//
// and one for all, Secret pgkennel-ca: the authority. Its certificate is in each Endpoint, so that poolers connect with TLS only, and to no other than the one they
// mean, without asking Kubernetes. Its key is in no Cluster: what runs in a tenant's pod can't read it.
//
// Objects are written by server-side apply, in three parts with a field manager of their own each, so that none undoes another's: what the instance is, whether it is
// up (the annotation cnpg.io/hibernation), and whether it has a replica. All is read anew each time: a Driver knows nothing that Kubernetes does not.
//
// Instances are changed under their tenant's lock, which is the Manager's. The driver starts no goroutines but one for each log that is followed.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Options are what a Driver is made of. None is needed in a pod whose service account may do what the driver does.
type Options struct {
	// Kubeconfig and Context say which Kubernetes, and as whom; both empty = the one that this runs in, or KUBECONFIG and ~/.kube/config.
	Kubeconfig, Context string
	// Namespace of all objects; empty = the context's, or that of the pod.
	Namespace string
	// StorageClass of volumes; empty = the default one.
	StorageClass string
	// Image is that of a version: {version} stands for it; empty = CloudNativePG's.
	Image string
	// Version is that of tenants without one; empty = 17.
	Version string
	// DefaultDisk is how large volumes are of tenants without a limit; 0 = 10 GiB.
	DefaultDisk int64
	// Address is the host by which a service of the namespace is reached, from here and from all poolers; nil = SERVICE.NAMESPACE.svc.
	Address func(service, namespace string) string
	// MaxInstances is how many there may be; 0 = as many as the namespace's quotas let.
	MaxInstances int
	// Bins are further directories with PostgreSQL's client programs.
	Bins []string
	// Timeout is how long a start may take, image and volume included; 0 = 10 minutes.
	Timeout time.Duration
	Log     *slog.Logger
}

// Driver runs instances as Clusters.
type Driver struct {
	o    Options
	log  *slog.Logger
	api  dynamic.Interface
	http *http.Client
	host string // of the API
}

var _ provision.Driver = (*Driver)(nil)

var (
	clusters = schema.GroupVersionResource{Group: "postgresql.cnpg.io", Version: "v1", Resource: "clusters"}
	secrets  = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	pods     = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	claims   = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	quotas   = schema.GroupVersionResource{Version: "v1", Resource: "resourcequotas"}
	nodes    = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
)

const (
	idLabel      = "pgkennel.id"
	replicaLabel = "pgkennel.replica" // of a Cluster: the ID of its second instance
	ofCluster    = "cnpg.io/cluster"  // the operator's label
	reloads      = "cnpg.io/reload"   // of Secrets: instances are told when it changes
	hibernation  = "cnpg.io/hibernation"

	// The field managers.
	manager        = "pgkennel"
	powerManager   = "pgkennel-power"
	replicaManager = "pgkennel-replica"
	markManager    = "pgkennel-configure"

	// configuredMark is on the Secret of an instance that may be started.
	configuredMark = "pgkennel.configured"

	port = 5432
)

// New makes a Driver. It does not connect: that Kubernetes is not there is for Plan to say.
func New(o Options) (*Driver, error) {
	d, err := newDriver(o)
	if err != nil {
		return nil, fmt.Errorf("driver kubernetes: %w", err)
	}
	return d, nil
}

func newDriver(o Options) (*Driver, error) {
	config, namespace, err := load(o)
	if err != nil {
		return nil, err
	}
	if o.Namespace == "" {
		o.Namespace = namespace
	}
	if !goodNamespace.MatchString(o.Namespace) {
		return nil, fmt.Errorf("%q can't be a namespace", o.Namespace)
	}
	if o.Image == "" {
		o.Image = "ghcr.io/cloudnative-pg/postgresql:{version}"
	}
	if !strings.Contains(o.Image, "{version}") {
		return nil, fmt.Errorf("image %q does not say where the version goes: {version} is not in it", o.Image)
	}
	if o.Version == "" {
		o.Version = "17"
	}
	if err := checkVersion(o.Version); err != nil {
		return nil, err
	}
	if o.DefaultDisk == 0 {
		o.DefaultDisk = 10 << 30
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Minute
	}
	if o.Address == nil {
		o.Address = func(service, namespace string) string { return service + "." + namespace + ".svc" }
	}
	d := &Driver{o: o, log: o.Log, host: config.Host}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	config.UserAgent = "pgkennel"
	config.WarningHandlerWithContext = rest.NoWarnings{} // they would go to standard error
	config.QPS, config.Burst = 50, 100
	if d.http, err = rest.HTTPClientFor(config); err != nil {
		return nil, err
	}
	if d.api, err = dynamic.NewForConfigAndClient(config, d.http); err != nil {
		return nil, err
	}
	return d, nil
}

var goodNamespace = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// load finds out how Kubernetes is reached.
func load(o Options) (*rest.Config, string, error) {
	if o.Kubeconfig == "" && o.Context == "" && os.Getenv("KUBECONFIG") == "" {
		config, err := rest.InClusterConfig()
		if err == nil {
			namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
			return config, strings.TrimSpace(string(namespace)), err
		}
		if !errors.Is(err, rest.ErrNotInCluster) {
			return nil, "", err
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath, rules.Warner = o.Kubeconfig, func(error) {}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, "", errors.New("pgkennel does not run in Kubernetes, and there is no kubeconfig that says where one is; provision.kubeconfig can name it")
	}
	if err != nil {
		return nil, "", err
	}
	namespace, _, err := loader.Namespace()
	return config, namespace, err
}

// Close gives idle connections up.
func (d *Driver) Close() error {
	d.http.CloseIdleConnections()
	return nil
}

// Name implements provision.Driver.
func (d *Driver) Name() string { return "kubernetes" }

// Spool implements provision.Driver: WAL stays in Kubernetes.
func (d *Driver) Spool(*provision.Instance) string { return "" }

// DataDir implements provision.Driver: it is in a volume of Kubernetes'.
func (d *Driver) DataDir(*provision.Instance) (dir string, uid, gid int) { return "", 0, 0 }

// nameOf is how the Cluster of an ID is called.
func nameOf(id string) string { return "t-" + id }

// clusterOf is the name of the Cluster that an instance is, or is part of.
func clusterOf(in *provision.Instance) string {
	if in.Primary != nil {
		return nameOf(in.Primary.ID)
	}
	return nameOf(in.ID)
}

func adminSecret(id string) string  { return nameOf(id) + "-admin" }
func serverSecret(id string) string { return nameOf(id) + "-server" }

// goodID is what names of objects and labels can be made of.
var goodID = regexp.MustCompile(`^[a-z0-9]{1,40}$`)

func checkID(id string) error {
	if !goodID.MatchString(id) {
		return provision.Errorf(provision.KindInvalid, "%q can't be the ID of an instance", id)
	}
	return nil
}

func (d *Driver) of(r schema.GroupVersionResource) dynamic.ResourceInterface {
	if r == nodes {
		return d.api.Resource(r)
	}
	return d.api.Resource(r).Namespace(d.o.Namespace)
}

// cluster reads an instance's; nil = there is none.
func (d *Driver) cluster(ctx context.Context, name string) (*unstructured.Unstructured, error) {
	return d.get(ctx, clusters, name)
}

func (d *Driver) get(ctx context.Context, r schema.GroupVersionResource, name string) (*unstructured.Unstructured, error) {
	u, err := d.of(r).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // nothing there is no error
	}
	if err != nil {
		return nil, d.explain(ctx, "read "+r.Resource, err)
	}
	return u, nil
}

// apply writes what one field manager has to say of an object.
func (d *Driver) apply(ctx context.Context, r schema.GroupVersionResource, u *unstructured.Unstructured, as string, dry bool) error {
	o := metav1.PatchOptions{FieldManager: as, Force: new(true), FieldValidation: metav1.FieldValidationStrict}
	if dry {
		o.DryRun = []string{metav1.DryRunAll}
	}
	body, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = d.of(r).Patch(ctx, u.GetName(), applyPatch, body, o)
	if err != nil && r == secrets {
		// What is in it must not come into an error.
		return provision.Errorf(provision.KindFailed, "Kubernetes does not take the secret %s: %s", u.GetName(), apierrors.ReasonForError(err))
	}
	return d.explain(ctx, "write "+r.Resource, err)
}

// explain makes an error of the API's one for operators.
func (d *Driver) explain(ctx context.Context, what string, err error) error {
	s := apierrors.APIStatus(nil)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !errors.As(err, &s):
		return provision.Errorf(provision.KindFailed, "Kubernetes can't be reached to %s", what).WithDetail("%v", err)
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		return provision.Errorf(provision.KindRefused, "the quota of namespace %s is used up", d.o.Namespace).WithDetail("%v", err)
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return provision.Errorf(provision.KindRefused, "Kubernetes does not let pgkennel %s in namespace %s", what, d.o.Namespace).WithDetail("%v", err)
	case apierrors.IsNotFound(err) && strings.HasSuffix(what, clusters.Resource):
		e := provision.Errorf(provision.KindRefused, "Kubernetes has no namespace %s, or no CloudNativePG", d.o.Namespace)
		return e.WithDetail("%v", err).WithHint("CloudNativePG has to be installed before")
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		return provision.Errorf(provision.KindInvalid, "Kubernetes does not take what it is asked for").WithDetail("%v", err)
	}
	return provision.Errorf(provision.KindFailed, "Kubernetes can't %s", what).WithDetail("%v", err)
}

// endpoint is where an instance is reached.
func (d *Driver) endpoint(in *provision.Instance, authority string) tenant.Endpoint {
	service := clusterOf(in) + "-rw"
	if in.Primary != nil {
		service = clusterOf(in) + "-ro"
	}
	return tenant.Endpoint{Host: d.o.Address(service, d.o.Namespace), Port: port, CA: authority}
}

// text closes the body of an answer with what it says.
func text(body io.ReadCloser) string {
	defer body.Close()
	b, _ := io.ReadAll(io.LimitReader(body, 4<<10)) // it is an error's detail
	return strings.TrimSpace(string(b))
}
