create extension hstore;
create extension citext;
create schema test_schema;
create schema test_schema_2;
