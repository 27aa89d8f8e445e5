//! The command line's side of the agent's socket: one connection a request.

/// What `overlay down` does itself where no agent answers.
pub use super::teardown::down as take_down;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use super::api::{
    EndpointRequest, EndpointView, ErrorKind, ErrorView, ImportArpdRequest, ImportView,
    NetworkView, OperationError, StatusView, VtepView,
};
use crate::{
    config::InstancePaths,
    model::{Name, Network},
};

/// Longer than any operation takes; only an agent that hangs gets there.
const PATIENCE: Duration = Duration::from_mins(2);

/// Why a request has no good answer. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent of instance {instance} listens on {}: start one with `{}`",
        socket.display(),
        run_command(instance)
    )]
    NoAgent {
        /// The instance.
        instance: Name,
        /// Where its agent would listen.
        socket: PathBuf,
    },
    /// The socket is not for this user.
    #[error(
        "permission denied on {}: be root, or a member of the group that the agent's \
         --socket-group names",
        .0.display()
    )]
    Denied(PathBuf),
    /// The agent said no.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The conversation broke.
    #[error("the agent at {} did not answer: {cause}; see its log", socket.display())]
    Broken {
        /// Where it listens.
        socket: PathBuf,
        /// What went wrong.
        cause: String,
    },
}

fn run_command(instance: &Name) -> String {
    if *instance == crate::config::default_instance() {
        "overlay run --iface IF".to_owned()
    } else {
        format!("overlay --instance {instance} run --iface IF")
    }
}

impl From<ClientError> for OperationError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Operation(error) => error,
            ClientError::NoAgent { .. } => Self::new(ErrorKind::Unavailable, error),
            ClientError::Denied(_) => Self::new(ErrorKind::Refused, error),
            ClientError::Broken { .. } => Self::new(ErrorKind::Internal, error),
        }
    }
}

/// A way to one instance's agent.
#[derive(Debug, Clone)]
pub struct Client {
    instance: Name,
    socket: PathBuf,
}

impl Client {
    /// The agent of `instance` on this host.
    #[must_use]
    pub fn new(instance: Name) -> Self {
        let socket = InstancePaths::new(&instance).socket;
        Self::at(instance, socket)
    }

    /// The agent of `instance` that listens on `socket`.
    #[must_use]
    pub fn at(instance: Name, socket: PathBuf) -> Self {
        Self { instance, socket }
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &Name {
        &self.instance
    }

    /// Where its agent listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes a network.
    pub async fn network_create(&self, network: &Network) -> Result<NetworkView, ClientError> {
        self.post("/v1/networks", network).await
    }

    /// Every network.
    pub async fn network_ls(&self) -> Result<Vec<NetworkView>, ClientError> {
        self.get("/v1/networks").await
    }

    /// Removes a network.
    pub async fn network_rm(&self, name: &Name) -> Result<(), ClientError> {
        self.delete(&format!("/v1/networks/{name}")).await
    }

    /// Makes an endpoint and returns when it is ready.
    pub async fn endpoint_add(
        &self,
        request: &EndpointRequest,
    ) -> Result<EndpointView, ClientError> {
        self.post("/v1/endpoints", request).await
    }

    /// The endpoints of every node.
    pub async fn endpoint_ls(&self) -> Result<Vec<EndpointView>, ClientError> {
        self.get("/v1/endpoints").await
    }

    /// One endpoint.
    pub async fn endpoint_show(&self, name: &Name) -> Result<EndpointView, ClientError> {
        self.get(&format!("/v1/endpoints/{name}")).await
    }

    /// Removes an endpoint.
    pub async fn endpoint_rm(&self, name: &Name) -> Result<(), ClientError> {
        self.delete(&format!("/v1/endpoints/{name}")).await
    }

    /// The nodes and their VTEPs.
    pub async fn vtep_ls(&self) -> Result<Vec<VtepView>, ClientError> {
        self.get("/v1/vteps").await
    }

    /// The agent's state.
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/status").await
    }

    /// Dropped packets by reason.
    pub async fn drops(&self) -> Result<BTreeMap<String, u64>, ClientError> {
        self.get("/v1/drops").await
    }

    /// Takes over a folder of `arp/<ip>` and `fdb/<mac>` files.
    pub async fn import_arpd(
        &self,
        request: &ImportArpdRequest,
    ) -> Result<ImportView, ClientError> {
        self.post("/v1/import/arpd", request).await
    }

    /// Removes all that the instance made, and ends its agent.
    pub async fn down(&self) -> Result<(), ClientError> {
        let _: Value = self.post("/v1/down", &Value::Null).await?;
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    async fn delete(&self, path: &str) -> Result<(), ClientError> {
        let _: Value = self.call(Method::DELETE, path, Bytes::new()).await?;
        Ok(())
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        self.call(Method::POST, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let stream = self.connect().await?;
        let (status, body) = timeout(PATIENCE, exchange(stream, method, path, body))
            .await
            .map_err(|_| self.broken(format_args!("nothing within {} s", PATIENCE.as_secs())))?
            .map_err(|error| self.broken(error))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                self.broken(format_args!("its answer is not understood ({error})"))
            });
        }
        match serde_json::from_slice::<ErrorView>(&body) {
            Ok(view) => Err(view.error.into()),
            Err(_) => Err(self.broken(format_args!("it said HTTP {status}"))),
        }
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound, PermissionDenied};
        UnixStream::connect(&self.socket)
            .await
            .map_err(|error| match error.kind() {
                NotFound | NotADirectory | ConnectionRefused => ClientError::NoAgent {
                    instance: self.instance.clone(),
                    socket: self.socket.clone(),
                },
                PermissionDenied => ClientError::Denied(self.socket.clone()),
                _ => self.broken(error),
            })
    }

    fn broken(&self, cause: impl fmt::Display) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            cause: cause.to_string(),
        }
    }
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "overlay")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    // The connection has to be polled for the exchange to move. It ends when the sender is dropped;
    // an error of it is the request's too.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
