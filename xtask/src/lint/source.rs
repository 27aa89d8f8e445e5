//! The workspace's Rust files, read.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use walkdir::{DirEntry, WalkDir};

use super::tokens::Tokens;
use crate::workspace::Workspace;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// One file.
pub(super) struct SourceFile {
    /// From the workspace's root, for example `overlay-user/src/model/mod.rs`.
    pub(super) path: String,
    /// How many lines it has.
    pub(super) lines: usize,
    pub(super) tokens: Tokens,
}

impl SourceFile {
    pub(super) fn parse(path: &str, text: &str) -> Result<Self> {
        let tokens = text.parse().map_err(|error| anyhow!("{path}: {error}"))?;
        Ok(Self {
            path: path.to_owned(),
            lines: text.lines().count(),
            tokens: Tokens::read(tokens),
        })
    }

    /// Whether this line exists in tests alone.
    pub(super) fn is_test_line(&self, line: usize) -> bool {
        let mut folders = self.path.split('/');
        folders.any(|part| part == "tests" || part == "tests.rs")
            || self.tokens.tests.iter().any(|lines| lines.contains(&line))
    }

    pub(super) fn finding(&self, line: usize, text: String) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            text,
        }
    }
}

/// Every Rust file of every package.
pub(super) fn read(workspace: &Workspace) -> Result<Vec<SourceFile>> {
    let root = workspace.root();
    let mut files = Vec::new();
    for entry in WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(is_ours)
    {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_none_or(|extension| extension != "rs")
        {
            continue;
        }
        let text = fs::read_to_string(entry.path())
            .with_context(|| format!("reading {}", entry.path().display()))?;
        files.push(SourceFile::parse(&relative(root, entry.path()), &text)?);
    }
    Ok(files)
}

fn is_ours(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    entry.depth() == 0 || !(name.starts_with('.') || name == "target")
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_under_cfg_test_are_test_lines() {
        let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[cfg(not(test))]\nfn c() {}\n";
        let file = SourceFile::parse("p/src/x.rs", text).unwrap();
        let test_lines: Vec<usize> = (1..=8).filter(|line| file.is_test_line(*line)).collect();
        assert_eq!(test_lines, [3, 4, 5, 6]);
    }

    #[test]
    fn a_file_of_a_tests_folder_is_a_test() {
        let file = SourceFile::parse("p/src/x/tests.rs", "fn a() {}").unwrap();
        assert!(file.is_test_line(1));
    }
}
