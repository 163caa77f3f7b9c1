//! Two sites whose pools over UDP back each other up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use twinpool::observe::status::{HomePhase, HomeStatus};

use crate::caller::*;
use crate::echo::*;
use crate::harness::*;

const SEOUL: &str = "av-seoul";
const BUSAN: &str = "av-busan";

/// A pair over UDP, two members a site: `s1` and `s2`, `b1` and `b2`.
struct Korea {
    daemon: Daemon,
    seoul: [Echo; 2],
    _busan: [Echo; 2],
}

impl Korea {
    /// With these rules of the pair, and this line of both pools.
    async fn start(rules: &str, key: &str) -> Korea {
        let seoul = [Echo::start("s1").await, Echo::start("s2").await];
        let busan = [Echo::start("b1").await, Echo::start("b2").await];
        let pool = |name: &str, site: &str, members: &[Echo; 2]| {
            pool_of(members)
                .named(name)
                .key(&format!("site = \"{site}\""))
                .key(key)
        };
        let setup = Setup::new()
            .workers(2)
            .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"")
            .pool(&pool(SEOUL, "seoul", &seoul))
            .pool(&pool(BUSAN, "busan", &busan))
            .text(&format!(
                "[pairs.av]\npools = [\"{SEOUL}\", \"{BUSAN}\"]\n\
                 hold = \"500ms\"\nramp = \"400ms\"\n{rules}"
            ));
        Korea {
            daemon: Daemon::start(setup).await,
            seoul,
            _busan: busan,
        }
    }

    async fn service(&self) -> SocketAddr {
        self.daemon.address_of(SEOUL, "line").await
    }

    async fn home(&self) -> HomeStatus {
        let status = self.daemon.status().await;
        status.home(SEOUL).expect("a home pool").1.clone()
    }

    async fn phase(&self, phase: HomePhase) {
        eventually(phase.word(), async || {
            (self.home().await.phase == phase).then_some(())
        })
        .await;
    }
}

fn is_in(site: &str, answer: &Answer) -> bool {
    answer.member.starts_with(&site[..1])
}

/// Waits until all stand in this site.
async fn all_in(site: &str, callers: &mut [(Caller, Answer)]) {
    eventually(site, async || {
        let mut there = 0;
        for (caller, _) in callers.iter_mut() {
            there += usize::from(is_in(site, &caller.ask_while_moved().await));
        }
        (there == callers.len()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn failover_by_command_moves_flows_to_the_twins_members_and_failback_returns_them() {
    let korea = Korea::start("spill = false", "").await;
    let mut callers = callers(korea.service().await, 16).await;
    assert!(callers.iter().all(|(_, answer)| is_in("seoul", answer)));
    korea.daemon.done(&["failover", SEOUL, "--now"]).await;
    all_in("busan", &mut callers).await;
    let home = korea.home().await;
    assert_eq!((home.phase, home.moved), (HomePhase::Away, 16));
    korea.daemon.done(&["failback", SEOUL]).await;
    all_in("seoul", &mut callers).await;
    korea.phase(HomePhase::Home).await;
}

#[tokio::test]
async fn failover_of_a_pool_that_serves_keeps_its_flows_to_the_drain_deadline() {
    const DEADLINE: Duration = Duration::from_millis(1_500);
    let deadline = format!("drain_deadline = \"{}ms\"", DEADLINE.as_millis());
    let korea = Korea::start("spill = false", &deadline).await;
    let service = korea.service().await;
    let mut open = callers(service, 8).await;
    let ordered = Instant::now();
    korea.daemon.done(&["failover", SEOUL]).await;
    for source in sources(8) {
        let mut fresh = Caller::from(source, service).await;
        assert!(is_in("busan", &fresh.ask().await));
    }
    eventually("all flows to move", async || {
        let mut moved = 0;
        for (caller, before) in &mut open {
            let answer = caller.ask_while_moved().await;
            if (&answer.member, answer.port) != (&before.member, before.port) {
                assert!(ordered.elapsed() >= DEADLINE, "{before:?}, then {answer:?}");
                assert!(is_in("busan", &answer), "{answer:?}");
                moved += 1;
            }
        }
        (moved == open.len()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lost_pools_flows_go_to_the_twin_by_themselves_and_come_home() {
    let mut korea = Korea::start(
        "failover = \"automatic\"\nfailback = \"automatic\"\nafter = \"200ms\"\nspill = false",
        "",
    )
    .await;
    let mut callers = callers(korea.service().await, 16).await;
    for member in &mut korea.seoul {
        member.die().await;
    }
    korea.phase(HomePhase::Away).await;
    for (caller, _) in &mut callers {
        assert!(is_in("busan", &caller.ask().await));
    }
    for member in &mut korea.seoul {
        member.resume().await;
    }
    all_in("seoul", &mut callers).await;
}

#[tokio::test]
async fn what_no_home_member_takes_spills_to_the_twin_before_the_pool_is_lost() {
    let mut korea = Korea::start(
        "failover = \"automatic\"\nafter = \"60s\"\nspill = true",
        "",
    )
    .await;
    for member in &mut korea.seoul {
        member.die().await;
    }
    let service = korea.service().await;
    for source in sources(8) {
        let mut caller = Caller::from(source, service).await;
        assert!(is_in("busan", &caller.ask().await));
    }
    let home = korea.home().await;
    assert_eq!(home.phase, HomePhase::Home);
    assert!(home.spilled > 0, "{home:?}");
}
