use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

const RULES: &str = include_str!("../../../packaging/prometheus/overlay.rules.yml");
const DASHBOARD: &str = include_str!("../../../packaging/grafana/overlay.json");

/// A reading in which nothing is missing.
fn full() -> Reading {
    Reading {
        is_ready: true,
        registry: RegistryReading {
            is_followed: true,
            rejected: 3,
            is_connected: true,
            revision: 17,
            applied: 16,
            stale_for: Duration::ZERO,
        },
        parts: BTreeMap::from([("loop", Duration::from_secs(42)), ("host", Duration::ZERO)]),
        networks: 2,
        endpoints: Endpoints {
            local: 3,
            remote: 1_000_000,
            failed: 1,
        },
        peers: Some(Peers { known: 4, alive: 3 }),
        paths: BTreeMap::from([("ok", 2), ("lost", 1)]),
        datapath: Some(DatapathReading {
            drops: BTreeMap::from([("malformed", 0), ("vni_unknown", 5)]),
            classes: BTreeMap::from([("loss", 5), ("noise", 9)]),
            endpoint_drops: vec![EndpointDropSums {
                endpoint: "web".parse().unwrap(),
                vni: Some("42".parse().unwrap()),
                sent: 3,
                received: 0,
            }],
            endpoint_traffic: vec![EndpointTraffic {
                endpoint: "web".parse().unwrap(),
                vni: Some("42".parse().unwrap()),
                traffic: Traffic {
                    tx_packets: 1,
                    tx_bytes: 100,
                    rx_packets: 2,
                    rx_bytes: 200,
                },
            }],
            traffic: vec![NetworkTraffic {
                vni: "42".parse().unwrap(),
                network: Some("blue".parse().unwrap()),
                traffic: Traffic {
                    tx_packets: 10,
                    tx_bytes: 1000,
                    rx_packets: 20,
                    rx_bytes: 2000,
                },
            }],
            maps: BTreeMap::from([(
                "fdb",
                MapUsage {
                    entries: 7,
                    capacity: 1024,
                    refused: 3,
                    stale: 0,
                },
            )]),
            counters: BTreeMap::from([
                ("misses_raised", 6),
                ("misses_lost", 1),
                ("slow_route", 2),
                ("outside_sent", 4),
                ("nat_opened", 1),
                ("punts_raised", 3),
            ]),
        }),
        dhcp: BTreeMap::from([("offer", 1)]),
        pools: BTreeMap::from([("public".parse().unwrap(), [3, 504])]),
        ..Reading::default()
    }
}

fn metrics() -> Arc<Metrics> {
    let build = Build {
        version: "0.1.0",
        abi: 2,
        attach: "tcx",
    };
    Metrics::new(&build, &["change", "chore"]).unwrap()
}

fn page(reading: &Reading) -> String {
    let metrics = metrics();
    metrics.render(reading).unwrap()
}

#[track_caller]
fn says(page: &str, line: &str) {
    assert!(
        page.lines().any(|said| said == line),
        "no {line} in:\n{page}"
    );
}

#[test]
fn what_was_read_is_on_the_page() {
    let page = page(&full());
    for line in [
        "overlay_ready 1",
        r#"overlay_stalled_seconds{part="loop"} 42"#,
        r#"overlay_stalled_seconds{part="host"} 0"#,
        "overlay_registry_revision 17",
        "overlay_registry_applied_revision 16",
        r#"overlay_endpoints{location="remote"} 1000000"#,
        "overlay_peers_alive 3",
        r#"overlay_pool_used_blocks{pool="public"} 3"#,
        r#"overlay_pool_blocks{pool="public"} 504"#,
        r#"overlay_dropped_packets_total{reason="vni_unknown"} 5"#,
        r#"overlay_endpoint_packets_total{vni="42",endpoint="web",direction="sent"} 1"#,
        r#"overlay_endpoint_bytes_total{vni="42",endpoint="web",direction="received"} 200"#,
        r#"overlay_network_bytes_total{vni="42",network="blue",direction="received"} 2000"#,
        r#"overlay_map_capacity_entries{map="fdb"} 1024"#,
        r#"overlay_map_refused_rows_total{map="fdb"} 3"#,
        r#"overlay_misses_total{outcome="lost"} 1"#,
        r#"overlay_slow_path_packets_total{cause="route"} 2"#,
        r#"overlay_build_info{abi="2",attach="tcx",version="0.1.0"} 1"#,
    ] {
        says(&page, line);
    }
}

