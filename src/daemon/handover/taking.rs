//! The successor's side: what it is given, and what it makes of it.
//!
//! Nothing of it runs yet, so it may wait for its predecessor on its only thread; each wait is
//! bounded.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::wire;
use super::words::{FORMAT, FromSuccessor, Hello, Process, Standing, ToSuccessor};
use crate::config::{self, Config, Control};
use crate::control::reload;
use crate::control::socket::ControlSocket;
use crate::daemon::reload::is_same_question;
use crate::pairing::Decider;
use crate::pairing::legacy::Question;
use crate::pairing::record::Record;
use crate::proxy::FlowGiven;
use crate::proxy::listen::Given;
use crate::time::Time;
use crate::topology::{PairId, PoolId, Succession, Topology};

/// How long the predecessor may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);
/// How long it may take to stand still: it waits for records that are being written, and for disks.
const STANDSTILL: Duration = Duration::from_secs(60);
/// How long it may take to tell the service manager, and to hand flows over.
const TURN: Duration = Duration::from_secs(60);
/// How long it may take to read what it is told.
const HEARING: Duration = Duration::from_secs(10);

/// Why a process cannot take over from the one that started it.
#[derive(Debug)]
pub enum TakeOverError {
    /// Nobody handed anything over.
    NoPredecessor(io::Error),
    /// It speaks of other things than this version knows.
    OtherFormat(String),
    /// It is gone, or did not say what it was to say.
    Lost(io::Error),
    /// What it serves cannot be taken over, for these reasons.
    Refused(String),
}

impl fmt::Display for TakeOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TakeOverError::NoPredecessor(error) => write!(
                f,
                "nothing was handed over ({error}): `--successor` is for twinpool itself; write \
                 `twinpool upgrade`"
            ),
            TakeOverError::OtherFormat(version) => write!(
                f,
                "version {version} hands over in another way than version {}; restart instead \
                 (`systemctl restart twinpool`)",
                env!("CARGO_PKG_VERSION")
            ),
            TakeOverError::Lost(error) => {
                write!(f, "the process that was to hand over did not: {error}")
            }
            TakeOverError::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for TakeOverError {}

/// A process that is to take over from the one that started it.
#[derive(Debug)]
pub struct Heir {
    stream: UnixStream,
    hello: Hello,
    listeners: Vec<OwnedFd>,
    control: Option<OwnedFd>,
    /// To those that drain before the one that started this.
    before: Vec<UnixStream>,
}

/// What the predecessor knew, and how it is found in the topology from now on.
#[derive(Debug)]
pub(in crate::daemon) struct Inheritance {
    /// The predecessor's, with free ports resolved.
    pub(in crate::daemon) topology: Topology,
    pub(in crate::daemon) succession: Succession,
    /// In the predecessor's ids.
    standing: Standing,
    heir: Heir,
}

/// See [`Inheritance::voice`].
pub(in crate::daemon) struct Voice(UnixStream);

impl Voice {
    pub(in crate::daemon) fn refuse(&self, why: &str) {
        refuse(&self.0, why);
    }
}

