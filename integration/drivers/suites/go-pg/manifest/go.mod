module pinned

go 1.26

require github.com/go-pg/pg/v10 v10.11.0
