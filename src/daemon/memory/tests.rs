use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::config;

const FILE: &str = r#"
[observe]
listen = false
[roles.web]
primary = "http"
services.http = { port = 8080 }
[pools.web]
role = "web"
members = { a = "192.0.2.1", b = "192.0.2.2" }
services.http = { listen = "127.0.0.1:0" }
"#;

fn topology() -> Topology {
    config::parse(FILE, "test.toml").unwrap().config.topology
}

fn clock(boot: u64, wall: u64) -> Clock {
    Clock {
        now: Time::from_millis(boot * 1_000),
        wall: UNIX_EPOCH + Duration::from_secs(wall),
    }
}

fn drained(topology: &Topology, until: Option<u64>) -> Standing {
    let pool = topology.pool_named("web").unwrap();
    let state = OperatorState {
        mode: Mode::Drain,
        by: "root".to_owned(),
        reason: Some("disk".to_owned()),
        since: Time::from_millis(1_000_000),
        until: until.map(|seconds| Time::from_millis(seconds * 1_000)),
        deadline: Some(Time::from_millis(1_600_000)),
    };
    Standing {
        operators: vec![(pool.members[1].id, state)],
        first: vec![(pool.primary, pool.members[0].id)],
        pause: None,
    }
}

fn through_json(remembered: &Remembered) -> Remembered {
    serde_json::from_str(&serde_json::to_string(remembered).unwrap()).unwrap()
}

#[test]
fn what_is_remembered_comes_back_on_the_clock_of_the_next_boot() {
    let topology = topology();
    let standing = drained(&topology, Some(5_000));
    let stored = Remembered::new(&standing, &topology, clock(1_100, 1_000_000));
    // Rebooted: 200 s later by the wall, 50 s after boot.
    let back = through_json(&stored).standing(&topology, clock(50, 1_000_200));
    let (member, state) = &back.operators[0];
    assert_eq!(*member, standing.operators[0].0);
    assert_eq!(state.since, Time::ZERO);
    assert_eq!(state.until, Some(Time::from_millis((50 + 3_700) * 1_000)));
    assert_eq!(state.deadline, Some(Time::from_millis((50 + 300) * 1_000)));
    assert_eq!(state.reason.as_deref(), Some("disk"));
    assert_eq!(back.first, standing.first);
}

#[test]
fn what_lapsed_meanwhile_is_forgotten() {
    let topology = topology();
    let stored = Remembered::new(
        &drained(&topology, Some(1_200)),
        &topology,
        clock(1_100, 1_000_000),
    );
    let back = stored.standing(&topology, clock(50, 1_000_101));
    assert!(back.operators.is_empty());
}

#[test]
fn what_is_no_longer_configured_is_left_out() {
    let topology = topology();
    let stored = Remembered::new(
        &drained(&topology, None),
        &topology,
        clock(1_100, 1_000_000),
    );
    let other = FILE.replace("b = ", "c = ");
    let other = config::parse(&other, "test.toml").unwrap().config.topology;
    let back = stored.standing(&other, clock(1_100, 1_000_000));
    assert!(back.operators.is_empty());
    assert_eq!(back.first.len(), 1);
}

#[test]
fn a_wall_clock_from_before_1970_does_no_harm() {
    let topology = topology();
    let early = Clock {
        now: Time::from_millis(5),
        wall: SystemTime::UNIX_EPOCH,
    };
    let stored = Remembered::new(&drained(&topology, None), &topology, early);
    assert_eq!(stored.standing(&topology, early).operators.len(), 1);
}
