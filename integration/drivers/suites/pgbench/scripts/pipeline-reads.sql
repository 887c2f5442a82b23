\set a random(1, 100)
\set b random(1, 100)
\startpipeline
SELECT v FROM counted WHERE k = :a;
SELECT v FROM counted WHERE k = :b;
SELECT 1;
\endpipeline
