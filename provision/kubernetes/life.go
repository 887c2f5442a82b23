package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pgkennel/pgkennel/provision"
)

const (
	connectTimeout = 5 * time.Second
	// stopPatience is how long a stop may take whose caller has no time left.
	stopPatience = 2 * time.Minute
	// destroyPatience is how long pods and volumes may take to go.
	destroyPatience = 5 * time.Minute
	// growPatience is how long a volume may take to grow.
	growPatience = time.Minute
	// reloadPatience is how long the operator may take to bring settings to the server.
	reloadPatience = 30 * time.Second
)

// Volume implements provision.Driver: the Secrets that the Cluster refers to, and its volume's size, if it is there. The volume itself the operator makes at the first
// start.
func (d *Driver) Volume(ctx context.Context, in *provision.Instance) error {
	if err := d.here(in); err != nil {
		return err
	}
	if in.Primary != nil {
		return d.mark(ctx, in)
	}
	u, err := d.cluster(ctx, clusterOf(in))
	if err != nil {
		return err
	}
	if u != nil {
		if err := d.sized(u, in); err != nil {
			return err
		}
	}
	if err := d.apply(ctx, secrets, d.password(in), manager, false); err != nil {
		return err
	}
	return d.certificate(ctx, in)
}

// sized refuses a volume that is to become smaller: no volume of Kubernetes' can.
func (d *Driver) sized(u *unstructured.Unstructured, in *provision.Instance) error {
	size, _, _ := unstructured.NestedString(u.Object, "spec", "storage", "size")
	has, err := resource.ParseQuantity(size)
	if want := d.diskOf(in); err == nil && want < has.Value() {
		return provision.Errorf(provision.KindRefused, "the disk of instance %s can't become smaller", in.ID).
			WithDetail("Its volume has %d bytes, and %d are wanted.", has.Value(), want)
	}
	return nil
}

// Init implements provision.Driver. The operator makes the data directory, at the first start.
func (d *Driver) Init(ctx context.Context, in *provision.Instance) error {
	if err := d.here(in); err != nil {
		return err
	}
	if in.Primary != nil {
		return d.mark(ctx, in)
	}
	u, err := d.get(ctx, secrets, serverSecret(in.ID))
	if err == nil && u == nil {
		return provision.Errorf(provision.KindState, "instance %s has no secrets in namespace %s", in.ID, d.o.Namespace)
	}
	return err
}

// Configure implements provision.Driver. Before the first start it has Kubernetes try the Cluster. After that the Cluster gets what the operator puts in force without
// a restart and without being noticed, such as a larger volume; settings wait for Reload, and what needs a restart for Start: the operator would restart the
// instance by itself as soon as it saw them.
func (d *Driver) Configure(ctx context.Context, in *provision.Instance) (provision.Need, error) {
	if err := d.here(in); err != nil {
		return 0, err
	}
	if err := d.check(in); err != nil {
		return 0, err
	}
	if in.Primary != nil {
		return provision.NeedNothing, d.mark(ctx, in)
	}
	u, err := d.cluster(ctx, clusterOf(in))
	if err != nil {
		return 0, err
	}
	if u == nil || !statusOf(u).data {
		if err := d.apply(ctx, clusters, d.render(in, parameters(in)), manager, true); err != nil {
			return 0, err
		}
		s := d.object("v1", "Secret", adminSecret(in.ID), "", nil)
		s.SetAnnotations(map[string]string{configuredMark: "true"})
		return provision.NeedNothing, d.apply(ctx, secrets, s, markManager, false)
	}
	if err := d.sized(u, in); err != nil {
		return 0, err
	}
	if !running(u) {
		return provision.NeedNothing, d.apply(ctx, clusters, d.render(in, parameters(in)), manager, true)
	}
	want := parameters(in)
	names := provision.Changed(said(u), want)
	need := provision.NeedNothing
	if len(names) > 0 {
		need = provision.NeedReload
		conn, err := connect(ctx, in)
		if err != nil {
			if context.Cause(ctx) != nil {
				return 0, err
			}
			return provision.NeedRestart, nil // it sets right one that can't be asked, too
		}
		defer conn.Close(context.WithoutCancel(ctx))
		restart, err := slow(ctx, conn, names)
		if err != nil {
			return 0, err
		}
		if err := try(ctx, conn, want, names); err != nil {
			return 0, err
		}
		if len(restart) > 0 {
			need = provision.NeedRestart
		}
	}
	now := d.render(in, said(u))
	if !same(now, u) {
		need = provision.NeedRestart
	}
	keep(now, u)
	if err := d.apply(ctx, clusters, now, manager, false); err != nil {
		return 0, err
	}
	return need, d.grown(ctx, in)
}

