use std::io::Write;

use clap::Parser;
use tempfile::NamedTempFile;

use super::*;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
}

fn flags(args: &[&str]) -> Settings {
    Flags::try_parse_from(std::iter::once("run").chain(args.iter().copied()))
        .unwrap()
        .settings
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn refused(text: &str) -> String {
    let file = file(text);
    let error = Config::load(Settings::default(), Some(file.path())).unwrap_err();
    error
        .to_string()
        .replace(&*file.path().to_string_lossy(), "FILE")
}

fn access(url: &str, quarantine: u64) -> RegistrySettings {
    RegistrySettings {
        quarantine: Duration::from_secs(quarantine),
        ..RegistrySettings::new(url.into())
    }
}

#[test]
fn defaults_fill_what_nobody_says() {
    let config = Config::load(flags(&["--iface", "eth0", "--node", "h1"]), None).unwrap();
    let expected = Config {
        instance: "default".parse().unwrap(),
        iface: "eth0".parse().unwrap(),
        uplink: "eth0".parse().unwrap(),
        snat_ports: 49_152..=65_535,
        vnis: vec![],
        gateway: None,
        registry: access("sqlite:///var/lib/overlay/registry.db", 30),
        node: "h1".parse().unwrap(),
        local_ip: None,
        port: 4789,
        socket_group: None,
        fdb_capacity: 262_144,
        neighbor_capacity: 262_144,
        strict_reserved: false,
        node_grace: Duration::from_mins(1),
        cache: CacheLimits {
            entries: 65_536,
            idle: Duration::from_mins(5),
            negative_ttl: Duration::from_secs(5),
        },
        metrics: None,
        metrics_endpoints: false,
        log_format: LogFormat::Text,
        log: "info".into(),
    };
    assert_eq!(config, expected);
}

#[test]
fn every_key_of_the_file_counts() {
    let ca = file("PEM");
    let ca_key = format!("etcd_ca = \"{}\"\n", ca.path().display());
    let settings = "instance = \"h1\"\nlog = \"json,debug\"\niface = \"u1\"\nvni = [42, 43, 42]\n\
         registry = \"etcd://a:2379,[::1]:2379\"\nnode = \"n1\"\nlocal_ip = \"10.0.0.1\"\n\
         port = 4790\nsocket_group = \"overlay\"\nfdb_entries = 1024\n\
         neighbor_entries = 16777216\nstrict_reserved = true\nquarantine = \"10s\"\n\
         node_grace = \"5s\"\ncache_entries = 16\ncache_idle = \"1s\"\n\
         negative_ttl = \"200ms\"\nmetrics = \":9090\"\nmetrics_endpoints = true\n";
    let file = file(&format!("{settings}{ca_key}"));
    let config = Config::load(Settings::default(), Some(file.path())).unwrap();
    let expected = Config {
        instance: "h1".parse().unwrap(),
        iface: "u1".parse().unwrap(),
        uplink: "u1".parse().unwrap(),
        snat_ports: 49_152..=65_535,
        vnis: vec!["42".parse().unwrap(), "43".parse().unwrap()],
        gateway: None,
        registry: RegistrySettings {
            ca: Some(ca.path().to_owned()),
            ..access("etcd://a:2379,[::1]:2379", 10)
        },
        node: "n1".parse().unwrap(),
        local_ip: Some(Ipv4Addr::new(10, 0, 0, 1)),
        port: 4790,
        socket_group: Some("overlay".into()),
        fdb_capacity: 1024,
        neighbor_capacity: 16_777_216,
        strict_reserved: true,
        node_grace: Duration::from_secs(5),
        cache: CacheLimits {
            entries: 16,
            idle: Duration::from_secs(1),
            negative_ttl: Duration::from_millis(200),
        },
        metrics: Some("127.0.0.1:9090".parse().unwrap()),
        metrics_endpoints: true,
        log_format: LogFormat::Json,
        log: "debug".into(),
    };
    assert_eq!(config, expected);
}

#[test]
fn a_flag_beats_the_file() {
    let file = file("iface = \"u1\"\nvni = [42]\nport = 4790\nstrict_reserved = true\n");
    let flags = flags(&[
        "--iface=u2",
        "--vni=7",
        "--vni=8",
        "--strict-reserved=false",
    ]);
    let config = Config::load(flags, Some(file.path())).unwrap();
    assert_eq!(config.iface.as_str(), "u2");
    assert_eq!(config.vnis, ["7".parse().unwrap(), "8".parse().unwrap()]);
    assert_eq!(config.port, 4790);
    assert!(!config.strict_reserved);
}

#[test]
fn a_switch_without_a_value_is_on() {
    assert_eq!(flags(&["--strict-reserved"]).strict_reserved, Some(true));
}

#[test]
fn an_unknown_key_is_refused_with_its_name_the_file_and_the_line() {
    let line = refused("iface = \"u1\"\nifcae = \"u2\"\n");
    assert!(
        line.starts_with("configuration file FILE, line 2: unknown field `ifcae`"),
        "{line}"
    );
    assert!(!line.contains('\n'), "{line}");
}

#[test]
fn a_wrong_value_in_the_file_is_refused_in_the_words_of_the_flag() {
    for (text, expected) in [
        (
            "\nvni = [0]",
            "configuration file FILE, line 2: VNI \"0\" is not a number from 1 to 16777215, nor a network's name",
        ),
        (
            "port = 0",
            "configuration file FILE, line 1: UDP port \"0\" is not a number from 1 to 65535",
        ),
        (
            "port = -4789",
            "configuration file FILE, line 1: UDP port \"-4789\" is not a number from 1 to 65535",
        ),
        (
            "fdb_entries = 16777217",
            "configuration file FILE, line 1: \"16777217\" is not a number of entries from 1024 to 16777216",
        ),
    ] {
        assert_eq!(refused(text), expected);
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    let error = Config::load(Settings::default(), Some(Path::new("/nowhere/x.toml")));
    assert_eq!(
        error.unwrap_err().to_string(),
        "can't read the configuration file /nowhere/x.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn the_underlay_interface_must_be_named() {
    assert!(matches!(
        Config::load(Settings::default(), None),
        Err(ConfigError::NoInterface)
    ));
}

#[test]
fn every_hostname_makes_a_name() {
    for (host, name) in [
        ("h1.example.org", "h1.example.org"),
        ("-_x y", "x-y"),
        ("ümlaut", "mlaut"),
        ("", "node"),
        ("---", "node"),
    ] {
        assert_eq!(name_from_host(host).as_str(), name);
    }
    assert_eq!(name_from_host(&"a".repeat(64)).as_str().len(), 63);
}

#[test]
fn an_instance_has_its_socket_lock_and_pins() {
    let paths = InstancePaths::new(&"h1".parse().unwrap());
    assert_eq!(paths.socket, Path::new("/run/overlay/h1.sock"));
    assert_eq!(paths.lock, Path::new("/run/overlay/h1.lock"));
    assert_eq!(paths.pins, Path::new("/sys/fs/bpf/overlay/h1"));
    let dotted = InstancePaths::new(&"a.b".parse().unwrap());
    assert_eq!(dotted.pins, Path::new("/sys/fs/bpf/overlay/a%2eb"));
}

#[test]
fn a_gateway_is_one_networks() {
    let load = |more: &[&str]| {
        let all = [&["--iface", "eth0", "--gateway", "7.7.7.1/24"], more].concat();
        Config::load(flags(&all), None)
    };
    let config = load(&["--vni", "42"]).unwrap();
    assert_eq!(config.gateway, Some("7.7.7.1/24".parse().unwrap()));
    for (more, count) in [(&[][..], 0), (&["--vni", "42,43"], 2)] {
        let error = load(more).unwrap_err().to_string();
        let expected =
            format!("--gateway is for one network, and there are {count}: name it with --vni");
        assert_eq!(error, expected);
    }
    let file = file("iface = \"u1\"\nvni = [42]\ngateway = \"7.7.7.1/24\"\n");
    let config = Config::load(Settings::default(), Some(file.path())).unwrap();
    assert_eq!(config.gateway, Some("7.7.7.1/24".parse().unwrap()));
}
