//! Keeps mappings, flows and ports, and has the unsafe code on what several CPUs change at once.
//!
//! Entries are changed in place. What two CPUs could both do is done by atomic operations: taking a port's bit, a flow's
//! change of state, and the counts that follow from these.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_get_prandom_u32,
};
use bytemuck::{Zeroable as _, must_cast};
use overlay_ebpf::{
    abi::{
        BlockEntry, BlockKey, FlowEntry, FlowKey, MappingEntry, MappingKey, NatBlock, NatChain,
        NatPort, Table,
    },
    rule::nat::phase,
};

use super::{
    BLOCKS, FLOW_COUNTS, FLOWS, MAPPINGS, NAT_BLOCKS, NAT_CHAINS, NAT_PORTS, NEW_FLOWS, atomic,
    now, trace,
};
use crate::frame::Socket;

/// The second of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_s() -> u32 {
    (now() / 1_000_000_000) as u32
}

/// A random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: takes no pointer.
    unsafe { bpf_get_prandom_u32() }
}

/// A key that lies aligned on the stack.
#[repr(C, align(8))]
pub(super) struct Aligned<T>(pub(super) T);

#[inline(always)]
pub(super) fn pair(first: u16, second: u16) -> u32 {
    must_cast([first, second])
}

/// Who has a block of ports: its external address as it lies in memory, and its number.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a copy on the stack would not be aligned"
)]
pub fn block_entry(ip: u32, number: u16) -> Option<BlockEntry> {
    let key: Aligned<BlockKey> = Aligned(must_cast([ip, pair(number, 0)]));
    // SAFETY: as for `lookup!`.
    let found = unsafe { BLOCKS.get(&key.0) };
    trace::looked(Table::Blocks, &raw const key.0, found);
    found.copied()
}

/// The blocks of an endpoint, where they lie in `nat_chains`.
#[derive(Clone, Copy)]
pub struct Chain {
    entry: *mut NatChain,
}

/// The blocks of an endpoint. `None`: its id is beyond the table.
#[inline(always)]
pub fn chain(endpoint: u32) -> Option<Chain> {
    let entry = NAT_CHAINS.get_ptr_mut(endpoint);
    // SAFETY: the verifier knows the pointer and its size.
    let held = entry.map(|entry| unsafe { &*entry });
    trace::looked(Table::NatChains, &raw const endpoint, held);
    entry.map(|entry| Chain { entry })
}

impl Chain {
    /// The slot of one of them. `None`: there are no more.
    #[inline(always)]
    pub fn slot(&self, index: usize) -> Option<u32> {
        // SAFETY: the verifier knows the pointer and its size; the index is checked.
        let blocks = unsafe { &(*self.entry).blocks };
        let slot = blocks.get(index).copied()?;
        u32::from(slot).checked_sub(1)
    }
}

/// An endpoint's port as a key of `mappings`.
#[derive(Clone, Copy)]
pub struct Inside {
    /// The endpoint's id.
    pub endpoint: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Its address and port.
    pub local: Socket,
}

impl Inside {
    #[inline(always)]
    fn key(&self) -> Aligned<MappingKey> {
        Aligned(must_cast([
            pair(self.endpoint, self.local.port),
            self.local.ip,
            u32::from(self.protocol),
        ]))
    }

    /// The mapping that the port has.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn mapping(&self) -> Option<MappingEntry> {
        let key = self.key();
        // SAFETY: an element may be recycled for another key while it is read; its epoch tells.
        let found = unsafe { MAPPINGS.get(&key.0) };
        trace::looked(Table::Mappings, &raw const key.0, found);
        found.copied()
    }

    /// Gives the port a mapping. `false`: it has one, or there is no room.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn map(&self, entry: MappingEntry) -> bool {
        let key = self.key();
        MAPPINGS.insert(&key.0, &entry, BPF_NOEXIST as u64).is_ok()
    }

    /// Takes the port's mapping away.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn unmap(&self) {
        let key = self.key();
        let _ = MAPPINGS.remove(&key.0);
    }

    /// Its flow to another end.
    #[inline(always)]
    pub fn to(self, remote: Socket) -> FlowOf {
        FlowOf {
            key: Aligned(must_cast([
                pair(self.endpoint, u16::from(self.protocol)),
                self.local.ip,
                remote.ip,
                pair(self.local.port, remote.port),
            ])),
        }
    }
}

