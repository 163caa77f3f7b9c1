use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::process::Command;

use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::super::StartError;
use super::super::handover::Estate;
use super::super::hub::{Beginning, Inputs};
use super::super::rig::{self, Scratch};
use super::*;
use crate::config::Config;
use crate::control::socket::ControlSocket;
use crate::daemon::service_manager::ServiceManager;
use crate::observe::desk::LocalFuture;
use crate::pairing::Condition;
use crate::pairing::record::Phase;
use crate::proxy::listen;
use crate::topology::PoolId;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(15);
const POOLS: usize = 5;

/// A hub that runs, in front of members that are asked whether they live and nothing else.
struct Rig {
    hub: Rc<Hub>,
    /// By the pools' places; none where it died.
    members: Vec<Option<TcpListener>>,
    scratch: Scratch,
}

fn local(test: impl AsyncFnOnce(&mut Rig)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let mut rig = Rig::start(Scratch::new()).await;
        test(&mut rig).await;
        rig.hub.end();
    });
    // What hung was let go.
    runtime.shutdown_timeout(Duration::from_secs(1));
}

async fn started(config: Config) -> Result<(Rc<Hub>, Inputs), StartError> {
    let control = ControlSocket::bind(&config.control).await;
    let listeners =
        listen::bind(&config.topology, 1, &mut listen::Given::default()).expect("listeners");
    let control = control.expect("a socket");
    let once_more = control.as_fd().try_clone_to_owned().expect("a descriptor");
    let beginning = Beginning {
        topology: config.topology.clone(),
        descriptors: 1_024,
        listeners,
        observe: None,
        control,
        manager: ServiceManager::default(),
        estate: Estate::new(None, vec![once_more]).0,
        socket_by_hand: None,
        inheritance: None,
    };
    Hub::start(config, beginning).await
}

impl Rig {
    async fn start(scratch: Scratch) -> Rig {
        let listener = || TcpListener::bind("127.0.0.1:0").expect("a member");
        let members: Vec<TcpListener> = (0..POOLS).map(|_| listener()).collect();
        let address = |place: usize| members[place].local_addr().expect("an address");
        let config = rig::config(scratch.path(), address);
        let (hub, mut inputs) = started(config).await.expect("a hub");
        let running = hub.clone();
        spawn_local(async move { running.run(&mut inputs).await });
        let rig = Rig {
            hub,
            members: members.into_iter().map(Some).collect(),
            scratch,
        };
        rig.until("settled", |hub| hub.decider.borrow().settled())
            .await;
        rig
    }

