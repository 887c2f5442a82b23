package isolation

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write docs/isolation.md anew")

const document = "../../docs/isolation.md"

const intro = `# Isolation

What a hostile client of one tenant can do to another, by mode. The tables below are the attack suite: ` + "`integration/isolation`" + ` runs every row in every
mode, and this page is made of its table; a mode that stops keeping a row's promise fails the build.

## The contract in short

- A client that logged in as a tenant (` + "`user@tenant`" + `) sees and changes that tenant's rows, and nobody else's, whatever it sends: SQL, messages,
  pipelines, startup parameters.
- What it leaves behind on a server connection reaches nobody else: after each attack the next statements of both tenants, on the same connections, find
  their own rows, role and settings, and no prepared statement, cursor, lock or sequence value of the other.
- There are two walls, each tested without the other. **PostgreSQL** refuses by roles, privileges and policies, as ` + "`pgkennel secure apply`" + ` has made them
  ([tenancy.md](tenancy.md#making-a-database-safe)): in strict modes it keeps tenants apart also for somebody who has pgkennel's server connection in his hands.
  **pgkennel** refuses what it can see to lead to another tenant: also where the login is a superuser and the policies are off.
- What can't be promised is said: the cells in bold, and [what is not protected](#what-is-not-protected).

## Modes

`

const middle = `
` + "`strict`" + ` is the default, and what to take where tenants, or whoever finds an injection in the application, can send SQL of their own. ` + "`sealed`" + ` holds them on one login, with fewer connections: policies check a signature
of pgkennel's, and what sessions of one login can do to each other besides pgkennel refuses. ` + "`shared`" + ` holds against mistakes, and against all attacks below that pgkennel can see. What functions of your own do inside it can't see, so grant tenants none there that set roles or the
tenant's setting. Databases of their own exist in strict mode only.

Servers have to have the fixes of November 2026 (14.25, 15.20, 16.16, 17.12, 18.6); ` + "`pgkennel doctor`" + ` checks that.

## The attacks

A is the attacker, logged in as a tenant, and b the other one.

| | |
|---|---|
| refused | by pgkennel, with an SQLSTATE and a name; the server has not seen the statement |
| denied | by PostgreSQL |
| own | it runs, and reaches what is A's own |
| **open** | it gives what the note says |
| – | there is nothing like it in the mode |

Several words in a cell: several ways were tried, and each gave one of them.
`

const outro = `
## What is not protected

- **Names and sizes.** Catalogs are readable by everybody who may connect: how many tenants there are, what their roles, schemas and databases are called, how big tables are, how far
  sequences have got, what locks there are, and in strict modes what
  other sessions call themselves (` + "`application_name`" + `) and their prepared transactions. Choose names that say nothing. Only an instance of its own hides all of that.
- **Load.** Tenants of one server share its processors, memory, connections and locks. ` + "`connections`" + ` and pool sizes bound what one takes of pgkennel; timeouts bound statements.
- **Existence of values** under unique keys that do not begin with the tenant column, and of parents under such foreign keys. ` + "`doctor`" + ` lists them.
- **What ` + "`random()`" + ` gives next.** Those who share a server connection draw from one generator, and a few values tell those that follow: make what is to be a secret of ` + "`gen_random_uuid()`" + `.
- **What your own code does**: SECURITY DEFINER functions, views and materialised views of owners whom policies do not bind, functions in shared mode that set the context. ` + "`doctor`" + ` lists those that tenants
  may use.
- **The operator.** Superusers, roles with BYPASSRLS, the users of pgkennel that may choose tenants (` + "`tenant_switch`" + `), and whoever reads ` + "`role_secret_file`" + `.
- **Time.** How long an answer takes tells something about caches and about others' load.
`

// cell is what a row gives in a mode.
func (r *row) cell(m mode) string {
	if !r.appliesTo(m) {
		return "–"
	}
	var words []string
	add := func(want string) {
		list := []string{want}
		switch {
		case want == stopped:
			list = []string{refused, denied}
		case strings.HasPrefix(want, open):
			list = []string{"**open**"}
		case want == nothing, want == runs:
			list = []string{"own"}
		case want != refused && want != denied:
			if list[0] = verdict(want); list[0] == runs {
				list[0] = "own"
			}
		}
		for _, w := range list {
			if !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
	}
	for _, s := range r.steps {
		if s.part {
			add(inMode(m, s.want, s.but))
		}
	}
	if r.gives != "" {
		add(inMode(m, r.gives, r.but))
	}
	order := []string{"**open**", refused, denied, "own"}
	slices.SortFunc(words, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	return strings.Join(words, ", ")
}

func render() string {
	var b strings.Builder
	b.WriteString(intro)
	b.WriteString("| mode | what it is | PostgreSQL alone |\n|---|---|---|\n")
	for _, m := range modes {
		alone := "keeps tenants apart"
		if !m.alone {
			alone = "obeys whoever has the connection"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", m.name, m.doc, alone)
	}
	b.WriteString(middle)
	for _, g := range groups {
		fmt.Fprintf(&b, "\n### %s\n\n| | A tries |", g.name)
		for _, m := range modes {
			b.WriteString(" " + strings.ReplaceAll(m.name, "-", "‑") + " |")
		}
		b.WriteString(" |\n|---|---|" + strings.Repeat("---|", len(modes)+1) + "\n")
		for _, r := range g.rows {
			fmt.Fprintf(&b, "| %s | %s |", r.id, r.attack)
			for _, m := range modes {
				b.WriteString(" " + r.cell(m) + " |")
			}
			b.WriteString(" " + r.note + " |\n")
		}
	}
	b.WriteString(outro)
	return strings.ReplaceAll(b.String(), "|  |", "| |")
}

// TestIsolationIsDocumented holds docs/isolation.md to the table, and the table to the suite: A01 to F13, each once.
func TestIsolationIsDocumented(t *testing.T) {
	t.Parallel()
	var ids, want []string
	for _, g := range groups {
		for _, r := range g.rows {
			ids = append(ids, r.id)
			if len(r.steps) == 0 && r.run == nil {
				t.Errorf("%s has nothing to try", r.id)
			}
		}
	}
	for group, rows := range map[string]int{"A": 15, "B": 8, "C": 15, "D": 20, "E": 9, "F": 13} {
		for n := range rows {
			want = append(want, fmt.Sprintf("%s%02d", group, n+1))
		}
	}
	if slices.Sort(want); !slices.Equal(ids, want) {
		t.Errorf("rows are %v, want %v", ids, want)
	}
	text := render()
	if *rewrite {
		if err := os.WriteFile(document, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if is, err := os.ReadFile(document); err != nil || string(is) != text {
		t.Errorf("docs/isolation.md is not what the table says (%v); go test ./integration/isolation -run Documented -rewrite writes it", err)
	}
}
