package backend

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// parentOf is the process that a process of this host is a child of; 0 = there is none of that number, or it can't be told.
func parentOf(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // behind the program's name, which may be anything: proc_pid_stat(5)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	return parent
}

// listening are the unix sockets whose paths end so, and at which somebody listens.
func listening(end string) (paths []string) {
	const accepts = "00010000" // __SO_ACCEPTCON
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if !strings.HasSuffix(line, end+"\n") {
			continue
		}
		fields := strings.SplitN(strings.Join(strings.Fields(line[:len(line)-len(end)-1]), " "), " ", 8) // a folder without blanks in a row
		if len(fields) == 8 && fields[3] == accepts && strings.HasPrefix(fields[7], "/") {
			paths = append(paths, fields[7]+end)
		}
	}
	return paths
}

// listener is the process that listens at the other end of a unix socket; 0 = it can't be told.
func listener(nc net.Conn) (pid int) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if c, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(c.Pid)
		}
	})
	return pid
}
