//! What Prometheus and Grafana load from us, judged by Prometheus' own tool.

use std::{fs, process::Command};

use serde_json::{Value, json};

const FOLDER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../overlay-user/packaging/prometheus"
);
const DASHBOARD: &str = include_str!("../../../overlay-user/packaging/grafana/overlay.json");

/// Runs promtool in the folder of the rules; gives what it says.
fn promtool(words: &[&str]) -> String {
    let outcome = Command::new("promtool")
        .args(words)
        .current_dir(FOLDER)
        .output()
        .expect("promtool is there: `cargo xtask test` brings it");
    let said = String::from_utf8_lossy(&outcome.stdout) + String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.status.success(), "{words:?}: {said}");
    said.into_owned()
}

#[test]
fn the_alert_rules_load() {
    let said = promtool(&["check", "rules", "overlay.rules.yml"]);
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    promtool(&["test", "rules", "overlay.rules.test.yml"]);
    let [rules, tests] = ["overlay.rules.yml", "overlay.rules.test.yml"]
        .map(|file| fs::read_to_string(format!("{FOLDER}/{file}")).unwrap());
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        let fires = format!("- alertname: {alert}\n");
        assert_eq!(
            tests.matches(&fires).count(),
            2,
            "{alert}: fires and does not"
        );
    }
}

/// Prometheus understands every query of the dashboard.
#[test]
fn prometheus_understands_every_query() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten()
        .map(|target| target["expr"].as_str().unwrap());
    let rules: Vec<_> = queries
        .enumerate()
        .map(|(number, query)| {
            // Grafana puts an interval in its place before Prometheus sees it.
            let query = query.replace("$__rate_interval", "1m");
            json!({"record": format!("query:{number}"), "expr": query})
        })
        .collect();
    assert!(rules.len() > 20);
    let name = format!("overlay-dashboard-{}.json", std::process::id());
    let file = std::env::temp_dir().join(name);
    // JSON is YAML too.
    let text = json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    fs::write(&file, text).unwrap();
    let said = promtool(&["check", "rules", file.to_str().unwrap()]);
    fs::remove_file(file).unwrap();
    assert!(said.contains("SUCCESS"), "{said}");
}
