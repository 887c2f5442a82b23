package cluster

import (
	"context"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/parser/judge"
)

// The statements that read code. @ is a list of names, or a condition on pg_class c and pg_namespace n.
const (
	// Functions that are not PostgreSQL's own, by name: 16384 is FirstNormalObjectId. Those of aggregates come in the last column, and the settings of a
	// function in the one before.
	sqlCode = `SELECT n.nspname, p.proname, l.lanname, coalesce(x.extname, ''), p.prokind = 'a', p.prosrc, coalesce(pg_get_function_sqlbody(p.oid), ''),
coalesce(pg_get_expr(p.proargdefaults, 0), ''), coalesce(array_to_string(p.proconfig, chr(10)), ''),
coalesce((SELECT string_agg(q.proname, chr(10)) FROM pg_aggregate a, pg_proc q WHERE a.aggfnoid = p.oid AND q.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn,
a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)), '')
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
LEFT JOIN pg_extension x ON x.oid = d.refobjid
WHERE p.oid >= 16384 AND n.nspname !~ '^pg_temp' AND p.proname IN (@)`

	// Functions that run without being called by name, but for those in C, which only superusers make: of operators, casts, operator classes and range types.
	sqlImplicit = `SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal') AND p.oid IN (
SELECT oprcode FROM pg_operator UNION ALL SELECT castfunc FROM pg_cast UNION ALL SELECT amproc FROM pg_amproc
UNION ALL SELECT rngcanonical FROM pg_range UNION ALL SELECT rngsubdiff FROM pg_range)`

	// Functions of event triggers.
	sqlEvents = `SELECT DISTINCT p.proname FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid WHERE e.evtenabled <> 'D' AND e.evtevent <> 'login'`

	// What domains evaluate.
	sqlDomains = `SELECT pg_get_expr(conbin, 0) FROM pg_constraint WHERE contypid <> 0 AND conbin IS NOT NULL AND oid >= 16384
UNION SELECT pg_get_expr(typdefaultbin, 0) FROM pg_type WHERE typtype = 'd' AND typdefaultbin IS NOT NULL AND oid >= 16384`

	// Functions that can be called as if they were columns: of one row, and maybe of what may be left out.
	sqlAttributes = `SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_type t ON t.oid = p.proargtypes[0] WHERE p.oid >= 16384 AND p.pronargs >= 1
AND p.pronargs - p.pronargdefaults <= 1 AND (t.typtype = 'c' OR t.typname IN ('record', 'anyelement', 'anynonarray', 'anycompatible', 'anycompatiblenonarray'))`

	// Whether there are functions whose state is beyond SQL: @ is a list of extensions.
	sqlStrange = `SELECT 1 FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
LEFT JOIN pg_extension x ON x.oid = d.refobjid
WHERE p.oid >= 16384 AND p.prokind <> 'a' AND l.lanname NOT IN ('sql', 'plpgsql') AND NOT (l.lanname = 'c' AND coalesce(x.extname, '') IN (@)) LIMIT 1`

	codeRelations = `SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND n.nspname !~ '^pg_(toast|temp)' AND (@)`

	sqlRelationsOf = `SELECT c.oid, n.nspname, c.relname, c.oid < 16384,
EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1'),
CASE WHEN c.relkind = 'v' AND c.oid >= 16384 THEN pg_get_viewdef(c.oid) ELSE '' END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN (` + codeRelations + `)`

	// Names that too many relations have.
	sqlHomonyms = `SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND c.relname IN (@) GROUP BY 1 HAVING count(*) > `

	// What relations run: a relation, what kind of thing it is, and a text, or a name with its schema.
	sqlRuns = `WITH o AS (` + codeRelations + ` AND c.oid >= 16384)
SELECT polrelid, 'policy', '', pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid IN (SELECT oid FROM o) AND polqual IS NOT NULL
UNION ALL SELECT polrelid, 'policy', '', pg_get_expr(polwithcheck, polrelid) FROM pg_policy WHERE polrelid IN (SELECT oid FROM o) AND polwithcheck IS NOT NULL
UNION ALL SELECT adrelid, 'expression', '', pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM o)
UNION ALL SELECT conrelid, 'expression', '', pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conrelid IN (SELECT oid FROM o) AND contype = 'c'
UNION ALL SELECT a.attrelid, 'expression', '', pg_get_expr(k.conbin, 0) FROM pg_attribute a JOIN pg_constraint k ON k.contypid = a.atttypid
WHERE a.attrelid IN (SELECT oid FROM o) AND a.attnum > 0 AND k.conbin IS NOT NULL AND k.oid >= 16384
UNION ALL SELECT indrelid, 'expression', '', pg_get_expr(indexprs, indrelid) FROM pg_index WHERE indrelid IN (SELECT oid FROM o) AND indexprs IS NOT NULL
UNION ALL SELECT indrelid, 'expression', '', pg_get_expr(indpred, indrelid) FROM pg_index WHERE indrelid IN (SELECT oid FROM o) AND indpred IS NOT NULL
UNION ALL SELECT partrelid, 'expression', '', pg_get_expr(partexprs, partrelid) FROM pg_partitioned_table WHERE partrelid IN (SELECT oid FROM o) AND partexprs IS NOT NULL
UNION ALL SELECT inhrelid, 'expression', '', pg_get_expr(partexprs, partrelid) FROM pg_inherits JOIN pg_partitioned_table ON partrelid = inhparent
WHERE inhrelid IN (SELECT oid FROM o) AND partexprs IS NOT NULL
UNION ALL SELECT tgrelid, 'trigger', '', pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM o) AND NOT tgisinternal AND tgenabled <> 'D'
UNION ALL SELECT tgrelid, 'function', '', proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE tgrelid IN (SELECT oid FROM o) AND NOT tgisinternal AND tgenabled <> 'D'
UNION ALL SELECT inhparent, 'writes', n.nspname, c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE inhparent IN (SELECT oid FROM o) AND c.relkind IN ('r', 'p', 'f')
UNION ALL SELECT confrelid, 'writes', n.nspname, c.relname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE confrelid IN (SELECT oid FROM o) AND contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))`
)

