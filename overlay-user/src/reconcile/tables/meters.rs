//! The meters table: what each endpoint of this host may send and receive.

use super::Derived;
use crate::{
    model::{Direction, MeterKey, MeterRow, Name, Rows},
    reconcile::{
        desired::Desired,
        mirror::{EndpointRef, Fact},
    },
};

impl Derived for MeterRow {
    /// The endpoint: its interface's index is known once it is there.
    type Id = (Name, Direction);

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Self::Id)) {
        if let Fact::Endpoint(endpoint) = fact
            && endpoint.is_local
        {
            for direction in [Direction::Sent, Direction::Received] {
                mark((endpoint.name.clone(), direction));
            }
        }
    }

    fn desired(desired: &Desired<'_>, (name, direction): &Self::Id) -> Option<(MeterKey, Self)> {
        let ifindex = desired.host.endpoints.ifindex(name)?;
        let known = desired.mirror.endpoint(name);
        let row = desired.meter(&known.filter(EndpointRef::is_local)?, *direction)?;
        let key = MeterKey {
            ifindex,
            direction: *direction,
        };
        Some((key, row))
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let names = desired.host.endpoints.interfaces();
        let both = [Direction::Sent, Direction::Received];
        names
            .flat_map(|(name, _)| both.map(|direction| (name.clone(), direction)))
            .filter_map(|id| Self::desired(desired, &id))
            .collect()
    }
}
