\set file :out '/copied'
\copy orders to pstdout csv header
\copy (select id, note from orders order by id limit 3) to pstdout with (format text, delimiter '|')
\copy orders (id, customer, amount) from pstdin csv
101,1,3.5
102,2,4.5
\.
select * from orders where id > 100 order by id;
\copy orders from pstdin csv
101,1,3.5,again
\.
COPY orders FROM STDIN;
103	1	2.5	x
104	1	-2.5	refused by the check
\.
COPY orders FROM STDIN;
105	1	2.5	x
\.
COPY (SELECT * FROM orders WHERE id > 100 ORDER BY id) TO STDOUT WITH (FORMAT csv, FORCE_QUOTE *);
COPY nowhere FROM STDIN;
COPY orders TO STDOUT WITH (FORMAT nonsense);
BEGIN;
COPY orders FROM STDIN;
106	1	2.5	x
\.
ROLLBACK;
SELECT count(*) FROM orders;
