package docker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/moby/moby/client"

	"github.com/pgkennel/pgkennel/provision"
)

// Logs implements provision.Driver: what the container says, and before that what those before it said.
func (d *Driver) Logs(ctx context.Context, in *provision.Instance, lines int, follow bool) (io.ReadCloser, error) {
	there, err := d.engine.inspect(ctx, containerName(in.ID))
	if err != nil {
		return nil, provision.Errorf(provision.KindFailed, "log of instance %s: %v", in.ID, err)
	}
	if there == nil {
		return d.Driver.Logs(ctx, in, lines, follow)
	}
	if follow {
		return &follower{ctx: ctx, engine: d.engine, name: containerName(in.ID), lines: lines, from: time.Now()}, nil
	}
	r, err := d.engine.api.ContainerLogs(ctx, containerName(in.ID), client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(max(lines, 0))})
	if err != nil {
		return nil, provision.Errorf(provision.KindFailed, "log of instance %s: %v", in.ID, err)
	}
	now := &plain{ctx: ctx, from: r}
	defer now.Close()
	b, err := io.ReadAll(now)
	if err != nil {
		return nil, provision.Errorf(provision.KindFailed, "log of instance %s: %v", in.ID, err)
	}
	have := bytes.Count(b, []byte("\n"))
	if have >= lines {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	before, err := d.Driver.Logs(ctx, in, lines-have, false)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(before, bytes.NewReader(b)), before}, nil
}

// follower reads a log as it grows. It asks for it when it is read first: some engines do not answer before there is something to say.
type follower struct {
	ctx    context.Context //nolint:containedctx // it is the reader's life: io.Reader has no place for it
	engine *engine
	name   string
	lines  int
	from   time.Time
	open   *plain
}

func (f *follower) Read(b []byte) (int, error) {
	if f.open == nil {
		options := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true, Tail: strconv.Itoa(f.lines)}
		if f.lines <= 0 { // nothing of before, and all since: it may be some time
			options.Tail, options.Since = "all", fmt.Sprintf("%d.%09d", f.from.Unix(), f.from.Nanosecond())
		}
		r, err := f.engine.api.ContainerLogs(f.ctx, f.name, options)
		if err != nil && f.ctx.Err() != nil {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fmt.Errorf("log of container %s: %w", f.name, err)
		}
		f.open = &plain{ctx: f.ctx, from: r}
	}
	return f.open.Read(b)
}

func (f *follower) Close() error {
	if f.open == nil {
		return nil
	}
	return f.open.Close()
}

// Tail implements process.Enclosed.
func (e *engine) Tail(id string, lines int) string {
	ctx, cancel := brief()
	defer cancel()
	out, err := e.output(ctx, containerName(id), strconv.Itoa(lines))
	if err != nil {
		return ""
	}
	return string(out)
}

// plain takes the frames off what a container without a terminal said: 4 bytes that tell the stream, 4 that tell the length.
type plain struct {
	ctx  context.Context //nolint:containedctx // it is the reader's life: io.Reader has no place for it
	from io.ReadCloser
	left uint32
}

func (p *plain) Read(b []byte) (int, error) {
	for p.left == 0 {
		var head [8]byte
		if _, err := io.ReadFull(p.from, head[:]); err != nil {
			return 0, p.end(err)
		}
		p.left = binary.BigEndian.Uint32(head[4:])
	}
	n, err := p.from.Read(b[:min(len(b), int(p.left))])
	p.left -= uint32(n) //nolint:gosec // it is not more
	if n > 0 {
		return n, nil
	}
	return 0, p.end(err)
}

// end is the end of a log: also when nobody wants more of it.
func (p *plain) end(err error) error {
	if p.ctx.Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

func (p *plain) Close() error { return p.from.Close() }
