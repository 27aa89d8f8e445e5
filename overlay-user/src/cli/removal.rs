//! Removes several things: one that can't be removed does not keep the others.

use std::fmt::Display;

use serde::Serialize;

use super::{CommandError, Output};
use crate::agent::{
    api::{ErrorKind, OperationError},
    client::ClientError,
};

/// What became of things that were to be removed.
pub(super) struct Removal<R, T> {
    /// In the order in which they were asked for; `None`: there was none.
    pub(super) done: Vec<(R, Option<T>)>,
    failures: Vec<OperationError>,
}

/// Removes each of `all`; goes on after what is refused, and ends where there is no agent.
pub(super) async fn each<R: Display, T>(
    output: &Output<'_>,
    noun: &str,
    all: Vec<R>,
    remove: impl AsyncFn(&R) -> Result<Option<T>, ClientError>,
) -> Removal<R, T> {
    let mut removal = Removal {
        done: Vec::new(),
        failures: Vec::new(),
    };
    for one in all {
        let work = format!("removing {noun} {one}");
        match output.during(work, remove(&one)).await {
            Ok(removed) => removal.done.push((one, removed)),
            Err(error) => {
                let error = OperationError::from(error);
                let is_over = error.kind == ErrorKind::Unavailable;
                removal.failures.push(error);
                if is_over {
                    break;
                }
            }
        }
    }
    removal
}

impl<R, T> Removal<R, T> {
    /// Ends with what was refused.
    pub(super) fn conclude(self) -> Result<(), CommandError> {
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(CommandError::Several(self.failures))
        }
    }
}

impl<R: Display + Serialize> Removal<R, ()> {
    /// Prints what was removed, and what was not there.
    pub(super) fn show(&self, output: &mut Output<'_>, noun: &str) -> std::io::Result<()> {
        let names = |is_removed: bool| -> Vec<&R> {
            let done = self.done.iter();
            done.filter(|(_, removed)| removed.is_some() == is_removed)
                .map(|(name, _)| name)
                .collect()
        };
        if self.done.is_empty() {
            return Ok(());
        }
        let value = serde_json::json!({ "removed": names(true), "absent": names(false) });
        output.show(&value, |_, out| {
            self.done
                .iter()
                .try_for_each(|(name, removed)| match removed {
                    Some(()) => writeln!(out, "{noun} {name} removed"),
                    None => writeln!(out, "there is no {noun} {name}"),
                })
        })
    }
}
