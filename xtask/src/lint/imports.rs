//! Checks imports: every path in the source, resolved and held against the table in
//! [`architecture`](super::architecture).

use std::collections::{HashMap, HashSet};

use super::architecture::{CRATES, Crate, IMPORTS, KEPT_APART, WRAPPED_CRATES};
use super::circles::Graph;
use super::source::{Finding, SourceFile};
use super::tokens::Path;

/// Findings in all files. Tests are free: they build their subject with whatever is at hand.
pub(super) fn check(files: &[SourceFile]) -> Vec<Finding> {
    let modules = Modules::of(files);
    let mut findings = Vec::new();
    each_path(files, |file, place, path| {
        let wrapped = wrapped_crate(&file.path, &path.segments);
        let broken = wrapped.or_else(|| modules.broken_by(place?, path));
        findings.extend(broken.map(|rule| file.finding(path.line, rule)));
    });
    findings.dedup();
    findings
}

/// Which modules of each module import each other.
pub(super) fn graph(files: &[SourceFile]) -> Graph {
    let modules = Modules::of(files);
    let mut graph = Graph::default();
    each_path(files, |file, place, path| {
        let siblings = place.and_then(|place| modules.siblings(place, path));
        let Some((parent, from, to)) = siblings else {
            return;
        };
        let line = file.finding(path.line, format!("{from} imports {to}"));
        let imported = graph.entry(parent).or_default().entry(from).or_default();
        imported.entry(to).or_insert(line);
    });
    graph
}

/// Calls `see` with every path outside of tests.
fn each_path(files: &[SourceFile], mut see: impl FnMut(&SourceFile, Option<&Place>, &Path)) {
    for file in files {
        let place = Place::of(&file.path);
        let paths = file.tokens.paths.iter();
        for path in paths.filter(|path| !file.is_test_line(path.line)) {
            see(file, place.as_ref(), path);
        }
    }
}

/// Where a file stands in our crates.
struct Place {
    krate: &'static Crate,
    /// The file's module, crate first.
    module: Vec<String>,
}

impl Place {
    /// None for files of packages that have no rules.
    fn of(path: &str) -> Option<Self> {
        let krate = CRATES.iter().find(|krate| path.starts_with(krate.folder))?;
        let inside = path.strip_prefix(krate.folder)?.strip_suffix(".rs")?;
        let mut module = vec![krate.name.to_owned()];
        module.extend(inside.split('/').map(str::to_owned));
        if let Some("mod" | "lib" | "main") = module.last().map(String::as_str) {
            module.pop();
        }
        Some(Self { krate, module })
    }

    /// The full name of what a path in this file means, crate first; none where that is not ours.
    fn resolve(&self, path: &Path) -> Option<Vec<String>> {
        let mut segments = path.segments.iter().peekable();
        let mut full = match segments.next()?.as_str() {
            "crate" => vec![self.krate.name.to_owned()],
            "self" => self.module.clone(),
            "super" => {
                // An inline module's `super` leads to the file; only what is beyond counts.
                let mut up = 1;
                while segments.next_if(|segment| *segment == "super").is_some() {
                    up += 1;
                }
                let up = usize::saturating_sub(up, path.depth);
                let kept = self.module.len().saturating_sub(up).max(1);
                self.module.iter().take(kept).cloned().collect()
            }
            name => {
                let mut crates = CRATES.iter();
                let krate = crates.find(|krate| krate.extern_name == Some(name))?;
                vec![krate.name.to_owned()]
            }
        };
        full.extend(segments.cloned());
        Some(full)
    }
}

/// What there is to import.
struct Modules {
    /// Every module, by its full name, and the items that are defined in its own file.
    defined: HashMap<String, HashSet<String>>,
    /// What a module passes on from one of its modules: its name there, and the module's.
    passed_on: HashMap<String, String>,
}

