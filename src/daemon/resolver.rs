//! Looks members' names up, again and again, through the system's resolver (`getaddrinfo`).
//!
//! One task a name: it looks up, sends what came, waits, and starts over. It keeps no addresses
//! and draws no conclusions; the address book does.
//!
//! ```text
//! names ─► look-up (blocking thread) ─► (name, addresses or why not) ─► address book
//!   ▲                                        │
//!   └── 30 s after an answer, 1 to 5 s ◄─────┘
//!       after a failure
//! ```
//!
//! A look-up can hang in `getaddrinfo` for as long as it likes, and cannot be stopped. So a name
//! that is not answered in time is reported as failed, but not asked for again before the hanging
//! look-up is over: hung names cost one thread each, and never more.

use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// From one good answer to the next look-up of a name.
pub const INTERVAL: Duration = Duration::from_secs(30);

/// How much of the interval a wait varies by, in both directions, so that names do not fall into
/// step.
pub const JITTER: f64 = 0.1;

/// The wait after a first failure; it doubles with each to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest wait after a failure.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long one look-up may take before it counts as failed. The system's own resolver asks a dead
/// server for 5 s before the next one: shorter would give up on the second.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);

/// Look-ups at once that have not timed out: they take threads that also serve files, and a
/// resolver should not see hundreds of questions in one moment.
pub const MAX_AT_ONCE: usize = 16;

/// Answers that may wait to be taken. A full queue delays the next look-ups, it loses nothing.
pub const MAX_ANSWERS: usize = 64;

/// A name, and its addresses or why there are none.
pub type Resolved = (String, Result<Vec<IpAddr>, String>);

/// Looks up while it lives; dropping it stops.
#[derive(Debug)]
pub struct Resolver {
    /// One for each name.
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Starts looking up each of `names`, which are to be distinct. What comes is sent to the
    /// receiver, each answer even if nothing changed.
    ///
    /// # Panics
    ///
    /// Outside a `LocalRuntime` or `LocalSet`.
    pub fn start(names: impl IntoIterator<Item = String>) -> (Resolver, mpsc::Receiver<Resolved>) {
        Resolver::start_with(names, Rc::new(|name| Box::pin(getaddrinfo(name))))
    }

    fn start_with(
        names: impl IntoIterator<Item = String>,
        lookup: Rc<Lookup>,
    ) -> (Resolver, mpsc::Receiver<Resolved>) {
        let (sender, receiver) = mpsc::channel(MAX_ANSWERS);
        let places = Rc::new(Semaphore::new(MAX_AT_ONCE));
        let mut tasks = JoinSet::new();
        for name in names {
            let (lookup, places, sender) = (lookup.clone(), places.clone(), sender.clone());
            tasks.spawn_local(async move { follow(name, &*lookup, &places, sender).await });
        }
        (Resolver { _tasks: tasks }, receiver)
    }
}

/// What looks a name up: the system, or what a test puts in its place.
type Lookup = dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>>>>;

async fn getaddrinfo(name: String) -> Result<Vec<IpAddr>, String> {
    let found = tokio::net::lookup_host((name, 0)).await;
    let addresses = found.map_err(|error| error.to_string())?;
    Ok(addresses.map(|address| address.ip()).collect())
}

/// Looks one name up until nobody wants to know.
async fn follow(
    name: String,
    lookup: &Lookup,
    places: &Semaphore,
    answers: mpsc::Sender<Resolved>,
) {
    let mut failures = 0;
    loop {
        let place = places.acquire().await;
        let mut pending = pin!(lookup(name.clone()));
        let answer = match timeout(LOOKUP_TIMEOUT, &mut pending).await {
            Ok(answer) => answer,
            Err(_) => {
                // It no longer keeps others waiting.
                drop(place);
                let late = format!("no answer within {LOOKUP_TIMEOUT:?}");
                if answers.send((name.clone(), Err(late))).await.is_err() {
                    return;
                }
                failures += 1;
                pending.await
            }
        };
        failures = match &answer {
            Ok(addresses) if !addresses.is_empty() => 0,
            _ => failures + 1,
        };
        if answers.send((name.clone(), answer)).await.is_err() {
            return;
        }
        sleep(pause(failures, rand::random_range(-1.0..=1.0))).await;
    }
}

