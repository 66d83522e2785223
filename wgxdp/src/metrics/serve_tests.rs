//! The server, over loopback, with requests written by hand.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::snapshot::fixture::{NOW, branch};

/// Long enough for anything on loopback, short enough to fail in.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    leave: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start<P, F, H>(provider: P, healthy: H) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Scrape, String>> + Send + 'static,
        H: Fn() -> Result<(), String> + Send + Sync + 'static,
    {
        Self::start_within(LIMITS, provider, healthy).await
    }

    async fn start_within<P, F, H>(limits: Limits, provider: P, healthy: H) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Scrape, String>> + Send + 'static,
        H: Fn() -> Result<(), String> + Send + Sync + 'static,
    {
        let listener = bind("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (leave, left) = oneshot::channel();
        let shutdown = async {
            let _ = left.await;
        };
        let task = tokio::spawn(serve_within(limits, listener, provider, healthy, shutdown));
        Self { address, leave, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }

    async fn request(&self, head: &str) -> Reply {
        let mut stream = self.connect().await;
        stream
            .write_all(format!("{head}\r\nHost: here\r\n\r\n").as_bytes())
            .await
            .expect("sent");
        let mut text = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut text))
            .await
            .expect("an answer and the end")
            .expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        Reply {
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Reply {
        self.request(&format!("GET {path} HTTP/1.1")).await
    }

    async fn stop(self) {
        self.leave.send(()).expect("the server waits for it");
        timeout(PATIENCE, self.task)
            .await
            .expect("it ends")
            .expect("without a panic");
    }
}

struct Reply {
    head: String,
    body: String,
}

impl Reply {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).expect("a status")
    }
}

/// A host whose first path has sent `packets`.
fn scrape(packets: u64) -> Scrape {
    let (names, mut host) = branch();
    host.paths.values_mut().next().expect("a path").2.tx_packets = packets;
    Scrape::take(&names, &host, &Extras::default(), NOW).expect("readable")
}

fn healthy() -> Result<(), String> {
    Ok(())
}

#[tokio::test]
async fn each_scrape_asks_anew_and_comes_as_openmetrics() {
    let packets = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&packets);
    let provider = move || ready(Ok(scrape(counter.fetch_add(1, Ordering::Relaxed) + 1)));
    let server = Server::start(provider, healthy).await;
    for expected in 1..4 {
        let reply = server.get("/metrics").await;
        assert_eq!(reply.status(), "200");
        assert!(
            reply
                .head
                .contains(&format!("content-type: {CONTENT_TYPE}").to_lowercase()),
            "{}",
            reply.head
        );
        assert!(
            reply.body.contains(&format!("direction=\"tx\"}} {expected}\n")),
            "{}",
            reply.body
        );
        assert!(reply.body.ends_with("# EOF\n"));
    }
    assert_eq!(
        packets.load(Ordering::Relaxed),
        3,
        "asked at scrapes and at no other time"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_scrape_that_fails_is_a_500_with_the_reason_and_the_next_one_is_free_to_succeed() {
    let broken = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&broken);
    let provider = move || {
        let broken = switch.load(Ordering::Relaxed);
        ready(if broken {
            Err("map PATHS: gone".to_owned())
        } else {
            Ok(scrape(1))
        })
    };
    let server = Server::start(provider, healthy).await;
    let reply = server.get("/metrics").await;
    assert_eq!(
        (reply.status(), reply.body.as_str()),
        ("500", "no metrics: map PATHS: gone\n")
    );
    assert!(reply.head.contains("content-type: text/plain"), "{}", reply.head);
    broken.store(false, Ordering::Relaxed);
    assert_eq!(server.get("/metrics").await.status(), "200");
    server.stop().await;
}

#[tokio::test]
async fn health_is_200_while_the_loop_goes_round_and_503_with_the_reason_when_not() {
    let alive = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&alive);
    let healthy = move || {
        if switch.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("stuck for 5s".to_owned())
        }
    };
    let server = Server::start(|| ready(Ok(scrape(1))), healthy).await;
    let reply = server.get("/healthz").await;
    assert_eq!((reply.status(), reply.body.as_str()), ("200", "ok\n"));
    alive.store(false, Ordering::Relaxed);
    let reply = server.get("/healthz").await;
    assert_eq!((reply.status(), reply.body.as_str()), ("503", "stuck for 5s\n"));
    server.stop().await;
}