impl Modules {
    fn of(files: &[SourceFile]) -> Self {
        let places = || files.iter().filter_map(|f| Some((f, Place::of(&f.path)?)));
        let mut defined: HashMap<String, HashSet<String>> = HashMap::new();
        for (file, place) in places() {
            for length in 1..=place.module.len() {
                defined
                    .entry(
                        place
                            .module
                            .iter()
                            .take(length)
                            .cloned()
                            .collect::<Vec<_>>()
                            .join("::"),
                    )
                    .or_default();
            }
            let items = file.tokens.items.iter().cloned();
            defined
                .entry(place.module.join("::"))
                .or_default()
                .extend(items);
        }
        let mut passed_on = HashMap::new();
        for (file, place) in places() {
            let module = place.module.join("::");
            for path in file.tokens.paths.iter().filter(|path| path.is_use) {
                let mut segments = path.segments.iter().filter(|segment| *segment != "self");
                if let (Some(child), Some(name)) = (segments.next(), segments.next_back())
                    && defined.contains_key(&format!("{module}::{child}"))
                {
                    passed_on.insert(format!("{module}::{name}"), child.clone());
                }
            }
        }
        Self { defined, passed_on }
    }

    /// The rule that this path breaks.
    fn broken_by(&self, place: &Place, path: &Path) -> Option<String> {
        let target = place.resolve(path)?;
        let full = target.join("::");
        let from = place.module.get(..2)?.join("::");
        let to = target.get(..2)?.join("::");
        if !self.defined.contains_key(&to) {
            return None;
        }
        if from == to {
            let (own, other) = (
                place.module.get(..3)?.join("::"),
                target.get(..3)?.join("::"),
            );
            let apart = KEPT_APART.contains(&from.as_str());
            return (apart && other != own && self.defined.contains_key(&other))
                .then(|| format!("{own} imports {full}: files of {from} never import each other"));
        }

        let Some((_, may)) = IMPORTS.iter().find(|(name, _)| *name == from) else {
            return Some(format!(
                "{from} has no row in the import table of lint/architecture.rs"
            ));
        };
        let allowed = may.split(' ').any(|may| match may.strip_prefix("traits:") {
            Some(module) => {
                let defined = self.defined.get(module);
                let has = |item| defined.is_some_and(|defined| defined.contains(item));
                module == to && target.get(2).is_some_and(has)
            }
            None => may == "*" || is_within(&full, may),
        });
        let may = if may.is_empty() {
            "nothing of ours"
        } else {
            may
        };
        (!allowed).then(|| format!("{from} imports {full}: it may import {may}"))
    }

