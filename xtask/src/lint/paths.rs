//! Every path that a file names: in `use`, in code, in macros and in attributes alike.

use std::str::FromStr as _;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::source::SourceFile;

/// A path as it is written.
pub(super) struct Path {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
    /// How many inline modules it is in.
    pub(super) depth: usize,
    /// It is a leaf of a `use`.
    pub(super) is_use: bool,
}

pub(super) fn of(file: &SourceFile) -> Result<Vec<Path>> {
    let tokens =
        TokenStream::from_str(&file.text).map_err(|error| anyhow!("{}: {error}", file.path))?;
    let mut walk = Walk::default();
    walk.tokens(tokens, &[]);
    Ok(walk.found)
}

#[derive(Default)]
struct Walk {
    found: Vec<Path>,
    depth: usize,
    is_use: bool,
}

impl Walk {
    /// Takes tokens apart; `prefix` is what stands before the braces around them: `a::{b, c::d}`.
    fn tokens(&mut self, tokens: TokenStream, prefix: &[String]) {
        let (mut path, mut line, mut colons) = (Vec::new(), 0, 0);
        // The word before the path.
        let mut before = String::new();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    let word = ident.to_string().trim_start_matches("r#").to_owned();
                    if colons != 2 {
                        before = path.last().cloned().unwrap_or(before);
                        self.end(prefix, &mut path, line);
                        line = ident.span().start().line;
                    }
                    self.is_use |= word == "use";
                    // In braces, a new name is no path.
                    if prefix.is_empty() || (word != "as" && before != "as") {
                        path.push(word);
                    } else {
                        before = word;
                    }
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Punct(punct) => {
                    if punct.as_char() == '*' && colons == 2 {
                        path.push("*".to_owned());
                    }
                    self.end(prefix, &mut path, line);
                    self.is_use &= !matches!(punct.as_char(), ';' | '<');
                    before.clear();
                    colons = 0;
                }
                TokenTree::Group(group) => {
                    let is_brace = group.delimiter() == Delimiter::Brace;
                    if is_brace && colons == 2 {
                        let inside = [prefix, &path].concat();
                        path.clear();
                        self.tokens(group.stream(), &inside);
                    } else {
                        let is_module = is_brace && before == "mod";
                        self.end(prefix, &mut path, line);
                        self.depth += usize::from(is_module);
                        self.tokens(group.stream(), &[]);
                        self.depth -= usize::from(is_module);
                    }
                    colons = 0;
                }
                TokenTree::Literal(_) => {
                    self.end(prefix, &mut path, line);
                    colons = 0;
                }
            }
        }
        self.end(prefix, &mut path, line);
    }

    fn end(&mut self, prefix: &[String], path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        let mut segments = [prefix, &path].concat();
        // `a::{self}` is `a`.
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        if !path.is_empty() && (segments.len() > 1 || !prefix.is_empty()) {
            self.found.push(Path {
                line,
                segments,
                depth: self.depth,
                is_use: self.is_use,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_wherever_they_are() {
        let text = "use a::{self, b::C as D, e::*};\n#[f::g(h::i)] mod j { k!(l::m); }\n\
                    fn n(o: p::Q<r::S>) { t as u::V; x::<y::Z>() }";
        let file = SourceFile::parse("p/src/a.rs", text).unwrap();
        let found = of(&file).unwrap().into_iter();
        let found: Vec<_> = found
            .map(|path| (path.segments.join("::"), path.depth, path.is_use))
            .collect();
        let expected = [
            ("a", 0, true),
            ("a::b::C", 0, true),
            ("a::e::*", 0, true),
            ("f::g", 0, false),
            ("h::i", 0, false),
            ("l::m", 1, false),
            ("p::Q", 0, false),
            ("r::S", 0, false),
            ("u::V", 0, false),
            ("y::Z", 0, false),
        ];
        assert_eq!(
            found,
            expected.map(|(path, depth, is_use)| (path.to_owned(), depth, is_use))
        );
    }
}
