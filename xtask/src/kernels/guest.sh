# The tests that run on every kernel. Prints what cargo's test programs print.
#
#   check NAME COMMAND...   one test: passes if the command does; its output shows on failure

passed=0
failed=0

check() {
    name=$1
    shift
    if "$@" > /tmp/output 2>&1; then
        passed=$((passed + 1))
        echo "test guest::$name ... ok"
    else
        failed=$((failed + 1))
        echo "test guest::$name ... FAILED"
        cat /tmp/output
    fi
}

kernel_has_btf() {
    test -s /sys/kernel/btf/vmlinux
}

vxlan_device_in_external_mode_can_be_made() {
    ip link add vx0 type vxlan external dstport 4789 && ip link set vx0 up && ip link del vx0
}

veth_crosses_namespaces() {
    ip netns add probe &&
        ip link add left type veth peer name right netns probe &&
        ip addr add 192.0.2.1/24 dev left && ip link set left up &&
        ip -n probe addr add 192.0.2.2/24 dev right && ip -n probe link set right up &&
        ping -c 1 -W 5 192.0.2.2 &&
        ip netns del probe
}

check kernel_has_btf kernel_has_btf
check vxlan_device_in_external_mode_can_be_made vxlan_device_in_external_mode_can_be_made
check veth_crosses_namespaces veth_crosses_namespaces

result=ok
[ "$failed" -eq 0 ] || result=FAILED
echo "test result: $result. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
[ "$failed" -eq 0 ]
