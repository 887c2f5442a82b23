create extension hstore;
create extension citext;
create extension ltree;
