//! Many clients at once, and a member that costs a test little for each.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{PATIENCE, pattern};

/// Connections under way at once: well below any backlog.
const AT_ONCE: usize = 200;

/// How a client came out.
pub(crate) enum Came {
    /// It stands on a member, which answered.
    Served(TcpStream),
    /// It was reset or closed, before or after it was accepted.
    TurnedAway,
    /// It is neither: it waits, and broke off.
    Waiting,
}

/// So many clients, each asked whether it is served until it is, or for as long as `patience`.
pub(crate) async fn come(to: SocketAddr, count: usize, patience: Duration) -> Vec<Came> {
    let mut all = Vec::with_capacity(count);
    let mut coming = JoinSet::new();
    for _ in 0..count {
        if coming.len() >= AT_ONCE {
            all.push(next(&mut coming).await);
        }
        coming.spawn(come_one(to, patience));
    }
    while !coming.is_empty() {
        all.push(next(&mut coming).await);
    }
    all
}

async fn next(coming: &mut JoinSet<Came>) -> Came {
    let came = timeout(PATIENCE, coming.join_next()).await;
    let came = came.expect("an outcome in time").expect("one more");
    came.expect("no panic")
}

async fn come_one(to: SocketAddr, patience: Duration) -> Came {
    let Ok(mut stream) = TcpStream::connect(to).await else {
        return Came::TurnedAway;
    };
    match timeout(patience, ask(&mut stream)).await {
        Ok(Ok(())) => Came::Served(stream),
        Ok(Err(_)) => Came::TurnedAway,
        Err(_) => Came::Waiting,
    }
}

/// Those who are served.
pub(crate) fn served(came: Vec<Came>) -> Vec<TcpStream> {
    came.into_iter()
        .filter_map(|came| match came {
            Came::Served(stream) => Some(stream),
            Came::TurnedAway | Came::Waiting => None,
        })
        .collect()
}

/// So many clients that are all served.
pub(crate) async fn all_served(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let standing = served(come(to, count, PATIENCE).await);
    assert_eq!(standing.len(), count, "served");
    standing
}

/// Connections that send nothing; those that were turned away at once are not among them.
pub(crate) async fn silent(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        if let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(to)).await {
            all.push(stream);
        }
    }
    all
}

/// A request and its answer; an error at an end instead of it.
pub(crate) async fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ask\n").await?;
    let mut last = 0;
    while last != b'\n' {
        last = stream.read_u8().await?;
    }
    Ok(())
}

/// How many of them still answer.
pub(crate) async fn answering(streams: &mut [TcpStream]) -> usize {
    let mut count = 0;
    for stream in streams {
        if timeout(PATIENCE, ask(stream))
            .await
            .is_ok_and(|asked| asked.is_ok())
        {
            count += 1;
        }
    }
    count
}

/// How many of them are at their end by now: reset, or closed in good order.
pub(crate) fn ended(streams: &[TcpStream]) -> usize {
    let is_over =
        |stream: &&TcpStream| match SockRef::from(*stream).peek(&mut [MaybeUninit::uninit()]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
    streams.iter().filter(is_over).count()
}

/// Breaks them off.
pub(crate) fn reset(streams: Vec<TcpStream>) {
    for stream in streams {
        let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("a socket to reset");
    }
}

/// Sends so many bytes to one that sends them back, and reads them at the same time. How many
/// came.
pub(crate) async fn send_and_receive(stream: TcpStream, length: usize) -> usize {
    let (mut source, mut sink) = stream.into_split();
    let send = async {
        let sent = pattern::write(&mut sink, length, |_| {}).await;
        sent.expect("room for it");
        sink.shutdown().await.expect("a half-close");
    };
    let ((), received) = tokio::join!(send, pattern::read_to_end(&mut source));
    received.expect("what was sent")
}
