//go:build !linux

package load

import (
	"context"
	"errors"
)

func run(context.Context, *Options) (*Result, error) {
	return nil, errors.New("load: needs epoll")
}
