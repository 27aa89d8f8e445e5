use super::*;

/// A reading in which nothing is missing.
fn full() -> Reading {
    Reading {
        is_ready: true,
        registry: RegistryReading {
            is_connected: true,
            revision: 17,
            applied: 16,
            stale_for: Duration::ZERO,
        },
        networks: 2,
        endpoints: Endpoints {
            local: 3,
            remote: 1_000_000,
            failed: 1,
        },
        peers: Some(Peers { known: 4, alive: 3 }),
        datapath: Some(DatapathReading {
            drops: BTreeMap::from([("malformed", 0), ("vni_unknown", 5)]),
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
            counters: BTreeMap::from([("misses_raised", 6), ("misses_lost", 1), ("slow_path", 2)]),
        }),
        ..Reading::default()
    }
}

fn page(reading: &Reading) -> String {
    let metrics = Metrics::new("0.1.0", 2, "tcx").unwrap();
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
        "overlay_registry_revision 17",
        "overlay_registry_applied_revision 16",
        r#"overlay_endpoints{location="remote"} 1000000"#,
        "overlay_peers_alive 3",
        r#"overlay_dropped_packets_total{reason="vni_unknown"} 5"#,
        r#"overlay_network_bytes_total{vni="42",network="blue",direction="received"} 2000"#,
        r#"overlay_map_capacity_entries{map="fdb"} 1024"#,
        r#"overlay_map_refused_rows_total{map="fdb"} 3"#,
        "overlay_misses_lost_total 1",
        r#"overlay_build_info{abi="2",attach="tcx",version="0.1.0"} 1"#,
    ] {
        says(&page, line);
    }
}

#[test]
fn a_source_that_gave_no_answer_is_left_out_and_counted() {
    let metrics = Metrics::new("0.1.0", 2, "tcx").unwrap();
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
fn what_is_carried_over_falls_into_buckets_and_its_errors_are_counted() {
    let metrics = Metrics::new("0.1.0", 2, "tcx").unwrap();
    metrics.carried(Carried::Delta, Duration::from_millis(3), 0);
    metrics.carried(Carried::Whole, Duration::from_secs(2), 3);
    let page = metrics.render(&full()).unwrap();
    for line in [
        r#"overlay_reconcile_duration_seconds_bucket{scope="delta",le="0.0025"} 0"#,
        r#"overlay_reconcile_duration_seconds_bucket{scope="delta",le="0.005"} 1"#,
        r#"overlay_reconcile_duration_seconds_sum{scope="whole"} 2"#,
        r#"overlay_reconcile_errors_total{scope="whole"} 3"#,
        r#"overlay_reconcile_errors_total{scope="delta"} 0"#,
    ] {
        says(&page, line);
    }
}

#[test]
fn counters_are_there_before_anything_happened() {
    let page = page(&Reading::default());
    for line in [
        r#"overlay_reconcile_errors_total{scope="whole"} 0"#,
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
