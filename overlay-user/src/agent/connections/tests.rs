use axum::routing::{get, post};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
};

use super::*;

const LIMITS: Limits = Limits {
    connections: 4,
    idle: Duration::ZERO,
    lifetime: None,
};
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const SLOW: &[u8] = b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n";

/// A server of `/` (an answer), `/slow` (one when it is let go) and `/echo`.
struct Server {
    port: u16,
    /// A permit for each request of `/slow`.
    slow: Arc<Semaphore>,
    /// Lets one of them go.
    go: Arc<Notify>,
    stop: Arc<Notify>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (slow, go, stop) = (
            Arc::new(Semaphore::new(0)),
            Arc::new(Notify::new()),
            Arc::new(Notify::new()),
        );
        let (arrived, let_go) = (Arc::clone(&slow), Arc::clone(&go));
        let answer_slowly = move || async move {
            arrived.add_permits(1);
            let_go.notified().await;
            "at last"
        };
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/slow", get(answer_slowly))
            .route("/echo", post(|body: String| async { body }));
        let stopped = Arc::clone(&stop);
        let serving = serve(
            listener,
            router,
            limits,
            async move { stopped.notified().await },
        );
        Self {
            port,
            slow,
            go,
            stop,
            serving: tokio::spawn(serving),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A server that has heard enough may hang up.
        let _ = stream.write_all(request).await;
        answer(&mut stream).await
    }

    /// A request of `/slow` that has arrived.
    async fn ask_slowly(&self) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(SLOW).await.unwrap();
        self.slow.acquire().await.unwrap().forget();
        stream
    }
}

/// What the server says until it closes.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection that is reset has said all that it will.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let server = Server::start(LIMITS).await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(server.connect().await);
    }
    assert!(server.ask(REQUEST).await.ends_with("here"));
    // The newest of them is still served, the oldest is gone.
    let mut newest = idle.pop().unwrap();
    newest.write_all(REQUEST).await.unwrap();
    assert!(answer(&mut newest).await.ends_with("here"));
    assert_eq!(answer(&mut idle[0]).await, "");
}

#[tokio::test]
async fn a_request_that_is_being_answered_is_not_cut_off_for_another() {
    let server = Server::start(LIMITS).await;
    let mut slow = Vec::new();
    for _ in 0..LIMITS.connections {
        slow.push(server.ask_slowly().await);
    }
    let mut waiting = server.connect().await;
    waiting.write_all(REQUEST).await.unwrap();
    let answered = timeout(Duration::from_millis(100), answer(&mut waiting)).await;
    assert!(answered.is_err(), "{answered:?}");
    server.go.notify_one();
    assert!(answer(&mut waiting).await.ends_with("here"));
}

#[tokio::test]
async fn a_client_that_is_gone_makes_room_before_its_answer_is_there() {
    let server = Server::start(LIMITS).await;
    let mut slow = Vec::new();
    for _ in 0..LIMITS.connections {
        slow.push(server.ask_slowly().await);
    }
    drop(slow.pop());
    assert!(server.ask(REQUEST).await.ends_with("here"));
}

#[tokio::test]
async fn a_client_gets_its_time_to_ask_where_it_has_one() {
    let idle = Duration::from_millis(300);
    let server = Server::start(Limits { idle, ..LIMITS }).await;
    let started = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..LIMITS.connections {
        clients.push(server.connect().await);
    }
    assert!(server.ask(REQUEST).await.ends_with("here"));
    assert!(started.elapsed() >= idle);
}

#[tokio::test]
async fn a_request_that_does_not_come_is_waited_for_for_a_while_only() {
    let server = Server::start(LIMITS).await;
    let halves = [
        &b""[..],
        b"GET / HTTP/1.1\r\nHo",
        b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf",
    ];
    let started = Instant::now();
    let asked = halves.map(|half| server.ask(half));
    for text in futures_util::future::join_all(asked).await {
        assert!(!text.contains("200 OK"), "{text}");
    }
    assert!(started.elapsed() >= HEAD.min(BODY));
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let server = Server::start(LIMITS).await;
    let length = LONGEST_BODY + 1;
    let head = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    let text = server.ask((head + &"x".repeat(length)).as_bytes()).await;
    assert!(
        text.starts_with("HTTP/1.1 413 ") || text.is_empty(),
        "{text}"
    );
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\n\r\n",
        "x".repeat(2 * LONGEST_HEAD)
    );
    let text = server.ask(head.as_bytes()).await;
    assert!(!text.contains("200 OK"), "{text}");
}

#[tokio::test]
async fn a_connection_ends_with_its_lifetime_whatever_is_under_way() {
    let lifetime = Some(Duration::from_millis(200));
    let server = Server::start(Limits { lifetime, ..LIMITS }).await;
    let mut slow = server.ask_slowly().await;
    assert_eq!(answer(&mut slow).await, "");
}

#[tokio::test]
async fn the_end_waits_for_answers_that_are_under_way_and_for_nothing_else() {
    let server = Server::start(LIMITS).await;
    let _idle = server.connect().await;
    let mut slow = server.ask_slowly().await;
    server.stop.notify_one();
    server.go.notify_one();
    assert!(answer(&mut slow).await.ends_with("at last"));
    server.serving.await.unwrap();

    let server = Server::start(LIMITS).await;
    let _slow = server.ask_slowly().await;
    server.stop.notify_one();
    timeout(PARTING * 5, server.serving).await.unwrap().unwrap();
}
