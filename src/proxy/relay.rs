//! The byte path of one established session: two directions, each carried until its end.
//!
//! A direction in rest holds nothing. Small messages go through the worker's one scratch buffer;
//! a read that fills it makes the direction *bulk*, and bulk data is spliced through a pooled pipe
//! without entering this process. What the other side would not take yet is held by the direction
//! (at most one scratch buffer, or one pipe), and nothing more is read meanwhile.
//!
//! Half-close is kept: an end of one direction is passed on, the other goes on. An error on either
//! socket ends both directions at once; the caller resets both.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, send};
use rustix::pipe::{SpliceFlags, splice};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::access::{SessionLog, Tally};
use super::pipes::{Pipe, Pipes};
use super::registry::{Fate, Key, Told};
use super::sockets;
use super::worker::Worker;
use crate::observe::counters::{Counter, MemberCounters, ServiceCounters};

/// The scratch buffer, in bytes: a read that fills it is bulk.
const SCRATCH: usize = 16 << 10;
/// What one direction may move before the worker's other sessions have their turn, in bytes.
const TURN: usize = 1 << 20;

/// How often [`sockets::acknowledge`] is told of a member that has not answered yet: at once, and
/// after the first writes, a PROXY header and a request. Each sets the kernel back to delaying its
/// acknowledgements, and a member that writes its first answer in two pieces would wait for them.
const OPENING: u8 = 3;

/// What the sessions of one worker move bytes with.
#[derive(Debug)]
pub(super) struct Tools {
    scratch: RefCell<Box<[u8]>>,
    pipes: Pipes,
}

/// How a session ended that did not end well.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client's socket failed.
    Client(io::Error),
    /// The member's socket failed.
    Member(io::Error),
    /// Nothing moved for too long.
    Idle,
    /// It was told to end.
    Told(Told),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Client(error) => write!(f, "client's side: {error}"),
            Broken::Member(error) => write!(f, "member's side: {error}"),
            Broken::Idle => f.write_str("idle for too long"),
            Broken::Told(_) => f.write_str("told to end"),
        }
    }
}

/// Where the bytes of a session are counted.
#[derive(Clone, Copy)]
pub(super) struct Carried<'a> {
    pub(super) service: &'a ServiceCounters,
    pub(super) member: &'a MemberCounters,
    /// What the access log tells of it.
    pub(super) log: &'a SessionLog,
}

/// One direction of a session.
struct Direction<'a> {
    flow: Flow,
    /// Whether the last read was bulk.
    bulk: bool,
    haste: Haste,
    tools: &'a Tools,
    /// Where what it carried is counted: for the service and for the member.
    carried: [&'a Counter; 2],
    /// The session's own count, where there is an access log.
    tally: Option<&'a Tally>,
}

enum Flow {
    /// Nothing is held.
    Rest,
    /// The sink would not take all of a read.
    Full { rest: Box<[u8]>, at: usize },
    /// Bulk data on its way: `held` bytes are in the pipe.
    Splice { pipe: Pipe, held: usize },
    /// The source has ended and everything has been passed on.
    Ended,
}

/// Whether the sink sends at once what is written (`TCP_NODELAY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// Not yet, and nothing has been written.
    Fresh,
    /// Not yet, and something has been written.
    Begun,
    /// It does.
    Set,
}

/// Which socket of a direction failed.
enum Fault {
    Source(io::Error),
    Sink(io::Error),
}

impl Default for Tools {
    fn default() -> Self {
        Tools {
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            pipes: Pipes::default(),
        }
    }
}

