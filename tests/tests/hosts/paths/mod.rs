//! Whether tunnel packets get from host to host is found out, and named rightly on both sides.

mod cluster;
mod echoes;
mod fixture;
mod ping;
