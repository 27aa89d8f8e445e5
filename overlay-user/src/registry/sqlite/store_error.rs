//! Errors of the registry's file, each one line with a remedy.

use std::{fmt::Display, path::Path};

use rusqlite::{Error, ErrorCode, ffi};

use super::super::RegistryError;

/// Why a piece of work on the file ended early.
#[derive(Debug)]
pub(super) enum StoreError {
    /// SQLite's word; becomes [`RegistryError::Unavailable`].
    Sql(Error),
    /// The final word already.
    Said(RegistryError),
    /// A row that the model refuses: somebody else wrote it.
    Row(String),
    /// The file does not hold together, in SQLite's words.
    Damaged(String),
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RegistryError> for StoreError {
    fn from(error: RegistryError) -> Self {
        Self::Said(error)
    }
}

impl StoreError {
    /// Whether a constraint of the schema refused the statement. The transaction lives on.
    pub(super) fn is_constraint(&self) -> bool {
        matches!(self, Self::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation))
    }

    /// Whether somebody else holds the lock just now.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Sql(error) if matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        ))
    }

    /// Why a row can't be read, if the failure is about one: others can.
    pub(super) fn of_row(self) -> Result<String, Self> {
        match self {
            Self::Row(why) => Ok(why),
            Self::Sql(
                error @ (Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::InvalidColumnType(..)),
            ) => Ok(error.to_string()),
            failure => Err(failure),
        }
    }

    /// The line for the user.
    pub(super) fn explain(self, path: &Path) -> RegistryError {
        let file = path.display();
        RegistryError::Unavailable(match self {
            Self::Said(error) => return error,
            Self::Row(what) => format!(
                "registry file {file} holds what no agent wrote: {what}; correct the row or restore a backup"
            ),
            Self::Damaged(what) => corrupt(&file, &what),
            Self::Sql(error) => explain_sql(&file.to_string(), &error),
        })
    }
}

fn explain_sql(file: &str, error: &Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!(
            "registry file {file} is locked by another program: `fuser {file}` names it; end it or let it finish, then try again"
        ),
        Some(ErrorCode::NotADatabase) => format!(
            "registry file {file} is not a registry (no SQLite database): name another file or move this one away"
        ),
        Some(ErrorCode::DatabaseCorrupt) => corrupt(&file, error),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => format!(
            "registry file {file} can't be written ({error}): see that its file system is not read-only, and give \
             this user write access to it and its folder"
        ),
        Some(ErrorCode::CannotOpen) => format!(
            "registry file {file} can't be opened ({}): check that its folder exists and that this user may read and write both",
            system_cause(error)
        ),
        Some(ErrorCode::DiskFull) => {
            format!("registry file {file} can't grow: make room on its file system, then try again")
        }
        Some(ErrorCode::SystemIoFailure) => format!(
            "registry file {file} can't be read or written, its file system fails ({error}): check the disk and the kernel's log"
        ),
        _ => format!(
            "registry file {file} can't be used ({error}): name another file or restore a backup"
        ),
    }
}

fn corrupt(file: &dyn Display, cause: &dyn Display) -> String {
    format!(
        "registry file {file} is corrupt ({cause}): put a backup back in its place, without the previous -wal and -shm"
    )
}

/// SQLite's text without the path, which the line names already.
fn system_cause(error: &Error) -> String {
    match error {
        Error::SqliteFailure(cause, _) => ffi::code_to_str(cause.extended_code).to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlite_failure_is_one_line_that_names_the_file() {
        for code in [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_NOTADB,
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_PERM,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_NOMEM,
        ] {
            let failure = StoreError::Sql(Error::SqliteFailure(ffi::Error::new(code), None));
            let line = failure.explain(Path::new("/x/registry.db")).to_string();
            assert!(line.starts_with("registry file /x/registry.db "), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
}
