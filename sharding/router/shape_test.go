package router_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// withLiterals writes sql with other literals where it has a shape: those that f makes of them.
func withLiterals(sql string, f func(kind parser.TokenKind, raw string) string) string {
	var s parser.Shape
	if !s.Of([]byte(sql)) {
		return sql
	}
	var b strings.Builder
	last := 0
	for _, l := range s.Literals {
		b.WriteString(sql[last:l.Start])
		last = int(l.End)
		b.WriteString(f(l.Kind, sql[l.Start:l.End]))
	}
	b.WriteString(sql[last:])
	return b.String()
}

// other writes a text of the shape of sql with other literals, where it has luck.
func other(r *rand.Rand, sql string) string {
	numbers := []string{"1", "2", "11", "12", "150", "999", "9007199254740993", "9999999999999999999"}
	return withLiterals(sql, func(kind parser.TokenKind, raw string) string {
		switch {
		case r.IntN(3) == 0:
			return raw
		case kind == parser.TokenInteger:
			return numbers[r.IntN(len(numbers))]
		case kind == parser.TokenFloat:
			return []string{"1.0", "1.5", "11.0", "1e1"}[r.IntN(4)]
		}
		return []string{
			"'1'", "'11'", "' 12 '", "'x'", "'it''s'", "E'1\\x31'", "$$2$$", "'{1,2}'", "'{1,11}'", "'{}'", "''", "'t'", "'f'", "'ü'", "'acme'", "'acme '",
			"'00000000-0000-0000-0000-000000000001'",
		}[r.IntN(17)]
	})
}

// checkShape holds that a text is planned by its shape, which another text has made known, as by itself.
func checkShape(t testing.TB, r *router.Router, env *router.Env, in router.Input, sql string, seed uint64) (planned, left int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 3))
	cache := parser.NewCache(8 << 20)
	texts := []string{sql}
	for range 6 {
		texts = append(texts, other(rnd, sql))
	}
	rnd.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
	for _, text := range texts {
		var s parser.Shape
		m := cache.ParseShape([]byte(text), &s, "")
		if again := cache.GetShape([]byte(text), &s); again != m {
			t.Fatalf("%q is not found again", text)
		}
		if !m.Shaped {
			continue
		}
		in.Text, in.Literals = []byte(text), s.Literals
		want, wantErr := r.Route(parser.Parse(text), env).Plan(&in)
		got, gotErr := r.Route(m, env).Plan(&in)
		if gotErr == router.ErrNeedsText {
			sameDescribed(t, r, env, in, m, text)
			if wantErr == nil {
				left++
			}
			continue
		}
		sameDescribed(t, r, env, in, m, text)
		planned++
		if outcome(got, gotErr) != outcome(want, wantErr) || got.Reason != want.Reason {
			t.Errorf("%q\nby its shape: %s (%s)\nby itself:    %s (%s)\nof %q", text, outcome(got, gotErr), got.Reason, outcome(want, wantErr), want.Reason, texts)
		}
	}
	return planned, left
}

// sameDescribed holds that a text is described by its shape as by itself: before its parameters are known.
func sameDescribed(t testing.TB, r *router.Router, env *router.Env, in router.Input, m *parser.Message, text string) {
	t.Helper()
	want, wantErr := r.Route(parser.Parse(text), env).Describe(&in)
	got, gotErr := r.Route(m, env).Describe(&in)
	if gotErr != router.ErrNeedsText && (outcome(got, gotErr) != outcome(want, wantErr) || got.Reason != want.Reason) {
		t.Errorf("%q\ndescribed by its shape: %s (%s)\nby itself:    %s (%s)", text, outcome(got, gotErr), got.Reason, outcome(want, wantErr), want.Reason)
	}
}

func seedOf(sql string) uint64 {
	h := fnv.New64()
	fmt.Fprint(h, sql)
	return h.Sum64()
}

// mixed writes a statement with parameters in the place of some of its literals, behind those that it has.
func mixed(r *rand.Rand, sql string, params testParams) (string, testParams) {
	params = slices.Clone(params)
	return withLiterals(sql, func(_ parser.TokenKind, raw string) string {
		if r.IntN(2) == 0 {
			return raw
		}
		params = append(params, testParam{value: []byte(strings.Trim(raw, "'"))})
		return fmt.Sprint("$", len(params))
	}), params
}

// TestShapesOfRandomStatements holds it for statements of all kinds.
func TestShapesOfRandomStatements(t *testing.T) {
	t.Parallel()
	var f fixture
	f.options.Cluster, f.options.Shards = "shop", 2
	f.readConfig(t, oracleConfig)
	f.options.Schema = schema(t, fmt.Sprintf(oracleSchema, "SELECT id, tenant_id, customer FROM public.orders",
		"SELECT o.id, o.tenant_id, i.order_id FROM public.orders o LEFT JOIN public.items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id",
		"SELECT tenant_id, count(*) AS id FROM public.items GROUP BY tenant_id", "SELECT id, tenant_id, order_id FROM public.items ORDER BY id DESC LIMIT 3"))
	f.rebuild(t)
	planned, left := 0, 0
	for i := range uint64(500) {
		g := newGenerator(7, i)
		sql := g.statement()
		in := router.Input{UTF8: true}
		if len(g.params) > 0 {
			in.Params = g.params
		}
		p, l := checkShape(t, f.r, nil, in, sql, i)
		planned, left = planned+p, left+l
		text, params := mixed(g.Rand, sql, g.params)
		in.Params = params
		p, l = checkShape(t, f.r, nil, in, text, i)
		planned, left = planned+p, left+l
	}
	t.Logf("%d planned by their shape, %d left to be parsed", planned, left)
	if planned < 1200 || left > planned/6 {
		t.Errorf("%d planned by their shape, %d left to be parsed", planned, left)
	}
}
