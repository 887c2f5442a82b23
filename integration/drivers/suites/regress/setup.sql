-- What pg_regress makes when it is not told to use what exists.
CREATE DATABASE regression OWNER app TEMPLATE template0;
ALTER DATABASE regression SET lc_messages TO 'C';
ALTER DATABASE regression SET lc_monetary TO 'C';
ALTER DATABASE regression SET lc_numeric TO 'C';
ALTER DATABASE regression SET lc_time TO 'C';
ALTER DATABASE regression SET bytea_output TO 'hex';
ALTER DATABASE regression SET timezone_abbreviations TO 'Default';

-- The tests expect to be run by the role that initdb made, and one of them that it has pg_class.
\c regression
UPDATE pg_class SET relowner = 'app'::regrole WHERE oid = 'pg_class'::regclass;
