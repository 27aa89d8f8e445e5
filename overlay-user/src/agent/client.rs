//! The client side of the agent's socket: one connection a request.

/// What verbs do themselves where no agent answers.
pub use super::{
    archive,
    doctor::without_agent as examine,
    offline::Left,
    teardown::{Doomed, down as take_down},
};

pub use crate::platform::Inventory;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use procfs::process::{ProcState, Process};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use super::api::{
    AdoptRequest, AdoptView, ClusterView, DoctorView, DropsFilter, DropsView, EndpointFilter,
    EndpointRequest, EndpointView, ErrorView, EventView, ImportArpdRequest, ImportView,
    MoveRequest, NOTE, NetworkRequest, NetworkView, PingRequest, Pinged, RemovedView, SetRequest,
    StatusView, VerifyRequest, VerifyView, VtepRef, VtepRemovedView, VtepView,
};
use crate::{
    config::InstancePaths,
    model::{Name, NetworkSettings},
};

mod error;
mod lines;

pub use error::ClientError;
use lines::Lines;

/// Endpoints that are handed out at once.
const PAGE: usize = 1000;

/// How long an answer is waited for unless somebody says otherwise: longer than any operation takes, so
/// that only an agent that hangs gets there.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often it is looked meanwhile whether the agent is stopped.
const LOOK: Duration = Duration::from_secs(2);

/// The agent's process, if it can be told.
type AgentPid = Option<i32>;

/// A way to one instance's agent.
#[derive(Debug, Clone)]
pub struct Client {
    instance: Name,
    socket: PathBuf,
    patience: Duration,
}

