//! Asking the daemon, over its control socket.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::control::server::{CommandAnswer, CommandBody, LevelBody, ReloadBody};
use crate::health::readiness::Mode;
use crate::observe::events::{Event, Query, mode_word};
use crate::observe::status::Status;
use crate::observe::why::Why;

/// How long the daemon may take to answer a question.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The same for an order about pairs: one for a site is of several steps, each written to disk.
pub const ORDER_PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer that is read, in bytes.
pub const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Asks one daemon, one connection a question.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer, or not the one hoped for.
#[derive(Debug)]
pub enum AskError {
    /// Nobody answers.
    NoDaemon {
        /// On this socket.
        socket: PathBuf,
        /// How that showed.
        error: io::Error,
    },
    /// The socket's permissions do not admit this user.
    NotAllowed(PathBuf),
    /// The daemon refuses, with its reason.
    Refused(String),
    /// What came is not an answer of twinpool's.
    Strange(String),
    /// The connection broke before the answer was whole.
    Broken(String),
    /// A command was given, and nobody said what became of it.
    Unanswered {
        /// How that showed.
        why: String,
        /// Where to look.
        look: &'static str,
    },
}

impl Client {
    /// Will ask the daemon on this socket.
    pub fn new(socket: &Path) -> Client {
        Client {
            socket: socket.to_owned(),
        }
    }

    /// Everything at this moment.
    pub async fn status(&self) -> Result<Status, AskError> {
        parsed(&self.get("/v1/status").await?)
    }

    /// The explanation of `POOL` or `POOL/MEMBER`.
    pub async fn why(&self, name: &str) -> Result<Why, AskError> {
        parsed(&self.get(&format!("/v1/why/{}", escaped(name))).await?)
    }

    /// Events that are asked for.
    pub async fn events(&self, query: &Query) -> Result<Vec<Event>, AskError> {
        let mut parts = Vec::new();
        parts.extend(query.after.map(|after| format!("after={after}")));
        let name = query.name.as_ref();
        parts.extend(name.map(|name| format!("name={}", escaped(name))));
        parts.extend(query.kind.map(|kind| format!("kind={}", kind.word())));
        let lasting = query.lasting;
        parts.extend(lasting.map(|lasting| format!("since={}s", lasting.as_secs().max(1))));
        parts.extend(query.most.map(|most| format!("limit={most}")));
        parsed(&self.get(&format!("/v1/events?{}", parts.join("&"))).await?)
    }

    /// Gives a command; what was done.
    pub async fn command(&self, mode: Mode, command: &CommandBody) -> Result<String, AskError> {
        let path = format!("/v1/commands/{}", mode_word(mode));
        self.post(&path, command, PATIENCE, "twinpool status").await
    }

    /// Gives an order about pairs, by its name; what was done, a line a step.
    pub async fn redirect(&self, name: &str, order: &impl Serialize) -> Result<String, AskError> {
        let path = format!("/v1/commands/{name}");
        self.post(&path, order, ORDER_PATIENCE, "twinpool redirects")
            .await
    }

    /// The text of the configuration that is in force.
    pub async fn configuration(&self) -> Result<String, AskError> {
        let body = self.get("/v1/config").await?;
        let text = String::from_utf8(body.into());
        text.map_err(|error| AskError::Strange(error.to_string()))
    }

    /// Has the configuration read again; what it changed, a line each.
    pub async fn reload(&self) -> Result<String, AskError> {
        let (path, order) = ("/v1/commands/reload", ReloadBody {});
        self.post(path, &order, ORDER_PATIENCE, "twinpool status")
            .await
    }

    /// Has the program that is on disk now take over; what came of it, a line each.
    pub async fn upgrade(&self) -> Result<String, AskError> {
        let (path, order) = ("/v1/commands/upgrade", ReloadBody {});
        self.post(path, &order, ORDER_PATIENCE, "twinpool status")
            .await
    }

    /// What the daemon's log tells.
    pub async fn log_level(&self) -> Result<String, AskError> {
        let answer: CommandAnswer = parsed(&self.get("/v1/commands/log-level").await?)?;
        Ok(answer.text)
    }

    /// Has it tell more or less; what was done.
    pub async fn set_log_level(&self, body: &LevelBody) -> Result<String, AskError> {
        let path = "/v1/commands/log-level";
        self.post(path, body, PATIENCE, "twinpool log-level").await
    }