    async fn until(&self, what: &str, so: impl Fn(&Hub) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(&self.hub) {
            assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn pool(&self, name: &str) -> PoolId {
        self.hub.topology().pool_named(name).expect("a pool").id
    }

    fn phase(&self, name: &str) -> Phase {
        self.hub.decider.borrow().phase(self.pool(name))
    }

    fn generation(&self, pair: u16) -> u64 {
        self.hub
            .decider
            .borrow()
            .pair(PairId(pair))
            .record()
            .generation
    }

    async fn lose(&mut self, name: &str) {
        let pool = self.pool(name);
        self.members[pool.index()] = None;
        let lost = |hub: &Hub| hub.decider.borrow().condition(pool).0 == Condition::Lost;
        self.until("lost", lost).await;
    }

    fn order(&self, what: Redirect) -> LocalFuture<Result<String, Refused>> {
        self.give(what, |_| {})
    }

    fn give(
        &self,
        what: Redirect,
        how: impl FnOnce(&mut Redirection),
    ) -> LocalFuture<Result<String, Refused>> {
        let mut order = Redirection {
            what,
            by: "alice".to_owned(),
            reason: None,
            now: false,
            force: false,
            dry_run: false,
        };
        how(&mut order);
        Box::pin(carry_out(self.hub.clone(), order))
    }

    /// The state directory is another place from now on.
    fn move_state_to(&self, place: &str) {
        let state = self.scratch.file("state");
        match state.symlink_metadata() {
            Ok(is) if is.is_dir() => fs::rename(&state, self.scratch.file("good")).expect("moved"),
            Ok(_) => fs::remove_file(&state).expect("removed"),
            Err(_) => {}
        }
        while let Err(error) = symlink(place, &state) {
            // What was being written made itself a place again.
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
            fs::remove_dir_all(&state).expect("removed");
        }
    }

    /// Whoever reads the record of `korea` hangs from now on.
    fn hang(&self) {
        let record = self.scratch.file("state/pair-korea.json");
        let made = Command::new("mkfifo").arg(record).status();
        assert!(made.expect("mkfifo").success());
    }

    fn let_go(&self) {
        let record = self.scratch.file("state/pair-korea.json");
        let opened = fs::OpenOptions::new().write(true).open(record);
        drop(opened.expect("somebody hangs there"));
    }
}

fn harmful(answer: Result<String, Refused>) -> String {
    match answer {
        Err(Refused::Harmful(told)) => told,
        other => panic!("not refused: {other:?}"),
    }
}

fn failed(answer: Result<String, Refused>) -> String {
    match answer {
        Err(Refused::Failed(told)) => told,
        other => panic!("did not fail: {other:?}"),
    }
}

fn failover(pool: &str) -> Redirect {
    Redirect::Failover(pool.to_owned())
}

fn failback(pool: &str) -> Redirect {
    Redirect::Failback(pool.to_owned())
}

fn evacuate() -> Redirect {
    Redirect::Evacuate("seoul".to_owned())
}

#[test]
fn a_move_is_answered_once_it_is_on_disk_and_in_force() {
    local(async |rig| {
        let told = rig.order(failover("fe")).await.expect("carried out");
        assert_eq!(
            told,
            "fe: home → away (generation 1), served by fe-b; no sessions on fe"
        );
        assert_eq!(rig.phase("fe"), Phase::Away);
        assert!(rig.scratch.text("state/pair-korea.json").contains("alice"));
        let told = harmful(rig.order(failover("fe")).await);
        assert!(told.contains("away already"), "{told}");
        let told = rig.give(failback("fe"), |order| order.now = true).await;
        assert!(told.expect("carried out").starts_with("fe: away → home"));
        let told = harmful(rig.order(failback("fe")).await);
        assert!(told.contains("home already"), "{told}");
        assert_eq!(rig.generation(0), 2);
    });
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    local(async |rig| {
        let dry = rig.give(failover("fe"), |order| order.dry_run = true).await;
        assert_eq!((rig.generation(0), rig.phase("fe")), (0, Phase::Home));
        assert!(!rig.scratch.has("state/pair-korea.json"));
        assert_eq!(dry, rig.order(failover("fe")).await);
        let told = rig
            .give(failover("fe-b"), |order| order.dry_run = true)
            .await;
        let told = harmful(told);
        assert!(
            told.contains("the users of fe are served here")
                && told.contains("With --force: fe-b: home → away (generation 2)")
                && told.contains("in the same moment fe: away → home"),
            "{told}"
        );
        assert_eq!(rig.phase("fe-b"), Phase::Home);
    });
}

#[test]
fn a_site_is_evacuated_pool_by_pool_in_order_and_restored() {
    local(async |rig| {
        let dry = rig.give(evacuate(), |order| order.dry_run = true).await;
        let told = rig.order(evacuate()).await.expect("carried out");
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [
                "1/2 fe: home → away (generation 1), served by fe-b; no sessions on fe",
                "2/2 edge: home → away (generation 1), served by edge-b; no sessions on edge",
                "web has no twin and stays as it is",
            ]
        );
        assert_eq!(dry, Ok(told));
        let told = rig.order(evacuate()).await.expect("nothing to do is done");
        assert!(told.starts_with("1/2 fe: away already, for 0"), "{told}");
        let restore = Redirect::Restore("seoul".to_owned());
        let told = rig.give(restore, |order| order.now = true).await;
        let told = told.expect("carried out");
        assert!(
            told.contains("2/2 edge: away → home (generation 2)"),
            "{told}"
        );
        assert_eq!(
            (rig.phase("fe"), rig.phase("edge")),
            (Phase::Home, Phase::Home)
        );
    });
}

#[test]
fn an_evacuation_stops_at_the_first_that_is_refused_and_says_how_to_go_on() {
    local(async |rig| {
        rig.lose("fe-b").await;
        let told = harmful(rig.order(evacuate()).await);
        let lines: Vec<&str> = told.lines().collect();
        assert!(
            lines[0].starts_with("1/2 fe: not carried out: fe-b"),
            "{told}"
        );
        assert_eq!(
            lines[2],
            "stopped at 1/2: nothing was done before; not done: fe, edge. Go on with `twinpool \
             evacuate seoul` once that is mended"
        );
        assert_eq!(rig.phase("edge"), Phase::Home);
        let dry = rig.give(evacuate(), |order| order.dry_run = true).await;
        let dry = harmful(dry);
        assert!(dry.contains("\n2/2 edge: home → away"), "every step: {dry}");
        assert_eq!(dry.lines().last(), told.lines().last());
        let nowhere = Redirect::Evacuate("seul".to_owned());
        assert!(matches!(rig.order(nowhere).await, Err(Refused::NoSuch(_))));
    });
}

#[test]
fn an_evacuation_that_stops_later_tells_what_was_done() {
    local(async |rig| {
        rig.order(failover("edge-b")).await.expect("carried out");
        let told = harmful(rig.order(evacuate()).await);
        assert_eq!(
            told.lines().last(),
            Some(
                "stopped at 2/2: done before: fe; not done: edge. Go on with `twinpool evacuate \
                 seoul` once that is mended, or with `twinpool evacuate seoul --force`"
            )
        );
        let told = rig.give(evacuate(), |order| order.force = true).await;
        assert!(
            told.expect("carried out")
                .contains("in the same moment edge-b: away → home")
        );
        assert_eq!(rig.phase("edge"), Phase::Away);
    });
}

#[test]
fn what_cannot_be_written_is_not_in_force_and_is_told() {
    local(async |rig| {
        rig.order(failover("fe")).await.expect("carried out");
        // Not even root can make a file there.
        rig.move_state_to("/proc");
        let told = failed(rig.order(failback("fe")).await);
        assert!(
            told.starts_with("fe: not carried out: cannot write the record:")
                && told.ends_with("nothing changed"),
            "{told}"
        );
        assert_eq!((rig.generation(0), rig.phase("fe")), (1, Phase::Away));
        let told = failed(rig.order(Redirect::Restore("seoul".to_owned())).await);
        assert!(told.contains("stopped at 1/2"), "{told}");
        let told = rig.order(Redirect::Pause).await.expect("in force");
        assert!(told.contains("this does not outlive a restart"), "{told}");
        rig.move_state_to("good");
        rig.order(failback("fe")).await.expect("carried out");
        assert_eq!(rig.phase("edge"), Phase::Home);
    });
}

#[test]
fn a_disk_that_hangs_is_told_in_time_and_what_it_takes_later_is_in_force_then() {
    local(async |rig| {
        rig.hang();
        let (first, second) = tokio::join!(
            rig.order(failover("fe")),
            rig.give(failback("fe"), |order| order.now = true)
        );
        let told = failed(first);
        assert!(
            told.contains("the disk does not answer, and generation 1 is not"),
            "{told}"
        );
        let told = failed(second);
        assert!(
            told.contains("another change of pair korea (generation 1) is being written"),
            "{told}"
        );
        assert_eq!((rig.generation(0), rig.phase("fe")), (0, Phase::Home));
        let now = clock::now();
        let problem = rig.hub.pairs.problem(PairId(0), now).expect("told");
        assert!(problem.contains("has not answered"), "{problem}");
        // The other pair is none the worse.
        rig.order(failover("edge")).await.expect("carried out");
        rig.let_go();
        let fe = rig.pool("fe");
        rig.until("in force", |hub| {
            hub.decider.borrow().phase(fe) == Phase::Away
        })
        .await;
    });
}

#[test]
fn an_order_waits_for_the_change_that_is_being_written() {
    local(async |rig| {
        let (there, back) = tokio::join!(
            rig.order(failover("fe")),
            rig.give(failback("fe"), |order| order.now = true)
        );
        assert!(there.expect("carried out").contains("generation 1"));
        assert!(back.expect("carried out").contains("generation 2"));
        assert_eq!(rig.phase("fe"), Phase::Home);
    });
}

#[test]
fn a_pause_is_on_disk_before_it_is_answered_and_a_resume_tells_what_it_ended() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.file("state")).expect("made");
    fs::write(scratch.file("state/pair-rim.json"), "rubbish").expect("written");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let rig = Rig::start(scratch).await;
        let told = rig.order(Redirect::Pause).await.expect("carried out");
        assert_eq!(
            told,
            "all automation of pairs is paused until `twinpool resume`; all users are at home"
        );
        assert!(
            rig.scratch
                .text("state/standing.json")
                .contains("\"pause\": {")
        );
        let told = rig
            .give(Redirect::Resume, |order| order.dry_run = true)
            .await;
        let ends = told.expect("told").replace("; ends", "; ended");
        let told = rig.order(Redirect::Resume).await.expect("carried out");
        assert_eq!(told, ends);
        assert!(
            told.contains("the pause by alice") && told.contains("the wait of rim"),
            "{told}"
        );
        assert!(
            rig.scratch
                .text("state/standing.json")
                .contains("\"pause\": null")
        );
        assert!(rig.scratch.has("state/pair-rim.json.set-aside"));
        let told = rig
            .order(Redirect::Resume)
            .await
            .expect("nothing to do is done");
        assert!(told.contains("was not halted"), "{told}");
        rig.hub.end();
    });
}

