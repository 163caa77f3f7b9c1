//! The clients: what they do, and what they see.
//!
//! Two kinds, for the two ways in which a failure hurts. *Visitors* open a connection, ask once and
//! leave, many each second: they meet a dead member while it is not yet known to be dead.
//! *Residents* hold one session and ask on it again and again: they are what a dead member had in
//! its hands. When a resident's session ends it opens another one at once.
//!
//! Both are users of one site or of the other, and come to that site's service whatever happens.
//! Each has an address of its own within 127.0.0.0/8, as clients have elsewhere: who comes home
//! first in a failback goes by that.
//!
//! Nothing is tried again in secret: a request that got no whole answer is a failure, and is told.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::wire::{self, LONGEST};

/// From one visitor to the next: 200 a second.
const VISIT_EVERY: Duration = Duration::from_millis(5);
/// Long sessions.
pub(super) const RESIDENTS: usize = 60;
/// Of three clients two are users of the first site, one of the second.
const TURN: [usize; 3] = [0, 1, 0];
/// From a resident's answer to its next request.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long a client waits for an answer, connecting included.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at once: residents, and every visitor of [`PATIENCE`] with some to spare. A visitor
/// beyond that is withheld and counted.
const MOST_CLIENTS: u32 = 2048;
/// How long a resident that cannot even connect waits before it tries again.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// Exchanges that are kept: more than a minute's worth twice over.
const MOST_KEPT: usize = 64 * 1024;

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection was refused.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection was closed in good order, without a whole answer.
    Closed,
    /// Nothing came in time.
    Silence,
    /// What came was not an answer.
    Strange,
    /// A fault of the client's own side.
    Other(ErrorKind),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            ErrorKind::ConnectionRefused => Failure::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Failure::Reset,
            other => Failure::Other(other),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => f.write_str("refused"),
            Failure::Reset => f.write_str("reset"),
            Failure::Closed => f.write_str("closed without an answer"),
            Failure::Silence => write!(f, "no answer in {} s", PATIENCE.as_secs()),
            Failure::Strange => f.write_str("answered by a stranger"),
            Failure::Other(kind) => kind.fmt(f),
        }
    }
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A client that came for one request.
    Visitor,
    /// A client with a long session, by its place among them.
    Resident(usize),
}

impl Who {
    /// Whether it has a long session.
    pub(super) fn is_resident(self) -> bool {
        matches!(self, Who::Resident(_))
    }
}

/// The site whose user the client in this place is, by its place among the sites.
pub(super) fn home(place: usize) -> usize {
    TURN[place % TURN.len()]
}

/// One request and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) number: u64,
    pub(super) who: Who,
    /// The site whose user asked.
    pub(super) home: usize,
    /// When it was over.
    pub(super) ended: Instant,
    /// From its start, for a visitor from its connect, to its whole answer or its failure.
    pub(super) took: Duration,
    /// The member that answered.
    pub(super) outcome: Result<Rc<str>, Failure>,
    /// For a failed one: the member that its session was with, where it is known.
    pub(super) with: Option<Rc<str>>,
}

/// A resident's session that ended while it asked nothing.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) at: Instant,
    /// The resident's place.
    pub(super) place: usize,
    pub(super) with: Rc<str>,
    pub(super) how: Failure,
}

/// A resident without a session: from the last request that got no answer, or from the end of its
/// session, to its next answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    /// When the resident noticed.
    pub(super) noticed: Instant,
    pub(super) lasted: Duration,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) exchanges: VecDeque<Exchange>,
    pub(super) cuts: VecDeque<Cut>,
    pub(super) outages: VecDeque<Outage>,
    /// Entries of the lists above that had to go for newer ones.
    pub(super) forgotten: u64,
    /// Visitors that did not come because too many were waiting.
    pub(super) withheld: u64,
    /// Requests that got no answer since the start.
    pub(super) failed: u64,
    /// Sessions of residents that were cut since the start.
    pub(super) cut: u64,
}

impl Book {
    fn note(&mut self, exchange: Exchange) {
        self.failed += u64::from(exchange.outcome.is_err());
        self.forgotten += keep(&mut self.exchanges, exchange);
    }
}

/// Appends to a bounded list; how many entries had to go.
fn keep<T>(list: &mut VecDeque<T>, entry: T) -> u64 {
    list.push_back(entry);
    if list.len() <= MOST_KEPT {
        return 0;
    }
    list.pop_front();
    1
}

/// All clients.
pub(super) struct Clients {
    pub(super) book: RefCell<Book>,
    /// Of each site.
    fronts: [SocketAddr; 2],
    next_number: Cell<u64>,
    out: Cell<usize>,
    /// The member that answered each resident last.
    with: RefCell<Vec<Option<Rc<str>>>>,
    stopping: watch::Sender<bool>,
    /// One permit for each client that is there.
    there: Arc<Semaphore>,
}

