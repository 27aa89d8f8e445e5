//! The blocks table: which ports of external addresses this host's endpoints have.

use super::Derived;
use crate::{
    model::{Block, BlockKey, BlockRow, Filter, MOST_BLOCKS, Name, Object, Resource as _, Rows},
    reconcile::{
        desired::Desired,
        mirror::{EndpointRef, Fact},
    },
};

impl Derived for BlockRow {
    /// The endpoint, and which of its blocks: its interface's index is known once it is there.
    type Id = (Name, u8);

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut((Name, u8))) {
        match fact {
            Fact::Endpoint(endpoint) if endpoint.is_local => {
                (0..MOST_BLOCKS).for_each(|index| mark((endpoint.name.clone(), index)));
            }
            Fact::Object(object) => {
                if let Some(block) = Block::known(object) {
                    mark((block.endpoint, block.index));
                }
            }
            _ => {}
        }
    }

    fn desired(desired: &Desired<'_>, (endpoint, index): &(Name, u8)) -> Option<(BlockKey, Self)> {
        let id = Block::id(Block::key_of(endpoint, *index));
        row_of(desired, desired.mirror.object(&id)?)
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let objects = desired.mirror.objects();
        objects
            .filter_map(|object| row_of(desired, object))
            .collect()
    }
}

fn row_of(desired: &Desired<'_>, object: &Object) -> Option<(BlockKey, BlockRow)> {
    let block = Block::known(object)?;
    if block.node != desired.local.node {
        return None;
    }
    let ifindex = desired.host.endpoints.ifindex(&block.endpoint)?;
    desired
        .mirror
        .endpoint(&block.endpoint)
        .filter(EndpointRef::is_local)?;
    let key = BlockKey {
        ip: block.ip,
        number: block.number,
    };
    let row = BlockRow {
        ifindex,
        vni: block.vni,
        ports: block.ports,
        index: block.index,
        is_open: block.filter == Filter::EndpointIndependent,
    };
    Some((key, row))
}
