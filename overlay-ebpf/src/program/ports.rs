//! Gives external ports to mappings, and takes them back from those whose time is over.

use overlay_ebpf::{
    abi::{Counter, DropReason, MappingEntry, NatBlock, NatPort},
    rule::nat::{self, Pressure},
};

use crate::{
    frame::Socket,
    maps::{self, Block, Inside},
};

/// Bits of a word of a block.
const WORD: u32 = u64::BITS;
/// Words of the ports of a class.
const WORDS: u32 = NatBlock::PORTS / WORD;
/// Ports that are looked at for one whose time is over, where none is free.
const LOOKS: u32 = 16;

/// A port of a block.
#[derive(Clone, Copy)]
struct Place {
    block: Block,
    class: usize,
    /// Which of the class's ports.
    number: u32,
}

impl Place {
    #[inline(always)]
    const fn bit(&self) -> (u32, u32) {
        let bit = nat::start_of(self.class) + self.number;
        (bit / WORD, bit % WORD)
    }

    #[inline(always)]
    const fn slot(&self) -> u32 {
        self.block.slot * NatBlock::PORT_SLOTS + nat::start_of(self.class) + self.number
    }

    #[inline(always)]
    fn take(&self) -> bool {
        let (word, bit) = self.bit();
        self.block.take(self.class, word, bit)
    }

    #[inline(always)]
    fn give_back(&self) {
        let (word, bit) = self.bit();
        self.block.give_back(self.class, word, bit);
    }

    /// Whether the port has a mapping whose time is over.
    #[inline(always)]
    fn is_over(&self, now_s: u32, pressure: Pressure) -> bool {
        maps::port(self.slot()).is_some_and(|port| is_over(&port.read(), now_s, pressure))
    }

    /// Ends the port's mapping if its time is over. `true`: the port is the caller's.
    #[inline(always)]
    fn reclaim(&self, now_s: u32, pressure: Pressure) -> bool {
        let Some(port) = maps::port(self.slot()) else {
            return false;
        };
        let held = port.read();
        if !is_over(&held, now_s, pressure) || !port.end(&held) {
            return false;
        }
        if !is_over(&held, now_s, Pressure::None) {
            self.block.count_early();
            maps::count_event(Counter::NatEarly);
        }
        let inside = Inside {
            endpoint: held.endpoint,
            protocol: held.protocol,
            local: Socket {
                ip: u32::from_ne_bytes(held.ip),
                port: u16::from_ne_bytes(held.port),
            },
        };
        inside.unmap();
        true
    }
}

/// Whether a port has a mapping whose time is over.
#[inline(always)]
fn is_over(held: &NatPort, now_s: u32, pressure: Pressure) -> bool {
    let phase = u64::from(held.phase);
    let idle_s = now_s.wrapping_sub(held.used_s);
    phase != 0 && nat::is_expired(held.protocol, phase, held.established, idle_s, pressure)
}

/// The external address and port of a slot of `nat_ports`.
#[inline(always)]
pub fn external(slot: u32, class: usize) -> Option<Socket> {
    let block = maps::block(slot / NatBlock::PORT_SLOTS)?;
    let place = slot % NatBlock::PORT_SLOTS - nat::start_of(class);
    let port = (block.first_port() + place) as u16;
    Some(Socket {
        ip: block.ip(),
        port: port.to_be(),
    })
}

/// Gives an endpoint's port an external one; the slot and the mapping's number. `NatNone`: the endpoint has no block.
/// `NatExhausted`: all of its ports are in use.
#[inline(always)]
pub fn map(inside: &Inside, class: usize, endpoint: u32) -> Result<(u32, u16), DropReason> {
    let chain = maps::chain(endpoint).ok_or(DropReason::NatNone)?;
    chain.slot(0).ok_or(DropReason::NatNone)?;
    let mut slot = free_slot(endpoint, class as u32, inside.local.port);
    if slot == NO_SLOT {
        slot = expired_slot(endpoint, class as u32);
    }
    let port = maps::port(slot).ok_or(DropReason::NatExhausted)?;
    let epoch = port.take(inside, maps::now_s());
    let entry = MappingEntry {
        slot,
        epoch: u32::from(epoch),
    };
    // One that is there is over, or another CPU has just made it: the next packet finds out.
    inside.unmap();
    if !inside.map(entry) {
        port.release();
        give_back(slot, class);
        return Err(DropReason::NatExhausted);
    }
    maps::count_event(Counter::NatOpened);
    Ok((slot, epoch))
}

