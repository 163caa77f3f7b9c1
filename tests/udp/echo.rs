//! Members: servers over UDP that live in the test.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::harness::{Pool, free_address};
use crate::stun;

/// Asks by STUN, which the test itself must answer in time.
pub(crate) const STUN: &str = r#"{ kind = "stun", interval = "300ms", timeout = "300ms", in_doubt = "50ms", fall = 3, rise = 2 }"#;
/// Asks by STUN, and finds out nothing while a test runs.
pub(crate) const RARE_STUN: &str =
    r#"{ kind = "stun", interval = "60s", timeout = "1s", in_doubt = "60s", fall = 20, rise = 2 }"#;

/// A pool `p` over UDP of these members, each asked by STUN.
pub(crate) fn pool_of<'a>(members: impl IntoIterator<Item = &'a Echo>) -> Pool {
    let pool = Pool::of([]).over_udp().check(STUN);
    let with = |pool: Pool, member: &Echo| pool.member_named(member.name(), member.address(), "");
    members.into_iter().fold(pool, with)
}

/// A server. It answers a datagram with `NAME/PORT:` and the datagram, PORT the peer's, but for
///
/// - a STUN Binding request (RFC 8489), which it answers as such;
/// - `times N `, which it answers N times, the n-th time with n and a colon in front;
/// - `quiet`, which it does not answer.
///
/// Dead, its port is closed. Each has an address of its own, so that nobody takes its port
/// meanwhile.
pub(crate) struct Echo {
    shared: Arc<Shared>,
    address: SocketAddr,
    answering: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    name: String,
    hangs: AtomicBool,
    /// Refuses STUN requests: whoever does, lives.
    refuses: AtomicBool,
    /// The first copy of each STUN request is lost.
    loses_first: AtomicBool,
    bindings: AtomicU64,
    /// Peers that sent something else than STUN.
    peers: Mutex<BTreeSet<SocketAddr>>,
}

impl Echo {
    pub(crate) async fn start(name: &str) -> Echo {
        Echo::start_at(name, SocketAddr::new(own_address(), 0)).await
    }

    pub(crate) async fn start_at(name: &str, address: SocketAddr) -> Echo {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            ..Shared::default()
        });
        let socket = UdpSocket::bind(address).await.expect("a port");
        let address = socket.local_addr().expect("its number");
        Echo {
            answering: Some(tokio::spawn(answer_all(shared.clone(), socket))),
            shared,
            address,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port is closed from now on: the kernel refuses what comes.
    pub(crate) async fn die(&mut self) {
        let answering = self.answering.take().expect("a member that lives");
        answering.abort();
        assert!(answering.await.is_err_and(|error| error.is_cancelled()));
    }

    /// Answers again, on the same port.
    pub(crate) async fn resume(&mut self) {
        assert!(self.answering.is_none(), "a member that lives");
        let socket = UdpSocket::bind(self.address).await.expect("its port");
        self.answering = Some(tokio::spawn(answer_all(self.shared.clone(), socket)));
    }

    /// Takes what comes and answers nothing, or answers again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Answers STUN requests with an error from now on.
    pub(crate) fn refuse_bindings(&self) {
        self.shared.refuses.store(true, Ordering::Relaxed);
    }

    /// Loses the first copy of each STUN request from now on.
    pub(crate) fn lose_first_bindings(&self) {
        self.shared.loses_first.store(true, Ordering::Relaxed);
    }

    /// STUN requests that it took.
    pub(crate) fn bindings(&self) -> u64 {
        self.shared.bindings.load(Ordering::Relaxed)
    }

    /// Who sent it anything but STUN: each flow has a port of its own.
    pub(crate) fn peers(&self) -> usize {
        self.shared.peers.lock().expect("a lock").len()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(answering) = &self.answering {
            answering.abort();
        }
    }
}

/// An address of loopback that no other member of any test has.
pub(crate) fn own_address() -> IpAddr {
    free_address().ip()
}

async fn answer_all(shared: Arc<Shared>, socket: UdpSocket) {
    let mut bytes = vec![0; 1 << 16];
    let mut last_binding = [0; 12];
    loop {
        let (length, peer) = match socket.recv_from(&mut bytes).await {
            Ok(got) => got,
            // A peer that is gone refused an answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => panic!("{}: cannot receive: {error}", shared.name),
        };
        let got = &bytes[..length];
        let hangs = shared.hangs.load(Ordering::Relaxed);
        if let Some(transaction) = stun::binding(got) {
            let again = std::mem::replace(&mut last_binding, transaction) == transaction;
            shared.bindings.fetch_add(1, Ordering::Relaxed);
            if hangs || !again && shared.loses_first.load(Ordering::Relaxed) {
                continue;
            }
            let answer = match shared.refuses.load(Ordering::Relaxed) {
                true => stun::refusal(transaction),
                false => stun::success(transaction, peer),
            };
            send(&shared, &socket, &answer, peer).await;
            continue;
        }
        shared.peers.lock().expect("a lock").insert(peer);
        if hangs || got == b"quiet" {
            continue;
        }
        let front = format!("{}/{}:", shared.name, peer.port());
        for copy in copies(got) {
            let answer = [front.as_bytes(), copy.as_bytes(), got].concat();
            send(&shared, &socket, &answer, peer).await;
        }
    }
}

/// What stands in front of each copy of an answer.
fn copies(question: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(question);
    let times = text
        .strip_prefix("times ")
        .and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    match times {
        None => vec![String::new()],
        Some(times) => (0..times).map(|n| format!("{n}:")).collect(),
    }
}

async fn send(shared: &Shared, socket: &UdpSocket, answer: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(answer, peer).await {
        // What an earlier datagram met is told here.
        let met = error.kind() == io::ErrorKind::ConnectionRefused;
        assert!(met, "{}: cannot answer: {error}", shared.name);
    }
}
