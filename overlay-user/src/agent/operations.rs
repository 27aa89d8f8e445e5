//! The operations of the agent's API: their handlers, in a file for each noun.

mod dhcp;
mod diagnosis;
mod drops;
mod endpoint;
mod import;
mod nat;
mod network;
mod outside;
mod qos;
mod registry;
mod router;
mod status;
mod vtep;

pub(super) use network::no_network;