    /// `look` is the command that tells what became of it where no answer does.
    async fn post(
        &self,
        path: &str,
        command: &impl Serialize,
        patience: Duration,
        look: &'static str,
    ) -> Result<String, AskError> {
        let body = serde_json::to_vec(command)
            .map_err(|error| AskError::Strange(format!("cannot write the command: {error}")))?;
        let exchange = self.exchange(Method::POST, path, body.into());
        let why = match timeout(patience, exchange).await {
            Err(_) => format!("no answer within {} s", patience.as_secs()),
            Ok(Err(AskError::Broken(why))) => format!("the connection broke: {why}"),
            Ok(Err(error)) => return Err(error),
            Ok(Ok((_, answer))) => {
                let answer: CommandAnswer = parsed(&answer)?;
                return match answer.done {
                    true => Ok(answer.text),
                    false => Err(AskError::Refused(answer.text)),
                };
            }
        };
        Err(AskError::Unanswered { why, look })
    }

    async fn get(&self, path: &str) -> Result<Bytes, AskError> {
        let exchange = self.exchange(Method::GET, path, Bytes::new());
        let (code, body) = timeout(PATIENCE, exchange).await.unwrap_or_else(|_| {
            Err(AskError::NoDaemon {
                socket: self.socket.clone(),
                error: io::Error::new(ErrorKind::TimedOut, "no answer in time"),
            })
        })?;
        if code.is_success() {
            return Ok(body);
        }
        let told = String::from_utf8_lossy(&body).trim_end().to_owned();
        Err(AskError::Refused(told))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), AskError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.unreached(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "twinpool")
            .body(Full::new(body))
            .map_err(|error| AskError::Strange(error.to_string()))?;
        let ask = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let code = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER)
                .collect()
                .await;
            let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => broken(*error),
                Err(error) => AskError::Strange(error.to_string()),
            })?;
            Ok((code, body.to_bytes()))
        };
        // The connection is driven by whoever asks: nothing is left running behind.
        let mut ask = std::pin::pin!(ask);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            answer = &mut ask => answer,
            ended = &mut connection => match ended {
                Ok(()) => ask.await,
                Err(error) => ask.await.map_err(|_| broken(error)),
            },
        }
    }

    fn unreached(&self, error: io::Error) -> AskError {
        match error.kind() {
            ErrorKind::PermissionDenied => AskError::NotAllowed(self.socket.clone()),
            _ => AskError::NoDaemon {
                socket: self.socket.clone(),
                error,
            },
        }
    }
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, AskError> {
    serde_json::from_slice(body).map_err(|error| {
        let begin = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        AskError::Strange(format!("{error}, in an answer that begins {begin:?}"))
    })
}

fn broken(error: hyper::Error) -> AskError {
    AskError::Broken(error.to_string())
}

/// A name as part of a path: everything but letters, digits and a few harmless signs as `%XX`.
fn escaped(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                path.push(byte as char);
            }
            _ => path += &format!("%{byte:02X}"),
        }
    }
    path
}

impl AskError {
    /// As the design has it: 69 when nobody answers, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            AskError::NoDaemon { .. } => super::EXIT_NO_DAEMON,
            AskError::NotAllowed(_)
            | AskError::Refused(_)
            | AskError::Strange(_)
            | AskError::Broken(_)
            | AskError::Unanswered { .. } => super::EXIT_REFUSED,
        }
    }
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AskError::NoDaemon { socket, error } => write!(
                f,
                "no twinpool answers on {} ({error}); is it running? Start it with `twinpool run`, \
                 or name its socket with --socket",
                socket.display()
            ),
            AskError::NotAllowed(socket) => write!(
                f,
                "you may not use {}: ask to be in its group, or use sudo",
                socket.display()
            ),
            AskError::Refused(why) => f.write_str(why),
            AskError::Strange(what) => write!(f, "not an answer of twinpool's: {what}"),
            AskError::Broken(why) => write!(f, "the connection to twinpool broke: {why}"),
            AskError::Unanswered { why, look } => write!(
                f,
                "{why}; the command may still be under way, or done: see `{look}`"
            ),
        }
    }
}

impl std::error::Error for AskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AskError::NoDaemon { error, .. } => Some(error),
            _ => None,
        }
    }
}
