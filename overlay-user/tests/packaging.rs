//! What is packaged beside the binary fits it.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};

use clap::{Command, CommandFactory as _};
use overlay_user::{cli::Cli, config::Settings};
use toml::{Table, Value};

const CONFIGURATION: &str = include_str!("../packaging/overlay.toml");

/// The settings that are commented out, each with its values; prose has a space behind its `#`.
fn settings() -> BTreeMap<String, Vec<Value>> {
    let mut settings: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in CONFIGURATION
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
    {
        if line.starts_with(' ') {
            continue;
        }
        let table: Table = line.parse().expect("a setting that is commented out");
        for (key, value) in table {
            settings.entry(key).or_default().push(value);
        }
    }
    settings
}

fn run() -> Command {
    Cli::command().find_subcommand("run").unwrap().clone()
}

/// The key in the file that stands for a flag.
fn key(flag: &clap::Arg) -> Option<String> {
    // These choose the file, or are for one call.
    let aside = ["config", "help", "version", "output", "timeout"];
    let flag = flag.get_long().filter(|flag| !aside.contains(flag))?;
    Some(flag.replace('-', "_"))
}

#[test]
fn the_packaged_configuration_changes_nothing_until_somebody_edits_it() {
    let settings: Settings = toml::from_str(CONFIGURATION).unwrap();
    assert_eq!(settings, Settings::default());
}

#[test]
fn every_setting_of_the_packaged_configuration_is_understood() {
    for (key, values) in settings() {
        for value in values {
            let text = Table::from_iter([(key.clone(), value)]).to_string();
            let read: Result<Settings, _> = toml::from_str(&text);
            assert_ne!(read.expect(&text), Settings::default(), "{text}");
        }
    }
}

#[test]
fn the_packaged_configuration_has_every_setting() {
    let mut command = Cli::command();
    command.build();
    let run = command.find_subcommand("run").unwrap();
    let flags: BTreeSet<_> = run.get_arguments().filter_map(key).collect();
    let settings: BTreeSet<_> = settings().into_keys().collect();
    assert_eq!(settings, flags);
}

#[test]
fn the_packaged_configuration_names_the_defaults_that_the_help_names() {
    let settings = settings();
    let mut compared = 0;
    for flag in run().get_arguments() {
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        let default = help
            .split_once("[default: ")
            .and_then(|(_, rest)| rest.split_once(']'))
            .map(|(default, _)| default)
            .filter(|default| !default.contains(' '));
        if let (Some(key), Some(default)) = (key(flag), default) {
            let first = match &settings[&key][0] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(first, default, "{key}");
            compared += 1;
        }
    }
    assert!(compared > 5, "{compared}");
}
