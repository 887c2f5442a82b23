package kubernetes

import (
	"encoding/base64"
	"maps"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pgkennel/pgkennel/provision"
)

const applyPatch = types.ApplyPatchType

type object = map[string]any

func (d *Driver) object(version, kind, name, id string, rest object) *unstructured.Unstructured {
	meta := object{"name": name, "namespace": d.o.Namespace}
	if id != "" {
		meta["labels"] = object{idLabel: id}
	}
	u := object{"apiVersion": version, "kind": kind, "metadata": meta}
	maps.Copy(u, rest)
	return &unstructured.Unstructured{Object: u}
}

// bare is a Cluster with nothing said of it, for the small field managers.
func (d *Driver) bare(name string) *unstructured.Unstructured {
	return d.object("postgresql.cnpg.io/v1", "Cluster", name, "", nil)
}

// render is an instance as the operator is to make it, with settings that parameters made of it. Whether it is up, and how many there are of it, is said apart.
func (d *Driver) render(in *provision.Instance, settings map[string]string) *unstructured.Unstructured {
	role := object{
		"name": provision.Superuser, "ensure": "present", "login": true, "superuser": true, "replication": true,
		"passwordSecret": object{"name": adminSecret(in.ID)},
	}
	params, libraries := object{}, []any{}
	for name, value := range settings {
		if name == preload {
			for l := range strings.SplitSeq(value, ",") {
				if l = strings.Trim(l, " \"'"); l != "" {
					libraries = append(libraries, l)
				}
			}
			continue
		}
		params[name] = value
	}
	postgresql := object{
		"parameters": params,
		// After the operator's own rules, which are for its certificates. There is no way in without TLS and a password.
		"pg_hba": []any{
			"hostssl replication " + provision.Superuser + " all scram-sha-256", "hostssl all all all scram-sha-256",
			"host all all all reject", "host replication all all reject",
		},
	}
	if len(libraries) > 0 {
		postgresql["shared_preload_libraries"] = libraries
	}
	storage := object{"size": decimal(d.diskOf(in))}
	if d.o.StorageClass != "" {
		storage["storageClass"] = d.o.StorageClass
	}
	initdb := object{
		"database": provision.Superuser, "owner": provision.Superuser, "secret": object{"name": adminSecret(in.ID)},
		"dataChecksums": true, "encoding": "UTF8", "localeCollate": "C.UTF-8", "localeCType": "C.UTF-8",
	}
	if in.Limits.Disk > 0 && in.Limits.Disk < 1<<30 {
		initdb["walSegmentSize"] = int64(4)
	}
	spec := object{
		"imageName":             d.image(in.Version),
		"enableSuperuserAccess": false, // the operator's postgres has no password
		"bootstrap":             object{"initdb": initdb},
		"managed":               object{"roles": []any{role}},
		"certificates":          object{"serverCASecret": serverSecret(in.ID), "serverTLSSecret": serverSecret(in.ID)},
		"inheritedMetadata":     object{"labels": object{idLabel: in.ID}},
		"postgresql":            postgresql,
		"storage":               storage,
		// Sessions are closed before a stop: who is left is not waited for.
		"smartShutdownTimeout": int64(1), "stopDelay": int64(60),
	}
	if r := resources(in); r != nil {
		spec["resources"] = r
	}
	return d.object("postgresql.cnpg.io/v1", "Cluster", nameOf(in.ID), in.ID, object{"spec": spec})
}

// resources are an instance's limits, which are granted to it as well.
func resources(in *provision.Instance) object {
	r := object{}
	if n := in.Limits.CPU; n > 0 {
		r["cpu"] = strconv.Itoa(n) + "m"
	}
	if n := in.Limits.Memory; n > 0 {
		r["memory"] = decimal(n)
	}
	if len(r) == 0 {
		return nil
	}
	return object{"limits": r, "requests": maps.Clone(r)}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func (d *Driver) diskOf(in *provision.Instance) int64 {
	if in.Limits.Disk > 0 {
		return in.Limits.Disk
	}
	return d.o.DefaultDisk
}

func (d *Driver) image(version string) string {
	return strings.ReplaceAll(d.o.Image, "{version}", version)
}

// password is the Secret with that of pgkennel's superuser.
func (d *Driver) password(in *provision.Instance) *unstructured.Unstructured {
	u := d.object("v1", "Secret", adminSecret(in.ID), in.ID, object{
		"type": "kubernetes.io/basic-auth",
		"data": object{"username": encode([]byte(provision.Superuser)), "password": encode([]byte(in.Password))},
	})
	reloaded(u)
	return u
}

func reloaded(u *unstructured.Unstructured) {
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[reloads] = "true"
	u.SetLabels(labels)
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// data reads a value of a Secret.
func data(u *unstructured.Unstructured, name string) []byte {
	s, _, _ := unstructured.NestedString(u.Object, "data", name)
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

// The status of a Cluster, as far as it counts here.
type status struct {
	on          bool // it is to be up
	data        bool // it has been up once
	down        bool // all its pods have gone
	ready       int  // instances that serve
	phase, why  string
	since       string // when it became ready
	replica     string // the ID of its second instance
	terminating bool
}

func statusOf(u *unstructured.Unstructured) status {
	var s status
	str := func(from object, names ...string) string {
		v, _, _ := unstructured.NestedString(from, names...)
		return v
	}
	s.on = u.GetAnnotations()[hibernation] != "on"
	s.replica = u.GetLabels()[replicaLabel]
	s.terminating = u.GetDeletionTimestamp() != nil
	s.data = str(u.Object, "status", "currentPrimary") != ""
	s.phase, s.why = str(u.Object, "status", "phase"), str(u.Object, "status", "phaseReason")
	n, _, _ := unstructured.NestedInt64(u.Object, "status", "readyInstances")
	s.ready = int(n)
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		c, ok := c.(object)
		if !ok {
			continue
		}
		switch str(c, "type") {
		case hibernation:
			s.down = str(c, "status") == "True"
		case "Ready":
			s.since = str(c, "lastTransitionTime")
		}
	}
	return s
}
