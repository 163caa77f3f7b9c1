//! Records on disk from outside: the real binary is killed at any moment, and finds what another
//! version left.
//!
//! `kill -9` proves what one process can prove: what was answered had been handed to the kernel
//! before, whole, under its own name. That it was on the disk too is the fsync before the rename,
//! which `pairing::store` is tested for.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use twinpool::observe::status::{HomePhase, PairStatus};
use twinpool::pairing::pair::Halt;
use twinpool::pairing::store::{Loaded, Store};

#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "pools/harness/mod.rs"]
mod harness;

use harness::*;

/// How often the daemon is killed, over all lanes.
const ROUNDS: usize = 240;
/// Daemons that live and die beside each other.
const LANES: usize = 4;
/// A daemon lives for no longer than this once it answers.
const LONGEST_LIFE: Duration = Duration::from_millis(300);

/// The pool whose users move.
const HOME: &str = "fe-seoul";

async fn korea() -> (Daemon, [Member; 2]) {
    let members = [Member::start("s1").await, Member::start("b1").await];
    let pool = |name: &str, site: &str, member: &Member| {
        Pool::of([member])
            .named(name)
            .key(&format!("site = \"{site}\""))
    };
    let setup = Setup::new()
        .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"")
        .pool(&pool(HOME, "seoul", &members[0]))
        .pool(&pool("fe-busan", "busan", &members[1]))
        .text("[pairs.fe]\npools = [\"fe-seoul\", \"fe-busan\"]\nramp = \"100ms\"\nspill = false");
    (Daemon::start(setup).await, members)
}

/// What anybody was told of the pair's generation.
#[derive(Default)]
struct Told {
    answered: Cell<u64>,
    served: Cell<u64>,
    answers: Cell<u64>,
    pages: Cell<u64>,
}

impl Told {
    fn highest(&self) -> u64 {
        self.answered.get().max(self.served.get())
    }
}

/// The number behind the last `word` in a text.
fn behind(text: &str, word: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(word)?;
    let digits = rest.trim_start_matches([' ', ':', '"']);
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().ok()
}

/// Posts an order; its text when it was carried out, none when that is not known or it was not.
async fn order(daemon: &Daemon, name: &str, body: &str) -> Option<String> {
    let mut stream = UnixStream::connect(daemon.socket()).await.ok()?;
    let length = body.len();
    let request = format!(
        "POST /v1/commands/{name} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.contains("\"done\":true").then_some(answer)
}

