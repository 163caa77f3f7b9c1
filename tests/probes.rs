//! Probes against real servers on loopback, one for each way to behave and misbehave.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use twinpool::health::probe::{MAX_TRANSCRIPT, Prober, ProberError};
use twinpool::health::{Answer, Failure, ProbeOutcome};
use twinpool::topology::{
    BelowQuorum, Check, CheckKind, ConnectRules, Endpoint, Host, HttpCheck, Member, Policy, Pool,
    PoolId, Quorum, QuorumNeed, Service, TargetId, Topology, Verify,
};

const POOL: PoolId = PoolId(0);

/// Long enough for a loaded machine; tests that expect an answer end with it.
const PLENTY: Duration = Duration::from_secs(10);

/// For tests that wait for it to pass.
const SHORT: Duration = Duration::from_millis(150);

fn target() -> TargetId {
    POOL.member(0).target(POOL.service(0))
}

fn check(kind: CheckKind) -> Check {
    Check {
        kind,
        tls: false,
        verify: Verify::No,
        server_name: None,
        port: None,
        interval: Duration::from_secs(1),
        in_doubt: Duration::from_millis(250),
        jitter: 0.1,
        timeout: PLENTY,
        fall: NonZeroU32::MIN,
        rise: NonZeroU32::MIN,
        flap: NonZeroU32::MIN,
    }
}

fn http() -> CheckKind {
    CheckKind::Http(HttpCheck {
        method: "GET".to_owned(),
        path: "/health".to_owned(),
        host: None,
        status: 200..=399,
    })
}

fn topology(check: Check, host: Host) -> Topology {
    let service = Service {
        id: POOL.service(0),
        name: "web".to_owned(),
        listen: Vec::new(),
        listen_at_twin: Vec::new(),
        check,
        requires: Vec::new(),
        balance: Policy::LeastConnections,
        idle_timeout: Duration::from_secs(1800),
        protocol: twinpool::topology::Protocol::Tcp,
        peer_timeout: Duration::from_secs(30),
        connect: ConnectRules {
            hedge: Duration::from_millis(250),
            budget: Duration::from_secs(2),
            attempts: NonZeroU32::MIN,
        },
        send_proxy: false,
        accept_proxy: Vec::new(),
        slow_start: Duration::ZERO,
    };
    let member = Member {
        id: POOL.member(0),
        name: "m".to_owned(),
        weight: NonZeroU32::MIN,
        max_connections: None,
        backup: false,
        endpoints: vec![Endpoint { host, port: 1 }],
    };
    let need = QuorumNeed {
        members: 1,
        of_first: 1,
    };
    Topology {
        sites: Vec::new(),
        pairs: Vec::new(),
        pools: vec![Pool {
            id: POOL,
            name: "p".to_owned(),
            role: "web".to_owned(),
            site: None,
            quorum: Quorum {
                to_start: need,
                to_stay: need,
            },
            below_quorum: BelowQuorum::Serve,
            drain_deadline: Duration::from_secs(600),
            queue_limit: 1024,
            queue_timeout: Duration::from_secs(5),
            members: vec![member],
            services: vec![service],
            primary: POOL.service(0),
            after_pools: Vec::new(),
        }],
    }
}

fn loopback() -> Host {
    Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

async fn ask(check: Check, address: SocketAddr) -> ProbeOutcome {
    let prober = Prober::new(&topology(check, loopback())).expect("a prober");
    prober.ask(target(), address).await
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default());
    runtime.expect("a runtime").block_on(async {
        let deadline = Duration::from_secs(30);
        tokio::time::timeout(deadline, test)
            .await
            .expect("the test ends in time");
    });
}

/// A server that does this to its first connection, and what came of it.
async fn server<F, T>(serve: impl FnOnce(TcpStream) -> F + 'static) -> (SocketAddr, JoinHandle<T>)
where
    F: Future<Output = T>,
    T: 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let task = spawn_local(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        serve(stream).await
    });
    (address, task)
}

/// Reads a request to its empty line.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.expect("a whole request"));
    }
    String::from_utf8(request).expect("text")
}

/// Reads a request, writes this, and waits for the end; gives the request and how it ended.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &[u8],
) -> (String, io::Result<usize>) {
    let request = request(&mut stream).await;
    stream.write_all(answer).await.expect("written");
    stream.flush().await.expect("written");
    let end = stream.read(&mut [0; 16]).await;
    (request, end)
}

