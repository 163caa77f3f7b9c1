//! The clients: new connections at a fixed rate with one request each, and long sessions that send
//! a request at a fixed period; and what they saw.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::child::Child;
use super::clock::{now, seconds};
use super::http::read_answer;
use super::lab::Lab;
use super::{Result, inside};

/// How long a new connection of the method waits for everything: to be accepted, and for its answer.
const USUAL_PATIENCE: Duration = Duration::from_secs(3);
/// How long a long session waits for an answer before it gives up.
const LONG_LIMIT: Duration = Duration::from_secs(30);
/// How often a long session sends a request.
const LONG_PERIOD: Duration = Duration::from_millis(200);
/// A session that could not even connect tries again after this, not in a busy loop.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How much load, for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Where to.
    pub(crate) target: SocketAddr,
    /// New connections a second.
    pub(crate) rate: u32,
    /// Long sessions.
    pub(crate) sessions: u32,
    /// For how long.
    pub(crate) span: Duration,
    /// How long a new connection waits for everything: to be accepted, and for its answer.
    pub(crate) patience: Duration,
}

/// The load of the method: 200 new connections a second and 60 long sessions.
pub(crate) fn usual(target: SocketAddr, span: Duration) -> Load {
    Load {
        target,
        rate: 200,
        sessions: 60,
        span,
        patience: USUAL_PATIENCE,
    }
}

/// A load that runs on a host.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Every client has ended by then.
    limit: Duration,
}

/// Starts a load on a host.
pub(crate) fn start(lab: &Lab, host: &str, load: Load) -> Result<Running> {
    let mut command = inside::call("load")?;
    command.extend([
        load.target.to_string(),
        load.rate.to_string(),
        load.sessions.to_string(),
        load.span.as_millis().to_string(),
        load.patience.as_millis().to_string(),
    ]);
    Ok(Running {
        child: lab.start_read(host, "load", &command)?,
        limit: load.span + load.patience,
    })
}

impl Running {
    /// Waits for its end and returns what its clients saw.
    pub(crate) fn report(self) -> Result<Report> {
        let limit = self.limit + Duration::from_secs(20);
        Report::parse(&self.child.read_to_end(limit)?)
    }
}

/// What the clients saw. All moments are of [`now`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// New connections, in the order of their end.
    pub(crate) news: Vec<New>,
    /// Answers that long sessions got, in order.
    pub(crate) answers: Vec<Answer>,
    /// Connections of long sessions that ended before the load did.
    pub(crate) ends: Vec<End>,
}

/// A new connection with its one request.
#[derive(Clone, Debug)]
pub(crate) struct New {
    /// The id that its request carried.
    pub(crate) id: u64,
    /// When it began to connect.
    pub(crate) began: u64,
    /// When it had its answer, or failed.
    pub(crate) ended: u64,
    /// Who answered, or how it failed.
    pub(crate) result: std::result::Result<String, String>,
}

/// One answer in a long session.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Of which session.
    pub(crate) session: u32,
    /// When its request was sent.
    pub(crate) sent: u64,
    /// When it came.
    pub(crate) came: u64,
    /// Who answered.
    pub(crate) member: String,
}

/// The end of a connection of a long session.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Of which session.
    pub(crate) session: u32,
    /// When.
    pub(crate) at: u64,
    /// How.
    pub(crate) how: String,
}

impl Report {
    pub(crate) fn parse(text: &str) -> Result<Report> {
        let mut report = Report::default();
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(6, ' ').collect();
            match words.as_slice() {
                ["new", id, began, ended, "ok", member] => report.news.push(New {
                    id: id.parse()?,
                    began: began.parse()?,
                    ended: ended.parse()?,
                    result: Ok((*member).to_owned()),
                }),
                ["new", id, began, ended, "failed", how] => report.news.push(New {
                    id: id.parse()?,
                    began: began.parse()?,
                    ended: ended.parse()?,
                    result: Err((*how).to_owned()),
                }),
                ["answer", session, sent, came, member] => report.answers.push(Answer {
                    session: session.parse()?,
                    sent: sent.parse()?,
                    came: came.parse()?,
                    member: (*member).to_owned(),
                }),
                ["end", session, at, how @ ..] => report.ends.push(End {
                    session: session.parse()?,
                    at: at.parse()?,
                    how: how.join(" "),
                }),
                _ => return Err(format!("the load printed what is no record: {line}").into()),
            }
        }
        Ok(report)
    }

    /// New connections that failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &New> {
        self.news.iter().filter(|new| new.result.is_err())
    }

    /// How failures read, with their numbers, for a person.
    pub(crate) fn failures(&self) -> String {
        let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
        for new in &self.news {
            if let Err(how) = &new.result {
                *kinds.entry(how).or_default() += 1;
            }
        }
        let told: Vec<String> = kinds
            .iter()
            .map(|(how, n)| format!("{n} × {how}"))
            .collect();
        told.join(", ")
    }

    /// Seconds that each answered new connection took, of those that began within the span.
    pub(crate) fn took(&self, from: u64, to: u64) -> Vec<f64> {
        let within = |new: &&New| (from..to).contains(&new.began) && new.result.is_ok();
        let took = |new: &New| seconds(new.began, new.ended);
        self.news.iter().filter(within).map(took).collect()
    }

    /// Which member each long session was on at a moment.
    pub(crate) fn members_at(&self, at: u64) -> HashMap<u32, &str> {
        let before = self.answers.iter().filter(|a| a.came <= at);
        before.map(|a| (a.session, a.member.as_str())).collect()
    }

    /// For each of these sessions, seconds from a moment to the first answer to a request sent
    /// after it; none for one that never got any.
    pub(crate) fn outages(&self, sessions: &[u32], at: u64) -> Vec<Option<f64>> {
        let first = |session: &u32| {
            self.answers
                .iter()
                .find(|a| a.session == *session && a.sent >= at)
                .map(|a| seconds(at, a.came))
        };
        sessions.iter().map(first).collect()
    }
}

