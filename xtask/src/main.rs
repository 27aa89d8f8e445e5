//! The overlay's build, demo, test, bench and lint commands.
fn main() {}
