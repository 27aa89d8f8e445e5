use super::stopped;

/// Command lines, and what their error says.
const BAD_INPUT: &[(&str, &str)] = &[
    (
        "ping",
        "the following required arguments were not provided: <[FROM] TO>...; see 'overlay ping --help'",
    ),
    ("ping a b c", "unexpected value 'c' for '<[FROM] TO>...'"),
    (
        "ping --size 63 a",
        "--size: write a number of bytes from 64 to 65535, or auto",
    ),
    ("ping -c 0 a", "0 is not in 1.."),
    (
        "endpoint add web --vni 0",
        "--vni: VNI \"0\" is not a number from 1 to 16777215",
    ),
    (
        "endpoint add web --vni 16777216",
        "--vni: VNI \"16777216\" is not a number from 1 to 16777215",
    ),
    (
        "endpoint add web --vni=",
        "--vni: VNI \"\" is not a number from 1 to 16777215",
    ),
    (
        "endpoint add web",
        "the following required arguments were not provided: --vni <N|NAME>; see 'overlay endpoint add --help'",
    ),
    (
        "endpoint add web --vni",
        "a value is required for '--vni <N|NAME>' but none was supplied",
    ),
    (
        "endpoint add web --vni 1 --vni 2",
        "'--vni <N|NAME>' cannot be used multiple times",
    ),
    (
        "endpoint add web --vni 1 --mac x",
        "--mac: MAC \"x\" is malformed",
    ),
    (
        "endpoint add web --vni 1 --mac ff:ff:ff:ff:ff:ff",
        "is a multicast or all-zero address",
    ),
    (
        "endpoint add web --vni 1 --ip 7.7.7",
        "--ip: IP \"7.7.7\" is malformed",
    ),
    (
        "endpoint add web --vni 1 --ip \"\"",
        "--ip: IP \"\" is malformed",
    ),
    (
        "endpoint add web --vni 1 --ip 7.7.7.0/24",
        "--ip: IP 7.7.7.0/24 is the network address",
    ),
    (
        "endpoint add web --vni 1 --netns a:b",
        "--netns: name \"a:b\" is not allowed",
    ),
    (
        "endpoint add web --vni 1 --ifname 0123456789abcdef",
        "--ifname: interface name \"0123456789abcdef\" is not allowed",
    ),
    (
        "endpoint add web --vmi 1",
        "unexpected argument '--vmi' found; tip: a similar argument exists: '--vni'; see 'overlay endpoint add --help'",
    ),
    (
        "endpoint add a/b --vni 1",
        "<NAME>: name \"a/b\" is not allowed",
    ),
    (
        "endpoint rm \"a\nb\"",
        "<NAME>: name \"a\\nb\" is not allowed",
    ),
    (
        "endpoint show",
        "the following required arguments were not provided: <NAME>",
    ),
    ("endpoint lss", "unrecognized subcommand 'lss'"),
    (
        "network create blue --vni x",
        "--vni: VNI \"x\" is not a number from 1 to 16777215, nor auto",
    ),
    (
        "network create blue --vni 1 --subnet 7.7.7.0",
        "--subnet: subnet \"7.7.7.0\" is malformed",
    ),
    (
        "network create blue --vni 1 --mtu 65536",
        "--mtu: MTU \"65536\" is not a number from 576 to 65485",
    ),
    (
        "network set blue --learning maybe",
        "--learning: \"maybe\" is neither on nor off",
    ),
    (
        "network create blue --vni 1 --mtu 100",
        "--mtu: MTU \"100\" is not a number from 576 to 65485",
    ),
    (
        "network create blue --vni 1 --flood all",
        "--flood: flood mode \"all\" is unknown: use none, head-end or multicast GROUP",
    ),
    (
        "network create blue --vni 1 --resolve lazily",
        "--resolve: resolve mode \"lazily\" is unknown: use proactive or on-demand",
    ),
    (
        "network create blue --vni 1 --flood \"multicast 10.0.0.1\"",
        "--flood: flood group 10.0.0.1 is not a multicast address",
    ),
    (
        "import arpd /x",
        "required arguments were not provided: --vni <N|NAME>",
    ),
    ("completions csh", "invalid value 'csh' for '<SHELL>'"),
    (
        "--instance a/b status",
        "--instance: name \"a/b\" is not allowed",
    ),
    (
        "-o xml status",
        "invalid value 'xml' for '--output <FORMAT>' [possible values: table, json]",
    ),
    (
        "--log a=b=c status",
        "--log: log filter \"a=b=c\" is not understood",
    ),
    ("run", "no underlay interface is named: give --iface IF"),
    (
        "run --iface \"a b\"",
        "--iface: interface name \"a b\" is not allowed",
    ),
    ("run --vni 1,0", "--vni: VNI \"0\" is not a number"),
    (
        "run --registry x.db",
        "--registry: registry URL \"x.db\" is not understood",
    ),
    (
        "run --registry etcd://root:hunter2@10.0.0.1:2379",
        "--registry: a registry URL must not hold a user or a password: write sqlite:///PATH or",
    ),
    (
        "run --iface eth0 --registry etcd://h:2379 --etcd-password-file /nowhere/p",
        "--etcd-password-file needs --etcd-user too",
    ),
    (
        "run --iface eth0 --registry etcd://h:2379 --etcd-ca /nowhere/ca.pem",
        "--etcd-ca: can't read /nowhere/ca.pem: No such file",
    ),
    (
        "run --iface eth0 --etcd-user root --etcd-password-file /nowhere/p",
        "--etcd-user is for an etcd registry",
    ),
    (
        "run --iface eth0 --etcd-insecure",
        "--etcd-insecure is for an etcd registry",
    ),
    (
        "run --metrics h1",
        "--metrics: metrics address \"h1\" is not understood: use PORT, :PORT or IP:PORT",
    ),
    (
        "run --quarantine 2d",
        "--quarantine: \"2d\" is not a time from 0s to 24h: write for example 30s",
    ),
    (
        "run --cache-entries 15",
        "--cache-entries: \"15\" is not a number of entries from 16 to 16777216",
    ),
    ("run --node \"\"", "--node: name \"\" is not allowed"),
    (
        "run --local-ip fd00::1",
        "--local-ip: IP \"fd00::1\" is malformed: write for example 10.0.0.1",
    ),
    (
        "run --port 0",
        "--port: UDP port \"0\" is not a number from 1 to 65535",
    ),
    (
        "run --port 65536",
        "--port: UDP port \"65536\" is not a number",
    ),
    (
        "run --fdb-entries 1023",
        "--fdb-entries: \"1023\" is not a number of entries from 1024 to 16777216",
    ),
    (
        "run --neighbor-entries 16777217",
        "--neighbor-entries: \"16777217\" is not a number",
    ),
    (
        "run --strict-reserved=maybe",
        "invalid value 'maybe' for '--strict-reserved",
    ),
    (
        "run --iface eth0 --config /nowhere/x.toml",
        "can't read the configuration file /nowhere/x.toml",
    ),
];

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    for (args, expected) in BAD_INPUT {
        let (code, stderr) = stopped(args);
        assert_eq!(code, 2, "{args}: {stderr}");
        let line = stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n'), "{args}: {stderr}");
        assert!(line.starts_with("error: "), "{args}: {line}");
        assert!(line.contains(expected), "{args}: {line}");
        assert!(!line.contains("hunter2"), "{args}: {line}");
    }
}
