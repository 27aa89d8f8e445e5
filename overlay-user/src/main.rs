//! `overlay`: parse, log, dispatch, exit code.

fn main() {}
