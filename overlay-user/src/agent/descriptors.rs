//! Raises the limit of file descriptors, and gives clients a share of them.
//!
//! A look at the host opens sockets and namespaces. One that finds no descriptor left is a failed look,
//! so clients must never be able to take the last ones.

use anyhow::bail;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The part of all descriptors that one kind of client may take: one in this many.
const SHARE: u64 = 8;

/// An agent needs some 80, and its clients come with theirs. With fewer it would be a matter of luck which of
/// its looks fail.
const LEAST: u64 = 256;

/// Raises the soft limit of open files to the hard one, which has to be enough. Programs that use select(2)
/// need the low default; this one does not (systemd.exec(5), `LimitNOFILE=`).
pub(super) fn raise_limit() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let mut limit = soft;
    if soft < hard {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => limit = hard,
            Err(errno) => tracing::warn!(%errno, soft, "the limit of open files stays as it is"),
        }
    }
    if limit < LEAST {
        bail!(
            "the agent may have {limit} files open, and needs {LEAST}: raise the limit (`ulimit -n`, \
             `LimitNOFILE=` of a unit)"
        );
    }
    Ok(())
}

/// How many descriptors one kind of client may take: `wanted`, or its share where that is less. At
/// least one.
pub(super) fn share(wanted: usize) -> usize {
    let all = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    of(all, wanted)
}

fn of(all: u64, wanted: usize) -> usize {
    let share = usize::try_from(all / SHARE).unwrap_or(usize::MAX);
    share.clamp(1, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_they_want_only_where_there_is_plenty() {
        for (all, expected) in [(u64::MAX, 64), (1024, 64), (256, 32), (24, 3), (0, 1)] {
            assert_eq!(of(all, 64), expected, "{all}");
        }
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        raise_limit().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
