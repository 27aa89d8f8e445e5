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
mod dhcp;
mod doctor;
mod drops;
mod endpoint;
mod error;
mod event;
mod explain;
mod float;
mod identity;
mod import;
mod ip;
mod name;
mod nat;
mod netns_ref;
mod network;
mod network_ref;
mod operation;
mod path;
mod ping;
mod pool;
mod qos;
mod rate;
mod router;
#[cfg(feature = "schema")]
pub mod schema;
mod status;
mod verify;
mod vtep;

pub use address::*;
pub use adopt::*;
pub use client::*;
pub use dhcp::*;
pub use doctor::*;
pub use drops::*;
pub use endpoint::*;
pub use error::*;
pub use event::*;
pub use explain::*;
pub use float::*;
pub use identity::*;
pub use import::*;
pub use ip::*;
pub use name::*;
pub use nat::*;
pub use netns_ref::*;
pub use network::*;
pub use network_ref::*;
pub use operation::*;
pub use path::*;
pub use ping::*;
pub use pool::*;
pub use qos::*;
pub use rate::*;
pub use router::*;
pub use status::*;
pub use verify::*;
pub use vtep::*;

/// The registry's version: starts at 1, and grows with every commit.
pub type Revision = u64;

/// The response header that says in a line why a list may lack something.
pub const NOTE: &str = "overlay-note";
