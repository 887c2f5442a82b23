\set a random(1, 100)
SELECT k, v FROM counted WHERE k = :a \gset
\if :k = :a
INSERT INTO counted VALUES (1000 + :a, 0) ON CONFLICT (k) DO UPDATE SET v = counted.v;
DELETE FROM counted WHERE k = 1000 + :a;
\else
SELECT 1/0;
\endif