/// What a check of this kind makes of such an answer.
async fn judged(kind: CheckKind, text: &'static [u8]) -> ProbeOutcome {
    let (address, _server) = server(move |stream| async move {
        let (_request, _end) = answer(stream, text).await;
    })
    .await;
    ask(check(kind), address).await
}

fn bad(failure: Failure) -> Answer {
    Answer::Bad(failure)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_file(fixture("member.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(fixture("member.key")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a configuration");
    TlsAcceptor::from(Arc::new(config))
}

/// A listening socket whose backlog is full: the kernel drops what else asks to connect.
async fn full() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any_port.into()).expect("bound");
    socket.listen(0).expect("listening");
    let address = socket.local_addr().expect("bound");
    let address = address.as_socket().expect("IPv4");
    let mut held = Vec::new();
    loop {
        let connect = TcpStream::connect(address);
        match tokio::time::timeout(SHORT, connect).await {
            Ok(stream) => held.push(stream.expect("connected")),
            Err(_) => return (socket, held, address),
        }
    }
}

#[test]
fn a_port_that_nobody_listens_on_is_refused_whatever_is_asked() {
    run(async {
        // Bound, so nobody else can have it, but not listening.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().expect("an address"))
            .expect("bound");
        let address = socket.local_addr().expect("bound");
        for kind in [CheckKind::Tcp, CheckKind::Tls, http(), CheckKind::Sip] {
            let outcome = ask(check(kind), address).await;
            assert_eq!(outcome.answer, bad(Failure::Refused));
            let expected = format!("connect {address} failed after ");
            assert!(
                outcome.transcript.starts_with(&expected),
                "{}",
                outcome.transcript
            );
            assert!(
                outcome.transcript.contains("refused"),
                "{}",
                outcome.transcript
            );
        }
    });
}

#[test]
fn no_answer_to_the_connection_request_is_a_connect_timeout() {
    run(async {
        let (_socket, _held, address) = full().await;
        for kind in [CheckKind::Tcp, http()] {
            let mut check = check(kind);
            check.timeout = SHORT;
            let outcome = ask(check, address).await;
            assert_eq!(outcome.answer, bad(Failure::ConnectTimeout));
            assert!(outcome.took >= SHORT);
            let expected = format!("connect {address}; no answer within 150 ms");
            assert_eq!(outcome.transcript, expected);
        }
    });
}

#[test]
fn a_tcp_probe_never_reaches_the_members_process() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        for _ in 0..5 {
            let outcome = ask(check(CheckKind::Tcp), address).await;
            assert_eq!(outcome.answer, Answer::Good);
            let expected = format!("connect {address} in ");
            assert!(
                outcome.transcript.starts_with(&expected),
                "{}",
                outcome.transcript
            );
        }
        let client = TcpStream::connect(address).await.expect("connected");
        let (_, first) = listener.accept().await.expect("a connection");
        assert_eq!(first, client.local_addr().expect("connected"));
    });
}

#[test]
fn a_check_with_a_port_of_its_own_is_asked_there() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let mut check = check(CheckKind::Tcp);
        check.port = Some(address.port());
        let outcome = ask(check, SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).await;
        assert_eq!(outcome.answer, Answer::Good);
    });
}

#[test]
fn http_answers_are_judged_by_their_status() {
    run(async {
        let table: [(&[u8], Answer); 16] = [
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                Answer::Good,
            ),
            (b"HTTP/1.0 204 No Content\r\n\r\n", Answer::Good),
            (b"HTTP/1.1 302\r\n\r\n", Answer::Good),
            (b"\r\nHTTP/1.1 200 OK\n", Answer::Good),
            (
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n",
                Answer::Good,
            ),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", bad(Failure::Status(404))),
            (b"HTTP/1.1 500 Oops\r\n\r\n", bad(Failure::Status(500))),
            (
                b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
                bad(Failure::Unavailable),
            ),
            (b"HTTP/2.0 200 OK\r\n", bad(Failure::Garbled)),
            (b"HTTP/1.1 20 OK\r\n", bad(Failure::Garbled)),
            (b"HTTP/1.1 2000 OK\r\n", bad(Failure::Garbled)),
            (b"HTTP/1.1 -20 OK\r\n", bad(Failure::Garbled)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", bad(Failure::Garbled)),
            (b"\x15\x03\x01\x00\x02\x02\x28", bad(Failure::Garbled)),
            (b"SIP/2.0 200 OK\r\n", bad(Failure::Garbled)),
            (b"HTTP/1.1 200\0OK\r\n", bad(Failure::Garbled)),
        ];
        for (text, expected) in table {
            let outcome = judged(http(), text).await;
            let shown = text.escape_ascii();
            assert_eq!(outcome.answer, expected, "{shown}: {}", outcome.transcript);
        }
    });
}