#[test]
fn a_source_that_gave_no_answer_is_left_out_and_counted() {
    let metrics = metrics();
    metrics.failed(Source::Datapath);
    let page = metrics
        .render(&Reading {
            datapath: None,
            peers: None,
            ..full()
        })
        .unwrap();
    assert!(!page.contains("overlay_dropped_packets"), "{page}");
    assert!(!page.contains("overlay_peers"), "{page}");
    says(&page, r#"overlay_scrape_errors_total{source="datapath"} 1"#);
    says(&page, r#"overlay_scrape_errors_total{source="nodes"} 0"#);
}

#[test]
fn steps_fall_into_buckets_and_their_errors_are_counted() {
    let metrics = metrics();
    metrics.step("change", Duration::from_millis(3), 0);
    metrics.step("chore", Duration::from_secs(2), 3);
    let page = metrics.render(&full()).unwrap();
    for line in [
        r#"overlay_reconcile_duration_seconds_bucket{cause="change",le="0.0025"} 0"#,
        r#"overlay_reconcile_duration_seconds_bucket{cause="change",le="0.005"} 1"#,
        r#"overlay_reconcile_duration_seconds_sum{cause="chore"} 2"#,
        r#"overlay_reconcile_errors_total{cause="chore"} 3"#,
        r#"overlay_reconcile_errors_total{cause="change"} 0"#,
    ] {
        says(&page, line);
    }
}

#[test]
fn counters_are_there_before_anything_happened() {
    let page = page(&Reading::default());
    for line in [
        r#"overlay_reconcile_errors_total{cause="chore"} 0"#,
        r#"overlay_misses_answered_total{outcome="negative"} 0"#,
        r#"overlay_cache_removals_total{cause="full"} 0"#,
    ] {
        says(&page, line);
    }
}

#[test]
fn no_family_is_there_twice_and_each_has_help_and_a_type() {
    let page = page(&full());
    let words = |prefix: &str| -> Vec<&str> {
        page.lines()
            .filter_map(|line| line.strip_prefix(prefix)?.split(' ').next())
            .collect()
    };
    let (help, types) = (words("# HELP "), words("# TYPE "));
    assert_eq!(help, types);
    assert!(help.is_sorted() && help.windows(2).all(|pair| pair[0] != pair[1]));
}

/// The names of metrics in a text: ours, and those of every process.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.starts_with("overlay_") || word.starts_with("process_"))
        .collect()
}

/// The names of the series that a full page has.
fn exported(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn alert_rules_and_dashboard_name_only_metrics_that_there_are() {
    let page = page(&full());
    let exported = exported(&page);
    for (file, text) in [("rules", RULES), ("dashboard", DASHBOARD)] {
        let unknown: Vec<_> = names(text)
            .into_iter()
            .filter(|name| !exported.contains(*name))
            .collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn every_metric_of_ours_is_on_the_dashboard_or_in_an_alert_rule() {
    let page = page(&full());
    let used: BTreeSet<&str> = names(RULES).union(&names(DASHBOARD)).copied().collect();
    let families = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    // How many there are is no news, and a scrape that lacks a part shows as gaps.
    let aside = [
        "overlay_networks",
        "overlay_registry_revision",
        "overlay_scrape_errors_total",
    ];
    for family in families.filter(|name| name.starts_with("overlay_") && !aside.contains(name)) {
        let is_used = used.iter().any(|name| name.starts_with(family));
        assert!(is_used, "{family}");
    }
}

#[test]
fn the_dashboard_has_what_grafana_wants_of_one() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    // Grafana gives a new one its id.
    assert_eq!(dashboard["id"], Value::Null);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(variables[0]["type"], "datasource");
    assert_eq!(variables[0]["name"], "datasource");
    assert_eq!(variables[0]["query"], "prometheus");

    let mut ids = BTreeSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        for side in ["h", "w", "x", "y"] {
            assert!(panel["gridPos"][side].is_u64(), "{title}");
        }
        let right =
            panel["gridPos"]["x"].as_u64().unwrap() + panel["gridPos"]["w"].as_u64().unwrap();
        assert!(right <= 24, "{title}");
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(!target["expr"].as_str().unwrap().is_empty(), "{title}");
        }
        let letters: BTreeSet<_> = targets
            .iter()
            .map(|target| target["refId"].as_str())
            .collect();
        assert_eq!(letters.len(), targets.len(), "{title}");
    }
    assert!(panels.len() > 10);
}