/// The key of a flow.
pub struct FlowOf {
    key: Aligned<FlowKey>,
}

/// A flow that is there, where it lies in its table.
#[derive(Clone, Copy)]
pub struct Flow {
    entry: *mut FlowEntry,
    /// Whether it is among those that were not answered.
    pub is_new: bool,
}

impl FlowOf {
    /// The flow, answered or not.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn find(&self) -> Option<Flow> {
        if let Some(entry) = self.told(Table::Flows, FLOWS.get_ptr_mut(&self.key.0)) {
            return Some(Flow {
                entry,
                is_new: false,
            });
        }
        let entry = self.told(Table::NewFlows, NEW_FLOWS.get_ptr_mut(&self.key.0))?;
        Some(Flow {
            entry,
            is_new: true,
        })
    }

    #[inline(always)]
    fn told(&self, table: Table, entry: Option<*mut FlowEntry>) -> Option<*mut FlowEntry> {
        // SAFETY: the verifier knows the pointer and its size.
        let held = entry.map(|entry| unsafe { &*entry });
        trace::looked(table, &raw const self.key.0, held);
        entry
    }

    /// Notes a flow that nobody has answered yet. `false`: there is no room.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn open(&self, entry: &FlowEntry) -> bool {
        NEW_FLOWS.insert(&self.key.0, entry, BPF_ANY as u64).is_ok()
    }

    /// Moves a flow to those that were answered.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn confirm(&self, entry: &FlowEntry) -> Confirmed {
        if self.held() >= FlowEntry::PER_ENDPOINT as i64 {
            return Confirmed::Limited;
        }
        if FLOWS
            .insert(&self.key.0, entry, BPF_NOEXIST as u64)
            .is_err()
        {
            return match FLOWS.get_ptr_mut(&self.key.0) {
                Some(_) => Confirmed::Known,
                None => Confirmed::Full,
            };
        }
        self.count(1);
        let _ = NEW_FLOWS.remove(&self.key.0);
        Confirmed::Done
    }

    /// How many flows that were answered the endpoint has.
    #[inline(always)]
    fn held(&self) -> i64 {
        let count = FLOW_COUNTS.get(self.key.0.endpoint.into()).copied();
        count.unwrap_or(0) as i64
    }

    #[inline(always)]
    fn count(&self, more: u64) {
        if let Some(count) = FLOW_COUNTS.get_ptr_mut(self.key.0.endpoint.into()) {
            // SAFETY: the verifier knows the pointer and its size; the field is aligned.
            unsafe { atomic::add(count, more) };
        }
    }
}

/// What became of a flow that was answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// It is among its like now.
    Done,
    /// It was so before: another CPU was first.
    Known,
    /// They are too many.
    Full,
    /// Those of its endpoint are.
    Limited,
}

impl FlowOf {
    /// The flow of a key in the order of the wire.
    #[inline(always)]
    pub const fn of(key: FlowKey) -> Self {
        Self { key: Aligned(key) }
    }

    /// Removes it from those that were answered. `false`: it is not among them.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn remove(&self) -> bool {
        let is_removed = FLOWS.remove(&self.key.0).is_ok();
        if is_removed {
            self.count(1_u64.wrapping_neg());
        }
        is_removed
    }
}

impl Flow {
    /// What it holds.
    #[inline(always)]
    pub fn read(&self) -> FlowEntry {
        // SAFETY: the verifier knows the pointer and its size. The element may be recycled for another key while it is
        // read; the port's epoch tells.
        unsafe { *self.entry }
    }

    /// Notes its use, at most once a second: a line that all CPUs write would cost each of them more.
    #[inline(always)]
    pub fn touch(&self, held: &FlowEntry, now_s: u32) {
        if held.used_s != now_s {
            // SAFETY: as above; a number by itself.
            unsafe { (*self.entry).used_s = now_s };
        }
    }

