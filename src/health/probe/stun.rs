//! The `stun` check: a Binding request (RFC 8489) over UDP.
//!
//! Any response to it is a sign of life, an error as well: a server that refuses a stranger has
//! read the request and thought about it. A response is one only with the header of a STUN
//! message as long as it says, and with the transaction id of this probe, which nobody can guess
//! who does not see the request; anything else is ignored, counted and told.
//!
//! Datagrams get lost, so the request is sent again, at intervals that double as RFC 8489 section
//! 6.2.1 has it, but begin so short that several fit into the check's timeout.
//!
//! The socket is connected, and hears every ICMP error about what it sent: a port that nobody has
//! is refused at once, and an unreachable host is told at once. Silence cannot be told from a
//! lost way, unlike the hang of a member that accepted a connection.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::RecvFlags;
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::finding::Finding;
use super::transcript::Transcript;
use crate::health::connect_failure;

/// The longest first interval between two requests: the RTO that RFC 8489 begins with.
const MAX_RTO: Duration = Duration::from_millis(500);

/// The first interval is no longer than this part of the timeout: three requests then fit into it
/// (after 0, 1 and 3 parts), and the last one has more than half of it for its answer.
const PARTS: u32 = 7;

/// The most requests of one probe, however long its timeout: `Rc` of RFC 8489.
const MAX_REQUESTS: u32 = 7;

/// The most datagrams that are ignored before the probe ends: far more than a stray or a doubled
/// one, few enough that a member cannot keep us busy.
const MAX_STRAYS: u32 = 64;

/// How much of a datagram is looked at. A STUN message fits into an Ethernet frame (RFC 8489
/// section 6.1).
const MAX_MESSAGE: usize = 1500;

const HEADER: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const BINDING_ERROR: [u8; 2] = [0x01, 0x11];
const ERROR_CODE: u16 = 0x0009;

/// What makes a request unlike any other.
type TransactionId = [u8; 12];

/// Asks `address` until it answers or `timeout` after `start` is over.
pub(super) async fn ask(
    address: SocketAddr,
    timeout: Duration,
    start: Instant,
    transcript: &mut Transcript,
) -> Finding {
    let mut asking = Asking::default();
    let end = timeout_at(start + timeout, asking.run(address, timeout, start)).await;
    transcript.say(format_args!("udp {address}"));
    asking.tell(transcript);
    let finding = match end {
        Ok(Ok(End::Answered(response))) => {
            transcript.say(format_args!("; got {response}"));
            transcript.lap("after");
            Finding::Life
        }
        Ok(Ok(End::Flooded)) => {
            transcript.say(format_args!("; gave up"));
            transcript.lap("after");
            Finding::Garbled
        }
        Ok(Err(error)) => {
            transcript.say(format_args!(";"));
            transcript.lap("failed after");
            transcript.say(format_args!(": {error}"));
            Finding::ConnectFailed(connect_failure(&error))
        }
        Err(_) => {
            transcript.silence(timeout);
            match asking.last {
                Some(_) => Finding::Garbled,
                None => Finding::NeverHeard,
            }
        }
    };
    transcript.stop();
    finding
}

/// One probe as far as it has come.
#[derive(Debug, Default)]
struct Asking {
    requests: u32,
    strays: u32,
    /// Why the last datagram was ignored.
    last: Option<Stray>,
}

/// How an asking ended before its time, if not by an error.
#[derive(Debug)]
enum End {
    Answered(Response),
    /// More than [`MAX_STRAYS`] came instead of an answer.
    Flooded,
}

impl Asking {
    async fn run(
        &mut self,
        address: SocketAddr,
        timeout: Duration,
        start: Instant,
    ) -> io::Result<End> {
        let socket = connect(address)?;
        let id = rand::random();
        let request = request(&id);
        for offset in offsets(timeout) {
            if let Ok(end) = timeout_at(start + offset, self.listen(&socket, &id)).await {
                return end;
            }
            socket.send(&request).await?;
            self.requests += 1;
        }
        self.listen(&socket, &id).await
    }

    /// Waits for the answer; may be stopped and begun again.
    async fn listen(&mut self, socket: &UdpSocket, id: &TransactionId) -> io::Result<End> {
        let mut buffer = [0; MAX_MESSAGE];
        while self.strays < MAX_STRAYS {
            let whole = receive(socket, &mut buffer).await?;
            match read(&buffer[..whole.min(MAX_MESSAGE)], whole, id) {
                Ok(response) => return Ok(End::Answered(response)),
                Err(stray) => {
                    self.strays += 1;
                    self.last = Some(stray);
                }
            }
        }
        Ok(End::Flooded)
    }

    /// What was sent, and what came and was ignored.
    fn tell(&self, transcript: &mut Transcript) {
        match self.requests {
            0 => {}
            1 => transcript.say(format_args!("; sent Binding request")),
            n => transcript.say(format_args!("; sent Binding request {n} times")),
        }
        match (self.strays, &self.last) {
            (1, Some(why)) => transcript.say(format_args!("; ignored a datagram: {why}")),
            (n, Some(why)) => transcript.say(format_args!("; ignored {n} datagrams, last: {why}")),
            (_, None) => {}
        }
    }
}