// grown waits until the volume is as large as it is to be.
func (d *Driver) grown(ctx context.Context, in *provision.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, growPatience)
	defer cancel()
	for {
		has, err := d.capacity(ctx, in)
		if want := d.diskOf(in); err == nil && has > 0 && has < want {
			err = provision.Errorf(provision.KindFailed, "the disk of instance %s does not become larger", in.ID).
				WithDetail("After %s its volume has %d bytes, and %d are wanted: its storage class may not let it grow.", growPatience, has, want)
			if ctx.Err() == nil {
				pause(ctx, 100*time.Millisecond)
				continue
			}
		}
		return err
	}
}

// capacity is how large the volume is; 0 = there is none yet.
func (d *Driver) capacity(ctx context.Context, in *provision.Instance) (int64, error) {
	// What is known stays so when there is no time left.
	list, err := d.of(claims).List(context.WithoutCancel(ctx), metav1.ListOptions{LabelSelector: ofCluster + "=" + clusterOf(in)})
	if err != nil {
		return 0, d.explain(ctx, "list "+claims.Resource, err)
	}
	var size int64
	for i := range list.Items {
		m, _, _ := unstructured.NestedStringMap(list.Items[i].Object, "status", "capacity")
		if q, err := resource.ParseQuantity(m["storage"]); err == nil && (size == 0 || q.Value() < size) {
			size = q.Value()
		}
	}
	return size, nil
}

// keep has the resources stay as they are.
func keep(now, was *unstructured.Unstructured) {
	spec := now.Object["spec"].(object) //nolint:forcetypeassert // render made it
	delete(spec, "resources")
	if v, ok, _ := unstructured.NestedFieldCopy(was.Object, "spec", "resources"); ok {
		spec["resources"] = v
	}
}

// same reports whether two Clusters have the same resources.
func same(a, b *unstructured.Unstructured) bool {
	for _, name := range []string{"cpu", "memory"} {
		x, _, _ := unstructured.NestedString(a.Object, "spec", "resources", "limits", name)
		y, _, _ := unstructured.NestedString(b.Object, "spec", "resources", "limits", name)
		p, err1 := resource.ParseQuantity(x)
		q, err2 := resource.ParseQuantity(y)
		if (err1 == nil) != (err2 == nil) || err1 == nil && p.Cmp(q) != 0 {
			return false
		}
	}
	return true
}

// running reports whether a Cluster is up, or is to be.
func running(u *unstructured.Unstructured) bool {
	s := statusOf(u)
	return s.data && !s.down && (s.on || s.ready > 0)
}