/// Carries both directions until both have ended, or until the session breaks.
pub(super) fn relay<'a>(
    worker: &'a Worker,
    counted: Carried<'a>,
    key: Key,
    client: &'a mut TcpStream,
    member: &'a mut TcpStream,
    haste: Haste,
    settle: impl Fn(&TcpStream) + 'a,
) -> impl Future<Output = Result<(), Broken>> {
    let mut up = Direction::new(worker.tools(), counted.up(), counted.log.up(), haste);
    // What the listener was told is inherited by its clients' sockets.
    let mut down = Direction::new(
        worker.tools(),
        counted.down(),
        counted.log.down(),
        Haste::Set,
    );
    let mut acknowledgements = OPENING;
    // No async function: it would hold all of this twice, for every session there is.
    poll_fn(move |cx| {
        match worker.registry().fate(key) {
            Fate::Young | Fate::Settled => {}
            Fate::Settle => settle(member),
            Fate::Idle => return Poll::Ready(Err(Broken::Idle)),
            Fate::End(told) => return Poll::Ready(Err(Broken::Told(told))),
        }
        let mut moved = false;
        let there = up.poll(cx, client, member, down.is_ended(), &mut moved);
        let there = there.map_err(|fault| match fault {
            Fault::Source(error) => Broken::Client(error),
            Fault::Sink(error) => Broken::Member(error),
        })?;
        if acknowledgements > 0 && (moved || acknowledgements == OPENING) {
            sockets::acknowledge(member);
            acknowledgements -= 1;
        }
        let mut answered = false;
        let back = down.poll(cx, member, client, up.is_ended(), &mut answered);
        let back = back.map_err(|fault| match fault {
            Fault::Source(error) => Broken::Member(error),
            Fault::Sink(error) => Broken::Client(error),
        })?;
        if answered {
            acknowledgements = 0;
        }
        if moved || answered {
            worker.registry().moved(key, worker.tick());
        }
        match (there, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
}

impl<'a> Carried<'a> {
    fn up(self) -> [&'a Counter; 2] {
        [&self.service.bytes_in, &self.member.bytes_in]
    }

    fn down(self) -> [&'a Counter; 2] {
        [&self.service.bytes_out, &self.member.bytes_out]
    }
}

impl<'a> Direction<'a> {
    fn new(
        tools: &'a Tools,
        carried: [&'a Counter; 2],
        tally: Option<&'a Tally>,
        haste: Haste,
    ) -> Direction<'a> {
        Direction {
            flow: Flow::Rest,
            bulk: false,
            haste,
            tools,
            carried,
            tally,
        }
    }

    fn is_ended(&self) -> bool {
        matches!(self.flow, Flow::Ended)
    }

    /// Moves what can be moved. `Ready` once the source has ended and the sink knows it;
    /// `last` says that the other direction has ended too, so that closing will tell it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        last: bool,
        moved: &mut bool,
    ) -> Poll<Result<(), Fault>> {
        let mut carried = 0;
        let outcome = loop {
            if carried >= TURN {
                rest(cx);
                break Poll::Pending;
            }
            let step = match &mut self.flow {
                Flow::Ended => break Poll::Ready(Ok(())),
                Flow::Rest if self.bulk => self.begin_splice(cx, source, sink),
                Flow::Rest => self.copy(cx, source, sink, last, &mut carried),
                Flow::Full { rest, at } => {
                    let before = *at;
                    let flushed = flush(cx, sink, rest, at);
                    // What a slow sink takes is movement too: it is not idle.
                    *moved |= *at > before;
                    if matches!(flushed, Poll::Ready(Ok(()))) {
                        self.flow = Flow::Rest;
                    }
                    flushed
                }
                Flow::Splice { held, .. } => {
                    let held = *held;
                    let step = self.splice(cx, source, sink, &mut carried);
                    *moved |= matches!(self.flow, Flow::Splice { held: left, .. } if left < held);
                    step
                }
            };
            match step {
                Poll::Ready(Ok(())) => {}
                other => break other,
            }
        };
        if carried > 0 {
            for counter in self.carried {
                counter.add(carried as u64);
            }
            if let Some(tally) = self.tally {
                tally.add(carried as u64);
            }
            *moved = true;
        }
        outcome
    }

    /// What can be read through the scratch buffer, and the write of it.
    ///
    /// A source that has ended with its last bytes is known to have before they are written: its
    /// end then travels in their segment, which spares both peers one.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        last: bool,
        carried: &mut usize,
    ) -> Poll<Result<(), Fault>> {
        let mut scratch = self.tools.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        // poll_read, not try_read: it knows that a short read has drained the socket and spares
        // the read that would only say so.
        ready!(Pin::new(&mut *source).poll_read(cx, &mut buffer)).map_err(Fault::Source)?;
        let first = buffer.filled().len();
        if first == 0 {
            return Poll::Ready(self.end(sink, last));
        }
        let more = match first < SCRATCH {
            true => Pin::new(source).poll_read(cx, &mut buffer),
            false => Poll::Ready(Ok(())),
        };
        let read = buffer.filled();
        let nothing = first < SCRATCH && read.len() == first;
        *carried += read.len();
        self.bulk = read.len() == SCRATCH;
        self.hurry(sink);
        let mut at = 0;
        if nothing && matches!(more, Poll::Ready(Ok(()))) {
            at = send_last(sink, read).map_err(Fault::Sink)?;
            if at == read.len() {
                return Poll::Ready(self.end(sink, last));
            }
        }
        let flushed = flush(cx, sink, read, &mut at)?;
        // A reset of the source is told once, and would look like its end from then on.
        if let Poll::Ready(Err(error)) = more {
            return Poll::Ready(Err(Fault::Source(error)));
        }
        if flushed.is_pending() {
            self.hurry(sink);
            self.flow = Flow::Full {
                rest: read[at..].into(),
                at: 0,
            };
            return Poll::Pending;
        }
        more.map(|_| Ok(()))
    }

    /// Has the kernel send what follows without waiting for acknowledgements. The first write of a
    /// connection never waits for any, and many have no second one.
    fn hurry(&mut self, sink: &TcpStream) {
        match self.haste {
            Haste::Set => {}
            Haste::Fresh => self.haste = Haste::Begun,
            Haste::Begun => {
                self.haste = Haste::Set;
                if let Err(error) = sink.set_nodelay(true) {
                    tracing::debug!(%error, "cannot turn off Nagle's algorithm");
                }
            }
        }
    }

    /// Takes a pipe once there is something to fill it with.
    fn begin_splice(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &TcpStream,
    ) -> Poll<Result<(), Fault>> {
        ready!(source.poll_read_ready(cx)).map_err(Fault::Source)?;
        self.hurry(sink);
        match self.tools.pipes.take() {
            Some(pipe) => self.flow = Flow::Splice { pipe, held: 0 },
            None => self.bulk = false,
        }
        Poll::Ready(Ok(()))
    }

    /// Empties the pipe into the sink, then fills it from the source. The source is asked only
    /// while the pipe is empty, so that "would block" can only mean the source.
    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        carried: &mut usize,
    ) -> Poll<Result<(), Fault>> {
        let Flow::Splice { pipe, held } = &mut self.flow else {
            return Poll::Ready(Ok(()));
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        while *held > 0 {
            ready!(sink.poll_write_ready(cx)).map_err(Fault::Sink)?;
            let out = || Ok(splice(&pipe.read, None, &*sink, None, *held, flags)?);
            match sink.try_io(Interest::WRITABLE, out) {
                Ok(n) => *held -= n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Fault::Sink(error))),
            }
        }
        let fill = || {
            Ok(splice(
                &*source,
                None,
                &pipe.write,
                None,
                Pipe::CHUNK,
                flags,
            )?)
        };
        match source.try_io(Interest::READABLE, fill) {
            Ok(0) => {
                // The end, or a mark of urgent data before more of it: a read tells them apart.
                self.give_pipe();
                self.bulk = false;
                Poll::Ready(Ok(()))
            }
            Ok(n) => {
                *held = n;
                *carried += n;
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.give_pipe();
                // Bulk goes on if it was bulk since this direction was last woken.
                self.bulk = *carried >= SCRATCH;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(Fault::Source(error))),
        }
    }

    /// Passes the source's end on; unless closing is about to.
    fn end(&mut self, sink: &TcpStream, last: bool) -> Result<(), Fault> {
        self.flow = Flow::Ended;
        if last {
            return Ok(());
        }
        if let Some(tally) = self.tally {
            tally.ended_first();
        }
        SockRef::from(sink)
            .shutdown(Shutdown::Write)
            .map_err(Fault::Sink)
    }

    fn give_pipe(&mut self) {
        if let Flow::Splice { pipe, held } = std::mem::replace(&mut self.flow, Flow::Rest) {
            if held == 0 {
                self.tools.pipes.give(pipe);
            } else {
                self.tools.pipes.lose(pipe);
            }
        }
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        self.give_pipe();
    }
}