/// When to ask, counted from the start: after 0, 1, 3, 7 … of the first interval, as long as an
/// answer has at least that interval to come.
fn offsets(timeout: Duration) -> impl Iterator<Item = Duration> {
    let rto = MAX_RTO.min(timeout / PARTS);
    (0..MAX_REQUESTS)
        .map(move |sent| rto * ((1 << sent) - 1))
        .take_while(move |&offset| offset + rto <= timeout)
}

/// A socket that hears `address` alone, and ICMP errors about what it sends there.
fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    // Without it the kernel keeps "host unreachable" to itself.
    match address {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    socket.connect(&address.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    if socket.local_addr()? == socket.peer_addr()? {
        // On loopback the source port that the kernel chose can be the very port that nobody has.
        return Err(ErrorKind::ConnectionRefused.into());
    }
    Ok(socket)
}

/// Waits for a datagram; gives its whole length, which may be more than the buffer holds.
async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    // An ICMP error makes a socket ready with an error and nothing to read.
    let either = Interest::READABLE | Interest::ERROR;
    let receive = || {
        let (_, whole) = rustix::net::recv(socket, &mut *buffer, RecvFlags::TRUNC)?;
        Ok(whole)
    };
    socket.async_io(either, receive).await
}

/// A Binding request without attributes (RFC 8489 section 5).
fn request(id: &TransactionId) -> [u8; HEADER] {
    let mut message = [0; HEADER];
    message[..2].copy_from_slice(&BINDING_REQUEST);
    message[4..8].copy_from_slice(&MAGIC_COOKIE);
    message[8..].copy_from_slice(id);
    message
}

/// A response to our request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    Success,
    /// With the code of its ERROR-CODE attribute, if there is one.
    Error(Option<u16>),
}

/// Why a datagram is no response to our request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stray {
    /// Shorter than the header, or begins as no STUN message does.
    NotStun,
    Cookie,
    Length,
    Id,
    /// A request, an indication, or another method.
    Kind,
}

/// Reads a datagram of `whole` bytes of which `seen` are there.
fn read(seen: &[u8], whole: usize, id: &TransactionId) -> Result<Response, Stray> {
    let Some((header, attributes)) = seen.split_first_chunk::<HEADER>() else {
        return Err(Stray::NotStun);
    };
    let kind = [header[0], header[1]];
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if kind[0] & 0b1100_0000 != 0 {
        return Err(Stray::NotStun);
    }
    if header[4..8] != MAGIC_COOKIE {
        return Err(Stray::Cookie);
    }
    if length % 4 != 0 || HEADER + length != whole || whole != seen.len() {
        return Err(Stray::Length);
    }
    if header[8..] != id[..] {
        return Err(Stray::Id);
    }
    match kind {
        BINDING_SUCCESS => Ok(Response::Success),
        BINDING_ERROR => Ok(Response::Error(error_code(attributes))),
        _ => Err(Stray::Kind),
    }
}

