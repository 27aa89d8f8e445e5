//! Gives access to the frame, and has the only unsafe code on packets.
//!
//! Headers are borrowed from the frame in place. Everything that moves the packet's memory takes the frame by `&mut`, so
//! the compiler refuses a reference that would outlive it. Headers that have to are copied into a [`OnStack`].

mod departure;
mod extension;
mod slow_path;
mod translate;
mod translate_ipv6;
mod tunnel;

use core::{
    ops::Deref,
    ptr,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
        TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
        bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
    },
    cty::c_long,
    helpers::{
        bpf_clone_redirect, bpf_csum_diff, bpf_csum_level, bpf_csum_update, bpf_redirect,
        bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_proto, bpf_skb_change_tail,
        bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use overlay_ebpf::{
    abi::DropReason,
    wire::{
        arp::ArpHdr,
        checksum::Sum,
        echo::{self, EchoHdr},
        eth::{self, EthHdr},
        icmp::IcmpHdr,
        icmpv6::{Advertisement, Solicitation, TargetLinkLayer},
        ipv4::Ipv4Hdr,
        ipv6::Ipv6Hdr,
        tcp::TcpHdr,
        udp::UdpHdr,
        vxlan::{Encapsulation, OVERHEAD_IPV4, VxlanHdr},
    },
};

pub use translate::{Ports, Side, Socket, Translation, Transport};
pub use tunnel::Tunnel;

/// `AF_INET` of `linux/socket.h`.
const AF_INET: u32 = 2;

/// `PACKET_HOST` of `linux/if_packet.h`: addressed to this host.
const PACKET_HOST: u32 = 0;

/// `BPF_F_ADJ_ROOM_ENCAP_L2(len)`: the inner Ethernet header's length, in the flags' top byte.
const ENCAP_L2_LEN: u64 = (eth::LEN as u64) << 56;

/// `FIXED_GSO`: the endpoint's MTU leaves room for the outer headers, so segments keep their size.
/// `NO_CSUM_RESET`: what hardware verified inside stays verified.
const KEEP: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// `gso_size` of an aggregate that is cut where its parts were joined: SCTP's (`GSO_BY_FRAGS` of
/// `linux/skbuff.h`).
pub const BY_PARTS: u32 = 0xffff;

/// Bytes of a packet that an ICMP error quotes: past the headers of a tunnel in it, so that who made that one
/// learns of it too. A multiple of four.
pub const QUOTED: usize = 128;
/// The same of an IPv4 packet that is shorter: its header and eight bytes (RFC 792).
pub const QUOTED_IPV4: usize = 28;
/// The same of an IPv6 packet.
pub const QUOTED_IPV6: usize = 48;

/// By how much an IPv6 header is longer than one of IPv4, bytes.
pub const IPV6_IS_LONGER: u32 = 20;

/// A header that can be read and written in place.
///
/// # Safety
///
/// The type has no padding and no invalid bit patterns.
pub unsafe trait Header: Copy {}

// SAFETY: byte arrays and integers, `repr(C)`, sizes asserted by their modules or `network-types`.
unsafe impl Header for ArpHdr {}
// SAFETY: as above.
unsafe impl Header for EthHdr {}
// SAFETY: as above.
unsafe impl Header for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Header for Ipv6Hdr {}
// SAFETY: as above.
unsafe impl Header for TcpHdr {}
// SAFETY: as above.
unsafe impl Header for UdpHdr {}
// SAFETY: as above.
unsafe impl Header for VxlanHdr {}
// SAFETY: as above.
unsafe impl Header for Encapsulation {}
// SAFETY: as above.
unsafe impl Header for Solicitation {}
// SAFETY: as above.
unsafe impl Header for Advertisement {}
// SAFETY: as above.
unsafe impl Header for TargetLinkLayer {}
// SAFETY: as above.
unsafe impl Header for IcmpHdr {}
// SAFETY: as above.
unsafe impl Header for EchoHdr {}
// SAFETY: bytes.
unsafe impl Header for [u8; QUOTED] {}
// SAFETY: bytes.
unsafe impl Header for [u8; QUOTED_IPV4] {}
// SAFETY: bytes.
unsafe impl Header for [u8; QUOTED_IPV6] {}
// SAFETY: bytes.
unsafe impl Header for [u8; echo::ZEROS] {}
// SAFETY: four bytes.
unsafe impl Header for [u8; 4] {}
// SAFETY: two bytes.
unsafe impl Header for [u8; 2] {}
// SAFETY: two bytes.
unsafe impl Header for u16 {}
// SAFETY: one byte.
unsafe impl Header for u8 {}

/// A copy of a header that outlives changes of the packet. The verifier only accepts aligned stack access, unlike
/// that of packets.
#[repr(align(8))]
#[derive(Clone, Copy)]
pub struct OnStack<T>(pub T);

impl<T> Deref for OnStack<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// What a program returns when all went well.
pub type Action = i32;
/// On to the next program on the interface, then to the kernel.
pub const PASS: Action = TC_ACT_UNSPEC;
/// No further.
pub const DROP: Action = TC_ACT_SHOT as Action;
/// To where the last redirect helper said.
const REDIRECT: Action = TC_ACT_REDIRECT as Action;

/// What becomes of a frame on the wire.
#[derive(Clone, Copy)]
pub struct Segments {
    /// Bytes of the whole frame, Ethernet header included.
    pub len: u32,
    /// Bytes of an aggregate's headers, Ethernet's included, which each segment repeats.
    pub headers_len: u32,
    /// Bytes of payload of each segment; 0: the frame is none but itself, or its parts have lengths of their own.
    pub payload_len: u32,
}

impl Segments {
    /// Bytes of the longest IP packet among them; 0: it can't be told.
    #[inline(always)]
    pub fn longest_packet(&self, frame: &Frame) -> u32 {
        match (frame.gso_size(), self.payload_len) {
            (0, _) => self.len - eth::LEN as u32,
            (_, 0) => 0,
            (_, payload) => payload + self.headers_len - eth::LEN as u32,
        }
    }
}

/// The frame that the program was called for.
pub struct Frame {
    ctx: TcContext,
    /// Where what an endpoint sent begins.
    inner: u32,
}

impl Frame {
    /// The frame of a program's context.
    #[inline(always)]
    pub const fn new(ctx: TcContext) -> Self {
        Self { ctx, inner: 0 }
    }

    /// The frame of a context that a global function was called with: [`Self::context`] of a frame that has no outer
    /// headers.
    #[inline(always)]
    pub const fn of_context(skb: *mut __sk_buff) -> Self {
        Self::new(TcContext::new(skb))
    }

    /// The program's context, for a global function: the verifier knows it there by its type.
    #[inline(always)]
    pub fn context(&self) -> *mut __sk_buff {
        self.skb()
    }

    /// The same frame, for a function that is called.
    #[inline(always)]
    pub fn twin(&self) -> Self {
        Self {
            ctx: TcContext::new(self.skb()),
            inner: self.inner,
        }
    }

    /// Where what an endpoint sent begins: behind the outer headers, while there are any.
    #[inline(always)]
    pub fn inner(&self) -> usize {
        self.inner as usize
    }

    /// An endpoint's frame begins behind outer headers that were found sound.
    #[inline(always)]
    pub fn has_outer_headers(&mut self) {
        self.inner = OVERHEAD_IPV4 as u32;
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// Bytes of the frame, Ethernet header included; of a whole GSO aggregate if it is one.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.ctx.len()
    }

    /// The outermost protocol after the Ethernet header as the kernel sees it, order of the wire.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        self.ctx.skb.protocol() as u16
    }

    /// The interface that the frame came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the verifier rewrites context loads; the context is valid for the whole program.
        unsafe { (*self.skb()).ifindex }
    }

    /// The flow's hash as the kernel has it; 0: not computed.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        // SAFETY: as for `ifindex`.
        unsafe { (*self.skb()).hash }
    }

    /// Bytes of payload of each segment of a GSO aggregate; 0: a single packet.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: as for `ifindex`.
        unsafe { (*self.skb()).gso_size }
    }

    /// The sum of the `LEN` bytes at `offset`, a multiple of four, which [`Self::require`] made sure of.
    #[inline(always)]
    pub fn sum_of<const LEN: usize>(&self, offset: usize) -> Result<Sum, DropReason>
    where
        [u8; LEN]: Header,
    {
        let summed: *const [u8; LEN] = self.header(offset)?;
        // The kernel reads packets at any alignment.
        let words = summed as *mut u32;
        // SAFETY: the helper reads `LEN` bytes, which were just found to be there, and nothing of the
        // other pointer, whose length is 0.
        let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, words, LEN as u32, 0) };
        u32::try_from(sum)
            .map(Sum::of_kernel)
            .map_err(|_| DropReason::Truncated)
    }

    /// Makes room for `len` bytes behind the Ethernet header.
    #[inline(always)]
    pub fn grow(&mut self, len: usize) -> Result<(), DropReason> {
        self.ctx
            .adjust_room(len as i32, BPF_ADJ_ROOM_MAC, 0)
            .map_err(|_| DropReason::Truncated)
    }

    /// Tells the kernel, where it holds the sum of the whole frame (`CHECKSUM_COMPLETE`), that two of its bytes
    /// changed.
    #[inline(always)]
    pub fn mend_sum(&mut self, from: [u8; 2], to: [u8; 2]) {
        // RFC 1624: the new sum is the old one, without what was there and with what is.
        let change = u32::from(!u16::from_ne_bytes(from)) + u32::from(u16::from_ne_bytes(to));
        // SAFETY: the helper takes the context, which is valid. A failure means that the kernel holds no sum.
        unsafe { bpf_csum_update(self.skb(), change) };
    }

    /// Whether the frame was addressed to this host's interface (`PACKET_HOST`).
    #[inline(always)]
    pub fn is_for_this_host(&self) -> bool {
        // SAFETY: as for `ifindex`.
        unsafe { (*self.skb()).pkt_type == PACKET_HOST }
    }

    /// Whether somebody of this host has marked the frame: what comes out of another namespace has no mark.
    #[inline(always)]
    pub fn is_marked(&self) -> bool {
        // SAFETY: as for `ifindex`.
        unsafe { (*self.skb()).mark != 0 }
    }

    /// Whether a VLAN tag travels beside the frame.
    #[inline(always)]
    pub fn has_vlan_tag(&self) -> bool {
        // SAFETY: as for `ifindex`.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    /// The VLAN that a tag beside the frame names; 0: none, the tag is there for the priority's sake
    /// (IEEE 802.1Q section 6.9).
    #[inline(always)]
    pub fn vlan(&self) -> u32 {
        const VLAN_MASK: u32 = 0x0fff;
        // SAFETY: as for `ifindex`.
        unsafe { (*self.skb()).vlan_tci & VLAN_MASK }
    }

    /// Makes sure that the first `len` bytes can be read in place, which may move them.
    /// `Truncated`: there are fewer.
    #[inline(always)]
    pub fn require(&mut self, len: usize) -> Result<(), DropReason> {
        let is_there =
            self.ctx.data() + len <= self.ctx.data_end() || self.ctx.pull_data(len as u32).is_ok();
        self.reread_bounds();
        is_there.then_some(()).ok_or(DropReason::Truncated)
    }

    /// Has the frame's bounds read anew that were read on one of several ways to here: the verifier does not know what the
    /// compiler makes of both.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it says whose bounds are meant")]
    pub fn reread_bounds(&mut self) {
        compiler_fence(Ordering::SeqCst);
    }

    /// The header at `offset`. `Truncated`: the frame, or what [`Self::require`] asked for, ends
    /// before it.
    #[inline(always)]
    pub fn header<T: Header>(&self, offset: usize) -> Result<&T, DropReason> {
        let start = self.ctx.data() + offset;
        if start + size_of::<T>() > self.ctx.data_end() {
            return Err(DropReason::Truncated);
        }
        // SAFETY: the bounds were just checked, in the form that the verifier recognises; any
        // bytes make a `Header`; headers begin at even offsets of a frame, which the kernel
        // aligns to at least two bytes; nothing moves the packet while `self` is borrowed.
        Ok(unsafe { &*(start as *const T) })
    }

    /// The same, to be written: TC programs may.
    #[inline(always)]
    pub fn header_mut<T: Header>(&mut self, offset: usize) -> Result<&mut T, DropReason> {
        let start = self.ctx.data() + offset;
        if start + size_of::<T>() > self.ctx.data_end() {
            return Err(DropReason::Truncated);
        }
        // SAFETY: as in `header`; the exclusive borrow makes this the only reference.
        Ok(unsafe { &mut *(start as *mut T) })
    }

    /// Copies a few bytes from anywhere in the frame, whether or not it lies in linear memory.
    #[inline(always)]
    pub fn load<T: Header>(&self, offset: usize) -> Result<T, DropReason> {
        self.ctx.load(offset).map_err(|_| DropReason::Truncated)
    }

    /// The same, to a place of the caller's.
    #[inline(always)]
    pub fn load_into<const LEN: usize>(
        &self,
        offset: usize,
        target: &mut [u8; LEN],
    ) -> Result<(), DropReason> {
        let (offset, target) = (offset as u32, target.as_mut_ptr().cast());
        // SAFETY: the context is valid for the whole program, and the helper writes `LEN` bytes.
        match unsafe { bpf_skb_load_bytes(self.skb().cast(), offset, target, LEN as u32) } {
            0 => Ok(()),
            _ => Err(DropReason::Truncated),
        }
    }

    /// Copies the first `len` bytes, which the caller makes sure of, to memory of its own. `false`: they are not all there.
    ///
    /// # Safety
    ///
    /// The target has room for `len` bytes, which are not none.
    #[inline(always)]
    pub unsafe fn copy_to(&self, target: *mut u8, len: u32) -> bool {
        // SAFETY: the context is valid for the whole program; of the target the caller made sure.
        unsafe { bpf_skb_load_bytes(self.skb().cast(), 0, target.cast(), len) == 0 }
    }

    /// Forgets the mark, the priority and the traffic class, which mean something to the namespace that set them and
    /// nothing, or something else, to the next: as a veth does between two namespaces
    /// (`skb_scrub_packet` and `____dev_forward_skb` in net/core). Redirects past a veth's queue don't.
    #[inline(always)]
    pub fn scrub(&mut self) {
        // SAFETY: the verifier allows these stores; the context is valid for the whole program.
        unsafe {
            (*self.skb()).mark = 0;
            (*self.skb()).priority = 0;
            (*self.skb()).tc_index = 0;
        }
    }

    /// Gives the frame a priority, by which the queues of the interface that it leaves by choose.
    #[inline(always)]
    pub fn prioritize(&mut self, priority: u32) {
        // SAFETY: as in `scrub`.
        unsafe { (*self.skb()).priority = priority };
    }

    /// Sends the frame out of the interface whose index is the frame's mark, without that mark.
    #[inline(always)]
    pub fn inject(&mut self) -> Result<(), DropReason> {
        // SAFETY: as for `ifindex`.
        let ifindex = unsafe { (*self.skb()).mark };
        self.scrub();
        self.clone_to(ifindex, 0)
    }

    /// Sends a copy of the frame by an interface, with flags of `bpf_clone_redirect`.
    #[inline(always)]
    fn clone_to(&mut self, ifindex: u32, flags: u64) -> Result<(), DropReason> {
        // SAFETY: the helper takes the context, which is valid.
        match unsafe { bpf_clone_redirect(self.skb(), ifindex, flags) } {
            0 => Ok(()),
            _ => Err(DropReason::RedirectFailed),
        }
    }

    /// Takes the VLAN tag off that travels beside the frame. A second one, which the kernel puts
    /// in its place, is refused: it would land on the outer frame.
    #[inline(always)]
    pub fn pop_vlan(&mut self) -> Result<(), DropReason> {
        // SAFETY: the context is valid for the whole program.
        match unsafe { bpf_skb_vlan_pop(self.skb()) } {
            0 if !self.has_vlan_tag() => Ok(()),
            _ => Err(DropReason::VlanTag),
        }
    }

    /// Makes the frame `len` bytes long, by cutting or by adding zeros.
    #[inline(always)]
    pub fn resize(&mut self, len: u32) -> Result<(), DropReason> {
        // SAFETY: the context is valid for the whole program.
        match unsafe { bpf_skb_change_tail(self.skb(), len, 0) } {
            0 => Ok(()),
            _ => Err(DropReason::Truncated),
        }
    }

    /// Makes room for an [`Encapsulation`] behind the Ethernet header and tells the kernel that a
    /// UDP tunnel with an inner Ethernet header over IPv4 begins there, so that it can segment
    /// and checksum what is inside. Only for frames that carry IPv4 or IPv6.
    #[inline(always)]
    pub fn grow_for_tunnel(&mut self) -> Result<(), DropReason> {
        self.try_to_grow().map_err(|_| DropReason::EncapFailed)
    }

    /// The same; the error is the kernel's, negative.
    #[inline(always)]
    pub fn try_to_grow(&mut self) -> Result<(), c_long> {
        let flags = KEEP
            | (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
                | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
                | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
            | ENCAP_L2_LEN;
        self.ctx
            .adjust_room(OVERHEAD_IPV4 as i32, BPF_ADJ_ROOM_MAC, flags)?;
        self.has_outer_headers();
        Ok(())
    }

    /// Makes the kernel take the frame, which it knows for IPv4, for IPv6: the outer header grows by
    /// [`IPV6_IS_LONGER`] bytes that mean nothing. `false`: it won't, of aggregates other than TCP's,
    /// and nothing has changed.
    #[inline(always)]
    pub fn retype_as_ipv6(&mut self) -> bool {
        // SAFETY: the context is valid for the whole program.
        unsafe { bpf_skb_change_proto(self.skb(), eth::IPV6, 0) == 0 }
    }

    /// Takes an [`Encapsulation`], and so many bytes more, out from behind the Ethernet header. What a
    /// NIC verified of the outer checksum is forgotten, what it verified inside is kept.
    #[inline(always)]
    pub fn shrink_from_tunnel(
        &mut self,
        extra_len: u32,
        extra_flags: u64,
    ) -> Result<(), DropReason> {
        self.try_to_shrink(extra_len, extra_flags)
            .map_err(|_| DropReason::DecapFailed)?;
        // SAFETY: the context is valid for the whole program. A failure means that there was no
        // verified level to take away.
        unsafe { bpf_csum_level(self.skb(), BPF_CSUM_LEVEL_DEC as u64) };
        // SAFETY: the verifier allows this store; a receive queue of the underlay device means
        // nothing to the endpoint's.
        unsafe { (*self.skb()).queue_mapping = 0 };
        Ok(())
    }

    /// The first step of that; the error is the kernel's, negative.
    #[inline(always)]
    pub fn try_to_shrink(&mut self, extra_len: u32, extra_flags: u64) -> Result<(), c_long> {
        let len = OVERHEAD_IPV4 as u32 + extra_len;
        self.ctx
            .adjust_room(-(len as i32), BPF_ADJ_ROOM_MAC, KEEP | extra_flags)?;
        self.inner = 0;
        Ok(())
    }

    /// Redirects to an interface of this host, whose neighbour table writes the Ethernet header
    /// and resolves the next hop's MAC if need be. Without a next hop the kernel's routing table
    /// finds one; to be spared that is worth a tenth of the packet rate.
    #[inline(always)]
    pub fn redirect_via_neighbor(
        &mut self,
        ifindex: u32,
        next_hop: Option<[u8; 4]>,
    ) -> Result<Action, DropReason> {
        self.scrub();
        let Some(next_hop) = next_hop else {
            // SAFETY: no parameters are passed, so the kernel reads no memory of ours.
            return redirected(unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) });
        };
        let ipv6_nh = [u32::from_ne_bytes(next_hop), 0, 0, 0];
        let mut parameters = bpf_redir_neigh {
            nh_family: AF_INET,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh },
        };
        let size = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: the parameters are `size` bytes, all of them set: the union's longer member is,
        // whose first word is the shorter one's.
        redirected(unsafe { bpf_redirect_neigh(ifindex, &raw mut parameters, size, 0) })
    }

    /// Hands the frame to the other end of a veth, in its namespace, without a second pass
    /// through the queues. Only for frames whose protocol the kernel knows already.
    #[inline(always)]
    pub fn redirect_to_peer(&mut self, ifindex: u32) -> Result<Action, DropReason> {
        if !self.is_for_this_host() {
            // SAFETY: the context is valid for the whole program. The kernel classified the frame
            // by the host side's MAC; before Linux 6.15 the redirect does not mend that, and the
            // receiver would take it for somebody else's.
            unsafe { bpf_skb_change_type(self.skb(), PACKET_HOST) };
        }
        self.scrub();
        // SAFETY: takes no pointer.
        redirected(unsafe { bpf_redirect_peer(ifindex, 0) })
    }

    /// Sends the frame out of an interface; its other end classifies it anew.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "the kernel knows which frame is meant")]
    pub fn redirect_out(&self, ifindex: u32) -> Result<Action, DropReason> {
        // SAFETY: takes no pointer.
        redirected(unsafe { bpf_redirect(ifindex, 0) })
    }
}

#[inline(always)]
fn redirected(result: i64) -> Result<Action, DropReason> {
    if result == i64::from(REDIRECT) {
        Ok(REDIRECT)
    } else {
        Err(DropReason::RedirectFailed)
    }
}

impl EbpfContext for Frame {
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.ctx.as_ptr()
    }
}
