//! Modules of one module that import each other, be it through others.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Finding;

/// For each module, which of its own modules imports which, and a line where it does.
pub(super) type Graph = BTreeMap<String, Imports>;
type Imports = BTreeMap<String, BTreeMap<String, Finding>>;

/// Circles that the table does not have, import by import; and rows of the table that are cut by now.
pub(super) fn find(graph: &Graph, table: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut known: BTreeSet<_> = table.iter().copied().collect();
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
    let all: BTreeMap<_, _> = imports
        .keys()
        .map(|from| (from, reached(imports, from)))
        .collect();
    let leads = |from, to| all.get(from).is_some_and(|reached| reached.contains(to));
    let on_circle = imports.keys().filter(|module| leads(*module, *module));
    on_circle
        .map(|module| {
            let others = imports.keys();
            others
                .filter(|other| leads(module, *other) && leads(*other, module))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings of modules of `user::new` that import each other so.
    fn findings(imports: &[(&str, &str)], table: &[(&str, &str)]) -> Vec<String> {
        let mut graph = Graph::new();
        for (from, to) in imports {
            let edge = Finding {
                path: format!("{from}.rs"),
                line: 1,
                text: format!("{from} imports {to}"),
            };
            let parent = graph.entry("user::new".to_owned()).or_default();
            let of_module = parent.entry((*from).to_owned()).or_default();
            of_module.insert((*to).to_owned(), edge);
        }
        find(&graph, table)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_circle_is_found_with_its_imports_and_no_other() {
        assert_eq!(
            findings(&[("a", "b"), ("a", "c"), ("b", "c")], &[]),
            [""; 0]
        );
        let imports = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")];
        let found = findings(&imports, &[]);
        assert_eq!(
            found,
            [
                "a.rs:1: a circle in user::new, a, b, c: a imports b",
                "b.rs:1: a circle in user::new, a, b, c: b imports c",
                "c.rs:1: a circle in user::new, a, b, c: c imports a",
            ]
        );
    }

    #[test]
    fn a_row_is_a_circle_that_there_is() {
        let table = [("user::new", "a, b")];
        assert_eq!(findings(&[("a", "b"), ("b", "a")], &table), [""; 0]);
        let found = findings(&[("a", "b")], &table);
        assert!(
            found[0].contains("user::new that there is not: a, b"),
            "{found:?}"
        );
    }
}
