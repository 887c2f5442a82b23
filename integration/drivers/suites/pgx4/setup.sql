create extension hstore;
create domain uint64 as numeric(20,0);
