//! Clients of the daemon.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::{pattern, within};

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Reset,
    Orderly,
}

/// The name of the member that a fresh session reaches.
pub(crate) async fn served_by(service: SocketAddr) -> String {
    Client::connect(service).await.member().await
}

/// How a session ends that sends nothing. A reset may come before the connection is seen to stand.
pub(crate) async fn turned_away(service: SocketAddr) -> Ended {
    match Client::try_connect(service).await {
        Ok(mut client) => client.ended().await,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ended::Reset,
        Err(error) => panic!("a connection refused in its own way: {error}"),
    }
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr) -> Client {
        Client::try_connect(to).await.expect("a connection")
    }

    pub(crate) async fn try_connect(to: SocketAddr) -> io::Result<Client> {
        within("connecting", TcpStream::connect(to))
            .await
            .map(Client::new)
    }

    pub(crate) async fn connect_from(source: IpAddr, to: SocketAddr) -> Client {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::new(source, 0))
            .expect("a source address");
        let stream = within("connecting", socket.connect(to)).await;
        Client::new(stream.expect("a connection"))
    }

    /// With as small a receive buffer as the kernel gives.
    pub(crate) async fn connect_narrow(to: SocketAddr) -> Client {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let stream = within("connecting", socket.connect(to)).await;
        Client::new(stream.expect("a connection"))
    }

    fn new(stream: TcpStream) -> Client {
        Client {
            stream: BufReader::new(stream),
        }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().expect("a local address")
    }

    /// Sends a line and returns the answer; an end instead of it is an error.
    pub(crate) async fn try_ask(&mut self, line: &str) -> io::Result<String> {
        self.stream
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .await?;
        self.line().await
    }

    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.try_ask(line).await.expect("an answer")
    }

    /// The name of the member that this session stands on.
    pub(crate) async fn member(&mut self) -> String {
        let answer = self.ask("who").await;
        answer
            .strip_suffix(":who")
            .expect("a member's answer")
            .to_owned()
    }

    /// The next line that comes.
    pub(crate) async fn line(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        let read = within("an answer", self.stream.read_line(&mut answer)).await?;
        match (read, answer.pop()) {
            (1.., Some('\n')) => Ok(answer),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let sent = within("sending", self.stream.get_mut().write_all(bytes)).await;
        sent.expect("room for it");
    }

    /// Sends the first `length` bytes of the pattern.
    pub(crate) async fn send_pattern(&mut self, length: usize) {
        let sent = within(
            "sending",
            pattern::write(self.stream.get_mut(), length, |_| {}),
        );
        sent.await.expect("room for it");
    }

    /// Reads the first `length` bytes of the pattern, and checks each.
    pub(crate) async fn receive_pattern(&mut self, length: usize) {
        let mut bytes = vec![0; 64 << 10];
        let mut at = 0;
        while at < length {
            let most = bytes.len().min(length - at);
            let read = within("reading", self.stream.read(&mut bytes[..most])).await;
            let read = read.expect("more of it");
            assert!(read > 0, "an end after {at} bytes");
            pattern::check(at, &bytes[..read]).expect("what was sent");
            at += read;
        }
    }

    /// Sends the first `length` bytes of the pattern to one that sends them back, and reads them
    /// at the same time. How many came.
    pub(crate) async fn send_and_receive_pattern(self, length: usize) -> usize {
        let (mut source, mut sink) = self.stream.into_inner().into_split();
        let send = async {
            pattern::write(&mut sink, length, |_| {}).await?;
            sink.shutdown().await
        };
        let both = async { tokio::join!(send, pattern::read_to_end(&mut source)) };
        let (sent, received) = within("both directions", both).await;
        sent.expect("room for it");
        received.expect("what was sent")
    }

    /// Reads exactly `length` bytes.
    pub(crate) async fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = within("reading", self.stream.read_exact(&mut bytes)).await;
        read.expect("so many bytes");
        bytes
    }

    /// Ends its own direction.
    pub(crate) async fn finish(&mut self) {
        self.stream
            .get_mut()
            .shutdown()
            .await
            .expect("a half-close");
    }

    /// Breaks the connection.
    pub(crate) fn reset(self) {
        let linger = SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO));
        linger.expect("a socket to reset");
    }

    /// Reads, and forgets, what comes until the end.
    pub(crate) async fn ended(&mut self) -> Ended {
        let mut bytes = [0; 16 << 10];
        loop {
            match within("the end", self.stream.read(&mut bytes)).await {
                Ok(0) => return Ended::Orderly,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ended::Reset;
                }
                Err(error) => panic!("an end of its own kind: {error}"),
            }
        }
    }
}
