//! Who imports whom: every path in the source, resolved and held against the table in
//! [`house`](super::house).

use std::collections::{HashMap, HashSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt as _;
use syn::visit::{self, Visit};

use super::house::{CRATES, Crate, IMPORTS, KEPT_APART, May, WRAPPED_CRATES};
use super::source::{Finding, SourceFile};

/// Findings in all files. Tests are free: they build their subject with whatever is at hand.
pub(super) fn check(files: &[SourceFile]) -> Vec<Finding> {
    let house = House::of(files);
    let mut findings = Vec::new();
    for file in files {
        let place = Place::of(&file.path);
        for path in paths(file) {
            if file.is_test_line(path.line) {
                continue;
            }
            let broken = wrapped_crate(&file.path, &path.segments).or_else(|| {
                place
                    .as_ref()
                    .and_then(|place| house.broken_by(place, &path))
            });
            findings.extend(broken.map(|rule| file.finding(path.line, rule)));
        }
    }
    findings.dedup();
    findings
}

/// A path as it is written, and the inline modules around it.
struct Path {
    line: usize,
    segments: Vec<String>,
    /// How many inline modules it is in.
    depth: usize,
}

/// Where a file stands in our crates.
struct Place {
    krate: &'static Crate,
    /// The file's module, without the crate.
    module: Vec<String>,
}

impl Place {
    /// None for files of packages that have no rules.
    fn of(path: &str) -> Option<Self> {
        let krate = CRATES.iter().find(|krate| path.starts_with(krate.folder))?;
        let inside = path.strip_prefix(krate.folder)?.strip_suffix(".rs")?;
        let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
        if matches!(
            module.last().map(String::as_str),
            Some("mod" | "lib" | "main")
        ) {
            module.pop();
        }
        Some(Self { krate, module })
    }

    /// The full name of what a path in this file means, crate first; none where that is not ours.
    fn resolve(&self, path: &Path) -> Option<Vec<String>> {
        let mut segments = path.segments.iter().peekable();
        let mut full = vec![self.krate.name.to_owned()];
        match segments.next()?.as_str() {
            "crate" => {}
            "self" => full.extend(self.module.iter().cloned()),
            "super" => {
                // An inline module's `super` leads to the file; only what is beyond counts.
                let mut up = 1;
                while segments.next_if(|segment| *segment == "super").is_some() {
                    up += 1;
                }
                let up = usize::saturating_sub(up, path.depth);
                let kept = self.module.len().saturating_sub(up);
                full.extend(self.module.iter().take(kept).cloned());
            }
            name => {
                let krate = CRATES
                    .iter()
                    .find(|krate| krate.extern_name == Some(name))?;
                full = vec![krate.name.to_owned()];
            }
        }
        full.extend(segments.cloned());
        Some(full)
    }
}

/// What there is to import.
struct House {
    /// For each module with a mod.rs the items that are defined there.
    defined: HashMap<String, HashSet<String>>,
    /// Every module, by its full name.
    modules: HashSet<String>,
}

impl House {
    fn of(files: &[SourceFile]) -> Self {
        let mut defined: HashMap<String, HashSet<String>> = HashMap::new();
        let mut modules = HashSet::new();
        for file in files {
            let Some(place) = Place::of(&file.path) else {
                continue;
            };
            let name = join(place.krate.name, &place.module);
            for length in 1..=place.module.len() {
                modules.extend(
                    place
                        .module
                        .get(..length)
                        .map(|part| join(place.krate.name, part)),
                );
            }
            defined
                .entry(name)
                .or_default()
                .extend(file.syntax.items.iter().filter_map(item_name));
        }
        Self { defined, modules }
    }

    /// The rule that this path breaks.
    fn broken_by(&self, place: &Place, path: &Path) -> Option<String> {
        let target = place.resolve(path)?;
        let full = target.join("::");
        let from = join(place.krate.name, place.module.get(..1)?);
        let to = target.get(..2)?.join("::");
        if !self.modules.contains(&to) {
            return None;
        }
        if from == to {
            let own = place
                .module
                .get(..2)
                .map(|module| join(place.krate.name, module))?;
            let other = target.get(..3)?.join("::");
            let apart = KEPT_APART.contains(&from.as_str());
            return (apart && other != own && self.modules.contains(&other))
                .then(|| format!("{own} imports {full}: files of {from} never import each other"));
        }

        let Some((_, may)) = IMPORTS.iter().find(|(name, _)| *name == from) else {
            return Some(format!(
                "{from} has no row in the import table of lint/house.rs"
            ));
        };
        let allowed = may.iter().any(|may| match may {
            May::ImportAll => true,
            May::Import(module) => is_within(&full, module),
            May::ImportTraits(module) => {
                let defined = self.defined.get(*module);
                *module == to
                    && target
                        .get(2)
                        .is_some_and(|item| defined.is_some_and(|d| d.contains(item)))
            }
        });
        (!allowed).then(|| {
            let list: Vec<String> = may.iter().map(describe).collect();
            let list = if list.is_empty() {
                "nothing of ours".to_owned()
            } else {
                list.join(", ")
            };
            format!("{from} imports {full}: it may import {list}")
        })
    }
}

fn join(krate: &str, module: &[String]) -> String {
    module
        .iter()
        .fold(krate.to_owned(), |name, part| format!("{name}::{part}"))
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn describe(may: &May) -> String {
    match may {
        May::ImportAll => "everything".to_owned(),
        May::Import(module) => (*module).to_owned(),
        May::ImportTraits(module) => format!("by name what {module}'s mod.rs defines"),
    }
}

fn wrapped_crate(file: &str, segments: &[String]) -> Option<String> {
    let first = segments.first()?;
    let (name, folders) = WRAPPED_CRATES.iter().find(|(name, _)| first == name)?;
    let inside = folders.iter().any(|folder| file.starts_with(folder));
    (!inside).then(|| format!("names {name}: only {} may", folders.join(", ")))
}

/// The name under which an item is known; none for what a module passes on.
fn item_name(item: &syn::Item) -> Option<String> {
    let ident = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

/// Every path of a file: in `use`, in code, in macros and in attributes.
fn paths(file: &SourceFile) -> Vec<Path> {
    let mut finder = Finder {
        depth: 0,
        found: Vec::new(),
    };
    finder.visit_file(&file.syntax);
    finder.found
}

struct Finder {
    depth: usize,
    found: Vec<Path>,
}

impl Finder {
    fn found(&mut self, line: usize, segments: Vec<String>) {
        self.found.push(Path {
            line,
            segments,
            depth: self.depth,
        });
    }

    /// A `use` names as many paths as it has leaves.
    fn leaves(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| [before, &[ident.unraw().to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.leaves(&path.tree, &with(&path.ident)),
            // `use a::{self}` is `use a`.
            syn::UseTree::Name(name) if name.ident == "self" && !before.is_empty() => {
                self.found(name.ident.span().start().line, before.to_vec());
            }
            syn::UseTree::Name(name) => {
                self.found(name.ident.span().start().line, with(&name.ident));
            }
            syn::UseTree::Rename(rename) => {
                self.found(rename.ident.span().start().line, with(&rename.ident));
            }
            syn::UseTree::Glob(glob) => {
                let line = glob
                    .star_token
                    .spans
                    .first()
                    .map_or(0, |span| span.start().line);
                self.found(line, [before, &["*".to_owned()]].concat());
            }
            syn::UseTree::Group(group) => {
                group
                    .items
                    .iter()
                    .for_each(|tree| self.leaves(tree, before));
            }
        }
    }

    /// Paths in tokens that have no syntax yet: `a`, `::`, `b`, ...
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.tokens_end(line, &mut path);
                        line = ident.span().start().line;
                    }
                    path.push(ident.unraw().to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.tokens_end(line, &mut path);
                    self.tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    self.tokens_end(line, &mut path);
                    colons = 0;
                }
            }
        }
        self.tokens_end(line, &mut path);
    }

    fn tokens_end(&mut self, line: usize, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.found(line, path);
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.leaves(&item.tree, &[]);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.found(item.ident.span().start().line, vec![item.ident.to_string()]);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.depth += 1;
        visit::visit_item_mod(self, item);
        self.depth -= 1;
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.unraw().to_string())
            .collect();
        if let Some(first) = path.segments.first()
            && segments.len() > 1
        {
            self.found(first.ident.span().start().line, segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.tokens(list.tokens.clone());
        visit::visit_meta_list(self, list);
    }
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