/// The part that plays on the clients' host: target, rate, sessions, and milliseconds of the whole
/// and of each new connection's patience.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [target, rate, sessions, span, patience] = args else {
        return Err("a target, a rate, a number of sessions and two spans are needed".into());
    };
    let load = Load {
        target: target.parse()?,
        rate: rate.parse()?,
        sessions: sessions.parse()?,
        span: Duration::from_millis(span.parse()?),
        patience: Duration::from_millis(patience.parse()?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    print!("{}", LocalSet::new().block_on(&runtime, drive(load)));
    Ok(())
}

/// Everything that is seen, as lines of [`Report::parse`].
type Seen = Rc<RefCell<String>>;

fn note(seen: &Seen, line: std::fmt::Arguments<'_>) {
    let mut seen = seen.borrow_mut();
    seen.write_fmt(line).expect("a String takes everything");
    seen.push('\n');
}

async fn drive(load: Load) -> String {
    let seen = Seen::default();
    let end = Instant::now() + load.span;
    let mut longs = Vec::new();
    for session in 0..load.sessions {
        let seen = seen.clone();
        longs.push(tokio::task::spawn_local(async move {
            // Spread over one period, so that requests do not come in bursts.
            sleep(LONG_PERIOD * session / load.sessions).await;
            long_session(load.target, session, &seen).await;
        }));
    }
    let mut news = Vec::new();
    if load.rate > 0 {
        let mut ticks = interval(Duration::from_secs(1) / load.rate);
        // A late tick is made up for: the load does not ease when something is slow.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        // Members note what they read by it: no other load may use the same.
        let mut id = u64::from(std::process::id()) << 32;
        while Instant::now() < end {
            ticks.tick().await;
            id += 1;
            let seen = seen.clone();
            news.push(tokio::task::spawn_local(async move {
                new_connection(load, id, &seen).await;
            }));
        }
    }
    sleep_until(end).await;
    for long in longs {
        long.abort();
    }
    for new in news {
        // Each ends within its own limit.
        if let Err(e) = new.await {
            eprintln!("a client failed: {e}");
        }
    }
    seen.take()
}

async fn new_connection(load: Load, id: u64, seen: &Seen) {
    let began = now();
    let result = timeout(load.patience, async {
        let mut stream = TcpStream::connect(load.target).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET /new/{id} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        read_answer(&mut stream, &mut Vec::new()).await
    })
    .await;
    let ended = now();
    match result {
        Ok(Ok(member)) => note(seen, format_args!("new {id} {began} {ended} ok {member}")),
        Ok(Err(e)) => note(
            seen,
            format_args!("new {id} {began} {ended} failed {:?}", e.kind()),
        ),
        Err(_) => note(
            seen,
            format_args!(
                "new {id} {began} {ended} failed NoAnswerIn{}s",
                load.patience.as_secs()
            ),
        ),
    }
}

async fn long_session(target: SocketAddr, session: u32, seen: &Seen) {
    loop {
        let how = match TcpStream::connect(target).await {
            Ok(stream) => converse(stream, session, seen).await,
            Err(e) => {
                note(
                    seen,
                    format_args!("end {session} {} connect {:?}", now(), e.kind()),
                );
                sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        note(seen, format_args!("end {session} {} {how}", now()));
        // At once, but let others run when the target closes as fast as we open.
        tokio::task::yield_now().await;
    }
}

/// Carries on one connection of a long session; how it ended.
async fn converse(mut stream: TcpStream, session: u32, seen: &Seen) -> String {
    let mut buffer = Vec::new();
    let mut ticks = interval(LONG_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = now();
        let answer = timeout(LONG_LIMIT, async {
            let request = format!("GET /long/{session} HTTP/1.1\r\nHost: lab\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            read_answer(&mut stream, &mut buffer).await
        });
        match answer.await {
            Ok(Ok(member)) => note(
                seen,
                format_args!("answer {session} {sent} {} {member}", now()),
            ),
            Ok(Err(e)) => return format!("{:?}", e.kind()),
            Err(_) => return "NoAnswerIn30s".into(),
        }
    }
}