#[inline(always)]
fn give_back(slot: u32, class: usize) {
    if let Some(block) = maps::block(slot / NatBlock::PORT_SLOTS) {
        let place = slot % NatBlock::PORT_SLOTS - nat::start_of(class);
        Place {
            block,
            class,
            number: place,
        }
        .give_back();
    }
}

/// No slot of `nat_ports`.
const NO_SLOT: u32 = u32::MAX;

/// The first block of an endpoint that has ports of a class left.
#[inline(always)]
fn block_with_room(endpoint: u32, class: usize) -> Option<Block> {
    let chain = maps::chain(endpoint)?;
    for index in 0..NatBlock::CHAIN {
        let block = maps::block(chain.slot(index)?)?;
        if block.used(class) < nat::ports_of(class, block.ports()) {
            return Some(block);
        }
    }
    None
}

/// Takes a port of an endpoint's blocks that nobody has, or gives [`NO_SLOT`]: its own number if that is of the block,
/// which spares what sends and what receives a difference, else a random one's next. Called, for the stack that it takes.
#[inline(never)]
fn free_slot(endpoint: u32, class: u32, own: u16) -> u32 {
    let class = class as usize;
    let Some(block) = block_with_room(endpoint, class) else {
        return NO_SLOT;
    };
    let ports = nat::ports_of(class, block.ports());
    let own = u32::from(u16::from_be(own)).wrapping_sub(block.first_port());
    if own < ports {
        let place = Place {
            block,
            class,
            number: own,
        };
        if place.take() {
            return place.slot();
        }
    }
    let (words, valid) = if ports < WORD {
        (1, (1u64 << ports) - 1)
    } else {
        (ports / WORD, u64::MAX)
    };
    let start = maps::random();
    for step in 0..WORDS {
        let word = start.wrapping_add(step) & (words - 1);
        let free = !block.bits(nat::start_of(class) / WORD + word) & valid;
        if free == 0 {
            continue;
        }
        let place = Place {
            block,
            class,
            number: word * WORD + free.trailing_zeros(),
        };
        if place.take() {
            return place.slot();
        }
    }
    NO_SLOT
}

/// Takes a port whose mapping's time is over, as short as ports are, or gives [`NO_SLOT`]. Called as [`free_slot`].
#[inline(never)]
fn expired_slot(endpoint: u32, class: u32) -> u32 {
    let class = class as usize;
    let Some(block) = any_block(endpoint) else {
        return NO_SLOT;
    };
    let ports = nat::ports_of(class, block.ports());
    let pressure = Pressure::of(block.used(class), ports);
    let (start, now_s) = (block.next_cursor(class, LOOKS), maps::now_s());
    for look in 0..LOOKS {
        let place = Place {
            block,
            class,
            number: start.wrapping_add(look) & (ports.wrapping_sub(1)),
        };
        if place.is_over(now_s, pressure) {
            return if place.reclaim(now_s, pressure) {
                place.slot()
            } else {
                NO_SLOT
            };
        }
    }
    NO_SLOT
}

#[inline(always)]
fn any_block(endpoint: u32) -> Option<Block> {
    let chain = maps::chain(endpoint)?;
    let chosen = maps::random() as usize & (NatBlock::CHAIN - 1);
    maps::block(chain.slot(chosen).or_else(|| chain.slot(0))?)
}

/// Frees ports of a block whose time is over, from a slot of the block's on; how many.
#[inline(always)]
pub fn sweep(block: u32, start: u32) -> u32 {
    let Some(block) = maps::block(block) else {
        return 0;
    };
    let now_s = maps::now_s();
    let mut freed = 0;
    for step in 0..SWEPT {
        let slot = start.wrapping_add(step);
        let (class, place) = if slot < NatBlock::PORTS {
            (NatBlock::TCP, slot)
        } else if slot < 2 * NatBlock::PORTS {
            (NatBlock::UDP, slot - NatBlock::PORTS)
        } else {
            (NatBlock::ICMP, slot - 2 * NatBlock::PORTS)
        };
        let ports = nat::ports_of(class, block.ports());
        if place >= ports {
            continue;
        }
        let place = Place {
            block,
            class,
            number: place,
        };
        let pressure = Pressure::of(block.used(class), ports);
        if place.reclaim(now_s, pressure) {
            place.give_back();
            freed += 1;
        }
    }
    freed
}

/// Slots that one run of [`sweep`] looks at.
pub const SWEPT: u32 = NatBlock::SWEPT;
