//! What the programs of one host do with a frame, told step by step.

/// The program that a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// An endpoint of this host sends it, by the host-side interface with this index.
    Endpoint(u32),
    /// It comes in by the underlay device.
    Underlay,
}

/// What came of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// What was done, in its order.
    pub steps: Vec<TracedStep>,
    /// What the last program told the kernel to do with it.
    pub verdict: TracedVerdict,
    /// What it had become by then.
    pub frame: Vec<u8>,
}

/// A step of the programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TracedStep {
    /// A program began, or another one went on.
    Program(&'static str),
    /// A row was looked up in a table.
    Looked {
        /// The table's name.
        table: &'static str,
        /// What was looked up.
        key: String,
        /// What was found. `None`: there is no such row.
        row: Option<String>,
        /// Where frames for a MAC go, of a row of the FDB.
        forward: Option<TracedForward>,
    },
    /// It goes no further, and this reason's name and meaning say why.
    Dropped(&'static str, &'static str),
}

/// Where frames for a MAC go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracedForward {
    /// Out of the host-side interface with this index.
    Interface(u32),
    /// Into a tunnel.
    Tunnel,
}

/// What a program tells the kernel to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracedVerdict {
    /// To hand it to an interface.
    Redirect,
    /// To drop it.
    Drop,
    /// To leave it to whatever comes next, in the end to the host's own stack.
    Pass,
}