impl Heir {
    /// Starts this program again as the one that is to take over, with the same standard input and
    /// arguments and `as_itself` beside them, and says its process id: whoever does this ends then,
    /// and the one that takes over is the service manager's child.
    ///
    /// # Errors
    /// When nobody hands anything over, it cannot be started, or nobody hears its id.
    pub fn start_detached(as_itself: &str) -> Result<(), TakeOverError> {
        handed_over()?;
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(std::env::args_os().skip(1)).arg(as_itself);
            command.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
            let heir = command.spawn()?;
            writeln!(io::stdout(), "{}", heir.id())
        };
        start().map_err(TakeOverError::Lost)
    }

    /// Takes what the process that started this one hands over by standard input, which is nobody's
    /// from then on. To be called before there is any other thread.
    ///
    /// # Errors
    /// When it hands over nothing, or in a way that this version does not know.
    pub fn from_stdin() -> Result<Heir, TakeOverError> {
        let stream = handed_over()?;
        let nobody = File::open("/dev/null").map_err(TakeOverError::NoPredecessor)?;
        rustix::stdio::dup2_stdin(nobody)
            .map_err(|error| TakeOverError::NoPredecessor(error.into()))?;
        let heir = Heir::greeted(stream);
        if let Err((stream, why)) = heir {
            refuse(&stream, &why.to_string());
            return Err(why);
        }
        heir.map_err(|(_, why)| why)
    }

    fn greeted(stream: UnixStream) -> Result<Heir, (UnixStream, TakeOverError)> {
        match hello(&stream) {
            Ok((hello, mut descriptors)) => {
                let before = descriptors.split_off(hello.listeners + 1);
                Ok(Heir {
                    stream,
                    hello,
                    control: descriptors.pop(),
                    listeners: descriptors,
                    before: before.into_iter().map(UnixStream::from).collect(),
                })
            }
            Err(why) => Err((stream, why)),
        }
    }

    /// Tells the predecessor that nothing will come of it.
    pub fn refuse(&self, why: &str) {
        refuse(&self.stream, why);
    }

    /// The listeners, once.
    pub(in crate::daemon) fn listeners(&mut self) -> Given {
        Given::new(std::mem::take(&mut self.listeners)).served()
    }

    /// The control socket, once.
    pub(in crate::daemon) fn control(&mut self, control: &Control) -> io::Result<ControlSocket> {
        let Some(listener) = self.control.take() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        ControlSocket::inherited(listener.into(), control, self.hello.control)
    }

    /// What the predecessor listens at and serves, as far as this version understands it: its
    /// configuration, and its topology with free ports resolved.
    pub(in crate::daemon) fn predecessor(&self) -> Result<(Config, Topology), TakeOverError> {
        let understood = self.hello.process.understood();
        understood.map_err(TakeOverError::Refused)
    }

    /// Whether this configuration may be put in force by taking over; `topology` and `before` have
    /// their free ports resolved. To be asked before anything is bound.
    pub(in crate::daemon) fn may(
        (old, before): (&Config, &Topology),
        (new, topology): (&Config, &Topology),
    ) -> Result<(), TakeOverError> {
        let mut refusals = reload::refusals_to_upgrade(old, new);
        refusals.extend(reload::overlapping(before, topology));
        match refusals.is_empty() {
            true => Ok(()),
            false => Err(TakeOverError::Refused(refusals.join("\n"))),
        }
    }

    /// Tells the predecessor what this configuration would change, and takes what it knows once it
    /// stands still.
    pub(in crate::daemon) fn inherit(
        self,
        old: (&Config, Topology),
        new: &Config,
        topology: &Topology,
    ) -> Result<Inheritance, (Box<Heir>, TakeOverError)> {
        let (old, before) = old;
        let succession = Succession::between(&before, topology);
        match self.learn(old, &succession, new) {
            Ok(standing) => Ok(Inheritance {
                topology: before,
                succession,
                standing,
                heir: self,
            }),
            Err(why) => Err((Box::new(self), why)),
        }
    }

    fn learn(
        &self,
        old: &Config,
        succession: &Succession,
        new: &Config,
    ) -> Result<Standing, TakeOverError> {
        let told = config::difference::between(old, new).to_string();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.say(&FromSuccessor::Loaded { version, told })?;
        let standing = match self.hear(STANDSTILL)? {
            ToSuccessor::Stands(standing) => *standing,
            other => return Err(out_of_turn(&other)),
        };
        let away: Vec<PoolId> = standing.legacy.away(&old.topology).collect();
        let stranded = reload::stranded(old, succession, |pool| away.contains(&pool));
        if !stranded.is_empty() {
            return Err(TakeOverError::Refused(stranded.join("\n")));
        }
        Ok(standing)
    }

    fn say(&self, message: &FromSuccessor) -> Result<(), TakeOverError> {
        wire::send(&self.stream, message, &[], HEARING).map_err(TakeOverError::Lost)
    }

    fn hear(&self, patience: Duration) -> Result<ToSuccessor, TakeOverError> {
        let heard = wire::receive(&self.stream, patience);
        heard
            .map(|(message, _)| message)
            .map_err(TakeOverError::Lost)
    }
}

impl Inheritance {
    /// One that goes on where the predecessor's stood. `records` are those on disk, for pairs that
    /// it did not have.
    pub(in crate::daemon) fn decider(
        &self,
        topology: &Arc<Topology>,
        records: Vec<(Record, bool)>,
        seed: u64,
        now: Time,
    ) -> Decider {
        let question =
            |before, after| match is_same_question(&self.topology, before, topology, after) {
                true => Question::Same,
                false => Question::Other,
            };
        let legacy = self.standing.legacy.clone();
        let legacy = legacy.renumber(&self.succession, question);
        let begin = |pair: PairId| records[pair.index()].clone();
        Decider::after(topology.clone(), legacy.without_probes(), begin, seed, now)
    }

