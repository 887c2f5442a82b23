package config

var directorySection = newSection(section{
	name: "directory",
	doc:  "Where tenants are known that pgkennel tenant create makes. With it neither [[databases]] nor users are needed: such a tenant is a login, and a database of its own name. Paths are below the directory of this file. pgkennel's own.",
	keys: []*key{
		{name: "store", kind: kEnum, ours: true, restart: true, def: "file", legal: []string{"file", "etcd"}, doc: "file: one pgkennel has it, in a file of the folder path. etcd: any number of them share it."},
		{name: "path", kind: kPath, ours: true, restart: true, def: "pgkennel-directory", doc: "Folder of the file store, made if it is not there; the directory is directory.db in it. What belongs to it, with etcd too, is beside it and has its name with something behind it."},
		{name: "endpoints", kind: kTexts, ours: true, restart: true, example: `["https://10.0.0.1:2379"]`, doc: "Addresses of etcd. Required for etcd."},
		{name: "prefix", kind: kText, ours: true, restart: true, def: "/pgkennel/", doc: "What every key in etcd begins with."},
		{name: "tls_ca_certificate", kind: kPath, ours: true, restart: true, example: `"etcd-ca.pem"`, doc: "Certificate authorities that etcd's certificates must come from, PEM. Not set: the system's."},
		{name: "tls_certificate", kind: kPath, ours: true, restart: true, example: `"etcd-client.pem"`, doc: "Certificate that pgkennel shows to etcd, PEM."},
		{name: "tls_private_key", kind: kPath, ours: true, restart: true, example: `"etcd-client.key"`, doc: "Private key of tls_certificate, PEM."},
		{name: "user", kind: kText, ours: true, restart: true, doc: "User of etcd."},
		{name: "password", kind: kSecret, ours: true, restart: true, doc: "Its password."},
		{name: "key_file", kind: kPath, ours: true, restart: true, example: `"pgkennel-directory.key"`, doc: "File with the key that secrets in the directory are encrypted with. Not set: PGKENNEL_DIRECTORY_KEY, or path with .key behind it, which the file store makes."},
		{name: "more_key_files", kind: kTexts, ours: true, restart: true, example: `["old.key"]`, doc: "Files with further keys by which secrets and backups can be read: earlier ones, or one to come."},
		{name: "audit_keep", kind: kMillis, ours: true, restart: true, min: 86_400_000, example: `31_536_000_000`, doc: "Delete what is older from the audit. Not set: never."},
		{name: "audit_entries", kind: kInt, ours: true, restart: true, def: "0", max: 1e9, doc: "Delete the oldest from the audit where it has more entries; 0 = any number."},
		{name: "cache", kind: kPath, ours: true, restart: true, example: `"pgkennel-directory.cache"`, doc: "File with what was known last, for starts while the store can't be reached. Not set: path with .cache behind it."},
	},
})