/// The first ERROR-CODE among these attributes (RFC 8489 sections 14 and 14.8).
fn error_code(mut attributes: &[u8]) -> Option<u16> {
    while let Some((head, rest)) = attributes.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        if kind == ERROR_CODE {
            let &[_, _, class, number, ..] = value else {
                return None;
            };
            let (class, number) = (u16::from(class & 0b111), u16::from(number));
            return ((3..=6).contains(&class) && number < 100).then_some(class * 100 + number);
        }
        // Padding to a multiple of four follows.
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Response::Success => f.write_str("success response"),
            Response::Error(Some(code)) => write!(f, "error response {code}"),
            Response::Error(None) => f.write_str("error response without a code"),
        }
    }
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stray::NotStun => "not STUN",
            Stray::Cookie => "without the magic cookie",
            Stray::Length => "not as long as it says",
            Stray::Id => "with another transaction id",
            Stray::Kind => "STUN, but no response to a Binding request",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: TransactionId = *b"twelve bytes";

    fn message(kind: [u8; 2], attributes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
        [&kind[..], &length, &MAGIC_COOKIE, &ID, attributes].concat()
    }

    fn read_whole(datagram: &[u8]) -> Result<Response, Stray> {
        read(datagram, datagram.len(), &ID)
    }

    #[test]
    fn a_request_is_a_bare_header() {
        let wanted = b"\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes";
        assert_eq!(&request(&ID), wanted);
    }

    #[test]
    fn requests_are_further_and_further_apart_and_end_in_time() {
        let at = |timeout| {
            offsets(Duration::from_millis(timeout))
                .map(|offset| offset.as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(at(500), [0, 71, 214]);
        assert_eq!(at(3_500), [0, 500, 1_500]);
        assert_eq!(at(4_000), [0, 500, 1_500, 3_500]);
        let most = [0, 500, 1_500, 3_500, 7_500, 15_500, 31_500];
        assert_eq!(at(3_600_000), most);
        assert!(offsets(Duration::MAX).count() <= most.len());
    }

    #[tokio::test]
    async fn a_refusal_wakes_who_waits_for_an_answer() {
        // Connected to itself: nobody else can have its port, and it takes nothing from others.
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap();
        nobody.connect(address).unwrap();
        let socket = connect(address).unwrap();
        let mut buffer = [0; MAX_MESSAGE];
        let refused = async {
            let sent = async {
                tokio::task::yield_now().await;
                socket.send(&request(&ID)).await
            };
            tokio::join!(receive(&socket, &mut buffer), sent)
        };
        // One request and no second: nothing but the refusal can end the wait.
        let plenty = Instant::now() + Duration::from_secs(10);
        let (received, sent) = timeout_at(plenty, refused).await.unwrap();
        assert_eq!(sent.unwrap(), HEADER);
        assert_eq!(received.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    proptest! {
        #[test]
        fn every_timeout_has_its_three_requests_and_time_for_an_answer(nanos in 7_u64..) {
            let timeout = Duration::from_nanos(nanos);
            let offsets: Vec<_> = offsets(timeout).collect();
            prop_assert!((3..=7).contains(&offsets.len()));
            prop_assert_eq!(offsets[0], Duration::ZERO);
            prop_assert!(offsets.is_sorted_by(|one, next| one < next));
            prop_assert!(*offsets.last().unwrap() + offsets[1] <= timeout);
        }

        #[test]
        fn no_datagram_panics(
            kind in prop_oneof![Just(BINDING_SUCCESS), Just(BINDING_ERROR), any::<[u8; 2]>()],
            attributes in proptest::collection::vec(any::<u8>(), 0..80),
            cut in 0_usize..100,
        ) {
            let whole = message(kind, &attributes);
            let short = &whole[..cut.min(whole.len())];
            let full = read_whole(&whole);
            prop_assert_eq!(full.is_ok(), attributes.len() % 4 == 0
                && [BINDING_SUCCESS, BINDING_ERROR].contains(&kind));
            prop_assert!(short.len() == whole.len() || read_whole(short).is_err());
        }
    }

    #[test]
    fn an_error_is_told_by_its_code() {
        let table: [(&[u8], Option<u16>); 8] = [
            (b"\x00\x09\x00\x10\x00\x00\x04\x01Unauthorized", Some(401)),
            // After another attribute, padded.
            (
                b"\x80\x22\x00\x05a b c\0\0\0\x00\x09\x00\x04\x00\x00\x03\x00",
                Some(300),
            ),
            (b"", None),
            (b"\x00\x09\x00\x02\x00\x00\x00\x00", None),
            (b"\x00\x09\x00\x04\x00\x00\x02\x00", None),
            (b"\x00\x09\x00\x04\x00\x00\x04\x64", None),
            (b"\x00\x09\xff\xff\x00\x00\x04\x01", None),
            (b"\x80\x22\xff\xff\x00\x09\x00\x04\x00\x00\x04\x01", None),
        ];
        for (attributes, code) in table {
            let said = read_whole(&message(BINDING_ERROR, attributes));
            let shown = attributes.escape_ascii();
            assert_eq!(said, Ok(Response::Error(code)), "{shown}");
        }
    }

    #[test]
    fn what_is_no_response_to_our_request_says_why() {
        let with = |at: usize, byte| {
            let mut datagram = message(BINDING_SUCCESS, &[0; 4]);
            datagram[at] = byte;
            datagram
        };
        let good = message(BINDING_SUCCESS, &[0; 4]);
        let table = [
            (Vec::new(), Stray::NotStun),
            (good[..19].to_vec(), Stray::NotStun),
            (with(0, 0xc1), Stray::NotStun),
            (with(0, 0x41), Stray::NotStun),
            (with(4, 0), Stray::Cookie),
            (with(7, 0), Stray::Cookie),
            (with(3, 0), Stray::Length),
            (with(3, 3), Stray::Length),
            (with(3, 8), Stray::Length),
            (with(2, 1), Stray::Length),
            ([&good[..], b"x"].concat(), Stray::Length),
            (message(BINDING_SUCCESS, &[0; 3]), Stray::Length),
            (with(8, 0), Stray::Id),
            (with(19, 0), Stray::Id),
            // Our own request come back, an indication, another method's response.
            (request(&ID).to_vec(), Stray::Kind),
            (message([0x00, 0x11], b""), Stray::Kind),
            (message([0x01, 0x03], b""), Stray::Kind),
        ];
        assert_eq!(read_whole(&good), Ok(Response::Success));
        for (datagram, stray) in table {
            let shown = datagram.escape_ascii();
            assert_eq!(read_whole(&datagram), Err(stray), "{shown}");
        }
        // Longer than what is looked at.
        assert_eq!(read(&good, 4096, &ID), Err(Stray::Length));
    }
}
