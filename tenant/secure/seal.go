package secure

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/pgkennel/pgkennel/tenant"
)

// sealsTable has the keys by which seals are checked, as HMAC has them in front of what it hashes. Who can read it can make seals.
const sealsTable = `CREATE TABLE pgkennel.seals (id text PRIMARY KEY, inner_pad bytea NOT NULL, outer_pad bytea NOT NULL, made timestamptz NOT NULL DEFAULT now())`

// statsReader is PostgreSQL's role for who may see what other roles' sessions do. A function of ours needs it to see when the own one began.
const statsReader = "pg_read_all_stats"

// began is when the session's process began, in microseconds since 1970.
const began = "(SELECT (extract(epoch FROM a.backend_start) * 1000000)::bigint FROM pg_stat_get_activity(pg_backend_pid()) a)"

// backendStart tells pgkennel what it has to seal.
const backendStart = " SELECT " + began + " "

// sealedKey is the tenant's key that the setting has, if the seal is the one for it in this very process (tenant.Sealer). What is compared are hashes, so
// that the time that it takes says nothing. No tenant is no error: it has no rows.
func sealedKey(setting string) string {
	return strings.NewReplacer("SETTING", literal(setting), "BEGAN", began, "SEAL", literal(tenant.SealSetting)).Replace(`
DECLARE
  claimed text := NULLIF(current_setting(SETTING, true), '');
  given text := current_setting(SEAL, true);
  good boolean;
  fenced boolean;
BEGIN
  IF claimed IS NULL THEN
    RETURN NULL;
  END IF;
  SELECT sha256(convert_to(split_part(given, '.', 2), 'UTF8')) = sha256(convert_to(encode(sha256(s.outer_pad || sha256(s.inner_pad
    || convert_to(pg_backend_pid() || ' ' || BEGAN || ' ' || claimed, 'UTF8'))), 'hex'), 'UTF8'))
  , EXISTS (SELECT FROM pgkennel.fenced f WHERE f.what = 'key/' || claimed)
  INTO good, fenced FROM pgkennel.seals s WHERE s.id = split_part(given, '.', 1);
  IF good AND NOT fenced THEN
    RETURN claimed;
  ELSIF good THEN
    RAISE EXCEPTION 'the tenant is closed' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RAISE EXCEPTION 'the session is not the tenant''s that it says to be'
    USING ERRCODE = 'insufficient_privilege', HINT = CASE WHEN FOUND OR given IS NULL THEN 'Only pgkennel gives a session to a tenant.'
      ELSE 'The key of the seal is not known here: pgkennel secure apply tells it.' END;
END `)
}

// planSeals plans that the database knows the key of seals. Others stay: there may be poolers yet that seal with them, while a new secret is brought in.
func (p *plan) planSeals(ctx context.Context) error {
	if p.Rows != tenant.Sealed {
		return nil
	}
	sealer := p.Secret.Sealer(p.Cluster)
	inner, outer := sealer.Pads()
	good := false
	if p.info.hasSeals {
		keys, err := list[struct {
			ID, Made string
			Same     bool
		}](ctx, p.db, "SELECT id, to_char(made, 'YYYY-MM-DD'), inner_pad = $1 AND outer_pad = $2 FROM pgkennel.seals ORDER BY made", inner, outer)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.ID != sealer.ID() {
				p.oldSeals = append(p.oldSeals, oldSeal(k.ID, k.Made))
			}
			good = good || k.ID == sealer.ID() && k.Same
		}
	}
	if !good {
		p.add(Step{Kind: "seal", Object: sealer.ID(), Reason: "the key of tenants' seals is not known to the database", SQL: []string{fmt.Sprintf(
			`INSERT INTO pgkennel.seals (id, inner_pad, outer_pad) VALUES (%s, decode('%s', 'hex'), decode('%s', 'hex')) ON CONFLICT (id) DO UPDATE SET inner_pad = excluded.inner_pad, outer_pad = excluded.outer_pad`,
			literal(sealer.ID()), hex.EncodeToString(inner), hex.EncodeToString(outer))}})
	}
	return nil
}

func oldSeal(id, made string) Finding {
	return Finding{
		Severity: Warning, Check: "seal", Object: id, Reason: "a key of seals, made on " + made + ", that is not of the configuration's secret: drop it once no pgkennel uses it",
		SQL: []string{"DELETE FROM pgkennel.seals WHERE id = " + literal(id)},
	}
}
