use std::{os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::agent::{
    api::*,
    client::{Client, ClientError},
    connections::PARTING,
    fake::{self, Fake, call_of},
};

/// An agent on a socket of its own.
struct Agent {
    fake: Arc<Fake>,
    client: Client,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _folder: TempDir,
}

fn start(fake: Fake) -> Agent {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/default.sock");
    let listener = listen(&socket, None).unwrap();
    let fake = Arc::new(fake);
    let (stop, stopped) = oneshot::channel();
    let operations = Arc::clone(&fake);
    let server = tokio::spawn(serve(listener, operations, async {
        let _ = stopped.await;
    }));
    Agent {
        fake,
        client: client(&socket),
        socket,
        stop,
        server,
        _folder: folder,
    }
}

fn client(socket: &Path) -> Client {
    Client::at("default".parse().unwrap(), socket.to_owned())
}

fn request() -> AddEndpoint {
    let endpoint = AddEndpoint::new("web".parse().unwrap(), "42".parse().unwrap());
    AddEndpoint {
        addresses: vec!["7.7.7.2".parse().unwrap()],
        ..endpoint
    }
}

/// Asks for an operation; its answer is the fake's, and it got there as it was sent.
async fn check<Op>(agent: &Agent, operation: Op, expected: Op::Answer)
where
    Op: Operation<Form = Value, Answer: PartialEq + std::fmt::Debug>,
{
    let answer = agent.client.call(&operation).await.unwrap();
    assert_eq!(answer, expected, "{}", Op::PATH);
    let calls = agent.fake.calls();
    assert_eq!(calls.last(), Some(&call_of(&operation)));
}

#[tokio::test]
async fn every_operation_gets_there_and_its_answer_back() {
    let agent = start(Fake::default());
    let web: Name = "web".parse().unwrap();
    let blue = || NetworkView::from(fake::network());
    let gone = || RemovedView { removed: true };

    check(&agent, fake::create_network(), blue()).await;
    let set = SetNetwork {
        name: web.clone(),
        mtu: Some(1400),
        flood: None,
        learning: None,
        snat: None,
        dhcp: None,
        qos: None,
    };
    let narrow = NetworkView {
        mtu: 1400,
        ..blue()
    };
    check(&agent, set, narrow).await;
    check(&agent, ListNetworks {}, vec![blue()]).await;
    check(&agent, RemoveNetwork { name: web.clone() }, gone()).await;
    check(&agent, request(), fake::endpoint()).await;
    check(&agent, ShowEndpoint { name: web.clone() }, fake::endpoint()).await;
    let to = MoveEndpoint {
        name: web.clone(),
        node: Some("h2".parse().unwrap()),
        netns: None,
        ifname: None,
    };
    check(&agent, to, fake::endpoint()).await;
    let set = SetEndpoint {
        name: web.clone(),
        addresses: Vec::new(),
        mac: Some("02:42:07:07:07:02".parse().unwrap()),
        qos: None,
    };
    check(&agent, set, fake::endpoint()).await;
    check(&agent, RemoveEndpoint { name: web.clone() }, gone()).await;
    check(&agent, ListVteps {}, fake::vteps()).await;
    let vtep: VtepRef = "fd00::9".parse().unwrap();
    let removed = fake::removed_vtep(&vtep);
    check(&agent, RemoveVtep { vtep }, removed).await;
    check(&agent, ShowStatus {}, fake::status()).await;
    check(&agent, CountDrops {}, fake::drops()).await;
    for endpoint in [None, Some(web.clone())] {
        let filter = ShowDrops { endpoint };
        let expected = fake::drops_of(&filter);
        check(&agent, filter, expected).await;
    }
    let vni = Some("42".parse().unwrap());
    check(&agent, Verify { vni }, fake::verified()).await;
    check(&agent, Examine {}, fake::examined()).await;
    check(&agent, ExamineCluster {}, fake::cluster()).await;
    let ping = SendPing {
        from: None,
        to: "db".to_owned(),
        size: None,
    };
    check(&agent, ping, fake::pinged(None)).await;
    let arpd = ImportArpd {
        vni: "42".parse().unwrap(),
        dir: "/var/lib/arpd".into(),
    };
    let taken = ImportView {
        vni: fake::network().vni,
        endpoints: 3,
        vteps: 2,
    };
    check(&agent, arpd, taken).await;
    let adopt = AdoptRegistry {
        confirmed: true,
        identity: None,
    };
    check(&agent, adopt, fake::adopted(true)).await;
    check(&agent, Down {}, DownView {}).await;
}

#[tokio::test]
async fn lists_and_events_get_there_and_come_back_as_they_are_made() {
    let agent = start(Fake::default());
    let filter = ListEndpoints {
        vni: Some("42".parse().unwrap()),
        node: Some("h1".parse().unwrap()),
    };
    let endpoints = agent.client.pages(&filter).await.unwrap();
    assert_eq!(
        endpoints.all().await.unwrap(),
        [fake::imported_endpoint(), fake::endpoint()]
    );
    let mut events = agent.client.lines(&Monitor {}).await.unwrap();
    assert_eq!(events.next().await.unwrap(), fake::event());
    let ended = events.next().await.unwrap_err();
    assert!(matches!(ended, ClientError::Ended(_)), "{ended}");
    let expected = [call_of(&filter), call_of(&Monitor {})];
    assert_eq!(agent.fake.calls(), expected);
}

#[tokio::test]
async fn an_error_comes_back_as_it_was() {
    for kind in [
        ErrorKind::Usage,
        ErrorKind::NotFound,
        ErrorKind::Conflict,
        ErrorKind::Refused,
        ErrorKind::Unavailable,
        ErrorKind::Internal,
    ] {
        let agent = start(Fake::refusing(kind, "no, because"));
        let Err(ClientError::Operation(error)) = agent.client.call(&request()).await else {
            panic!("{kind:?} is not an operation's error");
        };
        assert_eq!(error, OperationError::new(kind, "no, because"));
    }
}

#[tokio::test]
async fn a_network_that_cannot_work_does_not_get_to_the_agent() {
    let agent = start(Fake::default());
    let network = CreateNetwork {
        mtu: 1,
        ..fake::create_network()
    };
    let error = agent.client.call(&network).await.unwrap_err();
    assert!(error.to_string().starts_with("MTU 1 is out of range"));
    assert!(agent.fake.calls().is_empty());
}

#[tokio::test]
async fn a_malformed_request_is_refused_with_a_reason() {
    let agent = start(Fake::default());
    for (request, status, reason) in [
        (
            "POST /v1/networks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 29\r\nconnection: close\r\n\r\n{\"name\":\"blue\",\"vni\":16777216}",
            "400",
            "VNI",
        ),
        (
            "DELETE /v1/endpoints/a%2Fb HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "400",
            "is not allowed",
        ),
        (
            "GET /v9/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "400",
            "different versions",
        ),
        (
            "PUT /v1/networks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "400",
            "different versions",
        ),
        (
            "GET /v1/status?x=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "400",
            "unknown field `x`",
        ),
        (
            "DELETE /v1/endpoints/web?x=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "400",
            "unknown field `x`",
        ),
        (
            "PATCH /v1/networks/blue HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 10\r\nconnection: close\r\n\r\n{\"mtu\":-1}",
            "400",
            "invalid value: integer `-1`",
        ),
        (
            "PATCH /v1/networks/blue HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 14\r\nconnection: close\r\n\r\n{\"name\":\"red\"}",
            "400",
            "unknown field `name`",
        ),
        (
            "POST /v1/networks HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
            "400",
            "Content-Type",
        ),
    ] {
        let mut stream = UnixStream::connect(&agent.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(reason), "{answer}");
        assert!(answer.contains(r#""kind":"usage""#), "{answer}");
    }
    assert!(agent.fake.calls().is_empty());
}

/// Clients of before sent null where there is nothing to say, and others send nothing.
#[tokio::test]
async fn an_operation_without_parameters_needs_no_body() {
    let agent = start(Fake::default());
    for body in [
        "\r\n",
        "content-type: application/json\r\ncontent-length: 4\r\n\r\nnull",
        "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let request = format!("POST /v1/down HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{body}");
        let mut stream = UnixStream::connect(&agent.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n{}"), "{answer}");
    }
    assert_eq!(agent.fake.calls(), vec![call_of(&Down {}); 3]);
}

#[tokio::test]
async fn a_relative_folder_is_not_imported() {
    let agent = start(Fake::default());
    let request = ImportArpd {
        vni: "42".parse().unwrap(),
        dir: "arpd".into(),
    };
    let error = agent.client.call(&request).await.unwrap_err();
    assert_eq!(error.to_string(), "the folder arpd is not an absolute path");
}

#[tokio::test]
async fn an_operation_is_carried_through_when_its_client_goes_away() {
    let agent = start(Fake::gated());
    let (begun, go_on) = agent.fake.gate.as_ref().unwrap();
    let client = agent.client.clone();
    let call = tokio::spawn(async move { client.call(&request()).await });
    begun.notified().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // The server has to see the hang-up first; a whole exchange after it is later than that.
    agent.client.call(&ShowStatus {}).await.unwrap();
    go_on.notify_one();
    timeout(Duration::from_secs(10), async {
        while agent.fake.calls().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the operation should end");
}

#[tokio::test]
async fn an_operation_that_does_not_end_is_given_up_and_named() {
    let agent = start(Fake::gated());
    let hasty = agent.client.clone().with_timeout(Duration::from_millis(50));
    let line = hasty.call(&request()).await.unwrap_err().to_string();
    assert!(
        line.contains("has not answered `overlay endpoint add` within 0.05 s"),
        "{line}"
    );
    agent.fake.gate.as_ref().unwrap().1.notify_one();
}

#[tokio::test]
async fn a_listing_says_why_it_may_lack_something() {
    let note = "the registry is \u{e4}way".to_owned();
    let agent = start(Fake::with_note(&note));
    let filter = ListEndpoints::default();
    let listed = agent.client.pages(&filter).await.unwrap();
    assert_eq!(listed.note(), Some(&*note));
    assert_eq!(listed.all().await.unwrap().len(), 2);
}

#[tokio::test]
async fn stopping_lets_the_answer_under_way_go_out() {
    let agent = start(Fake::gated());
    let (begun, go_on) = agent.fake.gate.as_ref().unwrap();
    let client = agent.client.clone();
    let call = tokio::spawn(async move { client.call(&request()).await });
    begun.notified().await;
    agent.stop.send(()).unwrap();
    go_on.notify_one();
    assert_eq!(call.await.unwrap().unwrap(), fake::endpoint());
    let ended = timeout(Duration::from_secs(10), agent.server).await;
    ended.expect("the server should end").unwrap();
}

#[tokio::test]
async fn neither_an_open_connection_nor_an_operation_that_hangs_keeps_the_agent_from_ending() {
    let agent = start(Fake::gated());
    let mut idle = UnixStream::connect(&agent.socket).await.unwrap();
    idle.write_all(b"GET /v1/sta").await.unwrap();
    let client = agent.client.clone();
    let call = tokio::spawn(async move { client.call(&request()).await });
    agent.fake.gate.as_ref().unwrap().0.notified().await;
    agent.stop.send(()).unwrap();
    let ended = timeout(2 * PARTING, agent.server).await;
    ended.expect("the server should end").unwrap();
    call.abort();
}

#[tokio::test]
async fn without_an_agent_the_error_says_which_socket_and_what_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("h1.sock");
    let client = Client::at("h1".parse().unwrap(), socket.clone());
    let expected = format!(
        "no agent of instance h1 listens on {}: start one with `overlay --instance h1 run --iface IF`",
        socket.display()
    );
    let missing = client.call(&ShowStatus {}).await.unwrap_err();
    assert_eq!(missing.to_string(), expected);
    // What a killed agent leaves: a socket that nobody listens on.
    drop(listen(&socket, None).unwrap());
    let stale = client.call(&ShowStatus {}).await.unwrap_err();
    assert_eq!(stale.to_string(), expected);
    assert_eq!(OperationError::from(stale).kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("default.sock");
    fs::write(folder.path().join("default.sock.new"), "left by a crash").unwrap();
    drop(listen(&socket, None).unwrap());
    let listener = listen(&socket, None).unwrap();
    let server = tokio::spawn(serve(
        listener,
        Arc::new(Fake::default()),
        std::future::pending(),
    ));
    assert_eq!(
        client(&socket).call(&ShowStatus {}).await.unwrap(),
        fake::status()
    );
    server.abort();
}

#[tokio::test]
async fn an_agent_that_ends_without_an_answer_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("default.sock");
    let listener = listen(&socket, None).unwrap();
    let hangup = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    let error = client(&socket).call(&ShowStatus {}).await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    assert!(!error.to_string().contains('\n'));
    hangup.await.unwrap();
}

#[tokio::test]
async fn the_socket_is_roots_alone_or_a_groups() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("default.sock");
    let own = Group::from_gid(unistd::getegid()).unwrap().unwrap();
    for (group, mode) in [(None, 0o600), (Some(&*own.name), 0o660)] {
        let _listener = listen(&socket, group).unwrap();
        let metadata = fs::metadata(&socket).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode);
        assert_eq!(metadata.gid(), own.gid.as_raw());
    }
}

#[tokio::test]
async fn a_group_that_does_not_exist_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/default.sock");
    let error = listen(&socket, Some("no-such-group")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "socket group \"no-such-group\" does not exist on this host: create it with groupadd or name another"
    );
    assert!(!folder.path().join("run").exists());
}
