//! The licences of what the agent is linked with: their texts, as they ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

use crate::workspace::Workspace;

/// How the names of such files begin, in capitals.
const NAMES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];

/// Writes each text once, under the packages that have it. A package without a text is named with
/// the licence that it declares.
pub(super) fn write(workspace: &Workspace, out: &mut dyn Write) -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(workspace.root().join("Cargo.toml"))
        .other_options(vec![
            "--filter-platform".to_owned(),
            "x86_64-unknown-linux-gnu".to_owned(),
        ])
        .exec()
        .context("asking cargo for the dependencies")?;
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in linked(&metadata)? {
        let license = package.license.as_deref().unwrap_or("see its text");
        let heading = format!("{} {} ({license})", package.name, package.version);
        let files = files(package)?;
        if files.is_empty() {
            texts.entry(String::new()).or_default().insert(heading);
            continue;
        }
        for file in files {
            let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            texts.entry(text).or_default().insert(heading.clone());
        }
    }
    for (text, packages) in texts {
        writeln!(out, "{}", "=".repeat(80))?;
        for package in packages {
            writeln!(out, "{package}")?;
        }
        writeln!(out, "\n{text}\n")?;
    }
    Ok(())
}

/// Packages of others that end up in the agent.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let resolve = metadata.resolve.as_ref().context("no dependencies")?;
    let agent = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name == "overlay-user")
        .context("no package overlay-user")?;
    let mut found: BTreeSet<&PackageId> = BTreeSet::new();
    let mut open = vec![&agent.id];
    while let Some(id) = open.pop() {
        if !found.insert(id) {
            continue;
        }
        let node = resolve.nodes.iter().find(|node| node.id == *id);
        for dependency in node.into_iter().flat_map(|node| &node.deps) {
            let mut kinds = dependency.dep_kinds.iter();
            if kinds.any(|kind| kind.kind == DependencyKind::Normal) {
                open.push(&dependency.pkg);
            }
        }
    }
    let packages = metadata.packages.iter();
    Ok(packages
        .filter(|package| package.source.is_some() && found.contains(&package.id))
        .collect())
}

fn files(package: &Package) -> Result<Vec<PathBuf>> {
    let folder = package.manifest_path.parent().context("no folder")?;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_uppercase();
        if path.is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
