//! `overlay completions`: what a shell needs to complete our command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, Session};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay completions bash > /etc/bash_completion.d/overlay
  overlay completions zsh > ~/.zfunc/_overlay
  overlay completions fish > ~/.config/fish/completions/overlay.fish";

/// Which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn execute(self, session: &mut Session<'_>) -> Result<(), Failure> {
        // clap_complete panics if it can't write: a closed pipe must not get that far.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "overlay", &mut script);
        session.output.text(&script)?;
        Ok(())
    }
}
