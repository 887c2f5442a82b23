package pginstance

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

func (a account) sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Setpgid:   true, // Ctrl-C in a terminal is for the parent, which stops its instances in order
		Pdeathsig: syscall.SIGINT,
	}
	if a.switchUser {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}

// childrenOf lists the direct children of pid; PostgreSQL's processes have no children of their own.
func childrenOf(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var children []int
	for _, path := range stats {
		if _, parent, ok := procStat(path); ok && parent == pid {
			if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// procStat reads state and parent from a /proc/PID/stat file.
func procStat(path string) (state byte, parent int, ok bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, false
	}
	end := bytes.LastIndexByte(data, ')') // the name before it may hold anything
	if end < 0 {
		return 0, 0, false
	}
	fields := bytes.Fields(data[end+1:])
	if len(fields) < 2 || len(fields[0]) != 1 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent, err == nil
}

// killChildren ends the children of a stopped postmaster with SIGKILL, and returns when none of them runs any more.
func killChildren(pid int) {
	children := childrenOf(pid)
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	for _, child := range children {
		waitDead(child)
	}
}

// killOrphan ends the postmaster with this data folder, left by a process that is gone.
func killOrphan(pid int, dataDir string) {
	if cwd, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd"); err != nil || cwd != dataDir {
		return // it ended, and the number may be somebody else's by now
	}
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	killChildren(pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	waitDead(pid)
}

// waitDead waits until pid does not run; a zombie does not.
func waitDead(pid int) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if state, _, ok := procStat(path); !ok || state == 'Z' || state == 'X' {
			return
		}
	}
}