impl Clients {
    /// Starts the clients of the sites whose services are at `fronts`.
    pub(super) fn start(fronts: [SocketAddr; 2]) -> Rc<Clients> {
        let clients = Rc::new(Clients {
            book: RefCell::default(),
            fronts,
            next_number: Cell::new(0),
            out: Cell::new(0),
            with: RefCell::new(vec![None; RESIDENTS]),
            stopping: watch::Sender::new(false),
            there: Arc::new(Semaphore::new(MOST_CLIENTS as usize)),
        });
        for place in 0..RESIDENTS {
            spawn_local(reside(clients.clone(), place));
        }
        spawn_local(visit(clients.clone()));
        clients
    }

    /// No new requests; returns when each that was sent has come to its end.
    pub(super) async fn stop(&self) {
        self.stopping.send_replace(true);
        // The semaphore is never closed; if it were, nobody would be left to wait for.
        drop(self.there.acquire_many(MOST_CLIENTS).await);
    }

    /// Residents without a session at this moment.
    pub(super) fn out(&self) -> usize {
        self.out.get()
    }

    /// The member that answered each resident last, by their places.
    pub(super) fn with(&self) -> Vec<Option<Rc<str>>> {
        self.with.borrow().clone()
    }

    fn number(&self) -> u64 {
        self.next_number.set(self.next_number.get() + 1);
        self.next_number.get()
    }
}

/// Sends visitors, evenly, until told to stop.
async fn visit(clients: Rc<Clients>) {
    let mut stopping = clients.stopping.subscribe();
    let mut next = interval(VISIT_EVERY);
    next.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return,
            _ = next.tick() => {}
        }
        let Ok(permit) = Arc::clone(&clients.there).try_acquire_owned() else {
            clients.book.borrow_mut().withheld += 1;
            continue;
        };
        let clients = clients.clone();
        spawn_local(async move {
            visit_once(&clients).await;
            drop(permit);
        });
    }
}

async fn visit_once(clients: &Clients) {
    let number = clients.number();
    let home = home(number as usize);
    let began = Instant::now();
    let outcome = patiently(async {
        let mut session = Session::open(visitors_address(number), clients.fronts[home]).await?;
        session.ask(number, false).await
    })
    .await;
    clients.book.borrow_mut().note(Exchange {
        number,
        who: Who::Visitor,
        home,
        ended: Instant::now(),
        took: began.elapsed(),
        outcome,
        with: None,
    });
}

/// Holds a session, and gets another one whenever it ends, until told to stop.
async fn reside(clients: Rc<Clients>, place: usize) {
    let Ok(_permit) = Arc::clone(&clients.there).try_acquire_owned() else {
        return;
    };
    let mut stopping = clients.stopping.subscribe();
    let mut resident = Resident {
        clients: &clients,
        place,
        out_since: None,
    };
    // Evenly spread over the interval, so that their requests are too.
    sleep(ASK_EVERY.mul_f64(place as f64 / RESIDENTS as f64)).await;
    while !*stopping.borrow_and_update() {
        if resident.stay(&mut stopping).await == Err(Failure::Refused) {
            sleep(TRY_AGAIN).await;
        }
    }
    if resident.out_since.is_some() {
        clients.out.set(clients.out.get() - 1);
    }
}

struct Resident<'a> {
    clients: &'a Clients,
    place: usize,
    /// Since when it is without a session, and when it noticed.
    out_since: Option<(Instant, Instant)>,
}

impl Resident<'_> {
    /// One session, from its connect to its end.
    async fn stay(&mut self, stopping: &mut watch::Receiver<bool>) -> Result<(), Failure> {
        let (place, home) = (self.place, home(self.place));
        let mut with = None;
        let mut session = None;
        loop {
            let number = self.clients.number();
            let began = Instant::now();
            let outcome = patiently(async {
                let open = match &mut session {
                    Some(open) => open,
                    none => none.insert(self.open().await?),
                };
                open.ask(number, true).await
            })
            .await;
            self.clients.book.borrow_mut().note(Exchange {
                number,
                who: Who::Resident(place),
                home,
                ended: Instant::now(),
                took: began.elapsed(),
                outcome: outcome.clone(),
                with: with.clone(),
            });
            let member = match outcome {
                Ok(member) => member,
                Err(failure) => {
                    self.clients.book.borrow_mut().cut += 1;
                    self.is_out(began);
                    return Err(failure);
                }
            };
            self.is_back();
            with = Some(member.clone());
            self.clients.with.borrow_mut()[place] = Some(member.clone());
            let Some(open) = &mut session else {
                return Ok(());
            };
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return Ok(()),
                how = open.ended() => {
                    let at = Instant::now();
                    let mut book = self.clients.book.borrow_mut();
                    book.cut += 1;
                    book.forgotten += keep(&mut book.cuts, Cut { at, place, with: member, how });
                    drop(book);
                    self.is_out(at);
                    return Err(how);
                }
                () = sleep(ASK_EVERY) => {}
            }
        }
    }

    async fn open(&self) -> Result<Session, Failure> {
        let from = Ipv4Addr::new(127, 0, 1, 1 + self.place as u8);
        Session::open(from, self.clients.fronts[home(self.place)]).await
    }

    fn is_out(&mut self, since: Instant) {
        if self.out_since.is_none() {
            self.out_since = Some((since, Instant::now()));
            self.clients.out.set(self.clients.out.get() + 1);
        }
    }

    fn is_back(&mut self) {
        if let Some((since, noticed)) = self.out_since.take() {
            self.clients.out.set(self.clients.out.get() - 1);
            let lasted = since.elapsed();
            let mut book = self.clients.book.borrow_mut();
            let forgotten = keep(&mut book.outages, Outage { noticed, lasted });
            book.forgotten += forgotten;
        }
    }
}

