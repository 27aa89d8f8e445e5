//! What the overlay is made of: networks, nodes, endpoints and their addresses. No I/O.
//!
//! Every type here is valid once it exists: parsing and construction check, nothing after them has
//! to. Errors are one line that says what is wrong and what would be right.

mod address;
mod change;
mod drop;
mod echo;
mod endpoint;
pub mod fair;
mod identity;
mod inquiry;
pub mod ipam;
mod miss;
mod name;
mod netns_ref;
mod network;
mod network_ref;
mod node;
mod path;
mod rejected;
mod rejected_rows;
mod report;
mod table;
mod vtep;

pub use address::{AddressError, Mac, Vni};
pub use change::{Change, Delta, Revision, Snapshot};
pub use drop::{DropClass, DropDirection, DroppedFrame, EndpointDrops, FrameAddress, FrameView};
pub use echo::{Echo, EchoKind, EchoRequest, ProbeRequest};
pub use endpoint::{Endpoint, EndpointState};
pub use identity::RegistryId;
pub use inquiry::{
    Answer, Inquiry, LostAt, NetworkTold, PathTold, PathsTold, Ping, PingSize, PingTarget, Pinged,
    Sighting,
};
pub use miss::{Miss, Wanted};
pub use name::{IfName, Name, NameError};
pub use netns_ref::NetnsRef;
pub use network::{FloodMode, Network, NetworkError, NetworkSettings, Resolve};
pub use network_ref::{AUTO_VNI, NetworkRef, VniChoice, free_vni};
pub use node::{Node, SESSION_TTL, SMALLEST_UNDERLAY_MTU, Session};
pub use path::{PathState, PathView};
pub use rejected::{Rejected, RowId};
pub use rejected_rows::RejectedRows;
pub use report::{Digest, Installed, Question, QuestionId, Report, Subject};
pub(crate) use table::for_each_table;
pub use table::{
    EndpointRow, FdbKey, FdbRow, FdbTarget, MapUsage, NeighborKey, NeighborRow, NetworkRow, Row,
    Rows, Tables, Traffic, VtepPath, VtepRow,
};
pub use vtep::{Vtep, VtepAddr};
