//! Programs on interfaces: BPF links on the tcx hook where the kernel has it, filters of the clsact
//! qdisc where not. Either way the program stays when the agent goes, and a new version replaces
//! the old one in a single step.

use std::{
    error::Error,
    hash::{Hash as _, Hasher as _},
    io,
    path::Path,
};

use aya::programs::{
    Link as _, LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType,
    links::{FdLink, LinkError, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use fnv::FnvHasher;

use super::{AttachMode, Before, DatapathError, features::error_chain, pins::unpin};

const INGRESS: TcAttachType = TcAttachType::Ingress;
const EGRESS: TcAttachType = TcAttachType::Egress;

/// Our place among the filters of a clsact qdisc: a priority of our own, so that replacing never
/// hits another's filter. "OV" in ASCII.
const PRIORITY: u16 = 0x4f56;

/// How the programs of one instance are attached on this kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    mode: AttachMode,
    handle: TcHandle,
}

impl Hook {
    /// Asks the kernel, on an interface that exists. `root` is the instance's folder of pins.
    pub(super) fn probe(interface: &str, root: &Path) -> Result<Self, DatapathError> {
        let mode = match SchedClassifier::query_tcx(interface, INGRESS) {
            Ok(_) => AttachMode::Tcx,
            // A program that was there was taken off before it could be looked at.
            Err(error) if is_errno(&error, libc::ENOENT) => AttachMode::Tcx,
            Err(error) if is_errno(&error, libc::EINVAL) => AttachMode::Clsact,
            Err(error) => return Err(unasked(interface, &error)),
        };
        Ok(Self {
            mode,
            handle: handle_of(root),
        })
    }

    pub(super) fn mode(self) -> AttachMode {
        self.mode
    }

    /// Attaches a program at an interface's ingress, in place of the one that is pinned at `pin` if
    /// there is one.
    pub(super) fn attach(
        self,
        program: &mut SchedClassifier,
        interface: &str,
        pin: &Path,
    ) -> Result<(), DatapathError> {
        self.attach_at(INGRESS, program, interface, pin)
    }

    /// The same at its egress.
    pub(super) fn attach_egress(
        self,
        program: &mut SchedClassifier,
        interface: &str,
        pin: &Path,
    ) -> Result<(), DatapathError> {
        self.attach_at(EGRESS, program, interface, pin)
    }

    /// Takes a program off an interface's egress; absent is fine.
    pub(super) fn detach_egress(
        self,
        interface: Option<&str>,
        pin: &Path,
    ) -> Result<(), DatapathError> {
        unpin(pin)?;
        match (self.mode, interface) {
            (AttachMode::Clsact, Some(interface)) => detach_filter(interface, EGRESS, self.handle),
            _ => Ok(()),
        }
    }

    fn attach_at(
        self,
        side: TcAttachType,
        program: &mut SchedClassifier,
        interface: &str,
        pin: &Path,
    ) -> Result<(), DatapathError> {
        match self.mode {
            AttachMode::Tcx => attach_tcx(program, side, interface, pin),
            AttachMode::Clsact => attach_clsact(program, side, interface, self.handle),
        }
        .map_err(|cause| DatapathError::Kernel {
            what: format!("can't attach a BPF program to {interface}"),
            cause,
        })
    }

    /// Whether the program that is pinned at `pin` is attached to an interface, as the kernel says.
    /// `None`: this hook does not tell.
    pub(super) fn is_attached(
        self,
        interface: &str,
        pin: &Path,
    ) -> Result<Option<bool>, DatapathError> {
        if self.mode == AttachMode::Clsact {
            return Ok(None);
        }
        let link = match PinnedLink::from_pin(pin) {
            Ok(pinned) => FdLink::from(pinned),
            Err(error) if is_missing(&error) => return Ok(Some(false)),
            Err(error) => return Err(unasked(interface, &error)),
        };
        let link = link.info().map_err(|error| unasked(interface, &error))?;
        let ours = link.program_id();
        let programs = chain_at(interface)?;
        Ok(Some(programs.iter().any(|program| program.id() == ours)))
    }

    /// The programs that run before the one with the id `own` at an interface's ingress, or all of
    /// them if that is not there. `None`: this hook does not tell.
    pub(super) fn others_before(
        self,
        interface: &str,
        own: u32,
    ) -> Result<Option<Before>, DatapathError> {
        if self.mode == AttachMode::Clsact {
            return Ok(None);
        }
        let programs = chain_at(interface)?;
        let ours = programs.iter().position(|program| program.id() == own);
        let others = programs.iter().take(ours.unwrap_or(programs.len()));
        let described = others.map(|program| {
            let name = program.name_as_str().unwrap_or("without a name");
            format!("{name} (id {})", program.id())
        });
        Ok(Some(Before {
            interface: interface.to_owned(),
            programs: described.collect(),
            is_attached: ours.is_some(),
        }))
    }
}

/// The programs at an interface's ingress, in their order.
fn chain_at(interface: &str) -> Result<Vec<ProgramInfo>, DatapathError> {
    // One that is taken off between the two questions of this one makes it fail.
    const ATTEMPTS: usize = 3;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match SchedClassifier::query_tcx(interface, INGRESS) {
            Ok((_, programs)) => return Ok(programs),
            Err(error) if attempt < ATTEMPTS && is_errno(&error, libc::ENOENT) => {}
            Err(error) => return Err(unasked(interface, &error)),
        }
    }
}

