package integration

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// TestFunctionsThatHideBuiltInOnes: a function of users' own may have the name of one of PostgreSQL's, and do to the session what nobody here sees:
// neither the rest of its transaction nor another client takes the search_path for what it was.
func TestFunctionsThatHideBuiltInOnes(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{
		shards: 2, general: "default_pool_size = 1", schema: `
		CREATE SCHEMA held; CREATE TABLE held.things (tenant_id bigint, id int); INSERT INTO held.things VALUES (1, 7);
		CREATE SCHEMA open; CREATE TABLE open.things (id int); INSERT INTO open.things VALUES (8);
		CREATE FUNCTION public.upper(boolean) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('search_path', 'held', false); RETURN 1; END $$;
		CREATE FUNCTION public.move() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('search_path', 'held', false); RETURN 1; END $$;`,
		rest: twoRanges,
	})
	s.startInside()
	const look, hide = "SELECT id FROM things", "/* pgdog_shard: 0 */ SELECT upper(true)"
	const refused = "0A000 shard_missing"
	each(t, func(t *testing.T, p protocol) {
		p.play(t, s.connect(t), "SET search_path TO open, public", "SET; I", "BEGIN", "BEGIN; T", hide, "1; SELECT 1; T", look, refused+"; E", "ROLLBACK", "ROLLBACK; I",
			hide, "1; SELECT 1; I", look, "8; SELECT 1; I")
		p.play(t, s.connect(t), "SHOW search_path", `"$user", public; SHOW; I`)
		p.play(t, s.connect(t), "SET search_path TO open, public", "SET; I", look, "8; SELECT 1; I")
	})
	// What is prepared, declared or begun is run later, when the path has been told.
	for name, steps := range map[string][]string{
		"EXECUTE": {"PREPARE q AS SELECT public.move()", "PREPARE; T", "SET LOCAL search_path TO open", "SET; T", "/* pgdog_shard: 0 */ EXECUTE q", "1; SELECT 1; T", look, refused + "; E"},
		"FETCH":   {"DECLARE k CURSOR FOR SELECT public.move()", "DECLARE CURSOR; T", "SET LOCAL search_path TO open", "SET; T", "FETCH k", "1; FETCH 1; T", look, refused + "; E"},
		"in one":  {"DECLARE k CURSOR FOR SELECT public.move()", "DECLARE CURSOR; T", "SET LOCAL search_path TO open", "SET; T", "FETCH k; " + look, refused + "; E"},
	} {
		steps[0] = "/* pgdog_shard: 0 */ " + steps[0]
		t.Run(name, func(t *testing.T) {
			protocols[0].play(t, s.connect(t), append([]string{"BEGIN", "BEGIN; T"}, steps...)...)
		})
	}
	t.Run("suspended", func(t *testing.T) {
		c := s.connect(t)
		protocols[0].play(t, c, "BEGIN", "BEGIN; T", "SET LOCAL search_path TO open", "SET; T")
		c.Send(&pgproto3.Parse{Query: "/* pgdog_shard: 0 */ SELECT public.move() FROM generate_series(1, 3)"}, &pgproto3.Bind{DestinationPortal: "p"}, &pgproto3.Execute{Portal: "p", MaxRows: 1}, &pgproto3.Sync{})
		c.UntilReady()
		protocols[0].play(t, c, look, refused+"; E")
	})
	c := s.connect(t)
	protocols[0].play(t, c, "SET search_path TO open, public", "SET; I", hide+"; "+look, refused+"; I")
}
