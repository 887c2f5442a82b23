\set a random(1, 100)
\startpipeline
UPDATE counted SET v = v + 1 WHERE k = :a;
SELECT v FROM counted WHERE k = :a;
\endpipeline