#[test]
fn nothing_is_ended_while_the_instance_is_isolated_and_all_of_it_afterwards() {
    local(async |rig| {
        let (hub, fe) = (rig.hub.clone(), rig.pool("fe"));
        hub.era().counters[0].home(fe).at_home.add(30);
        assert_eq!(hub.stand(fe), (30, 0));
        let now = clock::now();
        let topology = hub.topology();
        let targets = topology.targets().map(|target| target.member());
        let members: Vec<_> = targets.collect();
        hub.decider.borrow_mut().handle_paths(&members, now);
        hub.follow(now);
        assert!(hub.decider.borrow().isolated().is_some());
        hub.clear(fe, Some(fe), now, now);
        hub.move_on(now);
        assert!(hub.next_slice().is_none() && hub.is_moving(fe, now));
        assert_eq!(hub.to_move(fe), 30);
        // Its members answer all the time.
        rig.until("over", |hub| hub.decider.borrow().isolated().is_none())
            .await;
        let began = Instant::now();
        rig.until("told", |hub| hub.to_move(fe) == 0).await;
        let least = Duration::from_millis(400);
        assert!(began.elapsed() >= least, "30 at 50 a second are six slices");
    });
}

#[test]
fn a_pair_without_a_state_directory_does_not_start_and_says_what_to_write() {
    let scratch = Scratch::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let nobody = "192.0.2.1:8080".parse().expect("an address");
        let mut config = rig::config(scratch.path(), |_| nobody);
        config.instance.state_dir = None;
        let Err(error) = started(config).await else {
            panic!("it started");
        };
        let told = error.to_string();
        assert!(told.contains("state_dir = \"/var/lib/twinpool\""), "{told}");
    });
}
