//! `cargo xtask package`: the Debian package, from the agent to its manual pages.

mod check;
mod licences;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::build;
use crate::progress;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace, remove_folder};

/// Makes the Debian package and says where it is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pack the agent as it is compiled for tests: quicker to make, slower to run.
    #[arg(long)]
    debug: bool,

    /// Also install it into a folder, upgrade and remove it there, and let Debian's and systemd's
    /// tools judge it.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::ensure(Work::Package)?;
    let agent = if args.debug {
        build::build_as_tested(workspace)?
    } else {
        build::build(workspace, Profile::Release)?
    };
    let stage = Stage::new(workspace, &agent)?;
    let package = stage.pack(workspace)?;
    if args.check {
        check::run(&package, workspace)?;
    }
    println!("packed {}", package.display());
    Ok(())
}

/// The folder that cargo-deb takes for cargo's target folder: what is generated lies there beside the
/// agent, whichever way that was compiled.
struct Stage(PathBuf);

impl Stage {
    fn new(workspace: &Workspace, agent: &Path) -> Result<Self> {
        let stage = Self(workspace.target().join("package"));
        remove_folder(&stage.0)?;
        let content = stage.0.join("release");
        let (manual, completions) = (content.join("man"), content.join("completions"));
        for folder in [&manual, &completions] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::copy(agent, content.join("overlay")).context("copying the agent")?;
        duct::cmd!(agent, "manual", &manual).run()?;
        for shell in ["bash", "zsh", "fish"] {
            duct::cmd!(agent, "completions", shell)
                .stdout_path(completions.join(shell))
                .run()?;
        }
        let licences = content.join("third-party-licences");
        licences::write(workspace, &mut File::create(&licences)?)?;
        for page in fs::read_dir(manual)? {
            compress(&page?.path())?;
        }
        compress(&licences)?;
        Ok(stage)
    }

    /// Makes the package; `overlay-user/Cargo.toml` says what is in it.
    fn pack(&self, workspace: &Workspace) -> Result<PathBuf> {
        let line = ["deb", "--package", "overlay-user", "--no-build", "--strip"];
        let cargo = workspace
            .cargo(&line)?
            .env("CARGO_TARGET_DIR", &self.0)
            .stderr_to_stdout();
        progress::quietly("packing", &cargo)?;
        let mut made = fs::read_dir(self.0.join("debian"))?;
        let package = made.next().context("cargo deb made nothing")??;
        Ok(package.path())
    }
}

/// As Debian's policy wants it: small, and the same from the same input.
fn compress(file: &Path) -> Result<()> {
    duct::cmd!("gzip", "--best", "--no-name", file).run()?;
    Ok(())
}
