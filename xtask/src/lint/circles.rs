//! Modules of one module that import each other, be it through others.

use std::collections::{BTreeMap, BTreeSet};

use super::architecture::CIRCLES;
use super::source::Finding;

/// For each module, which of its own modules imports which, and a line where it does.
pub(super) type Graph = BTreeMap<String, Imports>;
type Imports = BTreeMap<String, BTreeMap<String, Finding>>;

/// Circles that the table does not have, import by import; and rows of the table that are cut by now.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut known: BTreeSet<_> = CIRCLES.into_iter().collect();
    for (parent, imports) in graph {
        for circle in circles(imports) {
            let names = circle.iter().map(|name| name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            let row = known.iter().find(|row| **row == (parent, &names)).copied();
            if row.is_some_and(|row| known.remove(&row)) {
                continue;
            }
            let inside = imports.iter().filter(|(from, _)| circle.contains(from));
            let edges = inside.flat_map(|(_, to)| to.iter().filter(|(to, _)| circle.contains(to)));
            findings.extend(edges.map(|(_, edge)| Finding {
                text: format!("a circle in {parent}, {names}: {}", edge.text),
                ..edge.clone()
            }));
        }
    }
    findings.extend(known.into_iter().map(|(parent, names)| Finding {
        path: "xtask/src/lint/architecture.rs".to_owned(),
        line: 1,
        text: format!("lists a circle in {parent} that there is not: {names}"),
    }));
    findings
}

/// Modules of which each reaches each other.
fn circles(imports: &Imports) -> BTreeSet<BTreeSet<&String>> {
    let reached: BTreeMap<_, _> = imports
        .keys()
        .map(|from| (from, reached(imports, from)))
        .collect();
    let reaches = |from, to| {
        reached
            .get(from)
            .is_some_and(|reached| reached.contains(to))
    };
    let on_circle = imports.keys().filter(|module| reaches(*module, *module));
    on_circle
        .map(|module| {
            let others = imports.keys();
            others
                .filter(|other| reaches(module, *other) && reaches(*other, module))
                .collect()
        })
        .collect()
}

fn reached<'a>(imports: &'a Imports, from: &'a String) -> BTreeSet<&'a String> {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(module) = left.pop() {
        let next = imports.get(module).into_iter().flat_map(BTreeMap::keys);
        left.extend(next.filter(|module| seen.insert(*module)));
    }
    seen
}