#[tokio::test]
async fn elsewhere_is_nothing_and_only_reading_is_allowed() {
    let server = Server::start(|| ready(Ok(scrape(1))), healthy).await;
    for path in ["/", "/metrics/", "/metric", "/healthz/x"] {
        assert_eq!(server.get(path).await.status(), "404", "{path}");
    }
    assert_eq!(server.request("POST /metrics HTTP/1.1").await.status(), "405");
    let head = server.request("HEAD /metrics HTTP/1.1").await;
    assert_eq!((head.status(), head.body.as_str()), ("200", ""));
    server.stop().await;
}

#[tokio::test]
async fn a_connection_ends_after_one_request_even_if_the_client_would_go_on() {
    let server = Server::start(|| ready(Ok(scrape(1))), healthy).await;
    let reply = server.request("GET /healthz HTTP/1.1\r\nConnection: keep-alive").await;
    assert!(reply.head.contains("connection: close"), "{}", reply.head);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_say_nothing_hold_up_neither_others_nor_the_end() {
    // Their own deadline is too far away to help.
    let limits = Limits {
        client: PATIENCE * 100,
        ..LIMITS
    };
    let server = Server::start_within(limits, || ready(Ok(scrape(1))), healthy).await;
    let mut hanging = Vec::new();
    for _ in 0..LIMITS.clients - 1 {
        let mut client = server.connect().await;
        client.write_all(b"GET /metrics HTTP/1.1\r\n").await.expect("sent");
        hanging.push(client);
    }
    assert_eq!(server.get("/healthz").await.status(), "200");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_is_cut_off_at_its_deadline_and_makes_room() {
    let limits = Limits {
        clients: 2,
        client: Duration::from_secs(1),
        ..LIMITS
    };
    let started = std::time::Instant::now();
    let server = Server::start_within(limits, || ready(Ok(scrape(1))), healthy).await;
    let mut hanging = Vec::new();
    for _ in 0..limits.clients {
        let mut client = server.connect().await;
        client.write_all(b"GET /metrics HTTP/1.1\r\n").await.expect("sent");
        hanging.push(client);
    }
    let mut late = server.connect().await;
    late.write_all(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        .await
        .expect("sent");
    for client in &mut hanging {
        let mut rest = Vec::new();
        // The end, or a reset because of what the server left unread.
        let _ = timeout(PATIENCE, client.read_to_end(&mut rest))
            .await
            .expect("it is cut off");
        assert_eq!(rest, b"", "an unfinished request has no answer");
    }
    assert!(
        started.elapsed() >= limits.client,
        "cut off after {:?}",
        started.elapsed()
    );
    let mut answer = String::new();
    timeout(PATIENCE, late.read_to_string(&mut answer))
        .await
        .expect("its turn came")
        .expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_provider_that_never_answers_is_a_500() {
    let limits = Limits {
        provider: Duration::from_millis(50),
        ..LIMITS
    };
    let server = Server::start_within(limits, std::future::pending::<Result<Scrape, String>>, healthy).await;
    let mut client = server.connect().await;
    client
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer))
        .await
        .expect("an answer")
        .expect("text");
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(answer.ends_with("the daemon gave no numbers within 50ms\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named_with_the_cause() {
    let taken = bind("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("a free port");
    let address = taken.local_addr().expect("bound");
    let error = bind(address).await.expect_err("it is taken").to_string();
    assert!(
        error.starts_with(&format!(
            "cannot listen on {address} for metrics: Address already in use"
        )),
        "{error}"
    );
    let foreign = "192.0.2.77:9587".parse().expect("an address");
    let error = bind(foreign).await.expect_err("not ours").to_string();
    assert!(
        error.starts_with("cannot listen on 192.0.2.77:9587 for metrics: Cannot assign requested address"),
        "{error}"
    );
}
