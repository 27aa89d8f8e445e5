//! Modules of one module that import each other, be it through others.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Finding;

/// For each module, which of its own modules imports which, and a line where it does.
pub(super) type Graph = BTreeMap<String, Imports>;
type Imports = BTreeMap<String, BTreeMap<String, Finding>>;

/// Every circle, import by import.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (parent, imports) in graph {
        for circle in circles(imports) {
            let names = circle.iter().map(|name| name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            let inside = imports.iter().filter(|(from, _)| circle.contains(from));
            let edges = inside.flat_map(|(_, to)| to.iter().filter(|(to, _)| circle.contains(to)));
            findings.extend(edges.map(|(_, edge)| Finding {
                text: format!("a circle in {parent}, {names}: {}", edge.text),
                ..edge.clone()
            }));
        }
    }
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
    fn findings(imports: &[(&str, &str)]) -> Vec<String> {
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
        find(&graph).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_circle_is_found_with_its_imports_and_no_other() {
        assert_eq!(findings(&[("a", "b"), ("a", "c"), ("b", "c")]), [""; 0]);
        let imports = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")];
        let found = findings(&imports);
        assert_eq!(
            found,
            [
                "a.rs:1: a circle in user::new, a, b, c: a imports b",
                "b.rs:1: a circle in user::new, a, b, c: b imports c",
                "c.rs:1: a circle in user::new, a, b, c: c imports a",
            ]
        );
    }
}