    /// The pools whose users are on the move, and until when at least.
    pub(in crate::daemon) fn moving(&self) -> Vec<(PoolId, Time)> {
        let moving = self.standing.moving.iter();
        moving
            .filter_map(|(home, until)| Some((self.succession.pool(*home)?, *until)))
            .collect()
    }

    /// Everything is ready but what would disturb the predecessor: returns once it is this one's
    /// turn to serve, with the flows over UDP to go on with.
    pub(in crate::daemon) fn wait_for_turn(&self) -> Result<Vec<FlowGiven>, TakeOverError> {
        self.heir.say(&FromSuccessor::Prepared)?;
        let mut flows = Vec::new();
        loop {
            let heard = wire::receive(&self.heir.stream, TURN);
            match heard.map_err(TakeOverError::Lost)? {
                (ToSuccessor::Flows(told), sockets) if told.len() == sockets.len() => {
                    let each = told.into_iter().zip(sockets);
                    flows.extend(
                        each.filter_map(|(told, socket)| told.with(socket, &self.succession)),
                    );
                }
                (ToSuccessor::Yours, _) => return Ok(flows),
                (other, _) => return Err(out_of_turn(&other)),
            }
        }
    }

    /// It serves: the predecessor may close its listeners. What is left are those that drain, each
    /// with the way to it, and the predecessor last.
    pub(in crate::daemon) fn serves(self) -> Vec<(Process, UnixStream)> {
        if let Err(error) = self.heir.say(&FromSuccessor::Serves) {
            // It left everything to this one before.
            tracing::warn!("{error}; serving without it");
        }
        let Heir {
            stream,
            hello,
            before,
            ..
        } = self.heir;
        let mut all: Vec<_> = hello.before.into_iter().zip(before).collect();
        all.push((hello.process, stream));
        all
    }

    /// A way to tell the predecessor that nothing will come of it, where one is left.
    pub(in crate::daemon) fn voice(&self) -> Option<Voice> {
        self.heir.stream.try_clone().ok().map(Voice)
    }

    /// Who had it take over, and from whom, in words.
    pub(in crate::daemon) fn told(&self) -> String {
        let hello = &self.heir.hello;
        format!(
            "{} upgraded: took over from process {} (version {})",
            hello.by, hello.process.pid, hello.version
        )
    }
}

/// The way to the process that hands over: standard input, where it is a socket.
fn handed_over() -> Result<UnixStream, TakeOverError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let stream = UnixStream::from(stdin.map_err(TakeOverError::NoPredecessor)?);
    stream.local_addr().map_err(TakeOverError::NoPredecessor)?;
    Ok(stream)
}

fn hello(stream: &UnixStream) -> Result<(Hello, Vec<OwnedFd>), TakeOverError> {
    let heard = wire::receive::<serde_json::Value>(stream, GREETING);
    let (message, mut descriptors) = heard.map_err(TakeOverError::NoPredecessor)?;
    let told = &message["Hello"];
    if told["format"] != FORMAT {
        let version = told["version"].as_str().unwrap_or("of another kind");
        return Err(TakeOverError::OtherFormat(version.to_owned()));
    }
    let invalid = |error: serde_json::Error| TakeOverError::Lost(error.into());
    let hello = match serde_json::from_value(message).map_err(invalid)? {
        ToSuccessor::Hello(hello) => *hello,
        other => return Err(out_of_turn(&other)),
    };
    let announced = hello.listeners + 1 + hello.before.len();
    while descriptors.len() < announced {
        let heard = wire::receive(stream, GREETING).map_err(TakeOverError::Lost)?;
        match heard {
            (ToSuccessor::Descriptors, more) if !more.is_empty() => descriptors.extend(more),
            (other, _) => return Err(out_of_turn(&other)),
        }
    }
    match descriptors.len() == announced {
        true => Ok((hello, descriptors)),
        false => Err(TakeOverError::Lost(io::ErrorKind::InvalidData.into())),
    }
}

fn refuse(stream: &UnixStream, why: &str) {
    let why = why.trim_end().to_owned();
    let said = wire::send(stream, &FromSuccessor::Refuses { why }, &[], HEARING);
    if let Err(error) = said {
        tracing::warn!("cannot say why this process does not take over: {error}");
    }
}

fn out_of_turn(message: &ToSuccessor) -> TakeOverError {
    let kind = match message {
        ToSuccessor::Hello(_) => "Hello",
        ToSuccessor::Descriptors => "Descriptors",
        ToSuccessor::Stands(_) => "Stands",
        ToSuccessor::Flows(_) => "Flows",
        ToSuccessor::Yours => "Yours",
    };
    TakeOverError::Lost(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("it said {kind} out of turn"),
    ))
}
