package backend

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// tellsPeers: the system tells which process is at the other end of a unix socket.
const tellsPeers = true

// parentOf is the process that a process of this host is a child of, if both are of one user; else none, or it can't be told.
func parentOf(pid int) process {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // behind the program's name, which may be anything: proc_pid_stat(5)
	if len(fields) < 2 {
		return process{}
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	uid, ok := ownerOf(pid)
	if its, known := ownerOf(parent); !ok || !known || its != uid {
		return process{}
	}
	return process{parent, uid}
}

func ownerOf(pid int) (uid int, ok bool) {
	var st syscall.Stat_t
	err := syscall.Stat("/proc/"+strconv.Itoa(pid), &st)
	return int(st.Uid), err == nil
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

// listener is the process that listens at the other end of a unix socket; none = it can't be told.
func listener(nc net.Conn) (p process) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return p
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return p
	}
	_ = raw.Control(func(fd uintptr) {
		if c, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			p = process{int(c.Pid), int(c.Uid)}
		}
	})
	return p
}
