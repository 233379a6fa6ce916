#!/bin/busybox sh
# The first process of a machine that runs tests. Results go out through a port of their own, so that the kernel's
# messages, which have the console, do not mix with them. The line "end" asks to be switched off.
busybox=/bin/busybox

# A root that is mounted over the first one, as on an installed system: pivot_root, which container engines use,
# refuses the first one.
if [ -z "$TASKGUARD_ROOT" ]; then
	$busybox mkdir /root.new
	$busybox mount --bind / /root.new
	cd /root.new || exit 1
	$busybox mount --move . /
	TASKGUARD_ROOT=1 exec $busybox chroot . /init
fi
unset TASKGUARD_ROOT

# Behind the packages' own commands.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/busybox HOME=/root
$busybox --install -s /usr/lib/busybox

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /root
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
hostname taskguard-vm
while read -r module; do insmod "$module" || echo "init: insmod $module failed"; done </tests/modules

export TASKGUARD_REQUIRE=kernel,container TASKGUARD_BIN=/tests/bin TASKGUARD_THROWAWAY_KERNEL=1
# Emulated, the kernel's verifier takes longer than the 10 ms after which Go's runtime sends a signal to a busy thread,
# and gives up at a signal.
export GODEBUG=asyncpreemptoff=1
# A module that no test needs to be loaded, for those that load one.
TASKGUARD_MODULE=$(cat /tests/module)
export TASKGUARD_MODULE

if grep -qw taskguard.shell /proc/cmdline; then
	echo "The tests are in /tests, the source's other files in /src. The machine ends with the shell."
	cd /src && setsid cttyhack sh
	poweroff -f
fi

port=/dev/vport0p1
tries=0
until [ -c $port ] || [ $tries -eq 100 ]; do sleep 0.1; tries=$((tries + 1)); done
exec 3>$port || poweroff -f
while read -r package dir pattern; do
	cd "/src/$dir" && /tests/test2json -t -p "$package" "/tests/$dir/tests" -test.v=test2json -test.paniconexit0 \
		-test.timeout=20m -test.run="$pattern" >&3 3>&- </dev/null
done </tests/list
cd /
echo end >&3
sleep 60 # until it is switched off
poweroff -f
