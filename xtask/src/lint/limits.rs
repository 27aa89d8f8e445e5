//! Where `unsafe` may be, and how long a file.

use super::architecture::{LONGEST_FILE, UNSAFE};
use super::source::{Finding, SourceFile};

/// `unsafe` outside of the files that are listed for it; and listed files without any, so that the
/// list stays true.
pub(super) fn unsafe_code(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let lines = &file.tokens.unsafe_lines;
        let listed = UNSAFE.contains(&file.path.as_str());
        if listed && lines.is_empty() {
            let text = "is listed for unsafe code in lint/architecture.rs, but has none".to_owned();
            findings.push(file.finding(1, text));
        }
        if !listed {
            findings.extend(lines.iter().map(|line| {
                let text = "unsafe code in a file that lint/architecture.rs does not list for it";
                file.finding(*line, text.to_owned())
            }));
        }
    }
    findings
}

/// Files that want another look because of their length.
pub(super) fn length(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let lines = (1..=file.lines)
            .filter(|line| !file.is_test_line(*line))
            .count();
        if lines > LONGEST_FILE {
            let text = format!("{lines} lines without its tests; the limit is {LONGEST_FILE}");
            findings.push(file.finding(1, text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> [SourceFile; 1] {
        [SourceFile::parse(path, text).unwrap()]
    }

    #[test]
    fn unsafe_is_found_in_blocks_attributes_and_macros() {
        let text = "fn a() { unsafe { b() } }\n#[unsafe(no_mangle)]\nfn c() { d!(unsafe { e() }) }\n// unsafe\n";
        let lines: Vec<usize> = unsafe_code(&file("overlay-user/src/a.rs", text))
            .into_iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [1, 2, 3]);
    }

    #[test]
    fn a_listed_file_may_be_unsafe_and_has_to_be() {
        let path = UNSAFE[0];
        assert_eq!(unsafe_code(&file(path, "unsafe fn a() {}")), []);
        assert_eq!(unsafe_code(&file(path, "fn a() {}")).len(), 1);
    }

    #[test]
    fn tests_do_not_count_towards_a_files_length() {
        let code = "const A: u8 = 0;\n".repeat(LONGEST_FILE);
        let tests = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(length(&file("a/src/b.rs", &tests)), []);
        assert_eq!(
            length(&file("a/src/b.rs", &format!("{code}{code}"))).len(),
            1
        );
    }
}
