//! Serves the agent's socket: who may open it, and which request is which operation.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    io,
    os::{fd::AsFd as _, unix::fs::PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{
        Path as UrlPath, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::Listener,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{self, Group},
};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::api::{
    AdoptRequest, AdoptView, ClusterView, DoctorView, DropsFilter, DropsView, EndpointFilter,
    EndpointListing, EndpointRequest, EndpointView, ErrorKind, ErrorView, ImportArpdRequest,
    ImportView, MoveRequest, NOTE, NetworkRequest, NetworkView, OperationError, Operations,
    PingRequest, Pinged, RemovedView, SetRequest, StatusView, VerifyRequest, VerifyView, VtepRef,
    VtepRemovedView, VtepView, check_network,
};
use super::{
    connections::{self, Limits},
    descriptors, run_dir,
};
use crate::model::{Name, NetworkSettings};

mod stream;

/// Pending connections; more wait in connect(2).
const BACKLOG: u32 = 128;
/// Connections at once: more commands than that wait for each other.
const CONNECTIONS: usize = 256;
/// More than a command on a busy host takes from its connection to its request.
const IDLE: Duration = Duration::from_secs(1);

type Shared = State<Arc<dyn Operations>>;
type Answer<T> = Result<Json<T>, OperationError>;

/// Opens the socket at `path` for root alone (mode 0600), or for `group` too (0660).
///
/// The mode is set before the socket listens, and the name appears with the mode already set: there
/// is no moment in which others could connect. What a killed agent left at `path` is replaced; the
/// caller holds the instance's lock.
pub fn listen(path: &Path, group: Option<&str>) -> Result<UnixListener, OperationError> {
    let failed = |cause: io::Error| {
        OperationError::new(
            ErrorKind::Internal,
            format_args!("can't open the agent's socket {}: {cause}", path.display()),
        )
    };
    let group = group.map(find_group).transpose()?;
    if let Some(folder) = path.parent() {
        run_dir::make(folder).map_err(failed)?;
    }
    let unfinished = path.with_extension("sock.new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let socket = UnixSocket::new_stream().map_err(failed)?;
    socket.bind(&unfinished).map_err(failed)?;
    let opened = admit(&unfinished, group.as_ref()).and_then(|()| {
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        fs::rename(&unfinished, path).map_err(failed)?;
        Ok(listener)
    });
    if opened.is_err() {
        // What can't be removed either is removed by the next start.
        let _ = fs::remove_file(&unfinished);
    }
    opened
}

/// Lets root, and `group` if there is one, use the socket at `path`.
fn admit(path: &Path, group: Option<&Group>) -> Result<(), OperationError> {
    let refused = |whom: &str, errno: &dyn std::fmt::Display| {
        OperationError::new(
            ErrorKind::Refused,
            format_args!(
                "can't give the agent's socket to {whom}: {errno}: run overlay as root, as a member \
                 of that group, or with CAP_CHOWN"
            ),
        )
    };
    if let Some(Group { name, gid, .. }) = group {
        unistd::chown(path, None, Some(*gid))
            .map_err(|errno| refused(&format!("group {name}"), &errno.desc()))?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| refused("its users", &error))
}

fn find_group(name: &str) -> Result<Group, OperationError> {
    let refused = |why: &dyn std::fmt::Display| {
        OperationError::new(
            ErrorKind::Refused,
            format_args!("socket group {name:?} {why}: create it with groupadd or name another"),
        )
    };
    Group::from_name(name)
        .map_err(|errno| refused(&format_args!("can't be looked up ({errno})")))?
        .ok_or_else(|| refused(&"does not exist on this host"))
}

/// Accepts clients, but none that has hung up meanwhile: what somebody gave up hours ago, because the agent
/// was stopped, is not done now.
pub(super) struct Present(pub UnixListener);

impl Listener for Present {
    type Io = UnixStream;
    type Addr = <UnixListener as Listener>::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.0).await;
            let mut ends = [PollFd::new(stream.as_fd(), PollFlags::empty())];
            let polled = poll(&mut ends, PollTimeout::ZERO);
            let has_hung_up = ends.iter().any(|end| {
                end.revents()
                    .is_some_and(|it| it.contains(PollFlags::POLLHUP))
            });
            if polled.is_err() || !has_hung_up {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Listener::local_addr(&self.0)
    }
}

/// Serves `operations` until `stop` resolves. Answers that are under way then get a moment to go
/// out.
pub async fn serve(
    listener: UnixListener,
    operations: Arc<dyn Operations>,
    stop: impl Future<Output = ()>,
) {
    connections::serve(Present(listener), router(operations), limits(), stop).await;
}

/// Bounds of what the agent's socket serves. How long an answer takes is the operation's business.
pub(super) fn limits() -> Limits {
    Limits {
        connections: descriptors::share(CONNECTIONS),
        idle: IDLE,
        lifetime: None,
    }
}

/// Which request is which operation.
pub fn router(operations: Arc<dyn Operations>) -> Router {
    Router::new()
        .route("/v1/networks", get(network_ls).post(network_create))
        .route(
            "/v1/networks/{name}",
            axum::routing::delete(network_rm).patch(network_set),
        )
        .route("/v1/endpoints", get(endpoint_ls).post(endpoint_add))
        .route(
            "/v1/endpoints/{name}",
            get(endpoint_show).delete(endpoint_rm).patch(endpoint_set),
        )
        .route("/v1/endpoints/{name}/move", post(endpoint_move))
        .route("/v1/vteps", get(vtep_ls))
        .route("/v1/vteps/{vtep}", axum::routing::delete(vtep_rm))
        .route("/v1/status", get(status))
        .route("/v1/registry/adopt", post(registry_adopt))
        .route("/v1/drops", get(drops))
        .route("/v1/drops/detail", get(drops_detail))
        .route("/v1/monitor", get(monitor))
        .route("/v1/verify", post(verify))
        .route("/v1/doctor", get(doctor))
        .route("/v1/doctor/cluster", get(doctor_cluster))
        .route("/v1/ping", post(ping))
        .route("/v1/import/arpd", post(import_arpd))
        .route("/v1/down", post(down))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(operations)
}

async fn network_create(State(agent): Shared, body: Body<NetworkRequest>) -> Answer<NetworkView> {
    let Json(request) = body?;
    check_network(&request.subnets, request.mtu)?;
    through(async move { agent.network_create(request).await }).await
}

async fn network_set(
    State(agent): Shared,
    name: NameInUrl,
    body: Body<NetworkSettings>,
) -> Answer<NetworkView> {
    let (UrlPath(name), Json(settings)) = (name?, body?);
    through(async move { agent.network_set(&name, settings).await }).await
}

async fn network_ls(State(agent): Shared) -> Answer<Vec<NetworkView>> {
    agent.network_ls().await.map(Json)
}

async fn network_rm(State(agent): Shared, name: NameInUrl) -> Answer<RemovedView> {
    let UrlPath(name) = name?;
    through(async move { agent.network_rm(&name).await }).await
}

async fn endpoint_add(State(agent): Shared, body: Body<EndpointRequest>) -> Answer<EndpointView> {
    let Json(request) = body?;
    through(async move { agent.endpoint_add(request).await }).await
}

async fn endpoint_ls(
    State(agent): Shared,
    filter: Result<Query<EndpointFilter>, QueryRejection>,
) -> Result<Response, OperationError> {
    let Query(filter) = filter?;
    let EndpointListing { pages, note } = agent.endpoint_ls(filter).await?;
    let mut answer = stream::array(pages).await?;
    // A header is one line of bytes.
    let note = note.map(|note| note.replace(|c: char| c.is_control(), " "));
    if let Some(note) = note.and_then(|note| HeaderValue::from_bytes(note.as_bytes()).ok()) {
        answer.headers_mut().insert(NOTE, note);
    }
    Ok(answer)
}

async fn endpoint_show(State(agent): Shared, name: NameInUrl) -> Answer<EndpointView> {
    let UrlPath(name) = name?;
    agent.endpoint_show(&name).await.map(Json)
}

async fn endpoint_move(
    State(agent): Shared,
    name: NameInUrl,
    body: Body<MoveRequest>,
) -> Answer<EndpointView> {
    let (UrlPath(name), Json(to)) = (name?, body?);
    through(async move { agent.endpoint_move(&name, to).await }).await
}

async fn endpoint_set(
    State(agent): Shared,
    name: NameInUrl,
    body: Body<SetRequest>,
) -> Answer<EndpointView> {
    let (UrlPath(name), Json(request)) = (name?, body?);
    through(async move { agent.endpoint_set(&name, request).await }).await
}

async fn endpoint_rm(State(agent): Shared, name: NameInUrl) -> Answer<RemovedView> {
    let UrlPath(name) = name?;
    through(async move { agent.endpoint_rm(&name).await }).await
}

async fn vtep_ls(State(agent): Shared) -> Answer<Vec<VtepView>> {
    agent.vtep_ls().await.map(Json)
}

async fn vtep_rm(
    State(agent): Shared,
    vtep: Result<UrlPath<VtepRef>, PathRejection>,
) -> Answer<Option<VtepRemovedView>> {
    let UrlPath(vtep) = vtep?;
    through(async move { agent.vtep_rm(&vtep).await }).await
}

async fn status(State(agent): Shared) -> Answer<StatusView> {
    agent.status().await.map(Json)
}

async fn drops(State(agent): Shared) -> Answer<BTreeMap<String, u64>> {
    agent.drops().await.map(Json)
}

async fn drops_detail(
    State(agent): Shared,
    filter: Result<Query<DropsFilter>, QueryRejection>,
) -> Answer<DropsView> {
    let Query(filter) = filter?;
    agent.drops_detail(filter).await.map(Json)
}

async fn monitor(State(agent): Shared) -> Result<Response, OperationError> {
    Ok(stream::lines(agent.monitor().await?))
}

async fn verify(State(agent): Shared, body: Body<VerifyRequest>) -> Answer<VerifyView> {
    let Json(request) = body?;
    agent.verify(request).await.map(Json)
}

async fn doctor(State(agent): Shared) -> Answer<DoctorView> {
    agent.doctor().await.map(Json)
}

async fn doctor_cluster(State(agent): Shared) -> Answer<ClusterView> {
    agent.doctor_cluster().await.map(Json)
}

async fn ping(State(agent): Shared, body: Body<PingRequest>) -> Answer<Pinged> {
    let Json(request) = body?;
    agent.ping(request).await.map(Json)
}

async fn registry_adopt(State(agent): Shared, body: Body<AdoptRequest>) -> Answer<AdoptView> {
    let Json(request) = body?;
    through(async move { agent.registry_adopt(request).await }).await
}

async fn import_arpd(State(agent): Shared, body: Body<ImportArpdRequest>) -> Answer<ImportView> {
    let Json(request) = body?;
    if !request.dir.is_absolute() {
        return Err(OperationError::new(
            ErrorKind::Usage,
            format_args!(
                "the folder {} is not an absolute path",
                request.dir.display()
            ),
        ));
    }
    through(async move { agent.import_arpd(request).await }).await
}

async fn down(State(agent): Shared) -> Answer<Value> {
    through(async move { agent.down().await.map(nothing) }).await
}

async fn unknown() -> OperationError {
    OperationError::new(
        ErrorKind::Usage,
        "the agent does not know this operation: it and the overlay command are of different \
         versions, restart the agent",
    )
}

/// Carries an operation through even if the client hangs up, which drops the handler's future.
async fn through<T: Send + 'static>(
    operation: impl Future<Output = Result<T, OperationError>> + Send + 'static,
) -> Answer<T> {
    match tokio::spawn(operation).await {
        Ok(outcome) => outcome.map(Json),
        Err(error) => Err(OperationError::new(
            ErrorKind::Internal,
            format_args!("the agent failed: {error}; see its log"),
        )),
    }
}

fn nothing((): ()) -> Value {
    json!({})
}

type Body<T> = Result<Json<T>, JsonRejection>;
type NameInUrl = Result<UrlPath<Name>, PathRejection>;

impl From<JsonRejection> for OperationError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(ErrorKind::Usage, rejection.body_text())
    }
}

impl From<QueryRejection> for OperationError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(ErrorKind::Usage, rejection.body_text())
    }
}

impl From<PathRejection> for OperationError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(ErrorKind::Usage, rejection.body_text())
    }
}

impl IntoResponse for OperationError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ErrorKind::Usage => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Finding | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorView { error: self })).into_response()
    }
}

#[cfg(test)]
mod tests;
