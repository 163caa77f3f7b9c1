//! Clients of services over UDP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::harness::PATIENCE;

/// As long as an answer that comes may take: what has not come then was dropped.
pub(crate) const MOMENT: Duration = Duration::from_millis(500);

/// A client: one socket, and so one flow.
pub(crate) struct Caller {
    socket: UdpSocket,
    asked: u32,
}

/// A member's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) member: String,
    /// The port from which the member was asked: another one is another flow.
    pub(crate) port: u16,
    pub(crate) body: Vec<u8>,
}

/// Addresses of loopback for clients, each its own.
pub(crate) fn sources(count: u8) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|n| Ipv4Addr::new(127, 0, 0, 10 + n).into())
}

/// Clients from as many addresses, each of whose flows was proven; and who serves each.
pub(crate) async fn callers(service: SocketAddr, count: u8) -> Vec<(Caller, Answer)> {
    let mut callers = Vec::new();
    for source in sources(count) {
        let mut caller = Caller::from(source, service).await;
        caller.ask().await;
        let answer = caller.ask().await;
        callers.push((caller, answer));
    }
    callers
}

/// The same, parted into those whom the member serves and others; both are some.
pub(crate) async fn callers_of(
    member: &str,
    service: SocketAddr,
) -> (Vec<(Caller, Answer)>, Vec<(Caller, Answer)>) {
    let callers = callers(service, 24).await.into_iter();
    let (its, others): (Vec<_>, Vec<_>) = callers.partition(|(_, is)| is.member == member);
    assert!(!its.is_empty() && !others.is_empty());
    (its, others)
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Answer> {
        let end = bytes.iter().position(|byte| *byte == b':')?;
        let (member, port) = std::str::from_utf8(&bytes[..end]).ok()?.split_once('/')?;
        Some(Answer {
            member: member.to_owned(),
            port: port.parse().ok()?,
            body: bytes[end + 1..].to_vec(),
        })
    }
}

impl Caller {
    pub(crate) async fn new(service: SocketAddr) -> Caller {
        let any: IpAddr = match service {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        Caller::from(any, service).await
    }

    /// It hears nobody but the service.
    pub(crate) async fn from(source: IpAddr, service: SocketAddr) -> Caller {
        let socket = UdpSocket::bind((source, 0)).await.expect("a port");
        socket.connect(service).await.expect("a route");
        Caller { socket, asked: 0 }
    }

    /// The address that it sends from.
    pub(crate) fn source(&self) -> IpAddr {
        self.socket.local_addr().expect("its address").ip()
    }

    pub(crate) async fn send(&self, bytes: &[u8]) {
        if let Err(error) = self.socket.send(bytes).await {
            // What an earlier datagram met is told here.
            let met = error.kind() == io::ErrorKind::ConnectionRefused;
            assert!(met, "cannot send: {error}");
        }
    }

    /// What comes next, in this time.
    pub(crate) async fn hear(&self, limit: Duration) -> Option<Answer> {
        self.hear_until(Instant::now() + limit).await
    }

    async fn hear_until(&self, deadline: Instant) -> Option<Answer> {
        let mut bytes = vec![0; 1 << 16];
        loop {
            match timeout_at(deadline, self.socket.recv(&mut bytes)).await {
                Ok(Ok(length)) => {
                    let answer = Answer::parse(&bytes[..length]);
                    return Some(answer.expect("a member's answer"));
                }
                // Nobody listens there now.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Ok(Err(error)) => panic!("cannot receive: {error}"),
                Err(_) => return None,
            }
        }
    }

    /// Sends a question of its own, once, and returns the answer to it.
    pub(crate) async fn ask(&mut self) -> Answer {
        let answer = self.try_ask(PATIENCE).await;
        answer.expect("an answer")
    }

    /// The same while flows are moved: the question that is under way then may be lost, and others
    /// are asked. On a machine that stalls, one that is only late counts as lost, and the next one
    /// may be under way when its flow is moved.
    pub(crate) async fn ask_while_moved(&mut self) -> Answer {
        for _ in 0..2 {
            if let Some(answer) = self.try_ask(MOMENT).await {
                return answer;
            }
        }
        self.ask().await
    }

    /// Sends a question of its own, once, and returns the answer to it, if that comes in this time.
    /// Answers to earlier questions are not it.
    pub(crate) async fn try_ask(&mut self, limit: Duration) -> Option<Answer> {
        self.asked += 1;
        let question = format!("question {}", self.asked);
        let deadline = Instant::now() + limit;
        self.send(question.as_bytes()).await;
        loop {
            let answer = self.hear_until(deadline).await?;
            if answer.body == question.as_bytes() {
                return Some(answer);
            }
        }
    }
}
