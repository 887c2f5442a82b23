#!/bin/sh
# Starts systemd as PID 1 of namespaces of its own, on a copy of this host's file system that is kept in memory. It does nothing by itself.
#   boot.sh DIR NAME PROGRAM   DIR is an empty directory, NAME that of its cgroups, PROGRAM is copied to /opt/program
set -e
if [ "$3" != inside ]; then
  # Its cgroups are below those of this name: with the namespace, it takes that for the root.
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$2"
    echo $$ > "/sys/fs/cgroup/$2/cgroup.procs"
  else
    for c in cpu cpuacct memory blkio pids systemd; do
      [ -d "/sys/fs/cgroup/$c" ] || continue
      mkdir -p "/sys/fs/cgroup/$c/$2"
      echo $$ > "/sys/fs/cgroup/$c/$2/cgroup.procs"
    done
  fi
  exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child sh "$0" "$1" "$2" inside "$3"
fi
v2=; [ -e /sys/fs/cgroup/cgroup.controllers ] && v2=1
controllers=; for c in cpu cpuacct memory blkio pids; do [ -d "/sys/fs/cgroup/$c" ] && controllers="$controllers $c"; done
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=upper,workdir=work" root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
if [ "$v2" ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
  for c in $controllers; do
    mkdir "sys/fs/cgroup/$c"
    mount -t cgroup -o "$c" cgroup "sys/fs/cgroup/$c"
  done
  mkdir sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
ip link set lo up 2>/dev/null || ifconfig lo up
# Nothing of what a host does at its start is wanted: some of it reaches beyond the namespaces, such as sysctl.
rm -rf usr/lib/systemd/system/*.target.wants etc/systemd/system/*.wants
printf '[Unit]\nDescription=nothing but the bus\nWants=dbus.socket\n' > etc/systemd/system/pgkennel-test.target
mkdir -p mnt/old opt
cp "$4" opt/program
pivot_root . mnt/old
umount -l /mnt/old
mount --make-rshared / # as systemd does where it does not take itself for a container's
exec env -i container=lxc PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system systemd.unit=pgkennel-test.target </dev/null >/run/boot.log 2>&1
