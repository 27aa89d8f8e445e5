//! Operations of the overlay agent, and a client for its Unix socket.
//!
//! An [`Operation`] is a struct of its parameters. The client sends it to the agent on this host and gives back the
//! answer:
//!
//! ```no_run
//! use overlay_api::{AddEndpoint, Client, ListEndpoints, default_instance};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(default_instance());
//! let web = client.call(&AddEndpoint::new("web".parse()?, "blue".parse()?)).await?;
//! println!("{} has {:?}", web.name, web.ips);
//!
//! let mut endpoints = client.pages(&ListEndpoints::default()).await?;
//! while let Some(page) = endpoints.page().await? {
//!     println!("{} endpoints", page.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`for_each_operation!`] lists all operations. The socket is root's, or a group's too; HTTP/1.1 with JSON is spoken on
//! it, a request a connection, as `docs/api.json` describes.
//!
//! # Weight
//!
//! Made for plug-ins (CNI, Docker, netavark): it has no datapath, no platform and no registry in it, and 42 crates under
//! it, those that only run at compile time included (`cargo tree -p overlay-api -e normal --prefix none | sort -u | wc
//! -l` prints 51, for it counts some twice). The example `endpoint`, which adds, lists and removes an endpoint, is 1.0 MB
//! with the release profile, stripped.
//!
//! # Versions
//!
//! An agent refuses a request with fields that it does not know: a filter that is ignored would list too much. A client
//! ignores fields of an answer that it does not know. So either side may be the older one, as long as a client asks for
//! nothing new.

mod address;
mod adopt;
mod client;
mod doctor;
mod drops;
mod endpoint;
mod error;
mod event;
mod identity;
mod import;
mod ip;
mod name;
mod netns_ref;
mod network;
mod network_ref;
mod operation;
mod path;
mod ping;
#[cfg(feature = "schema")]
pub mod schema;
mod status;
mod verify;
mod vtep;

pub use address::{AddressError, Mac, Vni};
pub use adopt::{AdoptRegistry, AdoptView};
pub use client::{Client, ClientError, Events, PageReader, RUN_DIR, default_instance};
pub use doctor::{
    ClusterHost, ClusterPath, ClusterView, DoctorView, Examine, ExamineCluster, Finding, Severity,
    Way,
};
pub use drops::{
    CountDrops, DropClass, DropCountView, DropDirection, DropSampleView, DropTotals, DroppedView,
    DropsView, EndpointDropsView, FrameAddress, FrameView, ShowDrops,
};
pub use endpoint::{
    AddEndpoint, EndpointState, EndpointView, ListEndpoints, MoveEndpoint, RemoveEndpoint,
    SetEndpoint, ShowEndpoint,
};
pub use error::{ErrorKind, ErrorView, OperationError};
pub use event::{Event, EventView, Monitor, RegistryChange, Wanted};
pub use identity::RegistryId;
pub use import::{ImportArpd, ImportView};
pub use ip::{AddressRequest, is_assignable, is_point_to_point, is_unicast};
pub use name::{IfName, Name, NameError};
pub use netns_ref::NetnsRef;
pub use network::{
    CreateNetwork, FloodMode, ListNetworks, NetworkError, NetworkView, RemoveNetwork, RemovedView,
    Resolve, SetNetwork, check_network,
};
pub use network_ref::{NetworkRef, VniChoice};
pub use operation::{Lines, Listed, Method, Operation, Pages, Value};
pub use path::{PathState, PathView};
pub use ping::{LostAt, PingSize, Pinged, SendPing};
pub use status::{
    AttachMode, DatapathView, Down, DownView, EndpointCounts, MapUsage, RegistryView, RejectedView,
    ShowStatus, StalledView, StatusView,
};
pub use verify::{Difference, EntryView, HostView, Verdict, Verify, VerifyView};
pub use vtep::{
    DISCARD_PREFIX, ListVteps, NodeState, RemoveVtep, VtepRef, VtepRemovedView, VtepView,
    is_discard,
};

/// The registry's version: starts at 1, and grows with every commit.
pub type Revision = u64;

/// The response header that says in a line why a list may lack something.
pub const NOTE: &str = "overlay-note";
