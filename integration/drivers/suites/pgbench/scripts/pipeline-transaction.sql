\set a random(1, 50)
\startpipeline
BEGIN;
UPDATE counted SET v = v + 1 WHERE k = :a;
UPDATE counted SET v = v - 1 WHERE k = :a + 50;
COMMIT;
\endpipeline
