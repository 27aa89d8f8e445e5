//! Paths between hosts are probed, and their state is named rightly on both sides.

mod cluster;
mod echoes;
mod fixture;
mod ping;
