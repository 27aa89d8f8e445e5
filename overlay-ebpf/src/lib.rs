//! The overlay's datapath: what leaves an endpoint, and what comes in from the underlay.
//!
//! ```text
//!  endpoint                                                         underlay device
//!  (eth0 in a namespace)                                            (--iface)
//!      |                                                                 |
//!      | veth                                                            | UDP to our port?  no -> pass
//!      v                                                                 v
//!  endpoint_ingress                                                 underlay_ingress
//!      |  endpoints[ifindex]        whose interface is this?             |  outer headers, RFC 7348
//!      |  source MAC and IP         its own?                             |  vteps[source]       known?
//!      |  ARP, ND                   neighbors[vni, ip] -> answer         |  fdb[vni, inner MAC] local?
//!      |  fdb[vni, MAC]                                                  |  ECN merge
//!      |      |                                                          |  shrink by 50 bytes
//!      |      +-- local ---> redirect_peer ---> endpoint                 +-- redirect_peer ---> endpoint
//!      |      +-- remote --> grow by 50 bytes, write the outer headers,
//!      |                     redirect_neigh ---> underlay device
//!      +-- otherwise: drops[reason] += 1
//! ```
//!
//! This library is what user space and the BPF programs share and what a host can test:
//!
//! - [`abi`]: maps, names, drop reasons, and the version that they have together;
//! - [`wire`]: header codecs, pure;
//! - [`rule`]: decisions, pure.
//!
//! The programs are the crate's binary, under `src/program`: `main.rs` composes, one file in
//! `stage` does one network function, `packet.rs` and `maps.rs` hold all that is unsafe.

#![cfg_attr(not(test), no_std)]
#![allow(
    clippy::inline_always,
    reason = "a BPF program is one function: a call costs a stack frame of its 512 bytes and the \
              verifier's knowledge of packet bounds"
)]

pub mod abi;
pub mod rule;
pub mod wire;
