//! Probes: one question asked of one address.
//!
//! A [`Prober`] is built from a topology once, TLS settings included, and asks any of its targets
//! again and again. [`Prober::ask`] connects, talks, and returns a [`ProbeOutcome`]: whose fault,
//! in which layer, and a line for `why`. It keeps nothing between two askings, never asks twice,
//! and decides nothing about verdicts.
//!
//! ```text
//! ask ─► connect ─► (TLS) ─► question ─► answer ─► Finding ─► judge() ─► ProbeOutcome
//!        └────────────── one timeout for all of it ──────────────┘
//! ```
//!
//! One file a kind: `tcp`, `tls`, `http`, `sip`, `stun`. What `http` and `sip` have in common,
//! reading a status line from a peer that may be hostile, is in `status_line`. `stun` asks over UDP:
//! there is nothing to connect or to end, and it asks again as long as nothing comes.
//!
//! # How connections end
//!
//! Once a second for each target, so it matters to both sides:
//!
//! - A probe that was answered by a status line or a whole TLS handshake says goodbye in order:
//!   it waits briefly ([`PARTING`]) for the member to close first, as `Connection: close` asks,
//!   and closes. The member logs no error, and the one who closed first keeps the `TIME_WAIT`.
//! - Every other one is reset (`SO_LINGER` 0): a bare connect, a TLS handshake that is not
//!   finished, and whatever failed. That leaves no `TIME_WAIT` here, and nothing half-closed at a
//!   member that hangs. A bare connect asks the kernel not to acknowledge early either, so that
//!   the reset comes before the member's `accept` and its process never sees the probe; HAProxy
//!   does the same.

mod finding;
mod http;
mod sip;
mod status_line;
mod stun;
mod tcp;
mod tls;
mod transcript;

#[cfg(test)]
mod tests;

pub use finding::{Finding, judge};
pub use transcript::MAX_TRANSCRIPT;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use super::ProbeOutcome;
use crate::topology::{CheckKind, Host, Member, Service, TargetId, Topology, Verify};
use status_line::{Protocol, StatusLine};
use transcript::Transcript;

/// How long a member that has answered may take to close the connection before we do. Long enough
/// for a member that heeds `Connection: close`, too short to delay a verdict.
pub const PARTING: Duration = Duration::from_millis(20);

/// How much of a body is read while waiting for that close. Closing with more unread resets the
/// connection, which a member may log; health pages are smaller.
const MAX_PARTING_BYTES: usize = 64 * 1024;

/// Asks the targets of one topology.
#[derive(Debug)]
pub struct Prober {
    /// By pool, then by service.
    plans: Vec<Vec<Plan>>,
}

