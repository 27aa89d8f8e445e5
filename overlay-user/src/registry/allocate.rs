//! Picks a free address without listing all addresses of the network.
//!
//! If addresses were handed out from the lowest upwards and mostly are still in use, it finds the lowest free one
//! in a number of reads that grows with the logarithm of the network's size. If there are gaps, it finds a free
//! one, not always the lowest.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{Registry, RegistryError};
use crate::model::{
    Network, Vni,
    ipam::{self, Pool},
};

/// Addresses in one question.
const BLOCK: u16 = 256;

/// A free address of the network's pools. `None`: there is none. `refused` are not handed out
/// either.
pub(super) async fn next_ip<R: Registry + ?Sized>(
    registry: &R,
    network: &Network,
    refused: &BTreeSet<IpAddr>,
) -> Result<Option<IpNet>, RegistryError> {
    for pool in ipam::pools(network) {
        let search = Search {
            registry,
            vni: network.vni,
            pool,
            refused,
        };
        if let Some(ip) = search.run().await? {
            return Ok(pool.assign(ip));
        }
    }
    Ok(None)
}

struct Search<'a, R: ?Sized> {
    registry: &'a R,
    vni: Vni,
    pool: Pool,
    refused: &'a BTreeSet<IpAddr>,
}

impl<R: Registry + ?Sized> Search<'_, R> {
    async fn run(&self) -> Result<Option<IpAddr>, RegistryError> {
        let end = self.pool.blocks(BLOCK);
        // Ever longer leaps until a block has a free address.
        let (mut full, mut leap) = (None, 0);
        while leap < end {
            if let Some(free) = self.free_in(leap).await? {
                return Ok(Some(match full {
                    Some(full) => self.between(full, leap, free).await?,
                    None => free,
                }));
            }
            full = Some(leap);
            leap = (leap * 2).max(1);
        }
        // All of them full: then each block has to be looked at.
        for index in 0..end {
            if let Some(free) = self.free_in(index).await? {
                return Ok(Some(free));
            }
        }
        Ok(None)
    }

    /// Block `full` has no free address, block `open` has `free`: the boundary between the two.
    async fn between(
        &self,
        mut full: u128,
        mut open: u128,
        mut free: IpAddr,
    ) -> Result<IpAddr, RegistryError> {
        while open - full > 1 {
            let middle = full + (open - full) / 2;
            match self.free_in(middle).await? {
                Some(lower) => (open, free) = (middle, lower),
                None => full = middle,
            }
        }
        Ok(free)
    }

    /// The lowest free address of a block.
    async fn free_in(&self, index: u128) -> Result<Option<IpAddr>, RegistryError> {
        let Some(block) = self.pool.block(BLOCK, index) else {
            return Ok(None);
        };
        let taken = self.registry.taken(self.vni, block).await?;
        Ok(block
            .addresses()
            .find(|ip| !taken.contains(ip) && !self.refused.contains(ip)))
    }
}
