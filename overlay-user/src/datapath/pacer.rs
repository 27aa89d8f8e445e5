//! Which interfaces have a queue hold what departs late.

use std::collections::BTreeSet;

use overlay_ebpf::abi::program;

use super::{DatapathError, Kernel, features::classifier, kernel::interface_name};

/// The kernel's side of departure times.
pub trait Pacer: Send + Sync + 'static {
    /// The underlay device.
    fn underlay(&self) -> u32;

    /// Makes this version's `pace` attached at the egress of the interfaces with these indexes, and of no others.
    fn set_paced(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError>;
}

impl Pacer for Kernel {
    fn underlay(&self) -> u32 {
        self.settings.underlay_ifindex
    }

    fn set_paced(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        let mut state = self.state();
        if state.paced.as_ref() == Some(ifindexes) {
            return Ok(());
        }
        // Until all of it is done, what is attached is not known.
        let before = state.paced.take().unwrap_or_default();
        let program = classifier(&mut state.ebpf, program::PACE)?;
        for &ifindex in ifindexes {
            let name = interface_name(ifindex)?;
            let pin = self.pins.pace_link(ifindex);
            self.hook.attach_egress(program, &name, &pin)?;
        }
        let known = before.into_iter().chain(self.pins.pace_links()?);
        for older in known.filter(|older| !ifindexes.contains(older)) {
            let name = interface_name(older).ok();
            let pin = self.pins.pace_link(older);
            self.hook.detach_egress(name.as_deref(), &pin)?;
        }
        state.paced = Some(ifindexes.clone());
        Ok(())
    }
}
