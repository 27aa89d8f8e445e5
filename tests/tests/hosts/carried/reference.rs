//! The same traffic through both.

use std::collections::BTreeMap;

use super::{
    fabric::{Fabric, Fixture},
    kinds, settings,
};

/// What arrived, by setting and kind.
fn outcomes(fabric: Fabric) -> BTreeMap<String, String> {
    let fixture = Fixture::new(fabric);
    let run = |setting: &str| -> Vec<(String, String)> {
        let kinds = kinds::ALL.iter();
        kinds
            .map(|kind| (format!("{setting}; {}", kind.name), kind.outcome(&fixture)))
            .collect()
    };
    let mut outcomes: BTreeMap<String, String> = run("as it is").into_iter().collect();
    for setting in settings::ALL {
        outcomes.extend(setting.within(&fixture, || run(&setting.name())));
    }
    outcomes
}

#[test]
fn whatever_the_kernels_pair_carries_is_carried() {
    let kernel = outcomes(Fabric::Kernel);
    let overlay = outcomes(Fabric::Overlay);
    let differences: Vec<String> = kernel
        .iter()
        .filter(|(name, outcome)| overlay.get(*name) != Some(outcome))
        .map(|(name, outcome)| format!("{name}: kernel {outcome}; overlay {}", overlay[name]))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(kernel.len(), kinds::ALL.len() * (settings::ALL.len() + 1));
    let failed = |outcome: &&String| outcome.starts_with("failed");
    assert_eq!(kernel.values().find(failed), None);
}