    /// Changes its state. `false`: another CPU has.
    #[inline(always)]
    pub fn advance(&self, from: u64, to: u64) -> bool {
        // SAFETY: as above; the field is aligned.
        unsafe { atomic::exchange(&raw mut (*self.entry).state, from, to) }
    }
}

/// An external port, where it lies in `nat_ports`.
#[derive(Clone, Copy)]
pub struct Port {
    entry: *mut NatPort,
}

/// The external port of a slot.
#[inline(always)]
pub fn port(slot: u32) -> Option<Port> {
    NAT_PORTS.get_ptr_mut(slot).map(|entry| Port { entry })
}

impl Port {
    /// What it holds.
    #[inline(always)]
    pub fn read(&self) -> NatPort {
        // SAFETY: the verifier knows the pointer and its size; other CPUs may write meanwhile, each field by itself.
        unsafe { *self.entry }
    }

    /// The number of the mapping that has it.
    #[inline(always)]
    pub fn epoch(&self) -> u16 {
        // SAFETY: as above.
        unsafe { (*self.entry).epoch }
    }

    /// Gives it to a mapping, whose number comes back. Who does has taken its bit.
    #[inline(always)]
    pub fn take(&self, inside: &Inside, now_s: u32) -> u16 {
        // SAFETY: as above; the bit is this CPU's.
        unsafe {
            let epoch = (*self.entry).epoch.wrapping_add(1);
            *self.entry = NatPort {
                ip: inside.local.ip.to_ne_bytes(),
                port: inside.local.port.to_ne_bytes(),
                endpoint: inside.endpoint,
                established: 0,
                epoch,
                protocol: inside.protocol,
                phase: phase::NEW as u8,
                used_s: now_s,
                reserved: 0,
            };
            epoch
        }
    }

    /// Ends its mapping: flows of it are over from now on.
    #[inline(always)]
    pub fn release(&self) {
        // SAFETY: as above; the bit is this CPU's until it is given back.
        unsafe {
            (*self.entry).epoch = (*self.entry).epoch.wrapping_add(1);
            (*self.entry).phase = 0;
        }
    }

    /// Ends a mapping as it was read: flows of it are over from now on. `false`: it is another one meanwhile.
    #[inline(always)]
    pub fn end(&self, held: &NatPort) -> bool {
        let mut after = *held;
        after.established = 0;
        after.epoch = held.epoch.wrapping_add(1);
        after.phase = 0;
        // SAFETY: as above; the fields from there on that change make up an aligned word.
        unsafe {
            let word = &raw mut (*self.entry).established;
            atomic::exchange(word.cast(), word_of(held), word_of(&after))
        }
    }

    /// Notes its use, at most once a second.
    #[inline(always)]
    pub fn touch(&self, now_s: u32) {
        // SAFETY: as above; a number by itself.
        unsafe {
            if (*self.entry).used_s != now_s {
                (*self.entry).used_s = now_s;
            }
        }
    }

    /// Notes how far one of its flows has come.
    #[inline(always)]
    pub fn set_phase(&self, phase: u64) {
        // SAFETY: as above; a number by itself.
        unsafe { (*self.entry).phase = phase as u8 };
    }

    /// Counts an established flow of it, or takes one off.
    #[inline(always)]
    pub fn count_established(&self, is_more: bool) {
        let one = word_of(&NatPort {
            established: 1,
            ..NatPort::zeroed()
        });
        let more = if is_more { one } else { one.wrapping_neg() };
        // SAFETY: as above; the count is the low half of an aligned word, and it is never less than what is taken off.
        unsafe { atomic::add((&raw mut (*self.entry).established).cast(), more) };
    }
}

/// The word of a port that changes as a whole.
#[inline(always)]
fn word_of(port: &NatPort) -> u64 {
    let epoch = port.epoch.to_ne_bytes();
    let [low, high] = epoch;
    must_cast([
        port.established,
        u32::from_ne_bytes([low, high, port.protocol, port.phase]),
    ])
}

