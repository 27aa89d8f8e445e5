//! Whether tunnel packets get from host to host is found out, and named rightly on both sides.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the test, with its line"
)]

mod cluster;
mod echoes;
mod ping;
mod world;
