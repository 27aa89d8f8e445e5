//! Takes over what another tool kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Method, NetworkRef, Operation, OperationError, Vni};

/// Takes over a folder of `arp/IP` and `fdb/MAC` files.
///
/// Its endpoints become known on every node. No agent has to run at their VTEPs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportArpd {
    /// The network that its endpoints are on, by VNI or name.
    pub vni: NetworkRef,
    /// The folder's absolute path, on the agent's host.
    pub dir: PathBuf,
}

impl Operation for ImportArpd {
    type Answer = ImportView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/import/arpd";
    const VERB: &'static str = "import arpd";

    fn check(&self) -> Result<(), OperationError> {
        if self.dir.is_absolute() {
            return Ok(());
        }
        Err(OperationError::new(
            ErrorKind::Usage,
            format_args!("the folder {} is not an absolute path", self.dir.display()),
        ))
    }
}

/// What an import took over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImportView {
    /// The network.
    pub vni: Vni,
    /// How many endpoints the folder holds.
    pub endpoints: usize,
    /// Behind how many VTEPs they are.
    pub vteps: usize,
}
