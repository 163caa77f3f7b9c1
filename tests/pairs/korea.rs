//! Two sites, and pools in them that back each other up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use twinpool::observe::status::{HomePhase, HomeStatus, PairStatus};
use twinpool::pairing::Condition;

use crate::harness::*;

/// The pool in Seoul that most tests move.
pub(crate) const SEOUL: &str = "fe-seoul";
/// Its twin.
pub(crate) const BUSAN: &str = "fe-busan";
/// Their pair.
pub(crate) const PAIR: &str = "fe";

/// How long to watch that automation does nothing: several times as long as it would need.
pub(crate) const AWHILE: Duration = Duration::from_millis(1_000);

/// What Korea is to be like.
pub(crate) struct Plan {
    rules: BTreeMap<String, String>,
    kinds: Vec<Kind>,
    members: u16,
    check: &'static str,
    quorum: &'static str,
    member: &'static str,
    observe: Option<SocketAddr>,
    workers: usize,
}

/// Pools of one kind in both sites: `fe-seoul` and `fe-busan`, a pair `fe`.
struct Kind {
    name: String,
    /// Lines of both pools.
    keys: String,
    /// What only the one in Seoul has.
    of_seoul: String,
}

/// Both sites, with their members, behind one daemon.
pub(crate) struct Korea {
    pub(crate) daemon: Daemon,
    /// By pool, named after its site: `s1` and `s2`, `b1` and `b2`.
    members: BTreeMap<String, Vec<Member>>,
    pub(crate) observe: Option<SocketAddr>,
}

impl Plan {
    /// One pair that does everything by itself, fast, and does not spill.
    pub(crate) fn automatic() -> Plan {
        Plan::manual()
            .rule("failover", "\"automatic\"")
            .rule("failback", "\"automatic\"")
    }

    /// One pair that waits for orders.
    pub(crate) fn manual() -> Plan {
        let plan = Plan {
            rules: BTreeMap::new(),
            kinds: Vec::new(),
            members: 2,
            check: FAST,
            quorum: "\"any\"",
            member: "",
            observe: None,
            workers: 1,
        };
        plan.kind("fe", "", "")
            .rule("after", "\"200ms\"")
            .rule("hold", "\"500ms\"")
            .rule("ramp", "\"400ms\"")
            .rule("spill", "false")
    }

    /// A key of every pair, in the place of what it was before.
    pub(crate) fn rule(mut self, key: &str, value: &str) -> Plan {
        self.rules.insert(key.to_owned(), value.to_owned());
        self
    }

    /// One more kind of pools, `NAME-seoul` and `NAME-busan`, with keys of both and of the first.
    pub(crate) fn kind(mut self, name: &str, keys: &str, of_seoul: &str) -> Plan {
        self.kinds.push(Kind {
            name: name.to_owned(),
            keys: keys.to_owned(),
            of_seoul: of_seoul.to_owned(),
        });
        self
    }

    /// A line of the pools of the first kind.
    pub(crate) fn key(mut self, line: &str) -> Plan {
        let keys = &mut self.kinds[0].keys;
        *keys += line;
        keys.push('\n');
        self
    }

    /// What only the first pool in Seoul has.
    pub(crate) fn key_of_seoul(mut self, line: &str) -> Plan {
        let keys = &mut self.kinds[0].of_seoul;
        *keys += line;
        keys.push('\n');
        self
    }

    pub(crate) fn check(mut self, check: &'static str) -> Plan {
        self.check = check;
        self
    }

    pub(crate) fn members(mut self, count: u16) -> Plan {
        self.members = count;
        self
    }

    /// How many members each pool needs.
    pub(crate) fn quorum(mut self, value: &'static str) -> Plan {
        self.quorum = value;
        self
    }

    /// Keys of every member.
    pub(crate) fn member(mut self, keys: &'static str) -> Plan {
        self.member = keys;
        self
    }

    pub(crate) fn workers(mut self, workers: usize) -> Plan {
        self.workers = workers;
        self
    }

    /// Listens for HTTP.
    pub(crate) fn observe(mut self) -> Plan {
        self.observe = Some(free_address());
        self
    }

