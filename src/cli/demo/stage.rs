//! The stage: two sites with members, and a real twinpool in front of them, which has them back
//! each other up.
//!
//! twinpool runs as `twinpool run` would: the same code, given a configuration in TOML, on threads
//! of its own, with default check settings. The demo asks it through its control socket, as the
//! commands do. All ports are free ones on loopback; its socket and state are in a directory that
//! goes when the stage does.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::members::Member;
use crate::cli::client::{AskError, Client};
use crate::config;
use crate::daemon::{self, Signals, StartError, Started, Starter};
use crate::health::Verdict;
use crate::observe::status::{MemberStatus, Status};
use crate::observe::view::RunState;

/// A site, and its one pool.
pub(super) struct Site {
    pub(super) name: &'static str,
    region: &'static str,
    pub(super) pool: &'static str,
    pub(super) members: [&'static str; 3],
}

/// Both.
pub(super) const SITES: [Site; 2] = [
    Site {
        name: "seoul",
        region: "kr-north",
        pool: "web-seoul",
        members: ["seoul1", "seoul2", "seoul3"],
    },
    Site {
        name: "busan",
        region: "kr-south",
        pool: "web-busan",
        members: ["busan1", "busan2", "busan3"],
    },
];
/// What the pools' servers do.
const ROLE: &str = "web";
/// Their one service.
const SERVICE: &str = "http";
/// The rules of the pair, short enough for a demo. [`HOLD`] and [`RAMP`] say the same.
const RULES: &str = r#"failover = "automatic"
after = "1s"
failback = "automatic"
hold = "5s"
ramp = "5s""#;
/// How long a recovered pool stays well before its users come home.
pub(super) const HOLD: Duration = Duration::from_secs(5);
/// How long their share takes to rise to all of them.
pub(super) const RAMP: Duration = Duration::from_secs(5);

/// How long twinpool may take until all members are up; checks of a second make it one or two.
pub(super) const START: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take to end.
pub(super) const STOP: Duration = Duration::from_secs(5);
/// How long it may take to answer a question.
const ANSWER: Duration = Duration::from_secs(2);

/// Members, and twinpool in front of them.
pub(super) struct Stage {
    /// Of both sites, in the order of [`SITES`].
    pub(super) members: Vec<Member>,
    /// Where the clients of each site connect.
    pub(super) fronts: [SocketAddr; 2],
    /// The read-only HTTP listener.
    pub(super) observe: Option<SocketAddr>,
    /// The control socket.
    pub(super) socket: PathBuf,
    client: Client,
    daemon: JoinHandle<Result<(), StartError>>,
    stop: mpsc::Sender<()>,
    // Last, so that it goes after all that is in it.
    _place: Place,
}

/// Why the stage could not be set, or did not hold.
#[derive(Debug)]
pub(super) enum StageError {
    /// A directory for the socket and the state could not be made.
    Place(PathBuf, io::Error),
    /// A member could not be started.
    Member(&'static str, io::Error),
    /// The demo's own configuration is wrong.
    Config(String),
    /// twinpool did not start.
    Start(StartError),
    /// A thread could not be started, or ended early.
    Thread(String),
    /// twinpool does not answer as it should.
    Ask(AskError),
    /// Not all members were up in time.
    NotReady(String),
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StageError::Place(path, error) => write!(
                f,
                "cannot make the directory {}: {error}; set TMPDIR to one that can be written",
                path.display()
            ),
            StageError::Member(name, error) => write!(f, "cannot start the member {name}: {error}"),
            StageError::Config(errors) => {
                write!(f, "the demo's own configuration is wrong:\n{errors}")
            }
            StageError::Start(error) => error.fmt(f),
            StageError::Thread(what) => f.write_str(what),
            StageError::Ask(error) => error.fmt(f),
            StageError::NotReady(how) => write!(
                f,
                "twinpool did not find all members up in {} s: {how}",
                START.as_secs()
            ),
        }
    }
}

