//! The binary's exit codes and streams, as far as no agent is needed.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

fn overlay(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlay"));
    command.args(args).env_clear();
    command
}

fn run(args: &[&str]) -> Output {
    overlay(args).output().expect("the binary should start")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output should be UTF-8")
}

#[test]
fn help_and_version_go_to_stdout_with_exit_code_0() {
    for args in [&["--help"][..], &["endpoint", "add", "-h"], &["--version"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text(&output.stdout).contains("overlay"), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn the_options_of_every_verb_are_explained_once() {
    let explained = |args: &[&str]| {
        let output = run(args);
        text(&output.stdout).contains("--instance <NAME>")
    };
    assert!(explained(&["--help"]));
    assert!(!explained(&["endpoint", "add", "--help"]));
    let add = run(&["endpoint", "add", "--help"]);
    let add = text(&add.stdout);
    assert!(add.contains("see `overlay --help`"), "{add}");
    // They are options of the verb all the same.
    let output = run(&["status", "--instance", "usage-test-without-agent"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_time_to_wait_for_answers_is_checked_like_any_other_value() {
    let output = run(&["--timeout", "soon", "status"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error: --timeout: \"soon\""), "{stderr}");
}

#[test]
fn a_verb_that_is_missing_gets_the_help_on_stderr_with_exit_code_2() {
    for args in [&[][..], &["endpoint"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains("Usage: overlay"), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn usage_errors_are_one_line_on_stderr_with_exit_code_2() {
    let output = run(&["endpoint", "add", "web", "--vni", "0"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error: --vni: VNI \"0\" is not a number from 1 to 16777215, nor a network's name\n"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn usage_errors_of_the_environment_name_the_flag() {
    let output = overlay(&["-o", "json", "status"])
        .env("OVERLAY_INSTANCE", "../x")
        .output()
        .expect("the binary should start");
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with(r#"{"error":{"message":"--instance: name"#),
        "{stderr}"
    );
}

#[test]
fn the_environment_names_the_file_and_a_bad_value_in_it_is_a_usage_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("overlay.toml");
    std::fs::write(&file, "iface = \"from-file\"\nport = 0\n").expect("a file");
    let path = file.to_str().expect("UTF-8");
    let output = overlay(&["run"])
        .env("OVERLAY_CONFIG", path)
        .env("OVERLAY_IFACE", "from-env")
        .output()
        .expect("the binary should start");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        format!(
            "error: configuration file {path}, line 2: UDP port \"0\" is not a number from 1 to 65535\n"
        )
    );
}

#[test]
fn without_an_agent_verbs_say_how_to_start_one() {
    let output = run(&["--instance", "usage-test-without-agent", "status"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "error: no agent of instance usage-test-without-agent listens on \
         /run/overlay/usage-test-without-agent.sock: start one with \
         `overlay --instance usage-test-without-agent run --iface IF`\n"
    );
}

#[test]
fn completions_need_no_agent() {
    let output = run(&["completions", "bash"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("_overlay"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = overlay(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary should start");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary should end");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}