/// There and back again, at once or step by step, until killed.
async fn command(daemon: &Daemon, told: &Told, rng: &Cell<u64>) {
    loop {
        let mut dice = StdRng::seed_from_u64(rng.replace(rng.get().wrapping_add(1)));
        for name in ["failover", "failback"] {
            let now = dice.random_bool(0.5);
            let body = format!("{{\"pool\":\"{HOME}\",\"now\":{now},\"force\":true}}");
            if let Some(answer) = order(daemon, name, &body).await {
                let generation = behind(&answer, "(generation").expect("a generation");
                assert!(generation > told.answered.get(), "{answer}");
                told.answered.set(generation);
                told.answers.set(told.answers.get() + 1);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Looks at the table, again and again, until killed.
async fn look(daemon: &Daemon, told: &Told) {
    loop {
        let stream = UnixStream::connect(daemon.socket()).await;
        let request = b"GET /v1/redirects HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
        let mut page = String::new();
        if let Ok(mut stream) = stream
            && stream.write_all(request).await.is_ok()
            && stream.read_to_string(&mut page).await.is_ok()
            && let Some(generation) = behind(&page, "\"generation\"")
        {
            assert!(generation >= told.served.get(), "{page}");
            told.served.set(generation);
            told.pages.set(told.pages.get() + 1);
        }
        tokio::task::yield_now().await;
    }
}

/// The generation on disk, whose file must be whole.
fn on_disk(daemon: &Daemon) -> u64 {
    let store = Store::open(&daemon.state_dir(), "pair-fe").expect("a state directory");
    match store.load::<serde_json::Value>().expect("a record") {
        Loaded::Current(record) => record["generation"].as_u64().expect("a generation"),
        Loaded::Fresh => 0,
        Loaded::Previous(_, why) | Loaded::Damaged(why) => panic!("not whole: {why}"),
    }
}

/// One daemon, killed again and again at any moment.
async fn lane(seed: u64, told: Rc<Told>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let dice = Cell::new(rng.random());
    let (mut daemon, _members) = korea().await;
    for round in 0..ROUNDS / LANES {
        let life = LONGEST_LIFE.mul_f64(rng.random_range(0.0..1.0));
        {
            let live = async {
                tokio::join!(command(&daemon, &told, &dice), look(&daemon, &told));
            };
            // The moment of its death is what is random here.
            let outlived = tokio::time::timeout(life, live).await;
            assert!(outlived.is_err());
        }
        let highest = told.highest();
        daemon.kill().await;
        let written = on_disk(&daemon);
        assert!(
            written >= highest,
            "seed {seed}, round {round}: generation {written} is on disk, and {highest} was told"
        );
        daemon.start_again_unsettled().await;
        let pair = pair(&daemon).await;
        assert!(
            pair.generation >= written && pair.halt.is_none() && pair.record_problem.is_none(),
            "seed {seed}, round {round}: {written} was on disk: {pair:?}"
        );
    }
}

async fn pair(daemon: &Daemon) -> PairStatus {
    daemon.status().await.pairs.swap_remove(0)
}

#[tokio::test]
async fn killed_at_any_moment_the_disk_is_never_older_than_what_was_told() {
    let seed: u64 = match std::env::var("TWINPOOL_SEED") {
        Ok(seed) => seed.parse().expect("TWINPOOL_SEED is a number"),
        Err(_) => rand::random(),
    };
    eprintln!("TWINPOOL_SEED={seed}");
    let began = Instant::now();
    let told: Vec<Rc<Told>> = (0..LANES).map(|_| Rc::default()).collect();
    let lanes = tokio::task::LocalSet::new();
    let running: Vec<_> = told
        .iter()
        .zip(0..)
        .map(|(told, n)| lanes.spawn_local(lane(seed.wrapping_add(n), told.clone())))
        .collect();
    lanes.await;
    for lane in running {
        lane.await.expect("a lane without a fault");
    }
    let sum = |of: fn(&Told) -> u64| told.iter().map(|told| of(told)).sum::<u64>();
    let (answers, pages) = (sum(|t| t.answers.get()), sum(|t| t.pages.get()));
    let generations = sum(Told::highest);
    eprintln!(
        "{ROUNDS} kills in {:?}: {generations} generations told, in {answers} answers and {pages} \
         pages",
        began.elapsed()
    );
    let rounds = ROUNDS as u64;
    assert!(
        answers >= rounds && pages >= rounds && generations >= rounds,
        "too little happened between the kills"
    );
}

/// As a later version would write it.
fn of_a_later_version(kind: &str) -> String {
    let body = "{\"whatever\":true}\n";
    let (length, crc) = (body.len(), crc32fast::hash(body.as_bytes()));
    let own = crc32fast::hash(format!("{kind} 2 {length} {crc}").as_bytes());
    format!(
        "{{\"kind\":\"{kind}\",\"version\":2,\"length\":{length},\"crc32\":{crc},\
         \"header_crc32\":{own}}}\n{body}"
    )
}

#[tokio::test]
async fn a_record_of_a_later_version_stops_no_traffic_and_is_never_overwritten() {
    let (mut daemon, _members) = korea().await;
    daemon.done(&["failover", HOME]).await;
    let before = pair(&daemon).await.generation;
    daemon.kill().await;
    let later = of_a_later_version("pair-fe");
    let file = daemon.state_dir().join("pair-fe.json");
    fs::write(&file, &later).expect("a later version's record");
    daemon.start_again().await;
    let address = daemon.address_of(HOME, "line").await;
    assert_eq!(served_by(address).await, "s1");
    let found = pair(&daemon).await;
    assert_eq!(found.halt, Some(Halt::Damaged));
    assert!(found.generation > before, "{found:?}");
    let problem = found.record_problem.expect("told");
    assert!(problem.contains("another version of twinpool"), "{problem}");
    assert_eq!(fs::read_to_string(&file).expect("the record"), later);
    let resumed = daemon.done(&["resume"]).await;
    assert!(resumed.contains("the wait of fe"), "{resumed}");
    let resumed = pair(&daemon).await;
    assert_eq!((resumed.halt, resumed.record_problem), (None, None));
    let aside = daemon.state_dir().join("pair-fe.json.set-aside");
    assert_eq!(fs::read_to_string(aside).expect("set aside"), later);
    daemon.kill().await;
    daemon.start_again().await;
    assert_eq!(pair(&daemon).await.generation, resumed.generation);
}

#[tokio::test]
async fn what_operators_decided_in_a_later_version_stops_no_traffic_and_pauses_automation() {
    let (mut daemon, _members) = korea().await;
    daemon.done(&["pause"]).await;
    daemon.kill().await;
    let later = of_a_later_version("standing");
    let file: PathBuf = daemon.state_dir().join("standing.json");
    fs::write(&file, &later).expect("a later version's record");
    daemon.start_again().await;
    let status = daemon.status().await;
    assert_eq!(served_by(daemon.address_of(HOME, "line").await).await, "s1");
    let pause = status.pause.expect("a pause");
    assert_eq!(pause.by, "twinpool");
    assert!(
        status
            .store_problem
            .is_some_and(|p| p.contains("another version"))
    );
    assert_eq!(fs::read_to_string(&file).expect("the file"), later);
    daemon.done(&["resume"]).await;
    let status = daemon.status().await;
    assert_eq!((status.pause, status.store_problem), (None, None));
    let aside = daemon.state_dir().join("standing.json.set-aside");
    assert_eq!(fs::read_to_string(aside).expect("set aside"), later);
    assert_eq!(pair(&daemon).await.pools[0].phase, HomePhase::Home);
}
