// Package archtest holds the plan of the house as data and checks the code against it. The checks are in its tests;
// docs/architecture.md explains the plan.
package archtest

// module is the prefix of our own import paths.
const module = "github.com/pgkennel/pgkennel"

// floors gives each package its floor. A package imports only packages of strictly lower floors. A new package gets a
// line here, in docs/architecture.md too; an import that does not fit is a question about the design, and not about
// this table.
var floors = map[string]int{
	"pooler/pgwire":     0,
	"parser":            0,
	"sharding/topology": 0,
	"internal/pki":      0,

	"parser/judge":   1,
	"sharding":       1,
	"tenant":         1,
	"pooler/auth":    1,
	"pooler/metrics": 1,
	"pooler/pool":    1,
	"pooler/state":   1,

	"sharding/router":       2,
	"sharding/merge":        2,
	"config":                2,
	"tenant/tenanttest":     2,
	"tenant/secure":         2,
	"tenant/store/envelope": 2,
	"pooler/backend":        2,
	"provision":             2,

	"provision/api":        3,
	"tenant/store":         3,
	"provision/process":    3,
	"provision/drivertest": 3,
	"provision/systemd":    4, // the process driver, with units
	"provision/docker":     4, // likewise, with containers
	"provision/kubernetes": 4, // its settings are checked as the process driver's are
	"provision/external":   3,
	"provision/backup":     3,
	"pooler/cluster":       3,
	"pooler/notify":        3,

	"pooler/exec":    4,
	"pooler/session": 5,
	"pooler/admin":   5,
	"pooler/loop":    6,
	"pooler":         7,
	"kennel":         8,
	"cmd/pgkennel":   9,

	// Beside the house: the demo and what tests stand on.
	"internal/pginstance": 0,
	"internal/archtest":   0,
	"internal/pgtest":     1,
	"internal/demo":       1,
	"cmd/demo":            2,

	// Above it: they may use everything, and nothing may use them.
	"internal/testbed":      8,
	"integration":           9,
	"integration/drivers":   9,
	"integration/isolation": 9,
	"integration/parity":    9,
	"integration/provision": 9,
	"bench":                 9,
	"bench/density":         9,
	"bench/load":            0,
}

// testsOnly are packages that only tests may import.
var testsOnly = []string{"internal/pgtest", "internal/testbed", "provision/drivertest", "tenant/tenanttest"}

// testsMay lists the imports of test files that climb a floor, each with its reason. Test files may also import
// everything that their package may, the packages of testsOnly, and the package itself.
var testsMay = map[edge]string{
	{"provision/backup", "provision/process"}: "restores to a time are tested with a real driver",
}

// edge is an import: package from uses package to.
type edge struct{ from, to string }

// banned lists edges that the floors would allow and the design does not. A trailing /... means the packages below.
var banned = []struct {
	from, to string
	why      string
}{
	{"pooler/...", "config", "the root pooler hands down plain option structs"},
	{"pooler/...", "provision", "the poolers are stateless; provision changes the directory, not them"},
	{"pooler/...", "provision/...", "the poolers are stateless; provision changes the directory, not them"},
	{"pooler/...", "internal/demo", "the demo stands beside the product"},
	{"pooler/...", "internal/pginstance", "the product does not run instances through the tests' package"},
}

// homes says which packages may import a foreign module; everybody else goes through them. Tests are free. A trailing
// /... means the packages below; the path itself is not meant by it.
var homes = []struct {
	foreign string   // the import path, and everything below it
	except  string   // a package below it that everybody may use
	only    []string // our packages that may import it
	why     string
}{
	{
		foreign: "github.com/jackc/pgx/v5", except: "github.com/jackc/pgx/v5/pgproto3",
		only: []string{
			"provision", "provision/...", "tenant/secure", "tenant/store", "pooler/cluster", "internal/pgtest", "internal/testbed", "internal/demo",
			"integration", "bench", "bench/density",
		},
		why: "the data path speaks its own pgwire; pgx is for provision, the directory, securing databases, health checks and tests",
	},
	{
		foreign: "github.com/jackc/pgx/v5/pgproto3",
		only: []string{
			"pooler/...", "provision", "provision/...", "tenant/store", "internal/pgtest", "internal/testbed", "internal/demo", "integration", "bench", "bench/density",
		},
		why: "messages belong to the rooms of the pooler",
	},
	{
		foreign: "github.com/pganalyze/pg_query_go",
		only:    []string{"parser"},
		why:     "pg_query and cgo stay hidden inside parser",
	},
	{
		foreign: "github.com/jackc/puddle",
		only:    []string{"pooler/pool"},
		why:     "the life of pooled connections is pooler/pool's",
	},
	{
		foreign: "go.etcd.io",
		only:    []string{"tenant/store"},
		why:     "what the directory is kept in is hidden inside tenant/store",
	},
	{
		foreign: "github.com/BurntSushi/toml",
		only:    []string{"config"},
		why:     "files are read by config",
	},
	{
		foreign: "filippo.io/age",
		only:    []string{"provision/backup"},
		why:     "files that are encrypted are backups",
	},
	{
		foreign: "github.com/spf13/cobra",
		only:    []string{"cmd/pgkennel", "cmd/demo"},
		why:     "the command line belongs to the programs",
	},
}

// pure packages are stepped, and touch nothing outside: same input, same output.
var pure = []string{
	"pooler/pgwire", "pooler/auth", "pooler/state", "pooler/exec", "pooler/session",
	"parser/judge", "sharding", "sharding/topology", "sharding/router", "sharding/merge",
}

// impure are the standard packages that a pure package has no use for.
var impure = []string{"net", "os", "os/exec", "syscall", "net/http", "log"}

// maxLines is how long a file may become before it has more than one idea.
const maxLines = 600