    /// Where this path leads from one of a module's own modules to another: the three of them.
    fn siblings(&self, place: &Place, path: &Path) -> Option<(String, String, String)> {
        let target = place.resolve(path)?;
        let pairs = place.module.iter().zip(&target);
        let shared = pairs.take_while(|(from, to)| from == to).count();
        let parent = place
            .module
            .get(..shared)
            .filter(|parent| !parent.is_empty())?;
        let parent = parent.join("::");
        let (from, to) = (place.module.get(shared)?, target.get(shared)?);
        let full = format!("{parent}::{to}");
        let is_module = self.defined.contains_key(&full);
        let to = if is_module {
            Some(to)
        } else {
            self.passed_on.get(&full)
        }?;
        (from != to).then(|| (parent, from.clone(), to.clone()))
    }
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn wrapped_crate(file: &str, segments: &[String]) -> Option<String> {
    let first = segments.first()?;
    let (name, folders) = WRAPPED_CRATES.iter().find(|(name, _)| first == name)?;
    let inside = folders.iter().any(|folder| file.starts_with(folder));
    (!inside).then(|| format!("names {name}: only {} may", folders.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A house with one implementation behind a trait, and this file in it.
    fn findings(path: &str, text: &str) -> Vec<String> {
        let files = [
            ("overlay-ebpf/src/abi/mod.rs", "pub struct Key;"),
            ("overlay-ebpf/src/wire/mod.rs", ""),
            ("overlay-ebpf/src/program/maps.rs", ""),
            (
                "overlay-ebpf/src/program/stage/mod.rs",
                "pub(crate) mod encap; pub(crate) mod decap;",
            ),
            ("overlay-ebpf/src/program/stage/decap.rs", ""),
            ("overlay-user/src/model/mod.rs", ""),
            (
                "overlay-user/src/registry/mod.rs",
                "mod sqlite; pub use sqlite::Sqlite; pub trait Registry {}",
            ),
            ("overlay-user/src/registry/sqlite.rs", ""),
            ("overlay-user/src/agent/mod.rs", ""),
            ("overlay-user/src/agent/client.rs", ""),
            (path, text),
        ];
        let files: Vec<SourceFile> = files
            .iter()
            .map(|(path, text)| SourceFile::parse(path, text).unwrap())
            .collect();
        check(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_model_imports_nothing_of_ours() {
        let found = findings(
            "overlay-user/src/model/node.rs",
            "use crate::registry::Registry;",
        );
        assert_eq!(
            found,
            [
                "overlay-user/src/model/node.rs:1: user::model imports user::registry::Registry: it may \
              import nothing of ours"
            ]
        );
    }

    #[test]
    fn a_module_may_import_itself_and_other_peoples_crates() {
        let text = "use super::Name; use crate::model::Vni; use std::fmt; use self::a::B;";
        assert_eq!(findings("overlay-user/src/model/node.rs", text), [""; 0]);
    }

    #[test]
    fn the_loop_may_import_a_trait_but_no_implementation() {
        let path = "overlay-user/src/reconcile/apply.rs";
        assert_eq!(findings(path, "use crate::registry::{Registry};"), [""; 0]);
        for text in [
            "use crate::registry::sqlite::Sqlite;",
            "use crate::registry::Sqlite;",
            "use crate::registry;",
            "use crate::registry::{self};",
            "use crate::registry::*;",
            "fn f() { crate::registry::sqlite::Sqlite::open() }",
            "fn f() { dbg!(crate::registry::sqlite::Sqlite::open()) }",
            "fn f(_: super::super::registry::Sqlite) {}",
        ] {
            assert_eq!(findings(path, text).len(), 1, "{text}");
        }
    }

    #[test]
    fn the_command_line_may_import_the_agents_client_alone() {
        let path = "overlay-user/src/cli/status.rs";
        assert_eq!(findings(path, "use crate::agent::client::Client;"), [""; 0]);
        assert_eq!(findings(path, "use crate::agent::Agent;").len(), 1);
    }

    #[test]
    fn a_stage_never_imports_another_stage() {
        let path = "overlay-ebpf/src/program/stage/encap.rs";
        assert_eq!(
            findings(path, "use crate::maps; use overlay_ebpf::abi::Key;"),
            [""; 0]
        );
        assert_eq!(findings(path, "use super::decap;").len(), 1);
        assert_eq!(findings(path, "use crate::stage::decap::strip;").len(), 1);
    }

    #[test]
    fn only_the_datapath_names_aya() {
        let text = "use aya::Ebpf;";
        assert_eq!(findings("overlay-user/src/datapath/load.rs", text), [""; 0]);
        assert_eq!(findings("overlay-user/src/agent/start.rs", text).len(), 1);
    }

    #[test]
    fn tests_are_free() {
        let text = "#[cfg(test)]\nmod tests {\n    use crate::registry::sqlite::Sqlite;\n}";
        assert_eq!(
            findings("overlay-user/src/reconcile/plan.rs", text),
            [""; 0]
        );
    }

    #[test]
    fn a_new_module_needs_a_row() {
        let found = findings("overlay-user/src/drawer/mod.rs", "use crate::model::Vni;");
        assert!(found[0].contains("no row"), "{found:?}");
    }
}