#[test]
fn sip_answers_are_good_unless_they_say_503() {
    run(async {
        let table: [(&[u8], Answer); 9] = [
            (b"SIP/2.0 200 OK\r\n", Answer::Good),
            (b"SIP/2.0 404 Not Found\r\n", Answer::Good),
            (b"SIP/2.0 405 Method Not Allowed\r\n", Answer::Good),
            (b"SIP/2.0 603 Decline\r\n", Answer::Good),
            (b"SIP/2.0 500 Oops\r\n", Answer::Good),
            (
                b"SIP/2.0 503 Service Unavailable\r\n",
                bad(Failure::Unavailable),
            ),
            (
                b"SIP/2.0 100 Trying\r\nl: 3\r\n\r\nabcSIP/2.0 200 OK\r\n",
                Answer::Good,
            ),
            (
                b"\r\n\r\nSIP/2.0 180 Ringing\r\n\r\nSIP/2.0 503 No\r\n",
                bad(Failure::Unavailable),
            ),
            (b"HTTP/1.1 400 Bad Request\r\n", bad(Failure::Garbled)),
        ];
        for (text, expected) in table {
            let outcome = judged(CheckKind::Sip, text).await;
            let shown = text.escape_ascii();
            assert_eq!(outcome.answer, expected, "{shown}: {}", outcome.transcript);
        }
    });
}

#[test]
fn a_provisional_answer_alone_is_no_answer() {
    run(async {
        let (address, _server) =
            server(|stream| async move { answer(stream, b"SIP/2.0 100 Trying\r\n\r\n").await })
                .await;
        let mut check = check(CheckKind::Sip);
        check.timeout = SHORT;
        assert_eq!(ask(check, address).await.answer, bad(Failure::NoAnswer));
    });
}

#[test]
fn a_member_that_accepts_and_hangs_does_not_answer() {
    run(async {
        let tls_http = Check {
            tls: true,
            ..check(http())
        };
        let checks = [
            check(http()),
            check(CheckKind::Sip),
            check(CheckKind::Tls),
            tls_http,
        ];
        for mut check in checks {
            let (address, _server) = server(|stream| async move {
                sleep(PLENTY).await;
                drop(stream);
            })
            .await;
            check.timeout = SHORT;
            let outcome = ask(check, address).await;
            assert_eq!(outcome.answer, bad(Failure::NoAnswer));
            assert!(outcome.took >= SHORT);
            let expected = "; no answer within 150 ms";
            assert!(
                outcome.transcript.ends_with(expected),
                "{}",
                outcome.transcript
            );
        }
    });
}

#[test]
fn a_member_that_closes_or_resets_has_closed() {
    run(async {
        for reset in [false, true] {
            for kind in [http(), CheckKind::Sip, CheckKind::Tls] {
                let (address, _server) = server(move |mut stream| async move {
                    stream.read_u8().await.expect("a question");
                    if reset {
                        stream.set_zero_linger().expect("set");
                    } else {
                        let n = stream.read(&mut [0; 4096]).await.expect("the rest");
                        assert!(n > 0);
                    }
                })
                .await;
                let outcome = ask(check(kind), address).await;
                assert_eq!(
                    outcome.answer,
                    bad(Failure::Closed),
                    "{}",
                    outcome.transcript
                );
            }
        }
    });
}

#[test]
fn a_status_line_cut_short_is_closed_and_shown() {
    run(async {
        let (address, _server) = server(|mut stream| async move {
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200").await.expect("written");
        })
        .await;
        let outcome = ask(check(http()), address).await;
        assert_eq!(outcome.answer, bad(Failure::Closed));
        let expected = "; closed after only \"HTTP/1.1 200\"";
        assert!(
            outcome.transcript.contains(expected),
            "{}",
            outcome.transcript
        );
    });
}

