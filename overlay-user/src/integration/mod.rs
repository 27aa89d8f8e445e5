//! Other tools' words, translated to the model. Nothing here talks to the registry.

pub mod arpd;
