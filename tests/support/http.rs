//! As much HTTP as a member and its clients need, and one request from inside a namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Result, inside, lab::Lab};

/// The longest head that is read: ours are a tenth of it.
const HEAD_LIMIT: usize = 8 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a process may take that asks: to start, to connect and to be answered.
const PROCESS_PATIENCE: Duration = Duration::from_secs(20);

/// Reads one head, to the blank line; none at an orderly end before its first byte. What followed
/// it stays in `buffer`.
pub(crate) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            let head = std::mem::replace(buffer, rest);
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if buffer.len() > HEAD_LIMIT {
            return Err(std::io::Error::other("the head is too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return match buffer.is_empty() {
                true => Ok(None),
                false => Err(std::io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
}

/// Reads one answer and returns its body; an end before it is an error.
pub(crate) async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> std::io::Result<String> {
    let Some(head) = read_head(stream, buffer).await? else {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .and_then(|n| n.trim().parse::<usize>().ok())
        .filter(|n| *n <= HEAD_LIMIT)
        .ok_or_else(|| std::io::Error::other("no length in the answer"))?;
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = buffer.split_off(length);
    let body = std::mem::replace(buffer, rest);
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Asks `http://ADDRESS/PATH` from a host of the lab; status and body.
pub(crate) fn get(lab: &Lab, host: &str, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut command = inside::call("get")?;
    command.extend([address.to_string(), path.to_owned()]);
    let answer = lab
        .start_read(host, "get", &command)?
        .read_to_end(PROCESS_PATIENCE)?;
    split(&answer)
}

/// The part of [`get`] that plays on the host: prints the whole answer.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [address, path] = args else {
        return Err("an address and a path are needed".into());
    };
    print!("{}", ask(address.parse()?, path)?);
    Ok(())
}

/// Asks one thing from here; the whole answer, empty when nothing answers.
fn ask(address: SocketAddr, path: &str) -> Result<String> {
    let Ok(stream) = TcpStream::connect_timeout(&address, PATIENCE) else {
        return Ok(String::new());
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, path)
}

/// Asks one thing on an open connection; the whole answer.
fn exchange(mut stream: impl Read + Write, path: &str) -> Result<String> {
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    // A reset or a timeout after part of an answer: that part is all there is.
    if let Err(e) = stream.read_to_end(&mut answer) {
        eprintln!("get {path}: {e}");
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Asks `http://ADDRESS/PATH` from this host; status and body, status 0 when nothing answers.
pub(crate) fn get_here(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    split(&ask(address, path)?)
}

/// Asks `PATH` on a socket of this host, as [`get_here`].
pub(crate) fn get_on(socket: &Path, path: &str) -> Result<(u16, String)> {
    let Ok(stream) = UnixStream::connect(socket) else {
        return split("");
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    split(&exchange(stream, path)?)
}

fn split(answer: &str) -> Result<(u16, String)> {
    if answer.is_empty() {
        return Ok((0, String::new()));
    }
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or("an answer without a head")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or("an answer without a status")?;
    Ok((status, body.to_owned()))
}