// code reads what the functions and relations run that a reading is for, and what that runs, until nothing is left to look at.
func (c *catalog) code(ctx context.Context, p *judge.Pending) (*judge.Graph, error) {
	g := judge.NewGraph(p)
	err := c.query(ctx, statements{
		{sqlAttributes, 1, func(f [][]byte) error { g.AddAttribute(string(f[0])); return nil }},
		{sqlImplicit, 1, func(f [][]byte) error { g.AddImplicit("", string(f[0])); return nil }},
		{sqlEvents, 1, func(f [][]byte) error { g.AddEvent(string(f[0])); return nil }},
		{strings.Replace(sqlStrange, "@", literals(judge.Extensions()), 1), 1, func([][]byte) error { g.Strange(); return nil }},
		{sqlDomains, 1, func(f [][]byte) error { g.AddImplicit(string(f[0]), ""); return nil }},
	})
	if err != nil {
		return nil, err
	}
	for range maxCodeRounds {
		functions, relations := g.Missing()
		if len(functions)+len(relations) == 0 {
			return g, nil
		}
		if err := c.codeRound(ctx, g, functions, relations); err != nil {
			return nil, err
		}
		if g.Size() > maxCodeBytes {
			break
		}
	}
	return nil, errTooMuchCode
}

// codeRound gives g what it misses.
func (c *catalog) codeRound(ctx context.Context, g *judge.Graph, functions []string, relations []judge.Name) error {
	var names []string // without a schema
	var conditions []string
	for _, r := range relations {
		if r.Schema == "" {
			names = append(names, r.Name)
			continue
		}
		conditions = append(conditions, "n.nspname = "+literal(r.Schema)+" AND c.relname = "+literal(r.Name))
	}
	if len(names) > 0 {
		many := make(map[string]bool)
		err := c.query(ctx, statements{{strings.Replace(sqlHomonyms, "@", literals(names), 1) + strconv.Itoa(maxHomonyms), 1, func(f [][]byte) error {
			many[string(f[0])] = true
			return nil
		}}})
		if err != nil {
			return err
		}
		few := names[:0]
		for _, n := range names {
			if many[n] {
				g.AddMany(n)
			} else {
				few = append(few, n)
			}
		}
		if len(few) > 0 {
			conditions = append(conditions, "c.relname IN ("+literals(few)+")")
		}
	}
	var ask statements
	found := make(map[string]*judge.Relation) // by OID
	if len(functions) > 0 {
		ask = append(ask, statement{strings.Replace(sqlCode, "@", literals(functions), 1), 10, func(f [][]byte) error {
			fn := &judge.Function{
				Schema: string(f[0]), Name: string(f[1]), Language: string(f[2]), Extension: string(f[3]), Aggregate: string(f[4]) == "t",
				Source: string(f[5]), Atomic: string(f[6]), Defaults: string(f[7]),
			}
			if len(f[8]) > 0 {
				fn.Settings = strings.Split(string(f[8]), "\n")
			}
			if len(f[9]) > 0 {
				fn.Calls = strings.Split(string(f[9]), "\n")
			}
			g.AddFunction(fn)
			return nil
		}})
	}
	if len(conditions) > 0 {
		condition := strings.Join(conditions, " OR ")
		ask = append(ask, statement{strings.Replace(sqlRelationsOf, "@", condition, 1), 6, func(f [][]byte) error {
			found[string(f[0])] = &judge.Relation{
				Name: judge.Name{Schema: string(f[1]), Name: string(f[2])}, System: string(f[3]) == "t", Rules: string(f[4]) == "t", View: string(f[5]),
			}
			return nil
		}}, statement{strings.Replace(sqlRuns, "@", condition, 1), 4, func(f [][]byte) error {
			r, text := found[string(f[0])], string(f[3])
			if r == nil {
				return nil
			}
			switch string(f[1]) {
			case "policy":
				r.Policies = append(r.Policies, text)
			case "expression":
				r.Expressions = append(r.Expressions, text)
			case "trigger":
				r.Triggers = append(r.Triggers, text)
			case "function":
				r.TriggerFunctions = append(r.TriggerFunctions, text)
			case "writes":
				r.Writes = append(r.Writes, judge.Name{Schema: string(f[2]), Name: text})
			}
			return nil
		}})
	}
	if len(ask) == 0 {
		return nil
	}
	if err := c.query(ctx, ask); err != nil {
		return err
	}
	for _, r := range found {
		g.AddRelation(r)
	}
	return nil
}

// literals writes names as a list of literals.
func literals(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = literal(s)
	}
	return strings.Join(quoted, ", ")
}