/// A check that cannot be asked as configured.
#[derive(Debug)]
pub enum ProberError {
    /// The file of authorities cannot be read, or is not PEM.
    Authorities {
        /// Whose check, as `POOL/SERVICE`.
        service: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file of authorities has no usable certificate.
    NoAuthority {
        /// Whose check, as `POOL/SERVICE`.
        service: String,
        /// The file.
        path: PathBuf,
    },
    /// `server_name`, or the member's host name in its place, is not a name that TLS can send.
    ServerName {
        /// Whose check, as `POOL/SERVICE`.
        service: String,
        /// The name.
        name: String,
    },
    /// A method, path or host would break the request: empty, or with spaces or control
    /// characters in it.
    Request {
        /// Whose check, as `POOL/SERVICE`.
        service: String,
        /// Which of them.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// The TLS library refuses its own settings.
    Tls(rustls::Error),
}

/// How one service is asked.
#[derive(Debug)]
struct Plan {
    kind: CheckKind,
    port: Option<u16>,
    timeout: Duration,
    tls: Option<TlsPlan>,
    /// The `Host` header of each member, by its index, without the port.
    hosts: Vec<String>,
}

#[derive(Debug)]
struct TlsPlan {
    config: Arc<ClientConfig>,
    verified: bool,
    /// The name that each member is asked for; none where only its address is known.
    names: Vec<Option<ServerName<'static>>>,
}

/// A connection that has been made, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// The connection below any encryption.
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Prober {
    /// Builds what every check of `topology` needs.
    pub fn new(topology: &Topology) -> Result<Prober, ProberError> {
        let plans = topology.pools.iter().map(|pool| {
            let services = pool.services.iter();
            services
                .map(|service| {
                    let path = topology.service_path(service.id);
                    Plan::new(service, &pool.members, path)
                })
                .collect::<Result<Vec<_>, _>>()
        });
        Ok(Prober {
            plans: plans.collect::<Result<Vec<_>, _>>()?,
        })
    }

    /// Asks `target` at `address`, where its sessions go; a check with a port of its own is asked
    /// there. Takes no longer than the check's timeout (and [`PARTING`] within it).
    pub async fn ask(&self, target: TargetId, address: SocketAddr) -> ProbeOutcome {
        let service = target.service();
        let plan = &self.plans[service.pool.index()][service.index()];
        let address = SocketAddr::new(address.ip(), plan.port.unwrap_or(address.port()));

        let start = Instant::now();
        let mut transcript = Transcript::new(start);
        let finding = plan
            .ask(target.member().index(), address, start, &mut transcript)
            .await;
        ProbeOutcome {
            answer: judge(&plan.kind, &finding),
            took: transcript.took(),
            transcript: transcript.finish(),
        }
    }
}

impl Plan {
    fn new(service: &Service, members: &[Member], path: String) -> Result<Plan, ProberError> {
        let check = &service.check;
        if let CheckKind::Http(http) = &check.kind {
            let host = http.host.as_deref().unwrap_or("-");
            let parts = [
                ("method", &http.method[..]),
                ("path", &http.path),
                ("host", host),
            ];
            for (key, value) in parts {
                if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
                    let value = value.to_owned();
                    return Err(ProberError::Request {
                        service: path,
                        key,
                        value,
                    });
                }
            }
        }
        let host = |member: &Member| member.endpoints[service.id.index()].host.clone();
        let tls = match check.tls || check.kind == CheckKind::Tls {
            false => None,
            true => Some(TlsPlan {
                config: tls::client_config(&check.verify, &path)?,
                verified: check.verify != Verify::No,
                names: members
                    .iter()
                    .map(|member| tls::server_name(check.server_name.as_deref(), &host(member)))
                    .collect::<Result<_, _>>()
                    .map_err(|name| ProberError::ServerName {
                        service: path,
                        name,
                    })?,
            }),
        };
        let hosts = members.iter().map(|member| match host(member) {
            Host::Address(address) if address.is_ipv6() => format!("[{address}]"),
            host => host.to_string(),
        });
        Ok(Plan {
            kind: check.kind.clone(),
            port: check.port,
            timeout: check.timeout,
            tls,
            hosts: hosts.collect(),
        })
    }

    async fn ask(
        &self,
        member: usize,
        address: SocketAddr,
        start: Instant,
        transcript: &mut Transcript,
    ) -> Finding {
        if self.kind == CheckKind::Stun {
            return stun::ask(address, self.timeout, start, transcript).await;
        }
        let deadline = start + self.timeout;
        let unseen = self.kind == CheckKind::Tcp && self.tls.is_none();
        transcript.say(format_args!("connect {address}"));
        let stream = match timeout_at(deadline, tcp::connect(address, unseen)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                transcript.lap("failed after");
                transcript.say(format_args!(": {error}"));
                return Finding::ConnectFailed(super::connect_failure(&error));
            }
            Err(_) => {
                transcript.silence(self.timeout);
                return Finding::ConnectTimedOut;
            }
        };
        transcript.lap("in");
        let talk = self.talk(member, address, stream, transcript);
        let Ok((finding, stream)) = timeout_at(deadline, talk).await else {
            transcript.silence(self.timeout);
            return Finding::Silence;
        };
        transcript.stop();
        if let Some(stream) = stream {
            let waits = matches!(self.kind, CheckKind::Http(_));
            part(stream, waits, deadline).await;
        }
        finding
    }

    /// Everything after the connect. A connection that is to be closed in order is given back.
    async fn talk(
        &self,
        member: usize,
        address: SocketAddr,
        mut stream: TcpStream,
        transcript: &mut Transcript,
    ) -> (Finding, Option<Box<dyn Stream>>) {
        let Some(tls) = &self.tls else {
            return match &self.kind {
                CheckKind::Tcp | CheckKind::Tls => (Finding::Life, None),
                _ => {
                    self.question(member, address, Box::new(stream), transcript)
                        .await
                }
            };
        };
        let name = tls::name_for(&tls.names[member], address);
        match &self.kind {
            CheckKind::Tls if !tls.verified => {
                let finding = tls::hello(&tls.config, name, stream, transcript).await;
                (finding, None)
            }
            CheckKind::Tls => {
                let finding = tls::handshake(&tls.config, name, &mut stream, transcript).await;
                (finding, (finding == Finding::Life).then(|| boxed(stream)))
            }
            kind => match tls::wrap(&tls.config, name, stream, transcript).await {
                Err(finding) => (finding, None),
                Ok(stream) if *kind == CheckKind::Tcp => (Finding::Life, Some(Box::new(stream))),
                Ok(stream) => {
                    self.question(member, address, Box::new(stream), transcript)
                        .await
                }
            },
        }
    }

