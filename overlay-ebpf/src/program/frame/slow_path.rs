//! The slow path: what the programs can't encapsulate or unpack, the kernel's VXLAN device does.
//!
//! Out, the frame gets a tunnel key and goes to the device. In, [`Frame::vouch`] has the packet go on
//! through the host's stack, which hands it to the device; there [`Frame::is_vouched`] knows it again. The
//! packet carries a voucher: a number in `tc_index` that says what it is, which no packet filter can set, and
//! the agent's secret in a field that is cleared wherever a packet comes from another namespace.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, TC_ACT_OK, bpf_tunnel_key,
        bpf_tunnel_key__bindgen_ty_1, bpf_tunnel_key__bindgen_ty_2, bpf_tunnel_key__bindgen_ty_3,
    },
    helpers::{bpf_redirect, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key},
};
use overlay_ebpf::abi::DropReason;

use super::{Action, Frame, redirected};

/// Hops that an outer packet may take: as the programs write it.
const TTL: u8 = 64;

/// What a packet carries that `underlay_ingress` found sound: "OV" in ASCII.
const VOUCHER: u32 = 0x4f56;

/// What a tunnel packet of the agent's carries.
const OWN_ECHO: u32 = VOUCHER + 1;

/// `bpf_skb_get_tunnel_key`: of a tunnel over IPv6.
const IPV6: u64 = BPF_F_TUNINFO_IPV6 as u64;

/// Bytes of the tunnel key that kernels before 6.0 know, which choose the source address themselves.
const SHORT_KEY: u32 = offset_of!(bpf_tunnel_key, __bindgen_anon_3) as u32;

impl Frame {
    /// Sends the frame through the VXLAN device with this index, from one underlay address to another, both in
    /// the order of the wire. The outer packet has this DSCP, in the upper bits of the traffic class. The device fragments
    /// what the path does not take.
    #[inline(always)]
    pub fn send_by_device(
        &mut self,
        device: u32,
        vni: u32,
        (from, to): ([u8; 4], [u8; 4]),
        dscp: u8,
    ) -> Result<Action, DropReason> {
        let mut key = key();
        key.tunnel_id = vni;
        key.tunnel_ttl = TTL;
        key.tunnel_tos = dscp;
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(to);
        key.__bindgen_anon_3.local_ipv4 = u32::from_be_bytes(from);
        if !self.set_key(&mut key, size_of::<bpf_tunnel_key>() as u32)
            && !self.set_key(&mut key, SHORT_KEY)
        {
            return Err(DropReason::EncapFailed);
        }
        self.scrub();
        // SAFETY: takes no pointer.
        redirected(unsafe { bpf_redirect(device, 0) })
    }

    #[inline(always)]
    fn set_key(&mut self, key: &mut bpf_tunnel_key, size: u32) -> bool {
        // SAFETY: the key has `size` bytes at least, all of them set.
        unsafe { bpf_skb_set_tunnel_key(self.skb(), key, size, BPF_F_ZERO_CSUM_TX as u64) == 0 }
    }

    /// Lets the packet go on to the kernel's stack, past all other programs on this interface. The priority
    /// carries the secret: a veth and its like set it to 0 between namespaces (`____dev_forward_skb`).
    #[inline(always)]
    pub fn vouch(&mut self, secret: u32) -> Action {
        // SAFETY: the verifier allows these stores; with the verdict, the kernel makes the class the `tc_index`.
        unsafe {
            (*self.skb()).tc_classid = VOUCHER;
            (*self.skb()).priority = secret;
        }
        TC_ACT_OK as Action
    }

    /// Whether the frame came out of a packet that [`Self::vouch`] let go.
    #[inline(always)]
    pub fn is_vouched(&self, secret: u32) -> bool {
        // SAFETY: as for `ifindex`.
        unsafe { (*self.skb()).tc_index == VOUCHER && (*self.skb()).priority == secret }
    }

    /// Has the frame come in by the interface whose index is the frame's mark, known there as the agent's own. Zeros
    /// are added up to as many bytes as its priority says: what the agent hands over can't be as long.
    #[inline(always)]
    pub fn inject_echo(&mut self, secret: u32) -> Result<(), DropReason> {
        // SAFETY: as for `ifindex`.
        let (ifindex, len) = unsafe { ((*self.skb()).mark, (*self.skb()).priority) };
        self.resize(len)?;
        // SAFETY: the verifier allows these stores; the context is valid for the whole program. The mark stays
        // within one namespace, unlike the priority, which coming in by a device clears.
        unsafe {
            (*self.skb()).tc_index = OWN_ECHO;
            (*self.skb()).mark = secret;
        }
        self.clone_to(ifindex, BPF_F_INGRESS as u64)
    }

    /// Whether the frame is one that [`Self::inject_echo`] had come in by an endpoint's interface: the endpoint's own
    /// have no mark.
    #[inline(always)]
    pub fn is_own_probe(&self, secret: u32) -> bool {
        // SAFETY: as for `ifindex`.
        unsafe { (*self.skb()).tc_index == OWN_ECHO && (*self.skb()).mark == secret }
    }

    /// The same of the VXLAN device's: it comes out of no tunnel.
    #[inline(always)]
    pub fn is_own_echo(&self, secret: u32) -> bool {
        self.is_own_probe(secret)
            && self.key_of_device(0).is_none()
            && self.key_of_device(IPV6).is_none()
    }

    /// The VNI that the VXLAN device found on the frame, and the sender's underlay address.
    #[inline(always)]
    pub fn tunnel_of_device(&self) -> Result<(u32, [u8; 4]), DropReason> {
        let key = self.key_of_device(0).ok_or(DropReason::VxlanDevice)?;
        // SAFETY: without flags the helper writes this member.
        let remote = unsafe { key.__bindgen_anon_1.remote_ipv4 };
        Ok((key.tunnel_id, remote.to_be_bytes()))
    }

    #[inline(always)]
    fn key_of_device(&self, flags: u64) -> Option<bpf_tunnel_key> {
        let mut key = key();
        // SAFETY: the key has `SHORT_KEY` bytes at least.
        let found = unsafe { bpf_skb_get_tunnel_key(self.skb(), &raw mut key, SHORT_KEY, flags) };
        (found == 0).then_some(key)
    }
}

/// A key with nothing in it.
#[inline(always)]
const fn key() -> bpf_tunnel_key {
    bpf_tunnel_key {
        tunnel_id: 0,
        __bindgen_anon_1: bpf_tunnel_key__bindgen_ty_1 {
            remote_ipv6: [0; 4],
        },
        tunnel_tos: 0,
        tunnel_ttl: 0,
        __bindgen_anon_2: bpf_tunnel_key__bindgen_ty_2 { tunnel_ext: 0 },
        tunnel_label: 0,
        __bindgen_anon_3: bpf_tunnel_key__bindgen_ty_3 { local_ipv6: [0; 4] },
    }
}
