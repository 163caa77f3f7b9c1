use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::observe::http;
use crate::observe::sample::{self, FakeDesk};
use crate::proxy::raise_descriptor_limit;

/// Connections that an attacker opens: many times what is served at once.
const THOUSANDS: usize = 2_000;
/// Whoever asks at once is to be answered well before anybody else's deadline.
const PROMPT: Duration = Duration::from_secs(4);

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

struct Served {
    desk: Rc<FakeDesk>,
    counters: Rc<ServerCounters>,
    address: SocketAddr,
}

/// The read-only listener.
async fn served() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let desk = Rc::new(FakeDesk::new(sample::one_member_down()));
    let counters = Rc::new(ServerCounters::default());
    spawn_local(http::run(
        listener,
        desk.clone(),
        counters.clone(),
        Gate::default(),
    ));
    Served {
        desk,
        counters,
        address,
    }
}

impl Served {
    async fn asked(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // It may answer and close before it has read everything.
        if let Err(error) = stream.write_all(request.as_bytes()).await {
            tracing::debug!(%error, "closed before all was sent");
        }
        let mut all = Vec::new();
        let mut part = [0; 4_096];
        while let Ok(n @ 1..) = stream.read(&mut part).await {
            all.extend_from_slice(&part[..n]);
        }
        String::from_utf8(all).unwrap()
    }

