#!/usr/bin/busybox sh
# The guest's first process: mounts what a system has, loads the modules, runs the tests and
# switches off. The report goes to the second serial port; the console is the first.
export PATH=/usr/bin:/bin
/usr/bin/busybox mkdir -p /bin /dev /proc /sys /run /tmp /var/lib
/usr/bin/busybox --install -s /bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mkdir -p /run/netns /run/overlay

while read -r module; do
    insmod "/modules/$module" || echo "insmod $module failed"
done < /modules/order
ip link set lo up

dash /guest.sh > /dev/ttyS1 2>&1 < /dev/null
echo "guest.sh exited with $?" > /dev/ttyS1
poweroff -f