#[test]
fn an_answer_that_drips_in_is_taken_until_time_is_up() {
    run(async {
        for (timeout, expected) in [(PLENTY, Answer::Good), (SHORT, bad(Failure::NoAnswer))] {
            let (address, _server) = server(|mut stream| async move {
                request(&mut stream).await;
                for byte in b"HTTP/1.1 200 OK\r\n" {
                    sleep(SHORT / 8).await;
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
            })
            .await;
            let mut check = check(http());
            check.timeout = timeout;
            let outcome = ask(check, address).await;
            assert_eq!(outcome.answer, expected, "{}", outcome.transcript);
            let shown = match expected {
                Answer::Good => "; got \"HTTP/1.1 200 OK\" after ",
                _ => "; got only \"H",
            };
            assert!(outcome.transcript.contains(shown), "{}", outcome.transcript);
        }
    });
}

#[test]
fn an_answer_without_end_is_cut_off() {
    run(async {
        let starts: [&[u8]; 3] = [b"HTTP/1.1 200 ", b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"];
        for start in starts {
            let (address, _server) = server(move |mut stream| async move {
                request(&mut stream).await;
                stream.write_all(start).await.expect("written");
                let more: &[u8] = match start {
                    b"HTTP/1.1 200 " => b"\x1b[2J\xff",
                    start => start,
                };
                while stream.write_all(more).await.is_ok() {}
            })
            .await;
            let outcome = ask(check(http()), address).await;
            assert_eq!(
                outcome.answer,
                bad(Failure::Garbled),
                "{}",
                outcome.transcript
            );
            assert!(outcome.transcript.len() <= MAX_TRANSCRIPT);
            assert!(!outcome.transcript.contains(char::is_control));
        }
    });
}

#[test]
fn an_http_request_says_who_asks_whom_and_ends_in_order() {
    run(async {
        let (address, server) =
            server(|stream| async move { answer(stream, b"HTTP/1.1 503 Busy\r\n\r\n").await })
                .await;
        let outcome = ask(check(http()), address).await;
        let (request, end) = server.await.expect("it served");
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "GET /health HTTP/1.1\r\nHost: {address}\r\nUser-Agent: twinpool/{version}\r\n\
             Accept: */*\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(request, expected);
        assert_eq!(end.expect("an orderly end"), 0);
        let transcript = outcome.transcript;
        assert!(
            transcript.starts_with(&format!("connect {address} in ")),
            "{transcript}"
        );
        let said = " ms; sent GET /health; got \"HTTP/1.1 503 Busy\" after ";
        assert!(
            transcript.contains(said) && transcript.ends_with(" ms"),
            "{transcript}"
        );
    });
}

#[test]
fn a_member_by_name_is_asked_by_its_name() {
    run(async {
        let (address, server) =
            server(|stream| async move { answer(stream, b"HTTP/1.1 200 OK\r\n\r\n").await }).await;
        let host = Host::Name("fe2.example.net".to_owned());
        let prober = Prober::new(&topology(check(http()), host)).expect("a prober");
        prober.ask(target(), address).await;
        let (request, _) = server.await.expect("it served");
        let expected = format!("\r\nHost: fe2.example.net:{}\r\n", address.port());
        assert!(request.contains(&expected), "{request}");
    });
}

#[test]
fn a_sip_request_is_what_rfc_3261_wants_and_never_twice_the_same() {
    run(async {
        let mut requests = Vec::new();
        for _ in 0..2 {
            let (address, server) = server(|stream| async move {
                let local = stream.peer_addr().expect("connected");
                (answer(stream, b"SIP/2.0 200 OK\r\n\r\n").await, local)
            })
            .await;
            let outcome = ask(check(CheckKind::Sip), address).await;
            assert_eq!(outcome.answer, Answer::Good);
            let ((request, end), from) = server.await.expect("it served");
            assert_eq!(end.expect("an orderly end"), 0);
            let start = format!("OPTIONS sip:{address};transport=tcp SIP/2.0\r\n");
            assert!(request.starts_with(&start), "{request}");
            let wanted = [
                format!("\r\nVia: SIP/2.0/TCP {from};branch=z9hG4bK"),
                "\r\nMax-Forwards: 0\r\n".to_owned(),
                "\r\nFrom: <sip:twinpool@127.0.0.1>;tag=".to_owned(),
                format!("\r\nTo: <sip:{address}>\r\n"),
                "\r\nCall-ID: ".to_owned(),
                "\r\nCSeq: 1 OPTIONS\r\n".to_owned(),
                format!("\r\nContact: <sip:twinpool@{from};transport=tcp>\r\n"),
                "\r\nContent-Length: 0\r\n\r\n".to_owned(),
            ];
            for header in wanted {
                assert!(request.contains(&header), "{header:?} in {request}");
            }
            requests.push(request);
        }
        let unique = |name: &str| {
            let of = |request: &String| {
                let found = request.split(name).nth(1).expect("it is there");
                found.lines().next().expect("a line").to_owned()
            };
            of(&requests[0]) != of(&requests[1])
        };
        assert!(unique("branch=") && unique("tag=") && unique("Call-ID: "));
    });
}

#[test]
fn a_tls_server_is_alive_from_its_server_hello_on() {
    run(async {
        let (address, _server) =
            server(|stream| async move { acceptor().accept(stream).await.map(drop) }).await;
        let outcome = ask(check(CheckKind::Tls), address).await;
        assert_eq!(outcome.answer, Answer::Good);
        let said = "; sent ClientHello; got ServerHello after ";
        assert!(outcome.transcript.contains(said), "{}", outcome.transcript);
    });
}

#[test]
fn any_tls_record_that_a_server_begins_with_is_judged() {
    run(async {
        let table: [(&[u8], Answer); 7] = [
            (b"\x15\x03\x03\x00\x02\x02\x28", Answer::Good),
            (b"\x15\x03\x01\x00\x02\x01\x70", Answer::Good),
            (b"\x16\x03\x03\x00\x7a\x02\x00", Answer::Good),
            (b"\x16\x03\x03\x00\x7a\x01\x00", bad(Failure::Garbled)),
            (b"\x15\x03\x03\x40\x02\x02\x28", bad(Failure::Garbled)),
            (b"HTTP/1.1 400 Bad Request\r\n", bad(Failure::Garbled)),
            (b"\0", bad(Failure::Garbled)),
        ];
        for (text, expected) in table {
            let (address, _server) = server(move |mut stream| async move {
                let n = stream.read(&mut [0; 4096]).await.expect("a ClientHello");
                assert!(n > 0);
                // In two pieces, as a network may deliver it.
                stream.set_nodelay(true).expect("set");
                stream.write_all(&text[..1]).await.expect("written");
                tokio::task::yield_now().await;
                if stream.write_all(&text[1..]).await.is_ok() {
                    sleep(PLENTY).await;
                }
            })
            .await;
            let outcome = ask(check(CheckKind::Tls), address).await;
            let shown = text.escape_ascii();
            assert_eq!(outcome.answer, expected, "{shown}: {}", outcome.transcript);
        }
    });
}

fn verified(kind: CheckKind, name: &str) -> Check {
    Check {
        tls: kind != CheckKind::Tls,
        verify: Verify::Authorities(fixture("ca.pem")),
        server_name: Some(name.to_owned()),
        ..check(kind)
    }
}

#[test]
fn a_verified_certificate_must_be_trusted_and_of_the_right_name() {
    run(async {
        let table = [
            ("member.test", Answer::Good),
            ("other.test", bad(Failure::Certificate)),
        ];
        for (name, expected) in table {
            for kind in [CheckKind::Tls, CheckKind::Tcp, http()] {
                let asks = matches!(kind, CheckKind::Http(_));
                let (address, _server) = server(move |stream| async move {
                    let stream = acceptor().accept(stream).await;
                    if let (Ok(stream), true) = (stream, asks) {
                        let (_request, _end) = answer(stream, b"HTTP/1.1 200 OK\r\n\r\n").await;
                    }
                })
                .await;
                let outcome = ask(verified(kind, name), address).await;
                assert_eq!(outcome.answer, expected, "{}", outcome.transcript);
            }
        }
    });
}

#[test]
fn a_finished_handshake_ends_with_a_goodbye() {
    run(async {
        for kind in [CheckKind::Tls, CheckKind::Tcp] {
            let (address, server) = server(|stream| async move {
                let mut stream = acceptor().accept(stream).await.expect("a handshake");
                stream.read(&mut [0; 16]).await
            })
            .await;
            let outcome = ask(verified(kind, "member.test"), address).await;
            assert_eq!(outcome.answer, Answer::Good, "{}", outcome.transcript);
            // Without the close_notify this would be an unexpected end of file.
            assert_eq!(server.await.expect("it served").expect("an orderly end"), 0);
        }
    });
}

#[test]
fn an_address_is_verified_as_an_address_where_there_is_no_name() {
    run(async {
        let (address, _server) =
            server(|stream| async move { acceptor().accept(stream).await.map(drop) }).await;
        let mut check = verified(CheckKind::Tls, "unused");
        check.server_name = None;
        let outcome = ask(check, address).await;
        assert_eq!(outcome.answer, Answer::Good, "{}", outcome.transcript);
    });
}

#[test]
fn http_and_sip_are_asked_over_tls_of_whoever_answers() {
    run(async {
        let table: [(CheckKind, &[u8], Answer, &str); 3] = [
            (
                http(),
                b"HTTP/1.1 200 OK\r\n\r\n",
                Answer::Good,
                "GET /health",
            ),
            (
                http(),
                b"HTTP/1.1 503 No\r\n\r\n",
                bad(Failure::Unavailable),
                "GET /health",
            ),
            (
                CheckKind::Sip,
                b"SIP/2.0 200 OK\r\n\r\n",
                Answer::Good,
                "Via: SIP/2.0/TLS",
            ),
        ];
        for (kind, text, expected, said) in table {
            let (address, server) = server(move |stream| async move {
                let stream = acceptor().accept(stream).await.expect("a handshake");
                answer(stream, text).await
            })
            .await;
            let check = Check {
                tls: true,
                ..check(kind)
            };
            let outcome = ask(check, address).await;
            assert_eq!(outcome.answer, expected, "{}", outcome.transcript);
            assert!(
                outcome.transcript.contains("; TLS handshake in "),
                "{}",
                outcome.transcript
            );
            let (request, end) = server.await.expect("it served");
            assert!(request.contains(said), "{request}");
            assert_eq!(end.expect("an orderly end"), 0);
        }
    });
}

#[test]
fn a_server_without_tls_is_garbled_to_a_check_over_tls() {
    run(async {
        let (address, _server) = server(|mut stream| async move {
            stream.read_u8().await.expect("a ClientHello");
            let text = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            stream.write_all(text).await.expect("written");
            sleep(PLENTY).await;
        })
        .await;
        let check = Check {
            tls: true,
            ..check(http())
        };
        let outcome = ask(check, address).await;
        assert_eq!(
            outcome.answer,
            bad(Failure::Garbled),
            "{}",
            outcome.transcript
        );
    });
}

#[test]
fn a_probe_never_outlasts_its_timeout_for_the_sake_of_manners() {
    run(async {
        // Answers, and then neither closes nor stops sending.
        let (address, _server) = server(|mut stream| async move {
            request(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                .await
                .expect("written");
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        })
        .await;
        let start = Instant::now();
        let outcome = ask(check(http()), address).await;
        assert_eq!(outcome.answer, Answer::Good);
        assert!(start.elapsed() < PLENTY);
        assert!(outcome.took <= start.elapsed());
    });
}

#[test]
fn a_check_that_cannot_be_asked_is_an_error_at_the_start() {
    let error = |check: Check| {
        let built = Prober::new(&topology(check, loopback()));
        built.expect_err("it cannot be asked")
    };
    let mut no_file = verified(CheckKind::Tls, "member.test");
    no_file.verify = Verify::Authorities("/nowhere/ca.pem".into());
    let no_file = error(no_file);
    assert!(matches!(no_file, ProberError::Authorities { .. }));
    let said = no_file.to_string();
    let expected = "check of p/web: cannot read the authorities in /nowhere/ca.pem: ";
    assert!(said.starts_with(expected), "{said}");

    let mut no_certificate = verified(CheckKind::Tls, "member.test");
    no_certificate.verify = Verify::Authorities(fixture("member.key"));
    assert!(matches!(
        error(no_certificate),
        ProberError::NoAuthority { .. }
    ));

    let no_name = verified(CheckKind::Tls, "not a name");
    assert!(matches!(error(no_name), ProberError::ServerName { .. }));

    for (method, path, host) in [
        ("GET", "/a b", None),
        ("GET", "/a\r\nX: y", None),
        ("", "/", None),
        ("GET", "/", Some("a\nb")),
    ] {
        let kind = CheckKind::Http(HttpCheck {
            method: method.to_owned(),
            path: path.to_owned(),
            host: host.map(str::to_owned),
            status: 200..=399,
        });
        assert!(matches!(error(check(kind)), ProberError::Request { .. }));
    }
}

/// A Binding response to `request`.
fn binding(request: &[u8], kind: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).expect("short");
    let (kind, length) = (kind.to_be_bytes(), length.to_be_bytes());
    [&kind[..], &length, &request[4..], attributes].concat()
}

fn success(request: &[u8]) -> Vec<u8> {
    // XOR-MAPPED-ADDRESS, whose value is of no interest.
    let mapped = b"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43";
    binding(request, 0x0101, mapped)
}

/// A member that answers each Binding request so, given how many came before it.
async fn stun_member(
    ip: &str,
    answers: impl Fn(usize, &[u8]) -> Vec<Vec<u8>> + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).await.expect("a socket");
    let address = socket.local_addr().expect("bound");
    spawn_local(async move {
        let mut buffer = [0; 2048];
        for before in 0.. {
            let (n, from) = socket.recv_from(&mut buffer).await.expect("a request");
            assert_eq!(buffer[..8], *b"\x00\x01\x00\x00\x21\x12\xa4\x42");
            assert_eq!(n, 20);
            for answer in answers(before, &buffer[..n]) {
                // Whoever has his answer is gone: what that sends back is of no interest.
                if socket.send_to(&answer, from).await.is_err() {
                    break;
                }
            }
        }
    });
    address
}

/// What a stun check with so long a timeout makes of a member that answers like this.
async fn stun_judged(
    timeout: Duration,
    answers: impl Fn(usize, &[u8]) -> Vec<Vec<u8>> + 'static,
) -> (ProbeOutcome, String) {
    let address = stun_member("127.0.0.1", answers).await;
    let mut check = check(CheckKind::Stun);
    check.timeout = timeout;
    let outcome = ask(check, address).await;
    let said = outcome.transcript.strip_prefix(&format!("udp {address}"));
    let said = said.expect(&outcome.transcript).to_owned();
    (outcome, said)
}

#[test]
fn a_stun_server_is_alive_whatever_it_answers() {
    run(async {
        let (outcome, said) = stun_judged(PLENTY, |_, request| vec![success(request)]).await;
        assert_eq!(outcome.answer, Answer::Good);
        let start = "; sent Binding request; got success response after ";
        assert!(said.starts_with(start), "{said}");

        let refused = b"\x00\x09\x00\x10\x00\x00\x04\x01Unauthorized";
        let (outcome, said) =
            stun_judged(PLENTY, |_, request| vec![binding(request, 0x0111, refused)]).await;
        assert_eq!(outcome.answer, Answer::Good);
        let start = "; sent Binding request; got error response 401 after ";
        assert!(said.starts_with(start), "{said}");
    });
}

#[test]
fn a_stun_server_is_asked_over_ipv6_as_well() {
    run(async {
        let address = stun_member("::1", |_, request| vec![success(request)]).await;
        let outcome = ask(check(CheckKind::Stun), address).await;
        assert_eq!(outcome.answer, Answer::Good, "{}", outcome.transcript);
    });
}

#[test]
fn a_stun_check_with_a_port_of_its_own_is_asked_there_without_tls() {
    run(async {
        let address = stun_member("127.0.0.1", |_, request| vec![success(request)]).await;
        let mut check = check(CheckKind::Stun);
        check.port = Some(address.port());
        let outcome = ask(check, SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).await;
        assert_eq!(outcome.answer, Answer::Good, "{}", outcome.transcript);
    });
}

#[test]
fn a_lost_stun_request_is_sent_again_with_the_same_id() {
    run(async {
        let first = std::cell::RefCell::new(Vec::new());
        let (outcome, said) = stun_judged(PLENTY, move |before, request| {
            if before == 0 {
                first.replace(request.to_vec());
                return Vec::new();
            }
            assert_eq!(*first.borrow(), request);
            vec![success(request)]
        })
        .await;
        assert_eq!(outcome.answer, Answer::Good);
        let start = "; sent Binding request 2 times; got success response after ";
        assert!(said.starts_with(start), "{said}");
    });
}

#[test]
fn no_two_stun_probes_have_the_same_id() {
    run(async {
        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let sees = seen.clone();
        let address = stun_member("127.0.0.1", move |_, request| {
            sees.borrow_mut().push(request[8..].to_vec());
            vec![success(request)]
        })
        .await;
        for _ in 0..3 {
            let outcome = ask(check(CheckKind::Stun), address).await;
            assert_eq!(outcome.answer, Answer::Good);
        }
        // A loaded machine may have asked again: each id counts once.
        seen.borrow_mut().dedup();
        assert_eq!(seen.borrow().len(), 3);
        seen.borrow_mut().sort();
        seen.borrow_mut().dedup();
        assert_eq!(seen.borrow().len(), 3);
    });
}

#[test]
fn what_is_no_stun_answer_to_our_request_is_told_if_nothing_better_comes() {
    type Spoil = fn(&[u8]) -> Vec<u8>;
    let table: [(Spoil, &str); 7] = [
        (|good| good[..12].to_vec(), "not STUN"),
        (|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "not STUN"),
        (
            |good| [&good[..7], b"\0", &good[8..]].concat(),
            "without the magic cookie",
        ),
        (|good| good[..28].to_vec(), "not as long as it says"),
        (|good| [good, &[0; 1600]].concat(), "not as long as it says"),
        (
            |good| {
                let other = good[19].wrapping_add(1);
                [&good[..19], &[other], &good[20..]].concat()
            },
            "with another transaction id",
        ),
        (
            |good| [b"\x00\x01\x00\x00", &good[4..20]].concat(),
            "STUN, but no response to a Binding request",
        ),
    ];
    run(async move {
        for (spoil, why) in table {
            // Asked three times within its timeout, the last time without an answer.
            let (outcome, said) = stun_judged(SHORT, move |before, request| match before {
                0 | 1 => vec![spoil(&success(request))],
                _ => Vec::new(),
            })
            .await;
            assert_eq!(outcome.answer, bad(Failure::Garbled), "{said}");
            assert!(outcome.took >= SHORT);
            let end = format!("last: {why}; no answer within 150 ms");
            assert!(said.ends_with(&end), "{said}");

            let (outcome, said) = stun_judged(PLENTY, move |_, request| {
                let good = success(request);
                vec![spoil(&good), good]
            })
            .await;
            assert_eq!(outcome.answer, Answer::Good, "{said}");
            let told = format!("; ignored a datagram: {why}; got success response after ");
            assert!(said.contains(&told), "{said}");
        }
    });
}

#[test]
fn a_member_that_sends_rubbish_without_end_is_not_listened_to_for_long() {
    run(async {
        let (outcome, said) = stun_judged(PLENTY, |_, _| vec![vec![b'x'; 30]; 200]).await;
        assert_eq!(outcome.answer, bad(Failure::Garbled));
        assert!(outcome.took < PLENTY);
        let told = "; ignored 64 datagrams, last: not STUN; gave up after ";
        assert!(said.contains(told), "{said}");
    });
}

#[test]
fn an_answer_from_another_address_is_not_heard() {
    run(async {
        let other = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("bound");
        spawn_local(async move {
            let mut buffer = [0; 64];
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.expect("a request");
                let sent = other.send_to(&success(&buffer[..n]), from);
                assert!(sent.is_ok());
            }
        });
        let mut check = check(CheckKind::Stun);
        check.timeout = SHORT;
        let outcome = ask(check, address).await;
        assert_eq!(outcome.answer, bad(Failure::Silent));
    });
}

