//! Members: servers of lines that live in the test.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::eventually;

/// A server. It answers `NAME:LINE` to every line but these:
///
/// - `send N`: the first N bytes of the pattern
/// - `cut N`: the same, and a reset behind it
/// - `sink`: reads to the client's end and answers `NAME:sunk N`, N the bytes of the pattern
/// - `end`: `bye`, and an orderly end
/// - `half`: `half`, an end of its own direction; what comes then is kept in [`Member::heard`]
/// - `GET …`: an HTTP answer, 200 or, while busy, 503
///
/// Dead, its sockets are reset and its port is refused. Each member has an address of its own, so
/// that nobody takes its port meanwhile.
pub(crate) struct Member {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

/// What a member expects of its peers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Lines.
    Lines,
    /// A PROXY v2 header, then lines. A connection that ends before one is a check's.
    ProxyThenLines,
    /// Anything: it is sent back as it comes.
    Raw,
}

struct Shared {
    name: String,
    speaks: Speaks,
    mood: watch::Sender<Mood>,
    broken: AtomicU64,
    sent: AtomicU64,
    headers: Mutex<Vec<Vec<u8>>>,
    heard: Mutex<Vec<String>>,
    connections: Mutex<JoinSet<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Busy,
    Hung,
}

impl Member {
    pub(crate) async fn start(name: &str) -> Member {
        Member::start_as(name, Speaks::Lines).await
    }

    pub(crate) async fn start_as(name: &str, speaks: Speaks) -> Member {
        Member::start_at(name, own_address(), speaks).await
    }

    pub(crate) async fn start_at(name: &str, address: IpAddr, speaks: Speaks) -> Member {
        Member::start_as_on(name, SocketAddr::new(address, 0), speaks).await
    }

    /// On a port that somebody else on another address has, too.
    pub(crate) async fn start_on(name: &str, address: SocketAddr) -> Member {
        Member::start_as_on(name, address, Speaks::Lines).await
    }

    async fn start_as_on(name: &str, address: SocketAddr, speaks: Speaks) -> Member {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            speaks,
            mood: watch::Sender::new(Mood::Well),
            broken: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            headers: Mutex::default(),
            heard: Mutex::default(),
            connections: Mutex::default(),
        });
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("its number");
        Member {
            accepting: Some(tokio::spawn(accept(shared.clone(), listener))),
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

    /// Dies as a process does: its port is refused, its connections are reset.
    pub(crate) async fn die(&mut self) {
        self.stop_listening().await;
        let mut connections = std::mem::take(&mut *self.shared.connections.lock().expect("a lock"));
        connections.shutdown().await;
    }

    /// Its port is refused; its connections stand.
    pub(crate) async fn stop_listening(&mut self) {
        let accepting = self.accepting.take().expect("a member that lives");
        accepting.abort();
        assert!(accepting.await.is_err_and(|error| error.is_cancelled()));
    }

    /// Listens again, on the same port.
    pub(crate) async fn resume(&mut self) {
        assert!(self.accepting.is_none(), "a member that lives");
        self.shared.mood.send_replace(Mood::Well);
        let listener = TcpListener::bind(self.address).await.expect("its port");
        self.accepting = Some(tokio::spawn(accept(self.shared.clone(), listener)));
    }

    /// Accepts from now on and answers nothing.
    pub(crate) fn hang(&self) {
        self.shared.mood.send_replace(Mood::Hung);
    }

    /// Answers HTTP with 503 from now on.
    pub(crate) fn be_busy(&self) {
        self.shared.mood.send_replace(Mood::Busy);
    }

    pub(crate) fn be_well(&self) {
        self.shared.mood.send_replace(Mood::Well);
    }

    /// Connections that broke under it.
    pub(crate) fn broken(&self) -> u64 {
        self.shared.broken.load(Ordering::Relaxed)
    }

    /// Bytes of the pattern that its kernel took.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// PROXY headers that it was sent.
    pub(crate) fn headers(&self) -> Vec<Vec<u8>> {
        self.shared.headers.lock().expect("a lock").clone()
    }

    /// Waits for lines after a `half`.
    pub(crate) async fn heard(&self, count: usize) -> Vec<String> {
        eventually("lines", async || {
            let heard = self.shared.heard.lock().expect("a lock");
            (heard.len() >= count).then(|| heard.clone())
        })
        .await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// An address of loopback that no other member of any test has.
fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(next < 255, "fewer members than that");
    // 127.1.0.0 and above: tests use 127.0.0.0/16 for clients.
    let process = std::process::id() % (254 << 8) + (1 << 8);
    let [_, _, high, low] = process.to_be_bytes();
    Ipv4Addr::new(127, high, low, next as u8).into()
}

/// An address and a port that nobody has or takes.
pub(crate) fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((own_address(), 0)).expect("a port");
    listener.local_addr().expect("its number")
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => panic!("{}: cannot accept: {error}", shared.name),
        };
        let serving = serve(shared.clone(), stream);
        let mut connections = shared.connections.lock().expect("a lock");
        while connections.try_join_next().is_some() {}
        connections.spawn(serving);
    }
}

/// A connection that is reset when dropped, unless it ended in good order.
struct Connection {
    stream: BufReader<TcpStream>,
    orderly: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.orderly {
            let linger = SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO));
            linger.expect("a socket to reset");
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let mut connection = Connection {
        stream: BufReader::new(stream),
        orderly: false,
    };
    let stream = &mut connection.stream;
    let outcome = match shared.speaks {
        Speaks::Raw => send_back(stream).await,
        Speaks::Lines => answer(&shared, stream).await,
        Speaks::ProxyThenLines => match take_header(&shared, stream).await {
            Ok(()) => answer(&shared, stream).await,
            Err(error) => Err(error),
        },
    };
    connection.orderly = matches!(outcome, Ok(End::Orderly));
    if outcome.is_err() {
        shared.broken.fetch_add(1, Ordering::Relaxed);
    }
}