impl Stage {
    /// Sets the stage; returns when every member is up.
    pub(super) async fn set() -> Result<Stage, StageError> {
        let by = Instant::now() + START;
        let place = Place::make()?;
        let mut members = Vec::new();
        for name in SITES.iter().flat_map(|site| site.members) {
            let member = Member::start(name).map_err(|error| StageError::Member(name, error))?;
            members.push(member);
        }
        let config = configuration(&place.path, &members)?;
        let (stop, told) = mpsc::channel(2);
        let (tell_started, started) = oneshot::channel();
        let daemon = thread::Builder::new()
            .name("twinpool".to_owned())
            .spawn(move || {
                let tell = |started: Started| {
                    // Whoever does not listen any more has given up, and will say stop.
                    drop(tell_started.send(started));
                };
                daemon::run(config, Starter::default(), Stop(told), tell)
            })
            .map_err(|error| StageError::Thread(format!("cannot start a thread: {error}")))?;
        let started = match timeout_at(by, started).await {
            Ok(Ok(started)) => started,
            Ok(Err(_)) => {
                return Err(match ended(daemon) {
                    Ok(()) => StageError::Thread("twinpool ended before it began".to_owned()),
                    Err(error) => error,
                });
            }
            Err(_) => return Err(StageError::NotReady("it did not start".to_owned())),
        };
        let front = |site: &Site| {
            let pool = started.topology.pool_named(site.pool)?;
            pool.service_named(SERVICE)?.listen.first().copied()
        };
        let [Some(first), Some(second)] = SITES.each_ref().map(front) else {
            return Err(StageError::Thread("twinpool fronts nothing".to_owned()));
        };
        let stage = Stage {
            members,
            fronts: [first, second],
            observe: started.observe,
            client: Client::new(&started.socket),
            socket: started.socket,
            daemon,
            stop,
            _place: place,
        };
        match stage.ready(by).await {
            Ok(()) => Ok(stage),
            Err(error) => {
                stage.strike().await?;
                Err(error)
            }
        }
    }

    /// Everything that twinpool knows at this moment.
    pub(super) async fn status(&self) -> Result<Status, StageError> {
        match timeout(ANSWER, self.client.status()).await {
            Ok(status) => status.map_err(StageError::Ask),
            Err(_) => Err(StageError::Ask(AskError::NoDaemon {
                socket: self.socket.clone(),
                error: io::ErrorKind::TimedOut.into(),
            })),
        }
    }

    /// The member with this name.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| &**member.name() == name)
    }

    /// Ends twinpool, without waiting for its sessions, and everything else.
    pub(super) async fn strike(self) -> Result<(), StageError> {
        // Told twice: stop, and do not wait for sessions. The end of the channel tells it as well,
        // and when it is gone already its thread says why: a message that is not taken is no loss.
        for _ in 0..2 {
            if self.stop.try_send(()).is_err() {
                break;
            }
        }
        drop(self.stop);
        let gone = async {
            while !self.daemon.is_finished() {
                sleep(LOOK).await;
            }
        };
        match timeout(STOP, gone).await {
            Ok(()) => ended(self.daemon),
            Err(_) => Err(StageError::Thread(format!(
                "twinpool did not stop in {} s",
                STOP.as_secs()
            ))),
        }
    }

    async fn ready(&self, by: Instant) -> Result<(), StageError> {
        let mut last = "it did not say anything".to_owned();
        let all_up = async {
            loop {
                let status = self.status().await?;
                let down = down(&status);
                if status.state == RunState::Serving && down.is_empty() {
                    return Ok(());
                }
                last = down.join(", ");
                sleep(LOOK).await;
            }
        };
        match timeout_at(by, all_up).await {
            Ok(done) => done,
            Err(_) => Err(StageError::NotReady(last)),
        }
    }
}

fn down(status: &Status) -> Vec<String> {
    let members = status.pools.iter().flat_map(|pool| &pool.members);
    members
        .filter(|member| verdict(member) != Verdict::Up)
        .map(|member| {
            let reason = member.services.first().map_or("", |target| &target.reason);
            format!("{} ({reason})", member.name)
        })
        .collect()
}

/// The site of the member with this name, by its place in [`SITES`].
pub(super) fn site_of(member: &str) -> Option<usize> {
    SITES.iter().position(|site| site.members.contains(&member))
}

/// The verdict of a member's one service.
pub(super) fn verdict(member: &MemberStatus) -> Verdict {
    member
        .services
        .first()
        .map_or(Verdict::Unknown, |target| target.verdict)
}

