SELECT id, note FROM orders WHERE id = $1 \gdesc
SELECT id, amount, note, now() AS t FROM orders \gdesc
SELECT nowhere \gdesc
SELECT count(*) AS n, max(note) AS top FROM orders \gset pre_
\echo :pre_n :pre_top
SELECT * FROM orders WHERE false \gset
SELECT 'SELECT ' || n FROM generate_series(1, 3) AS n \gexec
SELECT format('CREATE TABLE made_%s (a int)', n) FROM generate_series(1, 3) AS n \gexec
\dt made_*
SELECT customer, id % 2 AS odd, sum(amount) FROM orders GROUP BY 1, 2 ORDER BY 1, 2 \crosstabview customer odd sum
SELECT 1 AS a, 2 AS b \gx
\x auto
SELECT * FROM orders WHERE id = 1;
\x off
\pset format unaligned
SELECT * FROM orders ORDER BY id LIMIT 2;
\pset format aligned
\pset null (null)
SELECT NULL::int;
\t
SELECT 1;
\t
SELECT 1 \; SELECT 2 \; SELECT 3;
\echo :ROW_COUNT
SELECT 1 \g (format=unaligned)
\set FETCH_COUNT 5
SELECT * FROM orders ORDER BY id;
SELECT 1/(id - 7) FROM orders ORDER BY id;
\unset FETCH_COUNT
\if :{?pre_n}
SELECT 'set';
\else
SELECT 'not set';
\endif
