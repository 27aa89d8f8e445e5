//! What the overlay is made of: networks, nodes, endpoints and their addresses. No I/O.
//!
//! Every type here is valid once it exists: parsing and construction check, nothing after them has
//! to. Errors are one line that says what is wrong and what would be right.

mod attachment;
mod change;
mod dhcp;
mod drop;
mod echo;
mod endpoint;
pub mod fair;
mod free_vni;
mod inquiry;
pub mod ipam;
mod key;
mod kinds;
mod miss;
mod network;
mod node;
mod object;
mod outside;
mod outside_history;
mod punt;
mod qos;
mod rejected;
mod rejected_rows;
mod report;
mod resource;
mod router;
mod table;
mod trace;
mod translation;
mod vtep;

pub use attachment::{Attachment, AttachmentFields, InNetns, UnknownAttachment};
pub use change::{Change, Delta, Snapshot};
pub use dhcp::{Dhcp, LINK_LOCAL_SERVER, responder};
pub use drop::{DroppedFrame, EndpointDrops, MeterCounts, Metered, PortCounts};
pub use echo::{Echo, EchoKind, EchoRequest, ProbeRequest};
pub use endpoint::Endpoint;
pub use free_vni::{AUTO_VNI, free_vni};
pub use inquiry::{Answer, Inquiry, NetworkTold, PathTold, PathsTold, Ping, PingTarget, Sighting};
pub use key::{Key, KeyError, Kind, LONGEST_KEY};
pub use kinds::KINDS;
pub use miss::Miss;
pub use network::{Network, NetworkSettings};
pub use node::{Node, SESSION_TTL, SMALLEST_UNDERLAY_MTU, Session};
pub use object::{Claim, Object, ObjectId, OnRemoval, Reference, Slot, Target};
pub use outside::{
    BLOCK_PORTS, BLOCK_QUARANTINE_S, Block, FIRST_PORT, Float, MOST_BLOCKS, Pool, SharedAddress,
    Snat,
};
pub use outside_history::{OutsideHistory, Owner};
/// Values that clients know too: they are defined in the API's crate.
pub use overlay_api::{
    AddressError, AttachMode, BitRate, ByteSize, DISCARD_PREFIX, DropClass, DropDirection, Dscp,
    EndpointState, Event, Explain, Explained, Filter, FloodMode, FrameAddress, FrameView, IfName,
    Leg, LostAt, Mac, MapUsage, Name, NameError, NetnsRef, NetworkError, NetworkRef, Outside,
    PathState, PathView, PingSize, Pinged, RegistryChange, RegistryId, Resolve, Revision,
    RouteTarget, SnatChoice, Vni, VniChoice, Wanted, is_assignable, is_discard, is_point_to_point,
    is_unicast,
};
pub use punt::Punt;
pub use qos::{Qos, QosBinding, QosSubject};
pub use rejected::{Rejected, RowId};
pub use rejected_rows::RejectedRows;
pub use report::{Digest, Installed, Question, QuestionId, Report, Subject};
pub(crate) use resource::replace;
pub use resource::{KnownKind, Resource};
pub use router::{Route, Router, RouterPort, gateway_of};
pub(crate) use table::for_each_table;
pub use table::{
    BlockKey, BlockRow, Direction, EndpointRow, FdbKey, FdbRow, FdbTarget, FloatKey, FloatRow,
    MeterKey, MeterRow, NeighborKey, NeighborRow, NetworkRow, OutsideRow, RouteKey, RouteRow,
    RouteWay, RouterPortRow, Row, Rows, Tables, Traffic, VtepPath, VtepRow,
};
pub use trace::{Ingress, Traced, TracedForward, TracedStep, TracedVerdict};
pub use translation::{BlockUse, OutsideFlow, PortMapping, Swept, Uplink, UplinkWay};
pub use vtep::{Vtep, VtepAddr};
