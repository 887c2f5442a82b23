package kubernetes

import (
	"context"
	"errors"
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pgkennel/pgkennel/provision"
)

// PostgreSQL's versions that CloudNativePG's images are looked for.
const oldestVersion, newestVersion = 13, 25

func checkVersion(version string) error {
	if n, err := strconv.Atoi(version); err != nil || n < oldestVersion || n > newestVersion {
		return provision.Errorf(provision.KindRefused, "there is no image of PostgreSQL %q", version).WithDetail("Versions from %d on can be had.", oldestVersion)
	}
	return nil
}

// The facts of an instance.
const (
	clusterFact   = "cluster"
	namespaceFact = "namespace"
	replicaFact   = "replica"
)

// check is what can be said of an instance without asking Kubernetes.
func (d *Driver) check(in *provision.Instance) error {
	if err := checkID(in.ID); err != nil {
		return err
	}
	if l := in.Limits; l.CPU < 0 || l.Memory < 0 || l.Disk < 0 || l.IO < 0 || l.Connections < 0 {
		return provision.Errorf(provision.KindInvalid, "a limit can't be below zero")
	}
	refuse := func(what, why string) error {
		return provision.Errorf(provision.KindRefused, "%s can't be had of driver kubernetes", what).WithDetail("%s", why)
	}
	switch {
	case in.Superuser:
		return refuse("a superuser of the tenant's own",
			"Its programs could use the account that the operator gives the pod, which may read and change objects of the whole namespace.")
	case in.Archive:
		return refuse("an archive of WAL", "WAL is in the instance's volume, where pgkennel does not reach; let CloudNativePG archive it.")
	case in.Limits.IO > 0:
		return refuse("a limit of reading and writing", "Kubernetes has none for pods; the storage class may bound its volumes.")
	case in.Limits.Memory > 0 && in.Limits.Memory < leastMemory:
		return refuse("a memory limit of "+decimal(in.Limits.Memory)+" bytes", "The operator's own program runs beside PostgreSQL: 128 MiB are the least.")
	}
	return checkSettings(in.Settings)
}

const leastMemory = 128 << 20

// Plan implements provision.Driver.
func (d *Driver) Plan(ctx context.Context, in *provision.Instance, others []*provision.Instance) error {
	version := in.Version
	if version == "" {
		version = d.o.Version
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	planned := *in
	planned.Version = version
	if err := d.check(&planned); err != nil {
		return err
	}
	if err := d.room(ctx, &planned, others); err != nil {
		return err
	}
	a, err := d.authority(ctx)
	if err != nil {
		return err
	}
	facts := map[string]string{clusterFact: clusterOf(in), namespaceFact: d.o.Namespace}
	if in.Primary == nil {
		if err := d.apply(ctx, clusters, d.render(&planned, parameters(&planned)), manager, true); err != nil {
			return err
		}
	} else {
		facts[replicaFact] = in.ID
	}
	in.Version, in.Facts, in.Endpoint = version, facts, d.endpoint(in, a.PEM)
	return nil
}

// inside refuses an instance of another namespace: it would be made a second time, or taken for gone.
func (d *Driver) inside(in *provision.Instance) error {
	if err := checkID(in.ID); err != nil {
		return err
	}
	if ns := in.Facts[namespaceFact]; ns != "" && ns != d.o.Namespace {
		return provision.Errorf(provision.KindFailed, "instance %s is in namespace %s, and pgkennel is told to use %s", in.ID, ns, d.o.Namespace)
	}
	return nil
}

// here refuses, besides, one that was not planned.
func (d *Driver) here(in *provision.Instance) error {
	if err := d.inside(in); err != nil {
		return err
	}
	if name := in.Facts[clusterFact]; name == "" {
		return provision.Errorf(provision.KindFailed, "instance %s was not planned by driver kubernetes", in.ID)
	}
	return nil
}

// room refuses what quotas and nodes have no room for. What pgkennel may not see of that, the start of the instance tells.
func (d *Driver) room(ctx context.Context, in *provision.Instance, others []*provision.Instance) error {
	if in.Primary != nil {
		for _, o := range others {
			if o.ID != in.ID && o.Facts[replicaFact] != "" && o.Facts[clusterFact] == clusterOf(in) {
				return provision.Errorf(provision.KindRefused, "driver kubernetes has one replica for each tenant, and this one has %s", o.ID)
			}
		}
	} else if most := d.o.MaxInstances; most > 0 {
		n := 0
		for _, o := range others {
			if o.ID != in.ID && o.Facts[clusterFact] == nameOf(o.ID) {
				n++
			}
		}
		if n >= most {
			return provision.Errorf(provision.KindRefused, "there are %d instances, and provision.max_instances lets %d be", n, most)
		}
	}
	disk := d.diskOf(in)
	if err := d.quota(ctx, int64(in.Limits.CPU), in.Limits.Memory, disk); err != nil {
		return err
	}
	return d.node(ctx, int64(in.Limits.CPU), in.Limits.Memory)
}

// quota compares with the namespace's ResourceQuotas: CPU in thousandths of a core, the rest in bytes.
func (d *Driver) quota(ctx context.Context, cpu, memory, disk int64) error {
	list, err := d.of(quotas).List(ctx, metav1.ListOptions{})
	if err != nil {
		return d.explain(ctx, "list "+quotas.Resource, err)
	}
	for i := range list.Items {
		q := &list.Items[i]
		for name, want := range map[string]int64{
			"cpu": cpu, "requests.cpu": cpu, "limits.cpu": cpu, "memory": memory, "requests.memory": memory, "limits.memory": memory, "requests.storage": disk,
		} {
			hard, ok := amount(q, name, "status", "hard")
			if !ok {
				hard, ok = amount(q, name, "spec", "hard")
			}
			if !ok {
				continue
			}
			used, _ := amount(q, name, "status", "used")
			if used+want > hard {
				return provision.Errorf(provision.KindRefused, "namespace %s has no room for the instance", d.o.Namespace).
					WithDetail("Its quota %s lets %s be %d; %d are used, and %d more are wanted.", q.GetName(), name, hard, used, want)
			}
		}
	}
	return nil
}

// node refuses what no node could hold, if nodes may be seen.
func (d *Driver) node(ctx context.Context, cpu, memory int64) error {
	list, err := d.of(nodes).List(ctx, metav1.ListOptions{})
	if err = d.explain(ctx, "list "+nodes.Resource, err); err != nil {
		if e := (*provision.Error)(nil); errors.As(err, &e) && e.Kind == provision.KindRefused {
			return nil // pgkennel may not see them
		}
		return err
	}
	for name, want := range map[string]int64{"cpu": cpu, "memory": memory} {
		var most int64
		for i := range list.Items {
			n, _ := amount(&list.Items[i], name, "status", "allocatable")
			most = max(most, n)
		}
		if most > 0 && want > most {
			return provision.Errorf(provision.KindRefused, "no node has so much %s", name).WithDetail("The largest one has %d, and %d are wanted.", most, want)
		}
	}
	return nil
}

// amount reads a quantity: of CPU in thousandths, else as it is.
func amount(u *unstructured.Unstructured, name string, at ...string) (int64, bool) {
	m, _, _ := unstructured.NestedStringMap(u.Object, at...)
	q, err := resource.ParseQuantity(m[name])
	if err != nil {
		return 0, false
	}
	if name == "cpu" || name == "requests.cpu" || name == "limits.cpu" {
		return q.MilliValue(), true
	}
	return q.Value(), true
}
