module pinned

go 1.26

require github.com/vgarvardt/gue/v5 v5.8.0