    /// Whoever asks is answered, soon.
    async fn answers(&self) {
        for path in ["/healthz", "/readyz", "/v1/status"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n");
            let answer = timeout(PROMPT, self.asked(&request)).await;
            let answer = answer.expect("an answer in time");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer:?}");
        }
    }

    /// Waits until so many connections are open here.
    async fn holds(&self, connections: usize) {
        let begun = Instant::now();
        while self.counters.open.get() < connections as u64 {
            assert!(begun.elapsed() < PROMPT, "they are not taken");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One that sends its request a byte a second, and tells when it was cut off.
async fn dripping(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for byte in b"GET /v1/status HTTP/1.1\r\nHost: slow\r\n\r\n".chunks(1) {
        if stream.write_all(byte).await.is_err() {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[test]
fn clients_that_send_a_byte_a_second_hold_nobody_up_and_are_dropped() {
    local(async {
        let served = served().await;
        let slow: Vec<_> = (0..MOST_CONNECTIONS * 2)
            .map(|_| spawn_local(dripping(served.address)))
            .collect();
        served.holds(MOST_CONNECTIONS).await;
        served.answers().await;
        let begun = Instant::now();
        while served.counters.open.get() > 0 {
            assert!(
                begun.elapsed() < EXCHANGE_TIMEOUT * 2,
                "they are still served"
            );
            sleep(Duration::from_millis(50)).await;
        }
        assert!(served.counters.too_slow.get() >= slow.len() as u64);
        for slow in slow {
            slow.abort();
        }
    });
}

#[test]
fn clients_that_never_read_hold_nobody_up() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Rc::new(ServerCounters::default());
        let accept = async move || {
            let (stream, peer) = listener.accept().await?;
            Ok((stream, peer.ip()))
        };
        // More than any socket buffers.
        let long = Bytes::from(vec![b'x'; 32 << 20]);
        let answer = async move |_, request: Request| match request.uri().path() {
            "/long" => Response::new(Full::new(long.clone())),
            _ => Response::new(Full::new(Bytes::from_static(b"short"))),
        };
        spawn_local(serve(counters.clone(), 0, accept, answer));
        let mut deaf = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET /long HTTP/1.1\r\nHost: t\r\n\r\n";
            stream.write_all(request).await.unwrap();
            deaf.push(stream);
        }
        let begun = Instant::now();
        while counters.open.get() < MOST_CONNECTIONS as u64 {
            assert!(begun.elapsed() < PROMPT, "they are not taken");
            sleep(Duration::from_millis(5)).await;
        }
        let mut asks = TcpStream::connect(address).await.unwrap();
        asks.write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let read = timeout(PROMPT, asks.read_to_string(&mut answer)).await;
        read.expect("an answer in time").unwrap();
        assert!(answer.ends_with("short"), "{answer}");
        assert_eq!(counters.too_slow.get(), 1);
    });
}

#[test]
fn thousands_at_once_hold_nobody_up_and_cost_a_bounded_number_of_connections() {
    local(async {
        let room = raise_descriptor_limit();
        let thousands = THOUSANDS.min(usize::try_from(room / 2).unwrap());
        let served = served().await;
        let mut held = Vec::new();
        for n in 0..thousands {
            held.push(TcpStream::connect(served.address).await.unwrap());
            assert!(served.counters.open.get() <= MOST_CONNECTIONS as u64);
            if n % 500 == 499 {
                served.answers().await;
            }
        }
        served.answers().await;
        drop(held);
        let begun = Instant::now();
        while served.counters.open.get() > 0 {
            assert!(begun.elapsed() < PROMPT, "connections are not given back");
            sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn of_several_clients_the_one_that_holds_most_gives_way() {
    let held = |caller, phase| Held {
        caller,
        phase: Rc::new(Cell::new(phase)),
        task: LocalSet::new().spawn_local(async {}).abort_handle(),
    };
    let counters = ServerCounters::default();
    let mut all = vec![
        held("scraper", Phase::Asking),
        held("crowd", Phase::Working),
        held("crowd", Phase::Taking),
        held("crowd", Phase::Taking),
        held("crowd", Phase::Asking),
        held("crowd", Phase::Asking),
        held("person", Phase::Taking),
    ];
    let mut gone = Vec::new();
    while all.len() > 1 {
        let before: Vec<_> = all.iter().map(|h| (h.caller, h.phase.get())).collect();
        assert!(give_way(&mut all, &counters));
        let after = |place: usize| all.get(place).map(|h| (h.caller, h.phase.get()));
        let place = (0..before.len()).find(|place| after(*place) != Some(before[*place]));
        gone.push(before[place.unwrap()]);
    }
    assert_eq!(
        gone,
        [
            ("crowd", Phase::Asking),
            ("crowd", Phase::Asking),
            ("crowd", Phase::Taking),
            // Each holds one now.
            ("scraper", Phase::Asking),
            ("crowd", Phase::Taking),
            ("person", Phase::Taking),
        ]
    );
    assert!(!give_way(&mut all, &counters), "it is at work");
    assert_eq!(counters.too_slow.get(), 6);
}

#[test]
fn nothing_that_commands_use_changes_anything_over_http() {
    local(async {
        let served = served().await;
        let paths = [
            "drain",
            "maintenance",
            "ready",
            "failover",
            "failback",
            "evacuate",
            "restore",
            "pause",
            "resume",
            "reload",
            "log",
            "upgrade",
        ];
        let paths = paths.map(|name| format!("/v1/commands/{name}"));
        let others = [
            "/",
            "/v1/status",
            "/v1/events",
            "/v1/pairs",
            "/v1/redirects",
            "/healthz",
        ];
        let paths = paths.into_iter().chain(others.map(str::to_owned));
        for path in paths.chain(["/v1/why/fe-seoul".to_owned(), "*".to_owned()]) {
            for method in [
                "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
                "FROB",
            ] {
                for body in [
                    "",
                    r#"{"member":"fe-seoul/fe1"}"#,
                    r#"{"pool":"fe-seoul","now":true,"force":true}"#,
                    r#"{"site":"seoul"}"#,
                ] {
                    let request = format!(
                        "{method} {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    let answer = served.asked(&request).await;
                    let is_read = matches!(method, "GET" | "HEAD") && body.is_empty();
                    let is_page = others[1..].contains(&path.as_str());
                    let is_ok = answer.starts_with("HTTP/1.1 200 ");
                    assert_eq!(
                        is_ok,
                        is_read && is_page,
                        "{method} {path} {body}: {answer}"
                    );
                }
            }
        }
        assert!(served.desk.commands.borrow().is_empty());
        assert!(served.desk.redirections.borrow().is_empty());
    });
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_long_is_waited_for_and_then_has_to_be_taken() {
    let phase = Cell::new(Phase::Asking);
    let took = async |asking: u64, working: u64, taking: u64| {
        phase.set(Phase::Asking);
        let exchange = async {
            sleep(Duration::from_secs(asking)).await;
            phase.set(Phase::Working);
            sleep(Duration::from_secs(working)).await;
            phase.set(Phase::Taking);
            sleep(Duration::from_secs(taking)).await;
        };
        let begun = Instant::now();
        let over = within_bounds(exchange, &phase).await;
        (over.is_some(), begun.elapsed().as_secs())
    };
    assert_eq!(took(1, 1, 1).await, (true, 3));
    assert_eq!(took(11, 0, 0).await, (false, 10), "it does not ask");
    assert_eq!(took(0, 1, 60).await, (false, 10), "it does not take");
    assert_eq!(took(4, 40, 9).await, (true, 53), "it is not its fault");
    assert_eq!(took(0, 20, 60).await, (false, 30));
    assert_eq!(took(0, 90, 0).await, (false, 60));
}
