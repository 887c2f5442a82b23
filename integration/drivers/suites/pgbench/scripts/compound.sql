\set a random(1, 100)
SELECT k AS k FROM counted WHERE k = :a \; SELECT v AS v FROM counted WHERE k = :a \aset
\if :k = :a
SELECT :v \; UPDATE counted SET v = v + 1 WHERE k = :a \; SELECT 2;
\endif