    pub(crate) async fn start(self) -> Korea {
        let mut setup = Setup::new()
            .workers(self.workers)
            .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"");
        if let Some(address) = self.observe {
            setup = setup.observe(address);
        }
        let mut members = BTreeMap::new();
        for kind in &self.kinds {
            for site in ["seoul", "busan"] {
                let name = format!("{}-{site}", kind.name);
                let mut own = Vec::new();
                for n in 1..=self.members {
                    own.push(Member::start(&format!("{}{n}", &site[..1])).await);
                }
                let none = Pool::of([]);
                let pool = own
                    .iter()
                    .fold(none, |pool, member| pool.member(member, self.member));
                let mut pool = pool
                    .named(&name)
                    .check(self.check)
                    .quorum(self.quorum)
                    .key(&format!("site = \"{site}\""))
                    .key(&kind.keys);
                if site == "seoul" {
                    pool = pool.key(&kind.of_seoul);
                }
                setup = setup.pool(&pool);
                members.insert(name, own);
            }
            let rules = self.rules.iter();
            let rules: String = rules.map(|(k, v)| format!("{k} = {v}\n")).collect();
            let kind = &kind.name;
            setup = setup.text(&format!(
                "[pairs.{kind}]\npools = [\"{kind}-seoul\", \"{kind}-busan\"]\n{rules}"
            ));
        }
        Korea {
            daemon: Daemon::start(setup).await,
            members,
            observe: self.observe,
        }
    }
}

impl Korea {
    /// Where the users of this home pool connect.
    pub(crate) async fn address(&self, pool: &str) -> SocketAddr {
        self.daemon.address_of(pool, "line").await
    }

    /// Every member of a pool dies, and the pool is lost.
    pub(crate) async fn lose(&mut self, pool: &str) {
        self.kill(pool).await;
        self.condition(pool, Condition::Lost).await;
    }

    /// Every member of a pool dies.
    pub(crate) async fn kill(&mut self, pool: &str) {
        for member in self.members_of(pool) {
            member.die().await;
        }
    }

    /// Every member of a pool returns.
    pub(crate) async fn revive(&mut self, pool: &str) {
        for member in self.members_of(pool) {
            member.resume().await;
        }
    }

    pub(crate) fn members_of(&mut self, pool: &str) -> &mut [Member] {
        self.members.get_mut(pool).expect("a pool of Korea")
    }

    pub(crate) async fn condition(&self, pool: &str, condition: Condition) {
        eventually(&format!("{pool} to be {condition:?}"), async || {
            let status = self.daemon.status().await;
            let pool = status.pool(pool).expect("the pool");
            (pool.condition == condition).then_some(())
        })
        .await;
    }

    /// A home pool's row.
    pub(crate) async fn home(&self, pool: &str) -> HomeStatus {
        let status = self.daemon.status().await;
        let mut homes = status.pairs.into_iter().flat_map(|pair| pair.pools);
        homes.find(|home| home.pool == pool).expect("a home pool")
    }

    /// The first pair.
    pub(crate) async fn pair(&self) -> PairStatus {
        self.daemon.status().await.pairs.swap_remove(0)
    }

    pub(crate) async fn generation(&self) -> u64 {
        self.pair().await.generation
    }

    /// Waits until a home pool's row looks so.
    pub(crate) async fn until(
        &self,
        pool: &str,
        what: &str,
        mut so: impl FnMut(&HomeStatus) -> bool,
    ) -> HomeStatus {
        eventually(&format!("{pool}: {what}"), async || {
            let home = self.home(pool).await;
            so(&home).then_some(home)
        })
        .await
    }

    pub(crate) async fn phase(&self, pool: &str, phase: HomePhase) -> HomeStatus {
        self.until(pool, phase.word(), |home| home.phase == phase)
            .await
    }

    /// Watches that a home pool's users are sent where they were, for a while.
    pub(crate) async fn stays(&self, pool: &str, phase: HomePhase) {
        let until = Instant::now() + AWHILE;
        while Instant::now() < until {
            assert_eq!(self.home(pool).await.phase, phase, "{pool}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Runs a command that is to be refused, and returns what it said.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> String {
        let finished = self.daemon.command(arguments).await;
        assert_eq!(finished.code, Some(1), "{arguments:?}: {finished:?}");
        assert!(!finished.stderr.is_empty(), "{arguments:?}: {finished:?}");
        finished.stderr
    }
}

/// The site whose member serves a fresh session.
pub(crate) async fn site_at(service: SocketAddr) -> &'static str {
    site_of(&served_by(service).await)
}

/// The site of a member.
pub(crate) fn site_of(member: &str) -> &'static str {
    match member.as_bytes().first() {
        Some(b's') => "seoul",
        Some(b'b') => "busan",
        _ => panic!("{member:?} is no member of Korea"),
    }
}

/// Opens sessions, and sees each on a member of this site.
pub(crate) async fn sessions(service: SocketAddr, count: usize, site: &str) -> Vec<Client> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(service).await;
        assert_eq!(site_of(&client.member().await), site);
        open.push(client);
    }
    open
}