/// Goes on once everybody else has had a turn, those included whom the kernel has yet to tell of. To
/// wake oneself would not do: the run queue would never be empty, and the runtime then asks the
/// kernel only now and then.
fn rest(cx: &mut Context<'_>) {
    if pin!(yield_now()).poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}

/// Writes the last bytes before an end, which is to follow at once: `MSG_MORE` has the kernel wait
/// for it. How many it took; none where it has no room.
fn send_last(sink: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    let sent = sink.try_io(Interest::WRITABLE, || Ok(send(sink, bytes, flags)?));
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

/// Writes what follows `at`, which it moves on.
fn flush(
    cx: &mut Context<'_>,
    sink: &mut TcpStream,
    bytes: &[u8],
    at: &mut usize,
) -> Poll<Result<(), Fault>> {
    while *at < bytes.len() {
        match ready!(Pin::new(&mut *sink).poll_write(cx, &bytes[*at..])) {
            Ok(n) => *at += n,
            Err(error) => return Poll::Ready(Err(Fault::Sink(error))),
        }
    }
    Poll::Ready(Ok(()))
}

/// Asks the kernel to watch a member's socket of a session that lives on.
pub(super) fn watch_member(member: &TcpStream, peer_timeout: std::time::Duration) {
    if let Err(error) = sockets::watch_peer(member, peer_timeout) {
        tracing::debug!(%error, "cannot have the kernel watch a member's connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// Carries one direction to its end; what arrived, and how it ended.
    async fn carry(mut source: TcpStream, haste: Haste) -> (Vec<u8>, Result<(), Fault>) {
        let (mut sink, mut reader) = pair().await;
        let (tools, carried) = (Tools::default(), Counter::default());
        let mut direction = Direction::new(&tools, [&carried; 2], None, haste);
        let outcome = poll_fn(|cx| direction.poll(cx, &mut source, &mut sink, false, &mut false));
        let outcome = outcome.await;
        drop(sink);
        let mut arrived = Vec::new();
        reader.read_to_end(&mut arrived).await.unwrap();
        (arrived, outcome)
    }

    #[tokio::test]
    async fn an_end_right_behind_the_last_bytes_loses_none_of_them() {
        for size in [1, 1_000, SCRATCH - 1, SCRATCH, SCRATCH + 1, 3 * SCRATCH] {
            let (mut feeder, source) = pair().await;
            feeder.write_all(&vec![7; size]).await.unwrap();
            feeder.shutdown().await.unwrap();
            source.readable().await.unwrap();
            let (arrived, outcome) = carry(source, Haste::Fresh).await;
            assert!(outcome.is_ok());
            assert_eq!(arrived.len(), size);
        }
    }

    #[tokio::test]
    async fn an_urgent_byte_on_the_way_cuts_nothing_off() {
        let (mut feeder, source) = pair().await;
        feeder.write_all(b"before ").await.unwrap();
        SockRef::from(&feeder).send_out_of_band(b"!").unwrap();
        feeder.write_all(b"behind").await.unwrap();
        feeder.shutdown().await.unwrap();
        source.readable().await.unwrap();
        let (arrived, outcome) = carry(source, Haste::Set).await;
        assert!(outcome.is_ok());
        assert_eq!(arrived, b"before behind");
    }

    #[tokio::test]
    async fn an_urgent_byte_among_bulk_data_cuts_nothing_off() {
        const MUCH: usize = SCRATCH + 4_000;
        let (mut feeder, source) = pair().await;
        feeder.write_all(&[7; MUCH]).await.unwrap();
        SockRef::from(&feeder).send_out_of_band(b"!").unwrap();
        feeder.write_all(b"behind").await.unwrap();
        feeder.shutdown().await.unwrap();
        source.readable().await.unwrap();
        let (arrived, outcome) = carry(source, Haste::Set).await;
        assert!(outcome.is_ok());
        assert_eq!(arrived.len(), MUCH + b"behind".len());
    }

    #[tokio::test]
    async fn a_reset_behind_the_last_bytes_is_no_end() {
        let (mut feeder, source) = pair().await;
        feeder.write_all(b"cut").await.unwrap();
        sockets::reset_on_close(&feeder);
        drop(feeder);
        source.readable().await.unwrap();
        let (_, outcome) = carry(source, Haste::Set).await;
        assert!(matches!(outcome, Err(Fault::Source(_))));
    }

    #[tokio::test]
    async fn what_a_slow_sink_takes_counts_as_movement() {
        let (mut feeder, mut source) = pair().await;
        let (mut sink, mut reader) = pair().await;
        SockRef::from(&sink).set_send_buffer_size(4096).unwrap();
        SockRef::from(&reader).set_recv_buffer_size(4096).unwrap();
        let (tools, carried) = (Tools::default(), Counter::default());
        let mut direction = Direction::new(&tools, [&carried; 2], None, Haste::Set);
        while !matches!(direction.flow, Flow::Full { .. }) {
            feeder.write_all(&[7; 1024]).await.unwrap();
            let mut moved = false;
            poll_fn(|cx| {
                let step = direction.poll(cx, &mut source, &mut sink, false, &mut moved);
                assert!(step.is_pending());
                if moved {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
        let before = carried.get();
        let mut moved = false;
        poll_fn(|cx| {
            let mut bytes = [0; 8192];
            let mut buffer = ReadBuf::new(&mut bytes);
            while let Poll::Ready(read) = Pin::new(&mut reader).poll_read(cx, &mut buffer) {
                read.unwrap();
                buffer.clear();
            }
            let step = direction.poll(cx, &mut source, &mut sink, false, &mut moved);
            assert!(step.is_pending());
            match direction.flow {
                Flow::Full { .. } => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
        assert_eq!(carried.get(), before, "the source was silent");
        assert!(moved);
    }
}