enum End {
    Orderly,
    Cut,
}

async fn send_back(stream: &mut BufReader<TcpStream>) -> io::Result<End> {
    let mut bytes = [0; 4096];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(End::Orderly);
        }
        stream.get_mut().write_all(&bytes[..read]).await?;
    }
}

async fn take_header(shared: &Shared, stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut header = vec![0; 16];
    stream.read_exact(&mut header).await?;
    let length = u16::from_be_bytes([header[14], header[15]]);
    header.resize(16 + usize::from(length), 0);
    stream.read_exact(&mut header[16..]).await?;
    shared.headers.lock().expect("a lock").push(header);
    Ok(())
}

async fn answer(shared: &Shared, stream: &mut BufReader<TcpStream>) -> io::Result<End> {
    let name = &shared.name;
    let mut mood = shared.mood.subscribe();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(End::Orderly);
        }
        let mood = *mood
            .wait_for(|mood| *mood != Mood::Hung)
            .await
            .expect("a member behind it");
        let line = line.trim_end();
        let (word, count) = match line.split_once(' ') {
            Some((word, count)) => (word, count.parse().unwrap_or(0)),
            None => (line, 0),
        };
        let count_sent = |sent| {
            shared.sent.fetch_add(sent as u64, Ordering::Relaxed);
        };
        match word {
            "send" => pattern::write(stream.get_mut(), count, count_sent).await?,
            "cut" => {
                pattern::write(stream.get_mut(), count, count_sent).await?;
                return Ok(End::Cut);
            }
            "sink" => {
                let sunk = pattern::read_to_end(stream).await?;
                let answer = format!("{name}:sunk {sunk}\n");
                stream.get_mut().write_all(answer.as_bytes()).await?;
                return Ok(End::Orderly);
            }
            "end" => {
                stream.get_mut().write_all(b"bye\n").await?;
                return Ok(End::Orderly);
            }
            "half" => {
                stream.get_mut().write_all(b"half\n").await?;
                stream.get_mut().shutdown().await?;
                return listen_on(shared, stream).await;
            }
            "GET" => {
                while stream.read_line(&mut String::new()).await? > 2 {}
                let code = match mood {
                    Mood::Busy => "503 Service Unavailable",
                    _ => "200 OK",
                };
                let head = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
                stream.get_mut().write_all(head.as_bytes()).await?;
                return Ok(End::Orderly);
            }
            _ => {
                let answer = format!("{name}:{line}\n");
                stream.get_mut().write_all(answer.as_bytes()).await?;
            }
        }
    }
}

async fn listen_on(shared: &Shared, stream: &mut BufReader<TcpStream>) -> io::Result<End> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(End::Orderly);
        }
        let mut heard = shared.heard.lock().expect("a lock");
        heard.push(line.trim_end().to_owned());
    }
}

/// Bytes of which each tells its place, so that nothing can be lost, doubled or swapped.
pub(crate) mod pattern {
    use std::io;
    use std::sync::LazyLock;

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    /// Its period: a prime, so that no buffer's size divides it.
    const PERIOD: usize = 65_521;

    static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 0x2545_f491u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8
        };
        (0..PERIOD).map(|_| next()).collect()
    });

    pub(crate) async fn write(
        sink: &mut (impl AsyncWrite + Unpin),
        length: usize,
        written: impl Fn(usize),
    ) -> io::Result<()> {
        let mut at = 0;
        while at < length {
            let from = at % PERIOD;
            let to = PERIOD.min(from + length - at);
            let n = sink.write(&BLOCK[from..to]).await?;
            at += n;
            written(n);
        }
        Ok(())
    }

    /// Reads to the end; an error when something else came. How much came.
    pub(crate) async fn read_to_end(source: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        let mut bytes = vec![0; PERIOD];
        let mut at = 0;
        loop {
            let read = source.read(&mut bytes).await?;
            if read == 0 {
                return Ok(at);
            }
            check(at, &bytes[..read])?;
            at += read;
        }
    }

    /// Whether `bytes` are what stands at `at`.
    pub(crate) fn check(at: usize, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        let mut from = at % PERIOD;
        while !rest.is_empty() {
            let n = rest.len().min(PERIOD - from);
            if rest[..n] != BLOCK[from..from + n] {
                let place = format!(
                    "other bytes than were sent, at {at} to {}",
                    at + bytes.len()
                );
                return Err(io::Error::other(place));
            }
            rest = &rest[n..];
            from = 0;
        }
        Ok(())
    }
}

/// A listener whose queue is full: what else comes is dropped by the kernel, as by a host that
/// vanished.
pub(crate) struct Full {
    address: SocketAddr,
    _listener: socket2::Socket,
    _waiting: Vec<TcpStream>,
}

impl Full {
    pub(crate) async fn start() -> Full {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        let address = SocketAddr::new(own_address(), 0);
        listener.bind(&address.into()).expect("a port");
        listener.listen(0).expect("a listener");
        let address = listener.local_addr().ok().and_then(|a| a.as_socket());
        let address = address.expect("its number");
        let mut waiting = Vec::new();
        // Until one is not answered any more.
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            waiting.push(stream.expect("a connection"));
            assert!(waiting.len() < 16, "the queue is longer than it was made");
        }
        Full {
            address,
            _listener: listener,
            _waiting: waiting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