    /// Sends the request of an `http` or `sip` check and reads the status of its answer.
    async fn question(
        &self,
        member: usize,
        address: SocketAddr,
        mut stream: Box<dyn Stream>,
        transcript: &mut Transcript,
    ) -> (Finding, Option<Box<dyn Stream>>) {
        let host = &self.hosts[member];
        let secure = self.tls.is_some();
        let local = match stream.tcp().local_addr() {
            Ok(local) => local,
            Err(error) => return (finding::broken(&error), None),
        };
        let (request, summary, protocol) = match &self.kind {
            CheckKind::Http(check) => {
                let request = http::request(check, host, address.port(), secure);
                let summary = format!("{} {}", check.method, check.path);
                (request, summary, Protocol::Http)
            }
            _ => {
                let request = sip::options(host, address, local, secure, sip::Tags::random());
                (request, "OPTIONS".to_owned(), Protocol::Sip)
            }
        };
        let sent = async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await
        };
        if let Err(error) = sent.await {
            transcript.say(format_args!("; sending {summary} failed: {error}"));
            return (finding::broken(&error), None);
        }
        transcript.say(format_args!("; sent {summary}"));
        let finding = read_status(&mut *stream, StatusLine::new(protocol), transcript).await;
        let answered = matches!(finding, Finding::Status(_));
        (finding, answered.then_some(stream))
    }
}

fn boxed(stream: TcpStream) -> Box<dyn Stream> {
    Box::new(stream)
}

/// Reads until the status is known, the peer ends, or it says something else.
async fn read_status(
    stream: &mut dyn Stream,
    mut status_line: StatusLine,
    transcript: &mut Transcript,
) -> Finding {
    let mut buffer = [0; 1024];
    loop {
        let finding = match stream.read(&mut buffer).await {
            Ok(0) => Finding::Closed,
            Err(error) => {
                transcript.say(format_args!("; {error}"));
                finding::broken(&error)
            }
            Ok(n) => match status_line.feed(&buffer[..n]) {
                status_line::Progress::More => {
                    transcript.hears(status_line.line());
                    continue;
                }
                status_line::Progress::Final(status) => Finding::Status(status),
                status_line::Progress::Garbled => Finding::Garbled,
            },
        };
        transcript.hears(status_line.line());
        transcript.heard_all(finding == Finding::Closed);
        return finding;
    }
}

/// Closes in order, without keeping the answer waiting for long; with `waits` the member is given
/// the chance to close first. What goes wrong here is of no interest: the answer is known.
async fn part(mut stream: Box<dyn Stream>, waits: bool, deadline: Instant) {
    if SockRef::from(stream.tcp()).set_linger(None).is_err() {
        return;
    }
    let goodbye = async {
        if waits {
            let mut rest = (&mut stream).take(MAX_PARTING_BYTES as u64);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        }
        Ok::<(), io::Error>(())
    };
    let until = deadline.min(Instant::now() + PARTING);
    if !matches!(timeout_at(until, goodbye).await, Ok(Err(_))) {
        // TLS says goodbye with an alert; without, this is the FIN that dropping would send.
        if let Ok(Err(error)) = timeout(PARTING, stream.shutdown()).await {
            tracing::trace!(%error, "a probe's connection was gone before its goodbye");
        }
    }
}

impl fmt::Display for ProberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProberError::Authorities {
                service,
                path,
                source,
            } => {
                let path = path.display();
                write!(
                    f,
                    "check of {service}: cannot read the authorities in {path}: {source}"
                )
            }
            ProberError::NoAuthority { service, path } => write!(
                f,
                "check of {service}: {} has no usable certificate; write a PEM file with the \
                 certificates of the authorities to trust",
                path.display()
            ),
            ProberError::ServerName { service, name } => write!(
                f,
                "check of {service}: TLS cannot ask for {name:?}; write a DNS name as server_name"
            ),
            ProberError::Request {
                service,
                key,
                value,
            } => write!(
                f,
                "check of {service}: {key} = {value:?} would break the request; write it without \
                 spaces and control characters, percent-encoded where needed"
            ),
            ProberError::Tls(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for ProberError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProberError::Authorities { source, .. } => Some(&**source),
            ProberError::Tls(error) => Some(error),
            _ => None,
        }
    }
}
