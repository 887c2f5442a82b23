SET work_mem = '7MB';
SHOW work_mem;
SET search_path = s, public;
SELECT current_schemas(false);
CREATE TABLE here (a int);
\d here
RESET search_path;
SET TIME ZONE 'Europe/Berlin';
SELECT '2020-07-01 12:00+00'::timestamptz;
SHOW timezone;
SET datestyle = 'German';
SELECT '2020-07-01'::date;
SET intervalstyle = 'iso_8601';
SELECT '1 day 2 hours'::interval;
SET standard_conforming_strings = on;
SET bytea_output = 'escape';
SELECT '\x4142ff'::bytea;
SET extra_float_digits = 0;
SELECT 0.1::float8 + 0.2;
SELECT set_config('my.own', 'value', false);
SHOW my.own;
SELECT current_setting('my.own');
SELECT current_setting('my.other');
SELECT current_setting('my.other', true);
SET nonsense = 1;
SET work_mem = 'lots';
BEGIN; SET work_mem = '9MB'; ROLLBACK;
SHOW work_mem;
RESET ALL;
SHOW work_mem;
SHOW timezone;
SET ROLE nobody;
CREATE ROLE somebody;
SET ROLE somebody;
SELECT current_user, session_user;
SELECT * FROM orders;
RESET ROLE;
SELECT current_user;
SET SESSION AUTHORIZATION somebody;
SELECT current_user, session_user;
RESET SESSION AUTHORIZATION;
SELECT current_user, session_user;
SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;
INSERT INTO orders VALUES (300, 1);
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE;
INSERT INTO orders VALUES (300, 1);
DROP ROLE somebody;
\encoding
\encoding LATIN1
\encoding
SHOW client_encoding;
\encoding UTF8
SHOW server_version_num;
SHOW is_superuser;
SET statement_timeout = '50ms';
SELECT pg_sleep(5);
SET statement_timeout = 0;
DISCARD ALL;
SHOW work_mem;
ALTER ROLE app SET work_mem = '6MB';
ALTER DATABASE app SET lock_timeout = '77s';
\c
SHOW work_mem;
SHOW lock_timeout;
ALTER ROLE app RESET ALL;
ALTER DATABASE app RESET ALL;