/// How long to wait after so many failures in a row; `spread` is drawn from -1 to 1.
fn pause(failures: u32, spread: f64) -> Duration {
    let pause = match failures.checked_sub(1) {
        None => INTERVAL,
        Some(doublings) => RETRY_MIN
            .saturating_mul(1 << doublings.min(8))
            .min(RETRY_MAX),
    };
    pause.mul_f64(1.0 + JITTER * spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;
    use tokio::time::Instant;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build_local(Default::default());
        runtime.expect("a runtime").block_on(test);
    }

    /// Answers with each of `script` in turn, then with the last again and again; `None` hangs for
    /// a minute.
    fn scripted(script: Vec<Option<Result<Vec<IpAddr>, String>>>) -> (Rc<Lookup>, Rc<Cell<u32>>) {
        let script = Rc::new(RefCell::new(VecDeque::from(script)));
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        let lookup: Rc<Lookup> = Rc::new(move |_| {
            count.set(count.get() + 1);
            let mut script = script.borrow_mut();
            let next = match script.len() {
                1 => script[0].clone(),
                _ => script.pop_front().expect("a script has an end"),
            };
            Box::pin(async move {
                match next {
                    Some(answer) => answer,
                    None => {
                        sleep(Duration::from_secs(60)).await;
                        Ok(vec![ip(99)])
                    }
                }
            })
        });
        (lookup, asked)
    }

    #[test]
    fn a_name_that_answers_is_looked_up_every_half_minute() {
        run(async {
            let (lookup, _) = scripted(vec![Some(Ok(vec![ip(1)]))]);
            let start = Instant::now();
            let (_resolver, mut answers) = Resolver::start_with(["a".to_owned()], lookup);
            for n in 0..5 {
                let answer = answers.recv().await;
                assert_eq!(answer, Some(("a".to_owned(), Ok(vec![ip(1)]))));
                let expected = INTERVAL.as_secs_f64() * f64::from(n);
                let passed = start.elapsed().as_secs_f64();
                assert!(
                    (passed - expected).abs() <= expected * JITTER + 0.1,
                    "{passed}"
                );
            }
        });
    }

    #[test]
    fn a_name_that_fails_is_looked_up_sooner_and_backs_off() {
        run(async {
            let failed = Some(Err("no such name".to_owned()));
            let (lookup, _) = scripted(vec![failed]);
            let (_resolver, mut answers) = Resolver::start_with(["a".to_owned()], lookup);
            assert!(answers.recv().await.expect("an answer").1.is_err());
            let mut waits = Vec::new();
            for _ in 0..5 {
                let start = Instant::now();
                answers
                    .recv()
                    .await
                    .expect("an answer")
                    .1
                    .expect_err("it fails");
                waits.push(start.elapsed().as_secs_f64());
            }
            for (wait, expected) in waits.iter().zip([1.0, 2.0, 4.0, 5.0, 5.0]) {
                assert!(
                    (wait - expected).abs() <= expected * JITTER + 0.01,
                    "{waits:?}"
                );
            }
        });
    }

    #[test]
    fn an_empty_answer_is_looked_up_again_as_soon_as_a_failure() {
        run(async {
            let (lookup, _) = scripted(vec![Some(Ok(vec![]))]);
            let (_resolver, mut answers) = Resolver::start_with(["a".to_owned()], lookup);
            let _answer = answers.recv().await.expect("an answer");
            let start = Instant::now();
            let _answer = answers.recv().await.expect("an answer");
            assert!(start.elapsed() <= RETRY_MIN.mul_f64(1.2));
        });
    }

    #[test]
    fn a_look_up_that_hangs_is_reported_and_never_doubled() {
        run(async {
            let (lookup, asked) = scripted(vec![None]);
            let start = Instant::now();
            let (_resolver, mut answers) = Resolver::start_with(["a".to_owned()], lookup);
            let (_, late) = answers.recv().await.expect("an answer");
            assert!(late.expect_err("it hangs").contains("no answer"));
            assert!(start.elapsed() <= LOOKUP_TIMEOUT + Duration::from_millis(10));
            let (_, after_all) = answers.recv().await.expect("an answer");
            assert_eq!(after_all, Ok(vec![ip(99)]));
            assert_eq!(start.elapsed().as_secs(), 60);
            assert_eq!(asked.get(), 1);
        });
    }

    #[test]
    fn hanging_names_do_not_keep_others_waiting_for_ever() {
        run(async {
            let lookup: Rc<Lookup> = Rc::new(|name| {
                Box::pin(async move {
                    if name.starts_with("hangs") {
                        std::future::pending::<()>().await;
                    }
                    Ok(vec![ip(1)])
                })
            });
            let mut names: Vec<_> = (0..2 * MAX_AT_ONCE).map(|n| format!("hangs{n}")).collect();
            names.push("answers".to_owned());
            let (_resolver, mut answers) = Resolver::start_with(names, lookup);
            let start = Instant::now();
            while answers.recv().await.expect("an answer").0 != "answers" {}
            assert!(start.elapsed() <= 3 * LOOKUP_TIMEOUT);
        });
    }

    #[test]
    fn look_ups_at_once_are_bounded() {
        run(async {
            let out = Rc::new(Cell::new(0_usize));
            let most = Rc::new(Cell::new(0));
            let (now, max) = (out.clone(), most.clone());
            let lookup: Rc<Lookup> = Rc::new(move |_| {
                let now = now.clone();
                now.set(now.get() + 1);
                max.set(max.get().max(now.get()));
                Box::pin(async move {
                    sleep(Duration::from_secs(1)).await;
                    now.set(now.get() - 1);
                    Ok(vec![ip(1)])
                })
            });
            let names: Vec<_> = (0..100).map(|n| format!("n{n}")).collect();
            let (_resolver, mut answers) = Resolver::start_with(names, lookup);
            for _ in 0..100 {
                let _answer = answers.recv().await.expect("an answer");
            }
            assert_eq!(most.get(), MAX_AT_ONCE);
        });
    }

    #[test]
    fn the_system_resolves_localhost() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default())
            .expect("a runtime");
        runtime.block_on(async {
            let (_resolver, mut answers) = Resolver::start(["localhost".to_owned()]);
            let (_, addresses) = answers.recv().await.expect("an answer");
            let addresses = addresses.expect("localhost has an address");
            assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty());
        });
    }
}
