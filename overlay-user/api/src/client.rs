//! The client side of the agent's socket: one connection a request.

use std::{
    fmt, fs,
    future::{Future, poll_fn},
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    task::{Poll, ready},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json};
use tokio::{net::UnixStream, time::timeout};

use crate::{ErrorView, Lines, NOTE, Name, Operation, Pages, Value};

mod error;
mod lines;

pub use error::ClientError;
use lines::BodyLines;

/// The folder of the agents' sockets: `NAME.sock` is that of instance NAME.
pub const RUN_DIR: &str = "/run/overlay";

/// Elements of a list that are handed out at once.
const PAGE: usize = 1000;

/// The default time limit of an answer: longer than any operation takes, so that only an agent that hangs
/// reaches it.
const TIMEOUT: Duration = Duration::from_mins(2);
/// How often the agent's process is looked at meanwhile.
const CHECK: Duration = Duration::from_secs(2);

/// Characters of a parameter that stand for themselves in a URL.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b':');

/// The agent's process, where the kernel tells it.
type AgentPid = Option<i32>;

/// The instance that is meant where none is named: `default`.
#[must_use]
#[expect(
    clippy::missing_panics_doc,
    reason = "the name is a constant of the alphabet"
)]
pub fn default_instance() -> Name {
    #[expect(clippy::expect_used, reason = "\"default\" is in a name's alphabet")]
    "default".parse().expect("a valid name")
}

/// A client of one instance's agent.
///
/// It holds no connection. Needs a tokio runtime with I/O and time.
#[derive(Debug, Clone)]
pub struct Client {
    instance: Name,
    socket: PathBuf,
    timeout: Duration,
}

/// A request that is under way.
#[derive(Debug, Clone)]
struct Sent {
    agent: AgentPid,
    verb: &'static str,
}

impl Client {
    /// A client of the agent of `instance` on this host.
    #[must_use]
    pub fn new(instance: Name) -> Self {
        let socket = Path::new(RUN_DIR).join(format!("{instance}.sock"));
        Self::at(instance, socket)
    }

    /// A client of the agent of `instance` that listens on `socket`.
    #[must_use]
    pub fn at(instance: Name, socket: PathBuf) -> Self {
        Self {
            instance,
            socket,
            timeout: TIMEOUT,
        }
    }

