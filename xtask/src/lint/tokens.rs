//! What the lint reads from a file: its tokens, without their syntax. So macros and attributes are read as well.

use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as it is written.
pub(super) struct Path {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
    /// How many inline modules it is in.
    pub(super) depth: usize,
    /// It is a leaf of a `use`.
    pub(super) is_use: bool,
}

#[derive(Default)]
pub(super) struct Tokens {
    pub(super) paths: Vec<Path>,
    /// Names of the items that the file defines, outside of its inline modules.
    pub(super) items: Vec<String>,
    /// Lines with the word `unsafe`: a keyword, it can be nothing else.
    pub(super) unsafe_lines: Vec<usize>,
    /// Lines of what exists in tests alone.
    pub(super) tests: Vec<RangeInclusive<usize>>,
    /// How many inline modules, and how many brackets, are open.
    depth: usize,
    brackets: usize,
    is_use: bool,
}

impl Tokens {
    pub(super) fn read(tokens: TokenStream) -> Self {
        let mut read = Self::default();
        read.walk(tokens, &[]);
        read
    }

    /// Takes tokens apart; `prefix` is what stands before the braces around them: `a::{b, c::d}`.
    fn walk(&mut self, tokens: TokenStream, prefix: &[String]) {
        let (mut path, mut line, mut colons) = (Vec::new(), 0, 0);
        // The word before the path, and the line of `#[cfg(test)]` before the item.
        let (mut before, mut test) = (String::new(), None);
        self.brackets += 1;
        for token in tokens {
            let span = token.span();
            match token {
                TokenTree::Ident(ident) => {
                    let word = ident.to_string().trim_start_matches("r#").to_owned();
                    if colons != 2 {
                        before = path.last().cloned().unwrap_or(before);
                        self.end(prefix, &mut path, line);
                        line = span.start().line;
                    }
                    self.is_use |= word == "use";
                    if word == "unsafe" {
                        self.unsafe_lines.push(line);
                    }
                    if self.brackets == 1 && ITEMS.contains(&before.as_str()) {
                        self.items.push(word.clone());
                    }
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
                    before = punct.to_string();
                    colons = 0;
                    if before == ";" {
                        self.end_test(&mut test, span);
                    }
                }
                TokenTree::Group(group) if colons == 2 => {
                    let inside = [prefix, &path].concat();
                    path.clear();
                    self.walk(group.stream(), &inside);
                    colons = 0;
                }
                TokenTree::Group(group) => {
                    let is_brace = group.delimiter() == Delimiter::Brace;
                    let is_module = is_brace && before == "mod";
                    self.end(prefix, &mut path, line);
                    self.depth += usize::from(is_module);
                    self.walk(group.stream(), &[]);
                    self.depth -= usize::from(is_module);
                    // Under another condition it may exist for other reasons too.
                    if before == "#" && group.stream().to_string() == "cfg (test)" {
                        test = test.or(Some(span.start().line));
                    }
                    if is_brace {
                        self.end_test(&mut test, span);
                    }
                    (before, colons) = (String::new(), 0);
                }
                TokenTree::Literal(_) => {
                    self.end(prefix, &mut path, line);
                    colons = 0;
                }
            }
        }
        self.brackets -= 1;
        self.end(prefix, &mut path, line);
    }

    fn end_test(&mut self, test: &mut Option<usize>, end: proc_macro2::Span) {
        let lines = test.take().map(|begin| begin..=end.end().line);
        self.tests.extend(lines);
    }

    fn end(&mut self, prefix: &[String], path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        let mut segments = [prefix, &path].concat();
        // `a::{self}` is `a`.
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        if !path.is_empty() && (segments.len() > 1 || !prefix.is_empty()) {
            self.paths.push(Path {
                line,
                segments,
                depth: self.depth,
                is_use: self.is_use,
            });
        }
    }
}

/// What an item's name stands behind; what a module passes on is not its own.
const ITEMS: [&str; 6] = ["const", "enum", "fn", "struct", "trait", "type"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_wherever_they_are() {
        let text = "use a::{self, b::C as D, e::*};\n#[f::g(h::i)] mod j { k!(l::m); }\n\
                    fn n(o: p::Q<r::S>) { t as u::V; x::<y::Z>() }";
        let paths = Tokens::read(text.parse().unwrap()).paths.into_iter();
        let found = paths.map(|path| (path.segments.join("::"), path.depth, path.is_use));
        let found: Vec<_> = found.map(|found| format!("{found:?}")).collect();
        let expected = r#"("a", 0, true) ("a::b::C", 0, true) ("a::e::*", 0, true) ("f::g", 0, false)
            ("h::i", 0, false) ("l::m", 1, false) ("p::Q", 0, false) ("r::S", 0, false)
            ("u::V", 0, false) ("y::Z", 0, false)"#;
        let expected: Vec<_> = expected.split_whitespace().collect();
        assert_eq!(found.join(" "), expected.join(" "));
    }
}
