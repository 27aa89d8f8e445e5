# What has to work on every kernel: the table tests, then two hosts, as namespaces, with an agent
# each and one endpoint each:
#
#   blue 7.7.7.2 --- h1 192.0.2.1 === veth === 192.0.2.2 h2 --- 7.7.7.3 green
#        fd07::2                                                fd07::3
#
# Reports in the lines of cargo's test programs. The modules are loaded, bpffs is mounted.

passed=0
failed=0

# check NAME: a test is the function of that name; its output shows when it fails.
check() {
    if "$1" > /tmp/output 2>&1; then
        passed=$((passed + 1))
        echo "test guest::$1 ... ok"
    else
        failed=$((failed + 1))
        echo "test guest::$1 ... FAILED"
        cat /tmp/output
        return 1
    fi
}

# Tries a command until it works: emulation is slow, and no fixed time would be right.
eventually() {
    for _ in $(seq 150); do
        "$@" > /tmp/attempt 2>&1 && return
        sleep 0.2
    done
    echo "still failing: $*"
    cat /tmp/attempt
    return 1
}

start_agent() {
    nsenter --net="/run/netns/$1" overlay --instance "$1" run --node "$1" --iface "$2" --vni 42 \
        --registry sqlite:///tmp/registry.db > "/tmp/$1.log" 2>&1 &
    echo $! > "/tmp/$1.pid"
    eventually is_ready "$1" || { cat "/tmp/$1.log"; return 1; }
}

is_ready() {
    [ "$(status "$1" .ready)" = true ]
}

# status INSTANCE FILTER: one value of the agent's state.
status() {
    overlay --instance "$1" -o json status | jq -r "$2"
}

underlay_is_up() {
    ip netns add h1 && ip netns add h2 &&
        ip link add under1 netns h1 type veth peer name under2 netns h2 &&
        ip -n h1 addr add 192.0.2.1/24 dev under1 && ip -n h1 link set under1 up &&
        ip -n h2 addr add 192.0.2.2/24 dev under2 && ip -n h2 link set under2 up &&
        eventually nsenter --net=/run/netns/h1 ping -c 1 -W 1 192.0.2.2
}

agents_get_ready() {
    start_agent h1 under1 && start_agent h2 under2
}

# Linux 6.6 brought tcx; where it is, nothing else is right.
programs_attach_the_way_this_kernel_has() {
    expected=tcx
    case $(uname -r) in [1-5].* | 6.[0-5].*) expected=clsact ;; esac
    [ "$(status h1 .datapath.attach)" = "$expected" ] || { overlay --instance h1 status; return 1; }
}

endpoints_can_be_added() {
    overlay --instance h1 endpoint add blue --vni 42 --ip 7.7.7.2/24 --ip fd07::2/64 &&
        overlay --instance h2 endpoint add green --vni 42 --ip 7.7.7.3/24 --ip fd07::3/64
}

ping_crosses_the_tunnel_both_ways() {
    eventually nsenter --net=/run/netns/blue ping -c 1 -W 1 7.7.7.3 &&
        nsenter --net=/run/netns/blue ping -c 5 -i 0.2 7.7.7.3 &&
        nsenter --net=/run/netns/green ping -c 5 -i 0.2 7.7.7.2
}

tcp_carries_every_byte_both_ways() {
    dd if=/dev/urandom of=/tmp/sent bs=64k count=16 &&
        tcp_carries blue green 7.7.7.3 && tcp_carries green blue 7.7.7.2 &&
        tcp_carries blue green fd07::3 && tcp_carries green blue fd07::2
}

# tcp_carries FROM TO ADDRESS: /tmp/sent arrives as it is.
tcp_carries() {
    rm -f /tmp/got
    nsenter --net="/run/netns/$2" busybox nc -l -p 5000 -e dd of=/tmp/got &
    server=$!
    eventually listens "$2" &&
        nsenter --net="/run/netns/$1" busybox nc -w 20 "$3" 5000 < /tmp/sent
    wait "$server" && cmp /tmp/sent /tmp/got
}

# Port 5000 as /proc writes it; 0A is LISTEN.
listens() {
    nsenter --net="/run/netns/$1" grep -q ':1388 .* 0A ' /proc/net/tcp /proc/net/tcp6
}

# Elsewhere a limit lets through what is a little late, and drops what is too late.
what_an_endpoint_sends_too_fast_waits_in_a_fair_queue() {
    nsenter --net=/run/netns/h1 tc qdisc replace dev under1 root fq &&
        overlay --instance h1 qos create slow --egress 1mbit --burst 2kb &&
        overlay --instance h1 endpoint set blue --qos slow &&
        eventually is_paced || return 1
    before=$(throttled)
    nsenter --net=/run/netns/blue ping -c 60 -i 0.002 -s 1000 7.7.7.3
    after=$(throttled)
    echo "throttled: $before, then $after"
    [ "$after" -gt "$before" ] &&
        nsenter --net=/run/netns/h1 tc qdisc del dev under1 root && eventually is_not_paced
}

is_paced() {
    ls /sys/fs/bpf/overlay/h1/v*/links/pace-* ||
        nsenter --net=/run/netns/h1 tc filter show dev under1 egress | grep -q pace
}

is_not_paced() {
    ! is_paced
}

# How many packets the queue has made wait.
throttled() {
    nsenter --net=/run/netns/h1 tc -s -j qdisc show dev under1 | jq '.[0].throttled // 0'
}

the_datapath_outlives_a_killed_agent() {
    kill -9 "$(cat /tmp/h1.pid)" && nsenter --net=/run/netns/blue ping -c 3 -i 0.2 7.7.7.3
}

down_leaves_nothing_behind() {
    overlay --instance h1 down && overlay --instance h2 down &&
        [ ! -e /run/netns/blue ] && [ ! -e /run/netns/green ] &&
        [ ! -e /sys/fs/bpf/overlay/h1 ] && [ ! -e /sys/fs/bpf/overlay/h2 ] &&
        ! bpftool prog show | grep -E 'endpoint_ingress|underlay_ingress'
}

programs --test-threads 2
programs_status=$?
OVERLAY_BIN=/usr/bin/overlay hosts --test-threads 1 an_upgrade_under_traffic
upgrade_status=$?

# Each of these rests on the ones before it: the first failure ends them.
check underlay_is_up &&
    check agents_get_ready &&
    check programs_attach_the_way_this_kernel_has &&
    check endpoints_can_be_added &&
    check ping_crosses_the_tunnel_both_ways &&
    check tcp_carries_every_byte_both_ways &&
    check what_an_endpoint_sends_too_fast_waits_in_a_fair_queue &&
    check the_datapath_outlives_a_killed_agent &&
    check down_leaves_nothing_behind

result=ok
[ "$failed" -eq 0 ] || result=FAILED
echo "test result: $result. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
[ "$failed" -eq 0 ] && [ "$programs_status" -eq 0 ] && [ "$upgrade_status" -eq 0 ]
