package kubernetes

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pgkennel/pgkennel/provision"
)

// A replica is the second instance of its primary's Cluster. The operator makes it a copy when there are to be two, and takes it away, volume and all, when there is to
// be one: so a replica that was stopped is copied anew when it starts.

// mark notes on the Cluster whose replica it is to have.
func (d *Driver) mark(ctx context.Context, in *provision.Instance) error {
	u, err := d.replicates(ctx, in)
	if err != nil {
		return err
	}
	n, _, _ := unstructured.NestedInt64(u.Object, "spec", "instances")
	if u.GetLabels()[replicaLabel] == in.ID {
		return nil
	}
	return d.two(ctx, u.GetName(), in.ID, max(n, 1))
}

// replicates is the Cluster whose replica an instance is, or may become.
func (d *Driver) replicates(ctx context.Context, in *provision.Instance) (*unstructured.Unstructured, error) {
	name := clusterOf(in)
	u, err := d.cluster(ctx, name)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, provision.Errorf(provision.KindState, "instance %s can't be copied: it is not there", in.Primary.ID)
	}
	if has := u.GetLabels()[replicaLabel]; has != "" && has != in.ID {
		return nil, provision.Errorf(provision.KindRefused, "driver kubernetes has one replica for each tenant, and this one has %s", has)
	}
	return u, nil
}

func (d *Driver) two(ctx context.Context, name, id string, n int64) error {
	u := d.bare(name)
	if id != "" {
		u.SetLabels(map[string]string{replicaLabel: id})
	}
	u.Object["spec"] = object{"instances": n}
	return d.apply(ctx, clusters, u, replicaManager, false)
}

// scale starts a replica, of two instances, or stops it.
func (d *Driver) scale(ctx context.Context, in *provision.Instance, u *unstructured.Unstructured, n int64) error {
	switch marked := u != nil && u.GetLabels()[replicaLabel] == in.ID; {
	case !marked && n == 1:
		return nil
	case !marked:
		return provision.Errorf(provision.KindState, "instance %s is not configured", in.ID)
	}
	if n == 2 && !statusOf(u).on {
		return provision.Errorf(provision.KindState, "the primary of instance %s is down", in.ID)
	}
	name := u.GetName()
	if err := d.two(ctx, name, in.ID, n); err != nil {
		return err
	}
	err := d.follow(ctx, name, func(u *unstructured.Unstructured) (bool, error) {
		if u == nil {
			return n == 1, nil
		}
		s := statusOf(u)
		return n == 1 && s.ready <= 1 || n == 2 && s.ready >= 2, nil
	})
	if err != nil && n == 2 {
		return provision.Errorf(provision.KindFailed, "instance %s does not start: %v", in.ID, err).WithDetail("%s", d.trouble(context.WithoutCancel(ctx), name, statusOf(u)))
	}
	if err == nil && n == 2 {
		err = d.lets(ctx, in)
	}
	return err
}

// detach takes a replica away, if that is what an ID is.
func (d *Driver) detach(ctx context.Context, id string) error {
	list, err := d.of(clusters).List(ctx, metav1.ListOptions{LabelSelector: replicaLabel + "=" + id})
	if err != nil {
		return d.explain(ctx, "list "+clusters.Resource, err)
	}
	for i := range list.Items {
		name := list.Items[i].GetName()
		if list.Items[i].GetDeletionTimestamp() != nil {
			continue
		}
		// It stays on the label until it is gone.
		if err := d.two(ctx, name, id, 1); err != nil {
			return err
		}
		err := d.follow(ctx, name, func(u *unstructured.Unstructured) (bool, error) { return u == nil || statusOf(u).ready <= 1, nil })
		if err == nil {
			err = d.two(ctx, name, "", 1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
