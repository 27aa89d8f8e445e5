//! The floats table: the external address that an endpoint's packets leave with.

use std::net::{IpAddr, Ipv4Addr};

use super::Derived;
use crate::{
    model::{Float, FloatKey, FloatRow, Object, Resource as _, Rows},
    reconcile::{desired::Desired, mirror::Fact},
};

impl Derived for FloatRow {
    /// The external address: the endpoint's own changes as it moves.
    type Id = Ipv4Addr;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Ipv4Addr)) {
        if let Fact::Object(object) = fact
            && let Some(float) = Float::known(object)
        {
            mark(float.ip);
        }
    }

    fn desired(desired: &Desired<'_>, ip: &Ipv4Addr) -> Option<(FloatKey, Self)> {
        let object = desired.mirror.object(&Float::id(IpAddr::V4(*ip).into()))?;
        row_of(object)
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        desired.mirror.objects().filter_map(row_of).collect()
    }
}

fn row_of(object: &Object) -> Option<(FloatKey, FloatRow)> {
    let Float { ip, vni, own, .. } = Float::known(object)?;
    Some((FloatKey { vni, own }, FloatRow { ip }))
}
