package integration

import "testing"

// TestKnownAndUnknownPathsDontShareRoutes holds the wall between two sessions of one pooler that send the same text: a name that is nothing in
// a search_path that is known is not taken for it where a function has changed the path to what nobody here knows.
func TestKnownAndUnknownPathsDontShareRoutes(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{
		shards: 2, general: "default_pool_size = 1", schema: `
		CREATE SCHEMA held; CREATE TABLE held.pg_things (tenant_id bigint, id int); INSERT INTO held.pg_things VALUES (1, 7);
		CREATE FUNCTION public.move() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('search_path', 'held', false); RETURN 1; END $$;
		CREATE SCHEMA other; CREATE TABLE other.pg_things (id int);`,
		rest: twoRanges,
	})
	s.startInside()
	const look = "SELECT id FROM pg_things"
	each(t, func(t *testing.T, p protocol) {
		p.play(t, s.connect(t), "SET search_path TO '', ''", "SET; I", look, "42501 tenant_missing; I")
		p.play(t, s.connect(t),
			"BEGIN", "BEGIN; T", "/* pgdog_shard: 0 */ SELECT public.move()", "1; SELECT 1; T", look, "0A000 shard_missing; E", "ROLLBACK", "ROLLBACK; I")
		p.play(t, s.connect(t), "SET search_path TO '', ''", "SET; I", look, "42501 tenant_missing; I")
	})
}
