//! Thousands of sessions in the registry: whom it wakes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use crate::dispatch::fixture::{HOME, TWIN};
use crate::proxy::Which;
use crate::proxy::registry::{Arrival, Fate, Key, Owner, Registry, Side, Tick, Told};
use crate::topology::{MemberId, PoolId};

const MANY: usize = 4_000;
/// Sweeps that look at every session once.
const ROUND: usize = 4;
const IDLE: Tick = 100;

/// A session, and how often it was woken.
struct Session {
    key: Key,
    member: MemberId,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Session {
    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

/// Thousands of sessions on two members of each of two pools, which have lived for a while.
fn settled(registry: &Registry) -> Vec<Session> {
    let enter = |nth: usize| {
        let pool: PoolId = if nth.is_multiple_of(2) { HOME } else { TWIN };
        let member = pool.member((nth / 2 % 2) as u16);
        let woken = Arc::new(Woken::default());
        let arrival = Arrival {
            asked: HOME.service(0),
            target: member.target(pool.service(0)),
            side: Side::Neither,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            idle_ticks: IDLE,
        };
        let owner = Owner::Session(Waker::from(woken.clone()));
        let key = registry.enter(arrival, 0, owner);
        Session { key, member, woken }
    };
    let sessions: Vec<Session> = (0..MANY).map(enter).collect();
    for tick in 1..=2 * ROUND as Tick {
        registry.sweep(ROUND, tick);
    }
    for session in &sessions {
        // The task asks when it is woken.
        registry.fate(session.key);
        session.woken.0.store(0, Ordering::Relaxed);
    }
    sessions
}

fn woken(sessions: &[Session]) -> usize {
    sessions.iter().map(Session::woken).sum()
}

#[test]
fn sweeps_wake_nobody_but_who_was_idle_for_too_long() {
    let registry = Registry::default();
    let sessions = settled(&registry);
    let (busy, idle) = sessions.split_at(MANY / 4);
    for tick in 2 * ROUND as Tick..IDLE {
        registry.sweep(ROUND, tick);
    }
    assert_eq!(woken(&sessions), 0);
    for session in busy {
        registry.moved(session.key, IDLE - 1);
    }
    for tick in IDLE..IDLE + 2 * ROUND as Tick {
        registry.sweep(ROUND, tick);
    }
    assert_eq!(woken(busy), 0);
    for session in idle {
        assert_eq!(session.woken(), 1, "each once");
        assert_eq!(registry.fate(session.key), Fate::Idle);
    }
}

#[test]
fn ending_a_members_sessions_wakes_those_once_and_no_others() {
    let registry = Registry::default();
    let sessions = settled(&registry);
    let member = TWIN.member(1);
    let which = Which::Member {
        member,
        service: None,
    };
    assert_eq!(registry.end(&which, |_| false, 10), MANY / 4);
    registry.end(&which, |_| false, 11);
    for session in &sessions {
        let named = session.member == member;
        assert_eq!(
            session.woken(),
            usize::from(named),
            "told twice, woken once"
        );
        let told = registry.fate(session.key) == Fate::End(Told::Drained);
        assert_eq!(told, named);
    }
}

#[test]
fn ending_whoever_is_down_or_moves_wakes_nobody_else() {
    let registry = Registry::default();
    let sessions = settled(&registry);
    assert_eq!(registry.end(&Which::Down, |_| false, 10), 0);
    assert_eq!(woken(&sessions), 0);
    let down = HOME.member(0);
    let ended = registry.end(&Which::Down, |target| target.member() == down, 10);
    assert_eq!(ended, MANY / 4);
    assert_eq!(woken(&sessions), MANY / 4);
    let moved = Which::Moved {
        home: HOME,
        off: TWIN,
        job: 1,
        most: 7,
    };
    assert_eq!(registry.end(&moved, |_| false, 12), 7);
    assert_eq!(woken(&sessions), MANY / 4 + 7);
}

#[test]
fn who_comes_takes_the_places_of_those_who_left() {
    let registry = Registry::default();
    let first = settled(&registry);
    let highest = first.iter().map(|session| session.key).max();
    for session in &first {
        registry.leave(session.key);
    }
    let again = settled(&registry);
    assert_eq!(again.iter().map(|session| session.key).max(), highest);
}