// Reload implements provision.Driver. It returns when the server has read what needs no restart.
func (d *Driver) Reload(ctx context.Context, in *provision.Instance) error {
	if err := d.here(in); err != nil {
		return err
	}
	u, err := d.cluster(ctx, clusterOf(in))
	if err != nil {
		return err
	}
	if u == nil || !running(u) || in.Primary != nil && statusOf(u).ready < 2 {
		return provision.Errorf(provision.KindState, "instance %s does not run", in.ID)
	}
	if in.Primary != nil {
		return nil // its settings are its primary's
	}
	want, has := parameters(in), said(u)
	names := provision.Changed(has, want)
	if len(names) == 0 {
		return nil
	}
	conn, err := connect(ctx, in)
	if err != nil {
		return provision.Errorf(provision.KindFailed, "the instance can't be asked which settings it may change while it runs").WithDetail("%v", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	restart, err := slow(ctx, conn, names)
	if err != nil {
		return err
	}
	for _, name := range restart {
		if value, is := has[name]; is {
			want[name] = value
		} else {
			delete(want, name)
		}
	}
	if names = provision.Changed(has, want); len(names) == 0 {
		return nil
	}
	var before time.Time
	if err := conn.QueryRow(ctx, "SELECT pg_catalog.pg_conf_load_time()").Scan(&before); err != nil {
		return err
	}
	now := d.render(in, want)
	keep(now, u)
	if err := d.apply(ctx, clusters, now, manager, false); err != nil {
		return err
	}
	return loaded(ctx, conn, before, names, want)
}

// loaded waits until the server has read its file with new values.
func loaded(ctx context.Context, conn *pgx.Conn, before time.Time, names []string, want map[string]string) error {
	var set, values []string
	for _, name := range names {
		if value, is := want[name]; is {
			set, values = append(set, name), append(values, value)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, reloadPatience, errNotReloaded)
	defer cancel()
	for {
		var ok bool
		err := conn.QueryRow(ctx, `SELECT pg_catalog.pg_conf_load_time() > $1
			AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) AS w (name, value)
				WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_file_settings AS f WHERE f.name = w.name AND f.setting = w.value))
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_file_settings AS f WHERE f.name = ANY ($4) AND f.name <> ALL ($2) AND f.sourcefile NOT LIKE '%auto.conf')`,
			before, set, values, names).Scan(&ok)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case ok:
			return nil
		}
		pause(ctx, 50*time.Millisecond)
	}
}

var errNotReloaded = errors.New("the operator did not bring the settings to the server in " + reloadPatience.String())

func pause(ctx context.Context, t time.Duration) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Start implements provision.Driver. What waited for it is written before.
func (d *Driver) Start(ctx context.Context, in *provision.Instance) error {
	if err := d.here(in); err != nil {
		return err
	}
	if err := d.check(in); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.o.Timeout, fmt.Errorf("it did not serve in %s", d.o.Timeout))
	defer cancel()
	name := clusterOf(in)
	u, err := d.cluster(ctx, name)
	if err != nil {
		return err
	}
	if in.Primary != nil {
		return d.scale(ctx, in, u, 2)
	}
	if u == nil {
		mark, err := d.get(ctx, secrets, adminSecret(in.ID))
		if err != nil {
			return err
		}
		if mark == nil || mark.GetAnnotations()[configuredMark] == "" {
			return provision.Errorf(provision.KindState, "instance %s is not configured", in.ID)
		}
	} else if s := statusOf(u); s.terminating {
		return provision.Errorf(provision.KindState, "instance %s is being destroyed", in.ID)
	} else if s.on && s.ready > 0 {
		return d.lets(ctx, in)
	}
	if err := d.apply(ctx, clusters, d.render(in, parameters(in)), manager, false); err != nil {
		return err
	}
	if err := d.power(ctx, name, "off"); err != nil {
		return err
	}
	var last status
	err = d.follow(ctx, name, func(u *unstructured.Unstructured) (bool, error) {
		if u == nil {
			return false, provision.Errorf(provision.KindFailed, "instance %s went while it was started", in.ID)
		}
		last = statusOf(u)
		return last.on && last.ready > 0, nil
	})
	if err == nil {
		err = d.lets(ctx, in)
	}
	if e := (*provision.Error)(nil); err != nil && !errors.As(err, &e) && !errors.Is(err, context.Canceled) {
		return provision.Errorf(provision.KindFailed, "instance %s does not start: %v", in.ID, err).WithDetail("%s", d.trouble(context.WithoutCancel(ctx), name, last))
	}
	return err
}

// lets waits until the instance lets pgkennel in, which takes its role, its service, and the way there.
func (d *Driver) lets(ctx context.Context, in *provision.Instance) error {
	for {
		conn, err := connect(ctx, in)
		if err == nil {
			return conn.Close(ctx)
		}
		if ctx.Err() != nil {
			return provision.Errorf(provision.KindFailed, "instance %s is up, and does not let pgkennel in", in.ID).WithDetail("%v", err)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// power says whether an instance is to be up.
func (d *Driver) power(ctx context.Context, name, hibernate string) error {
	u := d.bare(name)
	u.SetAnnotations(map[string]string{hibernation: hibernate})
	return d.apply(ctx, clusters, u, powerManager, false)
}

// Stop implements provision.Driver.
func (d *Driver) Stop(ctx context.Context, in *provision.Instance) error {
	if err := d.here(in); err != nil {
		return err
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	name := clusterOf(in)
	u, err := d.cluster(ctx, name)
	if err != nil || u == nil {
		return err
	}
	if in.Primary != nil {
		return d.scale(ctx, in, u, 1)
	}
	if statusOf(u).down && !statusOf(u).on {
		return nil
	}
	if err := d.power(ctx, name, "on"); err != nil {
		return err
	}
	down := func(u *unstructured.Unstructured) (bool, error) { return u == nil || statusOf(u).down, nil }
	err = d.follow(outer, name, down)
	if err == nil || !errors.Is(outer.Err(), context.DeadlineExceeded) {
		return err
	}
	// There is no time left: pods that are on their way out are not waited for.
	err = d.of(pods).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{LabelSelector: ofCluster + "=" + name})
	if err = d.explain(ctx, "end "+pods.Resource, err); err != nil {
		return err
	}
	return d.follow(ctx, name, down)
}

// Destroy implements provision.Driver. The Secrets go last: as long as anything is left, so are they, and the instance is found.
func (d *Driver) Destroy(ctx context.Context, in *provision.Instance) error {
	if err := d.inside(in); err != nil { // of what was left over, there are no facts
		return err
	}
	if err := d.detach(ctx, in.ID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, destroyPatience, errors.New("the operator and Kubernetes do not take it away"))
	defer cancel()
	name, mine := nameOf(in.ID), metav1.ListOptions{LabelSelector: idLabel + "=" + in.ID}
	u, err := d.cluster(ctx, name)
	if err != nil {
		return err
	}
	if u != nil && u.GetLabels()[idLabel] != in.ID {
		return provision.Errorf(provision.KindFailed, "the cluster %s of namespace %s is not pgkennel's: it stays", name, d.o.Namespace)
	}
	if u != nil {
		err := d.of(clusters).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
		if err != nil && !apierrors.IsNotFound(err) {
			return d.explain(ctx, "delete "+clusters.Resource, err)
		}
		if err := d.follow(ctx, name, func(u *unstructured.Unstructured) (bool, error) { return u == nil, nil }); err != nil {
			return provision.Errorf(provision.KindFailed, "instance %s is not gone: %v", in.ID, err)
		}
	}
	if err := d.of(claims).DeleteCollection(ctx, metav1.DeleteOptions{}, mine); err != nil {
		return d.explain(ctx, "delete "+claims.Resource, err)
	}
	for {
		left, err := d.left(ctx, in.ID)
		if err != nil || left == 0 {
			if err != nil {
				return err
			}
			break
		}
		if ctx.Err() != nil {
			return provision.Errorf(provision.KindFailed, "instance %s is not gone: %v", in.ID, context.Cause(ctx)).WithDetail("%d pods and volumes are left.", left)
		}
		pause(ctx, 200*time.Millisecond)
	}
	return d.explain(ctx, "delete "+secrets.Resource, d.of(secrets).DeleteCollection(ctx, metav1.DeleteOptions{}, mine))
}

// left counts the pods and volumes of an instance.
func (d *Driver) left(ctx context.Context, id string) (int, error) {
	n := 0
	p, err := d.of(pods).List(ctx, metav1.ListOptions{LabelSelector: ofCluster + "=" + nameOf(id)})
	if err == nil {
		n = len(p.Items)
		p, err = d.of(claims).List(ctx, metav1.ListOptions{LabelSelector: idLabel + "=" + id})
	}
	if err != nil {
		return 0, d.explain(ctx, "list what is left", err)
	}
	return n + len(p.Items), nil
}

// State implements provision.Driver. There is no process of this host.
func (d *Driver) State(ctx context.Context, in *provision.Instance) (provision.State, error) {
	var st provision.State
	if err := checkID(in.ID); err != nil {
		return st, err
	}
	u, err := d.cluster(ctx, clusterOf(in))
	if err != nil || u == nil {
		return st, err
	}
	s := statusOf(u)
	up := 1
	if in.Primary != nil {
		if s.replica != in.ID {
			return st, nil
		}
		up = 2
		n, _, _ := unstructured.NestedInt64(u.Object, "spec", "instances")
		st.Data, st.Running = s.data, running(u) && n >= 2
	} else {
		st.Data, st.Running = s.data, running(u)
	}
	st.Ready = st.Running && s.on && s.ready >= up
	if st.Running {
		st.Since, _ = time.Parse(time.RFC3339, s.since) // unknown until the operator says it
	}
	return st, nil
}