/// A request that is under way.
#[derive(Debug, Clone)]
struct Asked {
    agent: AgentPid,
    verb: String,
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
        Self {
            instance,
            socket,
            patience: PATIENCE,
        }
    }

    /// The same, with so long for each answer.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// That nobody listens.
    #[must_use]
    pub fn no_agent(&self) -> ClientError {
        ClientError::NoAgent {
            instance: self.instance.clone(),
            socket: self.socket.clone(),
        }
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
    pub async fn network_create(
        &self,
        request: &NetworkRequest,
    ) -> Result<NetworkView, ClientError> {
        self.post("/v1/networks", request).await
    }

    /// Changes a network while traffic runs.
    pub async fn network_set(
        &self,
        name: &Name,
        settings: &NetworkSettings,
    ) -> Result<NetworkView, ClientError> {
        self.patch(&format!("/v1/networks/{name}"), settings).await
    }

    /// Every network.
    pub async fn network_ls(&self) -> Result<Vec<NetworkView>, ClientError> {
        self.get("/v1/networks").await
    }

    /// Removes a network.
    pub async fn network_rm(&self, name: &Name) -> Result<RemovedView, ClientError> {
        self.delete(&format!("/v1/networks/{name}")).await
    }

    /// Makes an endpoint and returns when it is ready.
    pub async fn endpoint_add(
        &self,
        request: &EndpointRequest,
    ) -> Result<EndpointView, ClientError> {
        self.post("/v1/endpoints", request).await
    }

    /// The endpoints of every node that pass `filter`, to be read page by page.
    pub async fn endpoint_ls(&self, filter: &EndpointFilter) -> Result<EndpointList, ClientError> {
        let query = [
            filter.vni.as_ref().map(|vni| format!("vni={vni}")),
            filter.node.as_ref().map(|node| format!("node={node}")),
        ];
        let query: Vec<_> = query.into_iter().flatten().collect();
        let path = format!("/v1/endpoints?{}", query.join("&"));
        let (answer, asked) = self.answer(Method::GET, &path, Bytes::new()).await?;
        let note = answer.headers().get(NOTE);
        let note = note.map(|note| String::from_utf8_lossy(note.as_bytes()).into_owned());
        Ok(EndpointList {
            client: self.clone(),
            lines: Lines::new(answer.into_body()),
            asked,
            note,
        })
    }

    /// One endpoint.
    pub async fn endpoint_show(&self, name: &Name) -> Result<EndpointView, ClientError> {
        self.get(&format!("/v1/endpoints/{name}")).await
    }

    /// Puts an endpoint onto another node.
    pub async fn endpoint_move(
        &self,
        name: &Name,
        to: &MoveRequest,
    ) -> Result<EndpointView, ClientError> {
        self.post(&format!("/v1/endpoints/{name}/move"), to).await
    }

    /// Changes an endpoint while traffic runs.
    pub async fn endpoint_set(
        &self,
        name: &Name,
        request: &SetRequest,
    ) -> Result<EndpointView, ClientError> {
        self.patch(&format!("/v1/endpoints/{name}"), request).await
    }

    /// Removes an endpoint.
    pub async fn endpoint_rm(&self, name: &Name) -> Result<RemovedView, ClientError> {
        self.delete(&format!("/v1/endpoints/{name}")).await
    }

    /// What following the registry that is there would remove; follows it if the request says so.
    pub async fn registry_adopt(&self, request: &AdoptRequest) -> Result<AdoptView, ClientError> {
        self.post("/v1/registry/adopt", request).await
    }

    /// The nodes and their VTEPs.
    pub async fn vtep_ls(&self) -> Result<Vec<VtepView>, ClientError> {
        self.get("/v1/vteps").await
    }

    /// Removes a node whose host is gone for good. `None`: it was gone already.
    pub async fn vtep_rm(&self, vtep: &VtepRef) -> Result<Option<VtepRemovedView>, ClientError> {
        self.delete(&format!("/v1/vteps/{vtep}")).await
    }

    /// The agent's state.
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/status").await
    }

    /// Dropped packets by reason.
    pub async fn drops(&self) -> Result<BTreeMap<String, u64>, ClientError> {
        self.get("/v1/drops").await
    }

    /// The same with some of the packets, or what was dropped of one endpoint.
    pub async fn drops_detail(&self, filter: &DropsFilter) -> Result<DropsView, ClientError> {
        match &filter.endpoint {
            Some(endpoint) => {
                let path = format!("/v1/drops/detail?endpoint={endpoint}");
                self.get(&path).await
            }
            None => self.get("/v1/drops/detail").await,
        }
    }

    /// What happens from now on.
    pub async fn monitor(&self) -> Result<Events, ClientError> {
        let (answer, asked) = self
            .answer(Method::GET, "/v1/monitor", Bytes::new())
            .await?;
        Ok(Events {
            client: self.clone(),
            lines: Lines::new(answer.into_body()),
            asked,
        })
    }

    /// Compares what every host has installed with the registry.
    pub async fn verify(&self, request: &VerifyRequest) -> Result<VerifyView, ClientError> {
        self.post("/v1/verify", request).await
    }

    /// Examines the agent's host and its peers.
    pub async fn doctor(&self) -> Result<DoctorView, ClientError> {
        self.get("/v1/doctor").await
    }

    /// Examines every pair of hosts.
    pub async fn doctor_cluster(&self) -> Result<ClusterView, ClientError> {
        self.get("/v1/doctor/cluster").await
    }

    /// Sends an echo from an endpoint or a node to another.
    pub async fn ping(&self, request: &PingRequest) -> Result<Pinged, ClientError> {
        self.post("/v1/ping", request).await
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

    async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        self.call(Method::PATCH, path, body.into()).await
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
        let (answer, asked) = self.answer(method, path, body).await?;
        let body = self.in_time(&asked, answer.into_body().collect()).await?;
        self.parse(&body.to_bytes())
    }

    /// A good answer whose body is still to come, and what was asked.
    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Asked), ClientError> {
        let stream = self.connect().await?;
        let asked = Asked {
            // The process that listens (unix(7), SO_PEERCRED).
            agent: stream.peer_cred().ok().and_then(|peer| peer.pid()),
            verb: verb(&method, path),
        };
        let response = self
            .in_time(&asked, exchange(stream, method, path, body))
            .await?;
        let status = response.status();
        if status.is_success() {
            return Ok((response, asked));
        }
        let body = response.into_body();
        let body = self.in_time(&asked, body.collect()).await?.to_bytes();
        match serde_json::from_slice::<ErrorView>(&body) {
            Ok(view) => Err(view.error.into()),
            Err(_) => Err(self.broken(format_args!("it said HTTP {status}"))),
        }
    }

    async fn in_time<T, E: fmt::Display>(
        &self,
        asked: &Asked,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ClientError> {
        let (mut work, begun) = (pin!(work), Instant::now());
        loop {
            let left = self.patience.saturating_sub(begun.elapsed());
            match timeout(left.min(LOOK), &mut work).await {
                Ok(done) => return done.map_err(|error| self.broken(error)),
                Err(_) => self.check_agent(asked.agent)?,
            }
            if left <= LOOK {
                return Err(ClientError::Late {
                    instance: self.instance.clone(),
                    verb: asked.verb.clone(),
                    patience: self.patience,
                });
            }
        }
    }

    /// Fails if the agent's process is stopped. Whatever can't be told is left to the request.
    fn check_agent(&self, agent: AgentPid) -> Result<(), ClientError> {
        let Some(pid) = agent else { return Ok(()) };
        let state = Process::new(pid).and_then(|process| process.stat()?.state());
        if matches!(state, Ok(ProcState::Stopped)) {
            return Err(ClientError::Stopped {
                instance: self.instance.clone(),
                pid,
            });
        }
        Ok(())
    }

    fn parse<T: DeserializeOwned>(&self, text: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(text)
            .map_err(|error| self.broken(format_args!("its answer is not understood ({error})")))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        use io::ErrorKind::{
            ConnectionRefused, NotADirectory, NotFound, PermissionDenied, WouldBlock,
        };
        UnixStream::connect(&self.socket)
            .await
            .map_err(|error| match error.kind() {
                NotFound | NotADirectory | ConnectionRefused => self.no_agent(),
                PermissionDenied => ClientError::Denied(self.socket.clone()),
                WouldBlock => self.broken("too many clients wait for it, it may be stopped"),
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

/// Endpoints as they come from the agent.
#[derive(Debug)]
pub struct EndpointList {
    client: Client,
    lines: Lines,
    asked: Asked,
    note: Option<String>,
}

impl EndpointList {
    /// Why they may not be all that there are, in a line.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The next ones. `None`: these were all.
    pub async fn page(&mut self) -> Result<Option<Vec<EndpointView>>, ClientError> {
        let mut page = Vec::new();
        while page.len() < PAGE {
            let line = self.client.in_time(&self.asked, self.lines.next()).await?;
            let Some(line) = line else { break };
            let element = line.strip_suffix(b",").unwrap_or(&line);
            match element {
                b"[" | b"]" | b"[]" => {}
                element => match serde_json::from_slice::<ErrorView>(element) {
                    Ok(view) => return Err(view.error.into()),
                    Err(_) => page.push(self.client.parse(element)?),
                },
            }
        }
        Ok((!page.is_empty()).then_some(page))
    }

    /// All that are left.
    pub async fn all(mut self) -> Result<Vec<EndpointView>, ClientError> {
        let mut all = Vec::new();
        while let Some(page) = self.page().await? {
            all.extend(page);
        }
        Ok(all)
    }
}

/// Events as they come from the agent.
#[derive(Debug)]
pub struct Events {
    client: Client,
    lines: Lines,
    asked: Asked,
}

impl Events {
    /// The next one, however long it takes. [`ClientError::Ended`]: the agent has; one that is stopped tells
    /// of nothing.
    pub async fn next(&mut self) -> Result<EventView, ClientError> {
        let line = loop {
            match timeout(LOOK, self.lines.next()).await {
                Ok(line) => break line,
                Err(_) => self.client.check_agent(self.asked.agent)?,
            }
        };
        match line {
            Ok(Some(line)) => self.client.parse(&line),
            Ok(None) | Err(_) => Err(ClientError::Ended(self.client.instance.clone())),
        }
    }
}

/// The words of the command line that ask for this.
fn verb(method: &Method, path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let words: Vec<&str> = path.split('/').skip(2).collect();
    let done = |made: &'static str| match (method.as_str(), words.len()) {
        ("POST", 1) => made,
        ("POST", _) => "move",
        ("DELETE", _) => "rm",
        ("PATCH", _) => "set",
        (_, 1) => "ls",
        _ => "show",
    };
    match words.first() {
        Some(&"networks") => format!("network {}", done("create")),
        Some(&"endpoints") => format!("endpoint {}", done("add")),
        Some(&"vteps") => format!("vtep {}", done("add")),
        _ => words.join(" "),
    }
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "overlay")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    // The connection has to be polled for the exchange to move. It ends when the sender is dropped;
    // an error of it is the request's too.
    let mut connection = tokio::spawn(connection);
    let mut answer = pin!(sender.send_request(request));
    // A request that is handed over just as the connection ends may be lost between the two: no answer and
    // no error would ever come of it.
    tokio::select! {
        biased;
        answer = &mut answer => Ok(answer?),
        _ = &mut connection => Ok(answer.now_or_never().context("it closed the connection")??),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_the_command_line_names_them() {
        for (method, path, expected) in [
            (Method::POST, "/v1/networks", "network create"),
            (Method::GET, "/v1/endpoints?vni=42", "endpoint ls"),
            (Method::GET, "/v1/endpoints/web", "endpoint show"),
            (Method::POST, "/v1/endpoints/web/move", "endpoint move"),
            (Method::DELETE, "/v1/vteps/h2", "vtep rm"),
            (Method::PATCH, "/v1/networks/blue", "network set"),
            (Method::POST, "/v1/registry/adopt", "registry adopt"),
            (Method::GET, "/v1/status", "status"),
        ] {
            assert_eq!(verb(&method, path), expected);
        }
    }
}
