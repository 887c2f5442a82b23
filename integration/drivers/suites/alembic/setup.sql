create extension hstore;
create schema test_schema;