/// A block of ports, where it lies in `nat_blocks`.
#[derive(Clone, Copy)]
pub struct Block {
    entry: *mut NatBlock,
    /// Its slot.
    pub slot: u32,
}

/// The block of a slot. `None`: none has it.
#[inline(always)]
pub fn block(slot: u32) -> Option<Block> {
    let entry = NAT_BLOCKS.get_ptr_mut(slot)?;
    let block = Block { entry, slot };
    (block.ports() != 0).then_some(block)
}

impl Block {
    /// How many ports it has.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        // SAFETY: the verifier knows the pointer and its size; the agent writes the field before it names the block.
        unsafe { u32::from((*self.entry).ports) }
    }

    /// Its first port.
    #[inline(always)]
    pub fn first_port(&self) -> u32 {
        // SAFETY: as above.
        unsafe { u32::from((*self.entry).first_port) }
    }

    /// Whether anybody may send to its mappings.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.entry).flags & BlockEntry::OPEN as u32 != 0 }
    }

    /// Its external address as it lies in memory.
    #[inline(always)]
    pub fn ip(&self) -> u32 {
        // SAFETY: as above.
        unsafe { u32::from_ne_bytes((*self.entry).ip) }
    }

    /// How many ports of a class are in use.
    #[inline(always)]
    pub fn used(&self, class: usize) -> u32 {
        // SAFETY: as above; the index is checked.
        let used = unsafe { &(*self.entry).used };
        used.get(class).copied().unwrap_or(0) as u32
    }

    #[inline(always)]
    fn count_used(&self, class: usize, is_more: bool) {
        // SAFETY: as above; the fields are aligned.
        unsafe {
            let used = &mut (*self.entry).used;
            if let Some(used) = used.get_mut(class) {
                let more = if is_more { 1 } else { 1u64.wrapping_neg() };
                atomic::add(used, more);
            }
        }
    }

    #[inline(always)]
    fn word(&self, word: u32) -> Option<*mut u64> {
        let word = atomic::low_bits(word.into()) as usize;
        // SAFETY: as above; the index is checked.
        let bits = unsafe { &mut (*self.entry).bits };
        bits.get_mut(word).map(ptr::from_mut)
    }

    /// Ports in use among the 64 of a word, a bit each; all where there is no such word.
    #[inline(always)]
    pub fn bits(&self, word: u32) -> u64 {
        // SAFETY: as above.
        self.word(word)
            .map_or(u64::MAX, |bits| unsafe { ptr::read_volatile(bits) })
    }

    /// Takes a port. `false`: somebody has it.
    #[inline(always)]
    pub fn take(&self, class: usize, word: u32, bit: u32) -> bool {
        let mask = 1u64 << (bit & 63);
        // SAFETY: as above; the field is aligned.
        let is_taken = self
            .word(word)
            .is_some_and(|bits| unsafe { atomic::fetch_or(bits, mask) } & mask == 0);
        if is_taken {
            self.count_used(class, true);
        }
        is_taken
    }

    /// Gives a port back.
    #[inline(always)]
    pub fn give_back(&self, class: usize, word: u32, bit: u32) {
        let mask = 1u64 << (bit & 63);
        // SAFETY: as above; the field is aligned.
        let was_taken = self
            .word(word)
            .is_some_and(|bits| unsafe { atomic::fetch_and(bits, !mask) } & mask != 0);
        if was_taken {
            self.count_used(class, false);
        }
    }

    /// Where the next expired port is looked for; moves on by `step`.
    #[inline(always)]
    pub fn next_cursor(&self, class: usize, step: u32) -> u32 {
        // SAFETY: as above; a number by itself, which two CPUs may move on by less.
        unsafe {
            let cursor = &mut (*self.entry).cursor;
            let Some(cursor) = cursor.get_mut(class) else {
                return 0;
            };
            let held = *cursor;
            *cursor = held.wrapping_add(step);
            held
        }
    }

    /// Counts a mapping that ended early.
    #[inline(always)]
    pub fn count_early(&self) {
        // SAFETY: as above; the field is aligned.
        unsafe { atomic::add(&raw mut (*self.entry).early, 1) };
    }
}
