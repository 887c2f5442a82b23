// Package store keeps the directory of tenants: in a file (OpenFile), for one process, or in etcd (OpenEtcd), for any number of them. A Mirror follows a
// directory and answers look-ups from memory.
//
// Both stores keep the same things: records, each with the claims that it has on names (tenant.Record.Claims) in the same transaction; and the audit, to
// which each transaction adds its entry. Records are kept as package envelope has them. One that can't be read is an error of Get, Find and List; those who watch
// don't see it.
//
// A change is never made by half. An error of Put or Delete that is neither one of tenant's nor about the record leaves open whether it was made: who
// gets one reads again.
//
// Goroutines: each Watch has its own, until its context ends; a lock and an Alive of etcd keep their lease. Close waits for all. Locks: fileStore.writer
// is held while a transaction is committed and told to watchers; fileStore.mu is taken under it, and feed.mu under that. All others are leaves.
package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store/envelope"
)

// Errors besides tenant's.
var (
	// ErrUnreachable is a store that does not answer in time.
	ErrUnreachable = errors.New("the directory can't be reached")
	// ErrNewer is a directory, or a record in it, that a newer version wrote in a way that this one does not understand.
	ErrNewer = envelope.ErrNewer
	// ErrClosed is a directory that was closed.
	ErrClosed = errors.New("the directory is closed")
)

// DamagedError is a record that can't be read. List returns the others with it.
type DamagedError = envelope.DamagedError

// moves are what a change does to claims.
type moves struct {
	keep, take, release []string
}

// plan compares the claims of a record before and after; either may be nil.
func plan(before, after *tenant.Record) moves {
	var m moves
	was, is := envelope.Claims(before), envelope.Claims(after)
	for _, c := range is {
		if slices.Contains(was, c) {
			m.keep = append(m.keep, c)
		} else {
			m.take = append(m.take, c)
		}
	}
	for _, c := range was {
		if !slices.Contains(is, c) {
			m.release = append(m.release, c)
		}
	}
	return m
}

// droppable reports whether an error says that no version can read a record.
func droppable(err error) bool { return isDamaged(err) && !errors.Is(err, ErrNewer) }

// complete fills in what an entry of the audit says of its tenant.
func complete(e tenant.Entry, r *tenant.Record) tenant.Entry {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	e.ID = r.ID
	if e.Name == "" {
		e.Name = r.Name
	}
	return e
}

// byName sorts records as List returns them.
func byName(list []*tenant.Record) {
	slices.SortFunc(list, func(a, b *tenant.Record) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
}

// pause waits, and reports whether ctx is not done yet.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// backoff doubles a pause up to a limit.
func backoff(d, limit time.Duration) time.Duration { return min(2*d, limit) }
