use super::*;
use crate::health::Failure;
use crate::topology::PoolId;
use std::future::Future;
use tokio::time::sleep;

/// A second a probe; what happens is told by the port.
#[derive(Debug, Default)]
pub(super) struct Fake {
    out: Cell<usize>,
    most: Cell<usize>,
}

const GOOD: u16 = 1;
const BAD: u16 = 2;
const PANICS: u16 = 3;

impl Fake {
    pub(super) async fn ask(&self, _target: TargetId, address: SocketAddr) -> ProbeOutcome {
        self.out.set(self.out.get() + 1);
        self.most.set(self.most.get().max(self.out.get()));
        sleep(Duration::from_secs(1)).await;
        self.out.set(self.out.get() - 1);
        let answer = match address.port() {
            PANICS => panic!("as the test wants"),
            BAD => Answer::Bad(Failure::Refused),
            _ => Answer::Good,
        };
        ProbeOutcome {
            answer,
            took: Duration::from_secs(1),
            transcript: format!("asked {address}"),
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(Default::default());
    runtime.expect("a runtime").block_on(test);
}

fn runner() -> (Runner, mpsc::Receiver<(TargetId, ProbeOutcome)>) {
    Runner::with(Asker::Fake(Fake::default()), || Time::from_millis(42))
}

fn most_at_once(runner: &Runner) -> usize {
    match &**runner.0.asker.borrow() {
        Asker::Fake(fake) => fake.most.get(),
        Asker::Prober(_) => unreachable!("tests fake it"),
    }
}

fn target(n: u16) -> TargetId {
    PoolId(0).member(n).target(PoolId(0).service(0))
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn every_ask_is_answered_once_and_no_more_are_out_than_may_be() {
    run(async {
        let (runner, mut answers) = runner();
        let asks = 2 * MAX_AT_ONCE + 7;
        for n in 0..asks {
            runner.ask(target(n as u16), at(GOOD));
        }
        assert_eq!(runner.waiting(), asks);
        let mut answered = Vec::new();
        for _ in 0..asks {
            answered.push(answers.recv().await.expect("an answer").0);
        }
        assert_eq!(most_at_once(&runner), MAX_AT_ONCE);
        assert_eq!(runner.waiting(), 0);
        // In order: those that waited came after all that did not.
        assert!(answered[..MAX_AT_ONCE].contains(&target(0)));
        assert_eq!(answered.last(), Some(&target(asks as u16 - 1)));
        answered.sort();
        answered.dedup();
        assert_eq!(answered.len(), asks);
        sleep(Duration::from_secs(10)).await;
        assert!(answers.try_recv().is_err());
    });
}

#[test]
fn a_probe_that_panics_is_answered_as_a_fault_of_our_own() {
    run(async {
        let (runner, mut answers) = runner();
        runner.ask(target(0), at(PANICS));
        let (of, outcome) = answers.recv().await.expect("an answer");
        assert_eq!(of, target(0));
        assert_eq!(outcome.answer, Answer::OwnFault(OwnFault::Other));
        runner.ask(target(0), at(GOOD));
        assert_eq!(
            answers.recv().await.expect("an answer").1.answer,
            Answer::Good
        );
    });
}

#[test]
fn a_name_that_was_never_resolved_is_answered_at_once() {
    run(async {
        let (runner, mut answers) = runner();
        runner.ask(target(0), None);
        let (_, outcome) = answers.recv().await.expect("an answer");
        assert_eq!(outcome.answer, Answer::OwnFault(OwnFault::Name));
        assert_eq!(most_at_once(&runner), 0);
    });
}

#[test]
fn the_last_exchanges_are_kept_and_all_are_counted() {
    run(async {
        let (runner, mut answers) = runner();
        for port in [BAD, BAD, GOOD, GOOD, GOOD, BAD, PANICS] {
            runner.ask(target(0), at(port));
            answers.recv().await.expect("an answer");
        }
        let kept: Vec<_> = runner
            .exchanges(target(0))
            .iter()
            .map(|exchange| exchange.address.map(|address| address.port()))
            .collect();
        assert_eq!(kept, [GOOD, GOOD, GOOD, BAD, PANICS].map(Some));
        assert_eq!(kept.len(), MAX_EXCHANGES);
        assert_eq!(runner.exchanges(target(0))[0].at, Time::from_millis(42));
        let counts = runner.counts(target(0));
        assert_eq!((counts.good, counts.bad, counts.own_fault), (3, 3, 1));
        assert_eq!(counts.last, Some(Duration::ZERO));
        let times = runner.times(target(0));
        let counted: Vec<_> = times.iter().map(|(word, t)| (*word, t.count())).collect();
        assert_eq!(counted, [("refused", 3), ("good", 3), ("own_fault", 1)]);
        assert_eq!(times[0].1.sum, 3.0, "a second each");
        assert_eq!(runner.times(target(1)), []);
        assert_eq!(runner.counts(target(1)), Counts::default());
        assert_eq!(runner.exchanges(target(1)), []);
    });
}

#[test]
fn nobody_waits_for_a_runner_whose_receiver_is_gone() {
    run(async {
        let (runner, answers) = runner();
        drop(answers);
        runner.ask(target(0), at(GOOD));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(runner.counts(target(0)).good, 1);
    });
}
