//! `overlay manual`: the manual pages, one for each verb.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::{Cli, CommandError, Context};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay manual /usr/local/share/man/man1
  overlay manual /tmp
  man -l /tmp/overlay-endpoint-add.1";

/// Where to.
#[derive(Debug, Args)]
pub struct ManualArgs {
    /// A folder that exists
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManualArgs {
    pub(super) fn execute(self, _: &mut Context<'_>) -> Result<(), CommandError> {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        write_pages(&command, &self.folder).map_err(|error| {
            let folder = self.folder.display();
            CommandError::internal(format!("can't write manual pages into {folder}: {error}"))
        })
    }
}

/// A page for the command and for each below it.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    for verb in command.get_subcommands() {
        write_pages(verb, folder)?;
    }
    let man = Man::new(command.clone())
        .source(concat!("overlay ", env!("CARGO_PKG_VERSION")))
        .manual("Overlay");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(examples) = command.get_after_help() {
        as_it_is(&examples.to_string()).to_writer(&mut page)?;
    }
    fs::write(folder.join(man.get_filename()), page)
}

/// A section of lines that are not to be filled: its first line is the heading.
fn as_it_is(text: &str) -> Roff {
    let (heading, body) = text.split_once('\n').unwrap_or((text, ""));
    let mut section = Roff::new();
    section.control(
        "SH",
        [heading.trim_end_matches(':').to_uppercase().as_str()],
    );
    section.control("nf", []);
    for line in body.lines() {
        section.text([roman(line)]);
    }
    section.control("fi", []);
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_examples_as_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        write_pages(&command, folder.path()).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        for verb in command.get_subcommands() {
            let name = format!("overlay-{}.1", verb.get_name());
            assert!(page(&name).contains(".SH EXAMPLES\n.nf\n"), "{name}");
        }
        assert!(page("overlay-endpoint-add.1").contains("overlay endpoint add"));
        assert!(page("overlay-run.1").contains("OVERLAY_IFACE"));
    }
}
