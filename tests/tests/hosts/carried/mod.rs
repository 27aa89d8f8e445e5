//! What Linux' own VXLAN with a bridge carries between two endpoints, the overlay carries too: the same traffic
//! goes through a pair of the kernel's and through one of ours, and what arrives is compared.

mod fabric;
mod kinds;
mod path_mtu;
mod reference;
mod settings;
mod slow_path;
