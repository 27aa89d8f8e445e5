//! What has to hold for the package; nothing of this machine changes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use walkdir::WalkDir;

use crate::host;
use crate::progress;
use crate::workspace::{Workspace, remove_folder};

/// What lintian minds and we don't.
const LINTIAN_TAGS: [(&str, &str); 1] = [(
    "initial-upload-closes-no-bugs",
    "it is not for Debian's own archive",
)];

/// How open systemd may find the unit, of 100: what it can't have is written in it.
const EXPOSURE: &str = "46";

type Check = fn(&Path, &Path) -> Result<()>;

const CHECKS: [(&str, Check); 5] = [
    ("lintian", |package, _| lintian(package)),
    ("installing, upgrading and removing", installation),
    ("manual pages", |_, root| manual_pages(root)),
    ("completions", |_, root| completions(root)),
    ("systemd unit", |_, root| unit(root)),
];

pub(super) fn run(package: &Path, workspace: &Workspace) -> Result<()> {
    let root = workspace.target().join("package/root");
    remove_folder(&root)?;
    fs::create_dir_all(&root)?;
    duct::cmd!("dpkg-deb", "--extract", package, &root).run()?;
    for (name, check) in CHECKS {
        eprintln!("package: {name}");
        check(package, &root).with_context(|| format!("package: {name}"))?;
    }
    println!("package: {} checks passed", CHECKS.len());
    Ok(())
}

fn lintian(package: &Path) -> Result<()> {
    let tags = LINTIAN_TAGS.map(|(tag, _)| tag).join(",");
    let lintian = duct::cmd!(
        "lintian",
        "--fail-on",
        "error,warning",
        "--suppress-tags",
        tags,
        "--allow-root",
        package
    );
    progress::quietly("lintian", &lintian)
}

/// dpkg and the package's scripts on a folder. A mount namespace of its own hides this machine's
/// /run, and the programs that would act on its services are replaced by ones that write down what
/// they are asked.
const INSTALLATION: &str = r#"
package=$1 root=$2
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/bin "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/info"
: > "$root/var/lib/dpkg/status"
for program in systemctl deb-systemd-invoke; do
    printf '#!/bin/sh\necho "%s $*" >> /run/asked\n' $program > /run/bin/$program
    chmod +x /run/bin/$program
done
export PATH="/run/bin:$PATH"
apply() {
    : > /run/asked
    dpkg --root="$root" --force-script-chrootless --force-not-root --force-depends \
        --force-confold --log=/dev/null "$@"
}
fail() { echo "$*" >&2; cat /run/asked >&2; exit 1; }

apply --install "$package"
grep -q '^overlay:' "$root/etc/passwd" || fail "no user was made"
grep -q 'invoke \(re\)\?start' /run/asked && fail "a fresh installation starts the service"

echo 'iface = "eth7"' >> "$root/etc/overlay/overlay.toml"
apply --install "$package"
grep -q eth7 "$root/etc/overlay/overlay.toml" || fail "an upgrade overwrites the configuration"
grep -q 'deb-systemd-invoke try-restart overlay.service' /run/asked || fail "an upgrade starts no new agent"
grep -q stop /run/asked && fail "an upgrade stops the service"

apply --remove overlay
grep -q 'deb-systemd-invoke stop overlay.service' /run/asked || fail "a removal leaves the service running"
test -e "$root/usr/bin/overlay" && fail "a removal leaves the program"
test -e "$root/etc/overlay/overlay.toml" || fail "a removal takes the configuration away"

apply --purge overlay
test -e "$root/etc/overlay" && fail "a purge leaves the configuration"
exit 0
"#;

fn installation(package: &Path, root: &Path) -> Result<()> {
    let root = root.with_file_name("installed");
    remove_folder(&root)?;
    let mut line = vec!["--mount"];
    if !host::is_root() {
        line.extend(["--user", "--map-root-user"]);
    }
    line.extend(["sh", "-e", "-c", INSTALLATION, "sh"]);
    let words = line
        .into_iter()
        .map(std::ffi::OsString::from)
        .chain([package.into(), root.into()]);
    let command = duct::cmd("unshare", words).env("PATH", host::search_path()?);
    progress::quietly("dpkg", &command)
}

/// Each page renders without a complaint, and each verb has one.
fn manual_pages(root: &Path) -> Result<()> {
    let mut pages = 0;
    for page in files(&root.join("usr/share/man")) {
        let man = duct::cmd!(
            "man",
            "--warnings",
            "--local-file",
            "--encoding=UTF-8",
            &page
        )
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "80")
        .env("MAN_KEEP_STDERR", "1")
        .stdout_null()
        .stderr_capture()
        .unchecked()
        .run()?;
        let complaints = String::from_utf8_lossy(&man.stderr);
        if !man.status.success() || !complaints.trim().is_empty() {
            bail!("{}: {complaints}", page.display());
        }
        pages += 1;
    }
    let folder = root.join("usr/share/man/man1");
    for page in ["overlay", "overlay-run", "overlay-endpoint-add"] {
        fs::metadata(folder.join(format!("{page}.1.gz")))
            .with_context(|| format!("no page {page}(1)"))?;
    }
    eprintln!("{pages} manual pages");
    Ok(())
}

/// bash reads its own; the other shells are asked where they are here.
fn completions(root: &Path) -> Result<()> {
    for (shell, file) in [
        ("bash", "usr/share/bash-completion/completions/overlay"),
        ("zsh", "usr/share/zsh/vendor-completions/_overlay"),
        ("fish", "usr/share/fish/vendor_completions.d/overlay.fish"),
    ] {
        let file = root.join(file);
        fs::metadata(&file).with_context(|| format!("no {}", file.display()))?;
        if let Some(program) = host::program(shell) {
            duct::cmd!(program, "-n", &file).run()?;
        }
    }
    Ok(())
}

fn unit(root: &Path) -> Result<()> {
    let unit = root.join("usr/lib/systemd/system/overlay.service");
    let analyze = |words: &[&str]| {
        let words = words.iter().map(std::ffi::OsString::from);
        duct::cmd("systemd-analyze", words.chain([unit.clone().into()]))
    };
    let verify = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    let said = verify
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()?;
    // The program is not installed here.
    let said = String::from_utf8_lossy(&said.stdout);
    let mut complaints = said
        .lines()
        .filter(|line| !line.contains("/usr/bin/overlay is not executable"));
    if let Some(complaint) = complaints.next() {
        bail!("{complaint}");
    }
    let security = analyze(&["security", "--offline=yes", "--threshold", EXPOSURE]);
    progress::quietly("systemd-analyze security", &security)
}

fn files(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    WalkDir::new(folder)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
}
