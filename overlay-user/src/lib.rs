//! The overlay's agent and command line.
//!
//! The registry holds the desired state, the kernel the actual one; [`reconcile`] makes the second
//! equal the first. [`agent`] wires the implementations together, [`cli`] talks to it.

pub mod agent;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod integration;
pub mod model;
pub mod observe;
pub mod platform;
pub mod reconcile;
pub mod registry;
