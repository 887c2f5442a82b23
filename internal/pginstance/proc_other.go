//go:build unix && !linux

package pginstance

import "syscall"

// Systems other than Linux have no death signal: an instance whose process is killed goes on until somebody stops it.

func (a account) sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a.switchUser {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}

func childrenOf(int) []int { return nil }

// killChildren has nothing to do: the children notice the postmaster's end and follow.
func killChildren(int) {}

// killOrphan cannot tell whose process pid is, and leaves it alone.
func killOrphan(int, string) {}