fn ended(daemon: JoinHandle<Result<(), StartError>>) -> Result<(), StageError> {
    match daemon.join() {
        Ok(result) => result.map_err(StageError::Start),
        Err(_) => Err(StageError::Thread("twinpool panicked".to_owned())),
    }
}

/// twinpool is told to stop by a message, or by the end of whoever could send one.
struct Stop(mpsc::Receiver<()>);

impl Signals for Stop {
    async fn told(&mut self) -> daemon::Told {
        self.0.recv().await;
        daemon::Told::Stop
    }
}

/// The configuration, as a file would say it.
fn configuration(place: &Path, members: &[Member]) -> Result<config::Config, StageError> {
    let addresses: Vec<(&str, SocketAddr)> = members
        .iter()
        .map(|member| (&**member.name(), member.address()))
        .collect();
    let text = file(place, &addresses)?;
    match config::parse(&text, "demo") {
        Ok(loaded) => Ok(loaded.config),
        Err(errors) => Err(StageError::Config(errors.to_string())),
    }
}

fn file(place: &Path, members: &[(&str, SocketAddr)]) -> Result<String, StageError> {
    let quoted = |name: &str| {
        let path = place.join(name);
        let text = path
            .to_str()
            .and_then(|text| serde_json::to_string(text).ok());
        text.ok_or_else(|| StageError::Place(path, io::ErrorKind::InvalidFilename.into()))
    };
    let (state, socket) = (quoted("state")?, quoted("sock")?);
    let [first, second] = SITES.each_ref().map(|site| site.pool);
    let sites: String = SITES.iter().map(|site| section(site, members)).collect();
    Ok(format!(
        r#"[instance]
name = "demo"
state_dir = {state}

[observe]
listen = "127.0.0.1:0"

[control]
socket = {socket}

[roles.{ROLE}]
primary = "{SERVICE}"
services.{SERVICE} = {{ port = 8080, check = {{ kind = "http", path = "/health" }} }}

{sites}
[pairs.korea]
pools = ["{first}", "{second}"]
{RULES}
"#
    ))
}

/// A site with its pool.
fn section(site: &Site, members: &[(&str, SocketAddr)]) -> String {
    let Site {
        name, region, pool, ..
    } = site;
    let of_it = members.iter().filter(|(m, _)| site.members.contains(m));
    let members: String = of_it
        .map(|(name, address)| {
            let (ip, port) = (address.ip(), address.port());
            format!("{name} = {{ address = \"{ip}\", ports = {{ {SERVICE} = {port} }} }}\n")
        })
        .collect();
    format!(
        r#"[sites.{name}]
region = "{region}"

[pools.{pool}]
role = "{ROLE}"
site = "{name}"
quorum = "any"

[pools.{pool}.members]
{members}
[pools.{pool}.services.{SERVICE}]
listen = "127.0.0.1:0"

"#
    )
}

/// A directory of one's own that goes when this does.
struct Place {
    path: PathBuf,
}

impl Place {
    fn make() -> Result<Place, StageError> {
        let name = format!("twinpool-{:06x}", rand::random::<u32>() >> 8);
        let path = std::env::temp_dir().join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Place { path }),
            Err(error) => Err(StageError::Place(path, error)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("twinpool: cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_configuration_is_accepted_without_a_warning() {
        let place = Place::make().expect("a directory");
        let names = SITES.iter().flat_map(|site| site.members);
        let at = |(port, name)| (name, SocketAddr::from(([127, 0, 0, 1], port)));
        let members: Vec<_> = (4001..).zip(names).map(at).collect();
        let text = file(&place.path, &members).expect("a text");
        let loaded = config::parse(&text, "demo").unwrap_or_else(|e| panic!("{e}"));
        assert!(loaded.warnings.is_empty());
        let topology = &loaded.config.topology;
        let rules = &topology.pairs[0].rules;
        assert_eq!((rules.hold, rules.ramp), (HOLD, RAMP));
        assert!(SITES.iter().all(|site| {
            let pool = topology.pool_named(site.pool);
            pool.is_some_and(|pool| topology.twin(pool.id).is_some())
        }));
    }

    #[test]
    fn the_directory_goes_with_all_that_is_in_it() {
        let place = Place::make().expect("a directory");
        let path = place.path.clone();
        fs::write(path.join("sock"), "").expect("written");
        drop(place);
        assert!(!path.exists());
    }
}
