\set a random(1, 5)
\set b random(1, 5)
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT v FROM counted WHERE k = :a;
UPDATE counted SET v = v + 1 WHERE k = :b;
COMMIT;
