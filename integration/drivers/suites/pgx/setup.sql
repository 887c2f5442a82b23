create extension hstore;
create extension ltree;
create domain uint64 as numeric(20,0);
create user " tricky, ' } "" \\ test user " superuser password 'secret';