    /// The same with another time limit for each answer, instead of 2 minutes.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &Name {
        &self.instance
    }

    /// The path of the agent's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The error of a socket that nobody listens on.
    #[must_use]
    pub fn no_agent(&self) -> ClientError {
        ClientError::NoAgent {
            instance: self.instance.clone(),
            socket: self.socket.clone(),
        }
    }

    /// Asks the agent for an operation, and waits for its answer.
    ///
    /// [`ClientError::Late`] after the time limit: whether the operation was done is not known.
    pub async fn call<Op>(&self, operation: &Op) -> Result<Op::Answer, ClientError>
    where
        Op: Operation<Form = Value>,
    {
        let (answer, sent) = self.send(operation).await?;
        let body = self.in_time(&sent, answer.into_body().collect()).await?;
        self.parse(&body.to_bytes())
    }

    /// Asks the agent for a list, to be read page by page.
    pub async fn pages<Op, T>(&self, operation: &Op) -> Result<PageReader<T>, ClientError>
    where
        Op: Operation<Form = Pages, Answer = Vec<T>>,
    {
        let (answer, sent) = self.send(operation).await?;
        let note = answer.headers().get(NOTE);
        let note = note.map(|note| String::from_utf8_lossy(note.as_bytes()).into_owned());
        Ok(PageReader {
            client: self.clone(),
            lines: BodyLines::new(answer.into_body()),
            sent,
            note,
            element: PhantomData,
        })
    }

    /// Asks the agent for events, to be read as they come.
    pub async fn lines<Op>(&self, operation: &Op) -> Result<Events<Op::Answer>, ClientError>
    where
        Op: Operation<Form = Lines>,
    {
        let (answer, sent) = self.send(operation).await?;
        Ok(Events {
            client: self.clone(),
            lines: BodyLines::new(answer.into_body()),
            sent,
            event: PhantomData,
        })
    }

    /// A good answer whose body is still to come.
    async fn send<Op: Operation>(
        &self,
        operation: &Op,
    ) -> Result<(Response<Incoming>, Sent), ClientError> {
        let request = request(operation).map_err(|error| self.broken(error))?;
        let stream = self.connect().await?;
        let sent = Sent {
            // The process that listens (unix(7), SO_PEERCRED).
            agent: stream.peer_cred().ok().and_then(|peer| peer.pid()),
            verb: Op::VERB,
        };
        let response = self.in_time(&sent, exchange(stream, request)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok((response, sent));
        }
        let body = response.into_body();
        let body = self.in_time(&sent, body.collect()).await?.to_bytes();
        match serde_json::from_slice::<ErrorView>(&body) {
            Ok(view) => Err(view.error.into()),
            Err(_) => Err(self.broken(format_args!("it said HTTP {status}"))),
        }
    }

    async fn in_time<T, E: fmt::Display>(
        &self,
        sent: &Sent,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ClientError> {
        let (mut work, started) = (pin!(work), Instant::now());
        loop {
            let left = self.timeout.saturating_sub(started.elapsed());
            match timeout(left.min(CHECK), &mut work).await {
                Ok(done) => return done.map_err(|error| self.broken(error)),
                Err(_) => self.check_agent(sent.agent)?,
            }
            if left <= CHECK {
                return Err(ClientError::Late {
                    instance: self.instance.clone(),
                    verb: sent.verb,
                    timeout: self.timeout,
                });
            }
        }
    }

    /// Fails if the agent's process is stopped. Where that can't be told, the request's time limit decides.
    fn check_agent(&self, agent: AgentPid) -> Result<(), ClientError> {
        match agent {
            Some(pid) if is_stopped(pid) => Err(ClientError::Stopped {
                instance: self.instance.clone(),
                pid,
            }),
            _ => Ok(()),
        }
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

/// A list as it comes from the agent.
#[derive(Debug)]
pub struct PageReader<T> {
    client: Client,
    lines: BodyLines,
    sent: Sent,
    note: Option<String>,
    element: PhantomData<T>,
}

impl<T: DeserializeOwned> PageReader<T> {
    /// Why the list may lack something, in a line.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The next elements, 1000 at most. `None`: the list is complete.
    pub async fn page(&mut self) -> Result<Option<Vec<T>>, ClientError> {
        let mut page = Vec::new();
        while page.len() < PAGE {
            let line = self.client.in_time(&self.sent, self.lines.next()).await?;
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

    /// All elements that are left.
    pub async fn all(mut self) -> Result<Vec<T>, ClientError> {
        let mut all = Vec::new();
        while let Some(page) = self.page().await? {
            all.extend(page);
        }
        Ok(all)
    }
}

/// Events as they come from the agent.
#[derive(Debug)]
pub struct Events<T> {
    client: Client,
    lines: BodyLines,
    sent: Sent,
    event: PhantomData<T>,
}

impl<T: DeserializeOwned> Events<T> {
    /// The next event, however long it takes. [`ClientError::Ended`]: the agent has ended.
    pub async fn next(&mut self) -> Result<T, ClientError> {
        let line = loop {
            match timeout(CHECK, self.lines.next()).await {
                Ok(line) => break line,
                Err(_) => self.client.check_agent(self.sent.agent)?,
            }
        };
        match line {
            Ok(Some(line)) => self.client.parse(&line),
            Ok(None) | Err(_) => Err(ClientError::Ended(self.client.instance.clone())),
        }
    }
}

/// Whether a process is stopped, as by SIGSTOP (`proc_pid_stat(5)`). False where that can't be told.
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the command's name, in which any character may be.
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| fields.starts_with('T'))
}

/// The request that asks for an operation.
fn request<Op: Operation>(operation: &Op) -> Result<Request<Full<Bytes>>, BoxError> {
    let mut parameters = match serde_json::to_value(operation)? {
        Json::Object(parameters) => parameters,
        other => return Err(format!("{other} are no parameters").into()),
    };
    let mut url = path(Op::PATH, &mut parameters)?;
    let body = if Op::METHOD.has_body() {
        serde_json::to_vec(&parameters)?
    } else {
        let separators = std::iter::once('?').chain(std::iter::repeat('&'));
        for (separator, (key, value)) in separators.zip(&parameters) {
            url.push(separator);
            url.push_str(key);
            url.push('=');
            url.push_str(&encoded(value));
        }
        Vec::new()
    };
    let request = Request::builder()
        .method(Op::METHOD.as_str())
        .uri(url)
        .header(HOST, "overlay")
        .header(CONTENT_TYPE, "application/json");
    Ok(request.body(Full::new(body.into()))?)
}

/// A URL's path, with the parameters that it names in their places; takes them out.
fn path(template: &str, parameters: &mut Map<String, Json>) -> Result<String, BoxError> {
    let mut parts = template.split('{');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (key, rest) = part.split_once('}').unwrap_or((part, ""));
        let value = parameters.remove(key);
        let value = value.ok_or_else(|| format!("there is no parameter {key}"))?;
        path.push_str(&encoded(&value));
        path.push_str(rest);
    }
    Ok(path)
}

/// A parameter as a part of a URL.
fn encoded(value: &impl Serialize) -> String {
    let text = match serde_json::to_value(value) {
        Ok(Json::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    };
    utf8_percent_encode(&text, ENCODED).to_string()
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, BoxError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection has to be polled for the exchange to move. It ends when the sender is dropped;
    // an error of it is the request's too.
    let mut connection = tokio::spawn(connection);
    let mut answer = pin!(sender.send_request(request));
    poll_fn(|context| {
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready(Ok(answer?));
        }
        // A request that is handed over just as the connection ends may be lost between the two: no answer and
        // no error would ever come of it.
        let _ended = ready!(Pin::new(&mut connection).poll(context));
        Poll::Ready(match answer.as_mut().poll(context) {
            Poll::Ready(answer) => Ok(answer?),
            Poll::Pending => Err("it closed the connection".into()),
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AddEndpoint, Down, ListEndpoints, MoveEndpoint, RemoveVtep, SetNetwork, ShowStatus,
    };

    /// The request line of an operation, and its body.
    async fn sent<Op: Operation>(operation: Op) -> (String, String) {
        let request = request(&operation).unwrap();
        let line = format!("{} {}", request.method(), request.uri());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        (line, String::from_utf8(body.to_vec()).unwrap())
    }

    fn expected(line: &str, body: &str) -> (String, String) {
        (line.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn parameters_are_in_the_path_the_query_or_the_body() {
        let [web, blue, h2]: [Name; 3] = ["web", "blue", "h2"].map(|name| name.parse().unwrap());
        assert_eq!(
            sent(AddEndpoint::new(web.clone(), "42".parse().unwrap())).await,
            expected(
                "POST /v1/endpoints",
                r#"{"addresses":[],"ifname":null,"mac":null,"name":"web","netns":null,"vni":42}"#
            )
        );
        let to = MoveEndpoint {
            name: web,
            node: Some(h2.clone()),
            netns: None,
            ifname: None,
        };
        assert_eq!(
            sent(to).await,
            expected(
                "POST /v1/endpoints/web/move",
                r#"{"ifname":null,"netns":null,"node":"h2"}"#
            )
        );
        let set = SetNetwork {
            name: blue.clone(),
            mtu: Some(1400),
            flood: None,
            learning: None,
            snat: None,
            dhcp: None,
            qos: None,
        };
        assert_eq!(
            sent(set).await,
            expected(
                "PATCH /v1/networks/blue",
                r#"{"flood":null,"learning":null,"mtu":1400}"#
            )
        );
        let both = ListEndpoints {
            vni: Some("42".parse().unwrap()),
            node: Some(h2),
        };
        let by_name = ListEndpoints {
            vni: Some(crate::NetworkRef::Name(blue)),
            node: None,
        };
        for (filter, line) in [
            (both, "GET /v1/endpoints?node=h2&vni=42"),
            (by_name, "GET /v1/endpoints?vni=blue"),
            (ListEndpoints::default(), "GET /v1/endpoints"),
        ] {
            assert_eq!(sent(filter).await, expected(line, ""));
        }
        let vtep = "fd00::9".parse().unwrap();
        assert_eq!(
            sent(RemoveVtep { vtep }).await,
            expected("DELETE /v1/vteps/fd00::9", "")
        );
        assert_eq!(sent(ShowStatus {}).await, expected("GET /v1/status", ""));
        assert_eq!(sent(Down {}).await, expected("POST /v1/down", "{}"));
    }

    #[test]
    fn characters_that_mean_something_in_a_url_are_encoded() {
        let encoded = |text: &str| encoded(&Json::from(text));
        assert_eq!(encoded("a/b?c&d%"), "a%2Fb%3Fc%26d%25");
        assert_eq!(encoded("h2.a-b_c"), "h2.a-b_c");
    }
}
