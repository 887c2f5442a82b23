module pinned

go 1.26

require github.com/riverqueue/river v0.51.1