#[test]
fn a_silent_stun_server_has_timed_out_after_three_requests() {
    run(async {
        let (outcome, said) = stun_judged(SHORT, |_, _| Vec::new()).await;
        assert_eq!(outcome.answer, bad(Failure::Silent));
        assert!(outcome.took >= SHORT);
        let expected = "; sent Binding request 3 times; no answer within 150 ms";
        assert_eq!(said, expected);
    });
}

#[test]
fn a_udp_port_that_nobody_has_is_refused_at_once() {
    run(async {
        for ip in ["127.0.0.1", "::1"] {
            // Connected to itself: nobody else can have its port, and it takes nothing from others.
            let socket = std::net::UdpSocket::bind((ip, 0)).expect("a socket");
            let address = socket.local_addr().expect("bound");
            socket.connect(address).expect("connected");
            let outcome = ask(check(CheckKind::Stun), address).await;
            assert_eq!(outcome.answer, bad(Failure::Refused));
            assert!(outcome.took < PLENTY);
            let start = format!("udp {address}; sent Binding request; failed after ");
            assert!(
                outcome.transcript.starts_with(&start),
                "{}",
                outcome.transcript
            );
            assert!(
                outcome.transcript.contains("refused"),
                "{}",
                outcome.transcript
            );
        }
    });
}

#[test]
fn a_member_that_dies_while_it_is_asked_by_stun_is_refused_at_the_next_request() {
    run(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("bound");
        spawn_local(async move {
            let (n, _) = socket.recv_from(&mut [0; 64]).await.expect("a request");
            assert_eq!(n, 20);
        });
        let outcome = ask(check(CheckKind::Stun), address).await;
        assert_eq!(outcome.answer, bad(Failure::Refused));
        let start = format!("udp {address}; sent Binding request 2 times; failed after ");
        assert!(
            outcome.transcript.starts_with(&start),
            "{}",
            outcome.transcript
        );
    });
}
