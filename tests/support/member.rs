//! A member: a small HTTP server that answers with its own name, as slowly as it is told to, and
//! that notes each new connection's request on disk before it works on it.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::child::Child;
use super::http::read_head;
use super::lab::Lab;
use super::{Result, inside};

/// Long enough that some request is with a member when it dies.
pub(crate) const SOME_WORK: Duration = Duration::from_millis(5);

/// Starts a member of this name on the host of the same name, which works on each request for so
/// long; health checks are answered at once.
pub(crate) fn start(lab: &Lab, name: &str, port: u16, work: Duration) -> Result<Child> {
    let mut command = inside::call("member")?;
    let notes = notes(lab.dir(), name).display().to_string();
    let work = work.as_millis().to_string();
    command.extend([name.to_owned(), format!("0.0.0.0:{port}"), notes, work]);
    lab.start(name, name, &command)
}

/// The requests for new connections that a member has read.
pub(crate) fn requests(lab: &Lab, name: &str) -> Result<HashSet<u64>> {
    let text = std::fs::read_to_string(notes(lab.dir(), name))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

fn notes(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.requests"))
}

/// The part that plays on the member's host: name, address, the file for notes, milliseconds of work.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [name, address, notes, work] = args else {
        return Err("a name, an address, a file and milliseconds are needed".into());
    };
    let work = Duration::from_millis(work.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let name: Rc<str> = name.as_str().into();
    let notes = Rc::new(File::create(notes)?);
    let listener = runtime.block_on(TcpListener::bind(address))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (name, notes) = (name.clone(), notes.clone());
            tokio::task::spawn_local(async move {
                // A client that goes away ends its own session and nothing else.
                if let Err(e) = serve(stream, &name, &notes, work).await {
                    eprintln!("{name}: a session ended: {e}");
                }
            });
        }
    })
}

async fn serve(
    mut stream: TcpStream,
    name: &str,
    mut notes: &File,
    work: Duration,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer).await? {
        let path = head.split(' ').nth(1).unwrap_or_default();
        if let Some(id) = path.strip_prefix("/new/") {
            // One write, unbuffered: the note survives the process.
            notes.write_all(format!("{id}\n").as_bytes())?;
        }
        if path != "/health" && !work.is_zero() {
            tokio::time::sleep(work).await;
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        if head.contains("\r\nConnection: close\r\n") {
            break;
        }
    }
    stream.shutdown().await
}
