SELECT 1/0;
\errverbose
\echo :SQLSTATE :ERROR :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
SELECT nowhere;
SELECT * FROM nowhere;
\errverbose
SELEC 1;
SELECT 'ü', x FROM orders;
\set VERBOSITY verbose
INSERT INTO orders VALUES (1, 1, 1);
INSERT INTO items (order_id) VALUES (4711);
INSERT INTO orders VALUES (500, NULL, 1);
INSERT INTO orders VALUES (500, 1, -1);
SELECT 'x'::positive;
SELECT 0::positive;
\set VERBOSITY sqlstate
SELECT 1/0;
\set VERBOSITY terse
SELECT warns();
\set VERBOSITY default
SELECT warns();
SET client_min_messages = error;
SELECT warns();
RESET client_min_messages;
DO $$ BEGIN PERFORM 1/0; END $$;
SELECT 1; SELECT 1/0; SELECT 2;
SELECT 1 \; SELECT 1/0 \; SELECT 2;
DROP TABLE orders;
SELECT twice('x');
SELECT twice(1, 2);
;
