module pinned

go 1.25.0

require github.com/jackc/pgx/v4 v4.18.3