async fn patiently<T>(deed: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, deed)
        .await
        .unwrap_or(Err(Failure::Silence))
}

/// Visitors have so many addresses in turn.
const VISITORS_ADDRESSES: u64 = 250;

fn visitors_address(number: u64) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, 1 + (number % VISITORS_ADDRESSES) as u8)
}

/// A connection through twinpool.
struct Session {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Session {
    async fn open(from: Ipv4Addr, front: SocketAddr) -> Result<Session, Failure> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(front).await?;
        stream.set_nodelay(true)?;
        Ok(Session {
            stream,
            bytes: Vec::new(),
        })
    }

    /// Asks, and tells which member answered.
    async fn ask(&mut self, number: u64, keep_alive: bool) -> Result<Rc<str>, Failure> {
        self.stream
            .write_all(&wire::request(number, keep_alive))
            .await?;
        loop {
            match wire::take_answer(&mut self.bytes) {
                Ok(Some(member)) => return Ok(member),
                Ok(None) if self.bytes.len() <= LONGEST => {}
                Ok(None) | Err(wire::Strange) => return Err(Failure::Strange),
            }
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(Failure::Closed);
            }
        }
    }

    /// Waits for the end of a session on which nothing is asked.
    async fn ended(&mut self) -> Failure {
        match self.stream.read(&mut [0; 16]).await {
            Ok(0) => Failure::Closed,
            Ok(_) => Failure::Strange,
            Err(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::members::Member;
    use super::*;

    fn locally(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime")
            .block_on(async {
                timeout(Duration::from_secs(20), test)
                    .await
                    .expect("in time");
            });
    }

    async fn until(mut met: impl FnMut() -> bool) {
        while !met() {
            sleep(Duration::from_millis(2)).await;
        }
    }

    #[test]
    fn clients_see_who_answered_and_stop_without_a_failure() {
        locally(async {
            let member = Member::start("web1").expect("started");
            let clients = Clients::start([member.address(); 2]);
            until(|| clients.book.borrow().exchanges.len() > 200).await;
            clients.stop().await;
            let book = clients.book.borrow();
            assert_eq!((book.failed, book.cut, book.withheld), (0, 0, 0));
            assert!(
                book.exchanges
                    .iter()
                    .all(|e| e.outcome == Ok("web1".into()))
            );
        });
    }

    #[test]
    fn residents_whose_member_dies_are_cut_and_come_back_when_it_does() {
        locally(async {
            let member = Member::start("web1").expect("started");
            let clients = Clients::start([member.address(); 2]);
            let all = |clients: &Clients| {
                let book = clients.book.borrow();
                let residents = book.exchanges.iter().filter(|e| e.who.is_resident());
                residents.count() >= RESIDENTS
            };
            until(|| all(&clients)).await;
            member.kill().await;
            until(|| clients.out() == RESIDENTS).await;
            member.heal().await.expect("healed");
            until(|| clients.out() == 0).await;
            clients.stop().await;
            let book = clients.book.borrow();
            assert!(book.cut >= RESIDENTS as u64 && book.failed > 0);
            assert_eq!(book.outages.len(), RESIDENTS);
            assert!(book.cuts.iter().all(|cut| &*cut.with == "web1"));
            let with = clients.with();
            assert!(with.iter().all(|with| with.as_deref() == Some("web1")));
        });
    }

    #[test]
    fn a_silent_service_fails_by_patience() {
        locally(async {
            tokio::time::pause();
            let member = Member::start("web1").expect("started");
            member.hang();
            let outcome = patiently(async {
                let mut session = Session::open(Ipv4Addr::LOCALHOST, member.address()).await?;
                session.ask(1, false).await
            })
            .await;
            assert_eq!(outcome, Err(Failure::Silence));
        });
    }
}
