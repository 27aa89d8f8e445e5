//! The overlay's datapath.
#![cfg_attr(not(test), no_std)]