var provisionSection = newSection(section{
	name: "provision",
	doc:  "How instances of tenants are made on this host. Paths are below the directory of this file. pgkennel's own.",
	keys: []*key{
		{name: "driver", kind: kEnum, ours: true, def: "process", legal: []string{"process", "systemd", "docker", "kubernetes"}, doc: "What makes instances: plain processes, units of systemd, containers of Docker, or CloudNativePG in Kubernetes."},
		{name: "host", kind: kText, ours: true, restart: true, example: `"db1"`, doc: "Name of this host, by which instances are its own. Not set: that of the system."},
		{name: "listen", kind: kText, ours: true, restart: true, example: `"10.0.0.1"`, doc: "IP address of this host at which instances listen, by TLS, for the pgkennels of other hosts that share the directory, from their next start on. Not set: other hosts do not reach them. Of the drivers process and systemd."},
		{name: "data_dir", kind: kPath, ours: true, restart: true, def: "instances", doc: "Directory of the instances."},
		{name: "bin_dirs", kind: kTexts, ours: true, restart: true, example: `["/usr/lib/postgresql/15/bin"]`, doc: "Directories of PostgreSQL's programs, one for each version. Not set: they are looked for in the usual places."},
		{name: "templates", kind: kPath, ours: true, def: "templates", doc: "Directory of SQL files that tenants' schemas are made of."},
		{name: "backups", kind: kPath, ours: true, restart: true, def: "backups", doc: "Directory of backups."},
		{name: "port_min", kind: kPort, ours: true, restart: true, def: "15432", doc: "First of the ports by which instances are told apart. They are in the names of their unix sockets; with listen, instances listen at them, too."},
		{name: "port_max", kind: kPort, ours: true, restart: true, def: "19431", doc: "Last one."},
		{name: "uid_min", kind: kInt, ours: true, restart: true, def: "200000", min: 1000, max: 1<<31 - 1, doc: "First user ID of the operating system that instances run as, each as one of its own, where pgkennel is root."},
		{name: "uid_max", kind: kInt, ours: true, restart: true, def: "265535", min: 1000, max: 1<<31 - 1, doc: "Last one."},
		{name: "max_instances", kind: kInt, ours: true, restart: true, def: "0", max: 1e6, doc: "Most instances on this host; 0 = as many as there is room for."},
		{name: "account", kind: kText, ours: true, restart: true, example: `"postgres"`, doc: "User of the system that runs initdb, where pgkennel is root. Not set: postgres, or nobody."},
		{name: "log_size", kind: kInt, ours: true, restart: true, def: "16777216", min: 65536, max: 1 << 40, doc: "Bytes from which on an instance's log is cut; one cut-off part is kept."},
		{name: "cgroup", kind: kText, ours: true, restart: true, example: `"pgkennel.slice"`, doc: "Control group, below the hierarchies' roots, that the groups of instances go into. Not set: pgkennel- and a hash of data_dir. Of the driver process."},
		{name: "systemd_unit_dir", kind: kPath, ours: true, restart: true, def: "/run/systemd/system", doc: "Directory of systemd's that units are written to."},
		{name: "docker_socket", kind: kPath, ours: true, restart: true, example: `"/var/run/docker.sock"`, doc: "Socket of the engine. Not set: DOCKER_HOST, or /var/run/docker.sock."},
		{name: "docker_image", kind: kText, ours: true, restart: true, def: "postgres:{version}", doc: "Image with PostgreSQL; {version} stands for the major version. None is pulled."},
		{name: "docker_network", kind: kText, ours: true, restart: true, example: `"tenants"`, doc: "Network of the engine's that containers are in. Not set: none."},
		{name: "grace", kind: kMillis, ours: true, def: "604800000", doc: "How long a removed tenant can be brought back."},
		{name: "suspend_after", kind: kMillis, ours: true, min: 1000, example: `900_000`, doc: "Put an instance to sleep that nobody used for so long, unless its tenant was made with another time. Not set: never."},
	},
})

var kubernetesSection = newSection(section{
	name: "kubernetes",
	doc:  "Where instances are made with driver = \"kubernetes\" in [provision]: as Clusters of CloudNativePG, which has to be installed there. pgkennel's own.",
	keys: []*key{
		{name: "kubeconfig", kind: kPath, ours: true, restart: true, example: `"kubeconfig"`, doc: "File that says where Kubernetes is, and as whom. Not set: the one that pgkennel runs in, else KUBECONFIG or ~/.kube/config."},
		{name: "context", kind: kText, ours: true, restart: true, example: `"production"`, doc: "Context in it. Not set: its current one."},
		{name: "namespace", kind: kText, ours: true, restart: true, example: `"tenants"`, doc: "Namespace of the instances; nothing else should be in it. Not set: the context's, or that of pgkennel's pod."},
		{name: "storage_class", kind: kText, ours: true, restart: true, example: `"fast"`, doc: "Storage class of the instances' volumes. Not set: the default one."},
		{name: "disk", kind: kText, ours: true, restart: true, def: "10GB", doc: "Size of the volumes of tenants without a disk limit."},
		{name: "image", kind: kText, ours: true, restart: true, def: "ghcr.io/cloudnative-pg/postgresql:{version}", doc: "Image of PostgreSQL; {version} is the major version."},
		{name: "version", kind: kText, ours: true, restart: true, def: "17", doc: "Major version of PostgreSQL for tenants that ask for none."},
		{name: "address", kind: kText, ours: true, restart: true, def: "{service}.{namespace}.svc", doc: "Name by which a service is reached from all poolers. {service} is its own, {namespace} its namespace's. Poolers outside of Kubernetes need names of their own for the services."},
	},
})