fn unasked(interface: &str, error: &(dyn Error + 'static)) -> DatapathError {
    DatapathError::Kernel {
        what: format!("can't ask for the BPF programs on {interface}"),
        cause: error_chain(error),
    }
}

fn is_missing(error: &LinkError) -> bool {
    match error {
        LinkError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The instance's own among the filters of our priority: several may share an interface. Never 0,
/// which lets the kernel choose.
fn handle_of(root: &Path) -> TcHandle {
    let mut hasher = FnvHasher::default();
    root.hash(&mut hasher);
    let [high, low, ..] = hasher.finish().to_ne_bytes();
    TcHandle::new(0, u16::from_ne_bytes([high, low]) | 1)
}

/// Removes the filters of the instance with this folder of pins from an interface's clsact qdisc;
/// absent is fine.
pub(super) fn detach_filters(interface: &str, root: &Path) -> Result<(), DatapathError> {
    for side in [INGRESS, EGRESS] {
        detach_filter(interface, side, handle_of(root))?;
    }
    Ok(())
}

fn detach_filter(
    interface: &str,
    side: TcAttachType,
    handle: TcHandle,
) -> Result<(), DatapathError> {
    let failed = |cause: String| DatapathError::Kernel {
        what: format!("can't detach the BPF program from {interface}"),
        cause,
    };
    let standing = SchedClassifierLink::attached(interface, side, PRIORITY, handle, None);
    let Ok(standing) = standing else {
        // The interface went, and its filters with it.
        return Ok(());
    };
    match standing.detach() {
        Ok(()) => Ok(()),
        // No such filter, or no clsact qdisc at all.
        Err(error)
            if [libc::ENOENT, libc::EINVAL]
                .iter()
                .any(|&errno| is_errno(&error, errno)) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(error_chain(&error))),
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    side: TcAttachType,
    interface: &str,
    pin: &Path,
) -> Result<(), String> {
    if replace_pinned(program, pin)? {
        return Ok(());
    }
    // A program that comes before may end the chain, and nothing would come out of tunnels. What is not
    // ours goes on to the others.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(interface, side, options)
        .map_err(|error| error_chain(&error))?;
    let link = program.take_link(id).map_err(|error| error_chain(&error))?;
    let link = FdLink::try_from(link).map_err(|error| error_chain(&error))?;
    link.pin(pin).map(drop).map_err(|error| error_chain(&error))
}

/// Puts the program into the pinned link. `false`: there is none, or its interface is gone, and
/// then the pin is gone too.
fn replace_pinned(program: &mut SchedClassifier, pin: &Path) -> Result<bool, String> {
    let link = match PinnedLink::from_pin(pin) {
        Ok(pinned) => FdLink::from(pinned),
        Err(error) if is_missing(&error) => return Ok(false),
        Err(error) => return Err(error_chain(&error)),
    };
    let link = SchedClassifierLink::try_from(link).map_err(|error| error_chain(&error))?;
    match program.attach_to_link(link) {
        // The pin keeps the link; only our handle on it is closed.
        Ok(id) => program
            .take_link(id)
            .map(drop)
            .map(|()| true)
            .map_err(|error| error_chain(&error)),
        Err(error) if is_errno(&error, libc::ENOLINK) => unpin(pin)
            .map(|()| false)
            .map_err(|error| error.to_string()),
        Err(error) => Err(error_chain(&error)),
    }
}

fn attach_clsact(
    program: &mut SchedClassifier,
    side: TcAttachType,
    interface: &str,
    handle: TcHandle,
) -> Result<(), String> {
    match tc::qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error_chain(&error)),
        Ok(()) => {}
    }
    let options = NlOptions {
        priority: PRIORITY,
        handle,
        classid: None,
    };
    let created = program.attach_with_options(interface, side, TcAttachOptions::Netlink(options));
    let id = match created {
        Ok(id) => id,
        Err(error) if is_errno(&error, libc::EEXIST) => {
            let standing = SchedClassifierLink::attached(interface, side, PRIORITY, handle, None)
                .map_err(|error| error.to_string())?;
            program
                .attach_to_link(standing)
                .map_err(|error| error_chain(&error))?
        }
        Err(error) => return Err(error_chain(&error)),
    };
    let link = program.take_link(id).map_err(|error| error_chain(&error))?;
    // Dropping it would remove the filter, which is to outlive the agent.
    std::mem::forget(link);
    Ok(())
}

/// Whether a system call somewhere in the chain failed in this way.
fn is_errno(error: &ProgramError, errno: i32) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error() == Some(errno),
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error() == Some(errno)
        }
        _ => false,
    }
}
