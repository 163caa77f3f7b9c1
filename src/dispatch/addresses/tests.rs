use super::*;
use crate::topology::{
    BelowQuorum, Check, CheckKind, ConnectRules, Endpoint, Member, Policy, Pool, PoolId, Quorum,
    QuorumNeed, Service, Verify,
};
use proptest::prelude::*;
use std::num::NonZeroU32;
use std::time::Duration;

const POOL: PoolId = PoolId(0);
const ONE: NonZeroU32 = NonZeroU32::MIN;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn ips(lasts: &[u8]) -> Vec<IpAddr> {
    lasts.iter().copied().map(ip).collect()
}

fn target(member: u16, service: u16) -> TargetId {
    POOL.member(member).target(POOL.service(service))
}

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(ip(last), port)
}

/// Two services, on ports 1000 and 1001 of each of `hosts`.
fn topology(hosts: &[Host]) -> Topology {
    let service = |index: u16| Service {
        id: POOL.service(index),
        name: format!("s{index}"),
        listen: Vec::new(),
        listen_at_twin: Vec::new(),
        check: Check {
            kind: CheckKind::Tcp,
            tls: false,
            verify: Verify::No,
            server_name: None,
            port: None,
            interval: Duration::from_secs(1),
            in_doubt: Duration::from_millis(250),
            jitter: 0.1,
            timeout: Duration::from_millis(500),
            fall: ONE,
            rise: ONE,
            flap: ONE,
        },
        requires: Vec::new(),
        balance: Policy::LeastConnections,
        idle_timeout: Duration::from_secs(1800),
        protocol: crate::topology::Protocol::Tcp,
        peer_timeout: Duration::from_secs(30),
        connect: ConnectRules {
            hedge: Duration::from_millis(250),
            budget: Duration::from_secs(2),
            attempts: ONE,
        },
        send_proxy: false,
        accept_proxy: Vec::new(),
        slow_start: Duration::from_secs(30),
    };
    let member = |(index, host): (usize, &Host)| Member {
        id: POOL.member(index as u16),
        name: format!("m{index}"),
        weight: ONE,
        max_connections: None,
        backup: false,
        endpoints: [1000, 1001]
            .map(|port| Endpoint {
                host: host.clone(),
                port,
            })
            .into(),
    };
    let need = QuorumNeed {
        members: 1,
        of_first: 1,
    };
    Topology {
        sites: Vec::new(),
        pairs: Vec::new(),
        pools: vec![Pool {
            id: POOL,
            name: "p".to_owned(),
            role: "web".to_owned(),
            site: None,
            quorum: Quorum {
                to_start: need,
                to_stay: need,
            },
            below_quorum: BelowQuorum::Serve,
            drain_deadline: Duration::from_secs(600),
            queue_limit: 1024,
            queue_timeout: Duration::from_secs(5),
            members: hosts.iter().enumerate().map(member).collect(),
            services: vec![service(0), service(1)],
            primary: POOL.service(0),
            after_pools: Vec::new(),
        }],
    }
}

fn book_of_one_name() -> AddressBook {
    AddressBook::new(&topology(&[Host::Name("a.example".to_owned())]))
}

#[test]
fn a_fixed_address_is_known_at_once_and_never_changes() {
    let mut book = AddressBook::new(&topology(&[Host::Address(ip(7))]));
    assert_eq!(book.current(target(0, 1)), Some(at(7, 1001)));
    assert_eq!(book.names().count(), 0);
    assert_eq!(book.rotate(target(0, 0)), None);
    assert_eq!(
        book.addresses(target(0, 0)).collect::<Vec<_>>(),
        [at(7, 1000)]
    );
}

#[test]
fn a_name_is_nowhere_until_it_is_resolved_and_then_at_its_first_address() {
    let mut book = book_of_one_name();
    assert_eq!(book.current(target(0, 0)), None);
    assert_eq!(book.rotate(target(0, 0)), None);
    let changes = book.handle_resolved("a.example", Ok(ips(&[2, 1])));
    let current = |service, address| Change::Current {
        target: target(0, service),
        address,
    };
    assert_eq!(changes, [current(0, at(2, 1000)), current(1, at(2, 1001))]);
    assert_eq!(book.current(target(0, 1)), Some(at(2, 1001)));
}

#[test]
fn the_present_address_is_kept_while_a_new_answer_has_it() {
    let mut book = book_of_one_name();
    book.handle_resolved("a.example", Ok(ips(&[2, 1])));
    assert_eq!(book.handle_resolved("a.example", Ok(ips(&[1, 2]))), []);
    assert_eq!(book.handle_resolved("a.example", Ok(ips(&[3, 2, 1]))), []);
    assert_eq!(book.current(target(0, 0)), Some(at(2, 1000)));
}

#[test]
fn an_address_that_is_gone_is_said_to_be_and_another_takes_its_place() {
    let mut book = book_of_one_name();
    book.handle_resolved("a.example", Ok(ips(&[1, 2])));
    let changes = book.handle_resolved("a.example", Ok(ips(&[3, 2])));
    let of_first: Vec<_> = changes
        .into_iter()
        .filter(|change| match change {
            Change::Current { target: t, .. } | Change::Gone { target: t, .. } => {
                *t == target(0, 0)
            }
        })
        .collect();
    let expected = [
        Change::Current {
            target: target(0, 0),
            address: at(3, 1000),
        },
        Change::Gone {
            target: target(0, 0),
            address: at(1, 1000),
        },
    ];
    assert_eq!(of_first, expected);
}

#[test]
fn an_address_other_than_the_present_one_may_go_alone() {
    let mut book = book_of_one_name();
    book.handle_resolved("a.example", Ok(ips(&[1, 2])));
    let changes = book.handle_resolved("a.example", Ok(ips(&[1])));
    assert!(
        changes
            .iter()
            .all(|change| matches!(change, Change::Gone { .. }))
    );
    assert_eq!(changes.len(), 2);
}

#[test]
fn a_failure_keeps_everything_and_is_remembered() {
    let mut book = book_of_one_name();
    book.handle_resolved("a.example", Ok(ips(&[1, 2])));
    let failures = [
        Err("no answer".to_owned()),
        Ok(vec![]),
        Ok(vec![IpAddr::from([0, 0, 0, 0])]),
        Ok(vec![IpAddr::from([224, 0, 0, 1]), IpAddr::from([255; 4])]),
    ];
    for failure in failures {
        assert_eq!(book.handle_resolved("a.example", failure), []);
        assert_eq!(book.addresses(target(0, 0)).count(), 2);
        assert!(book.names().next().expect("a name").1.error.is_some());
    }
    book.handle_resolved("a.example", Ok(ips(&[1, 2])));
    assert_eq!(book.names().next().expect("a name").1.error, None);
}

#[test]
fn rotation_goes_round_and_moves_one_target_alone() {
    let mut book = book_of_one_name();
    book.handle_resolved("a.example", Ok(ips(&[1, 2, 3])));
    for last in [2, 3, 1] {
        let address = at(last, 1000);
        let target = target(0, 0);
        assert_eq!(
            book.rotate(target),
            Some(Change::Current { target, address })
        );
    }
    assert_eq!(book.current(target(0, 1)), Some(at(1, 1001)));
    book.rotate(target(0, 1));
    book.handle_resolved("a.example", Ok(ips(&[3, 2, 1])));
    assert_eq!(book.current(target(0, 1)), Some(at(2, 1001)));
}

#[test]
fn an_overlong_answer_is_cut_and_known_addresses_stay_in() {
    let mut book = book_of_one_name();
    let all: Vec<u8> = (1..=40).collect();
    book.handle_resolved("a.example", Ok(ips(&all)));
    let known: Vec<_> = book.addresses(target(0, 0)).collect();
    assert_eq!(known.len(), MAX_ADDRESSES);
    let reversed: Vec<u8> = (1..=40).rev().collect();
    assert_eq!(book.handle_resolved("a.example", Ok(ips(&reversed))), []);
    assert_eq!(book.names().next().expect("a name").1.left_out, 24);
}

#[test]
fn a_member_is_at_vanished_addresses_only_when_all_of_its_services_are() {
    let mut book = AddressBook::new(&topology(&[
        Host::Name("a.example".to_owned()),
        Host::Address(ip(9)),
    ]));
    book.handle_resolved("a.example", Ok(ips(&[1, 2])));
    book.rotate(target(0, 1));
    assert_eq!(book.in_use(), ips(&[1, 2, 9]));
    assert_eq!(book.members_only_at(&ips(&[1])), []);
    assert_eq!(book.members_only_at(&ips(&[1, 2])), [POOL.member(0)]);
    assert_eq!(book.members_only_at(&ips(&[9, 3])), [POOL.member(1)]);
}

#[test]
fn an_answer_about_a_stranger_changes_nothing() {
    let mut book = book_of_one_name();
    assert_eq!(book.handle_resolved("b.example", Ok(ips(&[1]))), []);
}

#[derive(Clone, Debug)]
enum Step {
    Resolved(u8, Option<Vec<u8>>),
    Rotate(u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let answer = proptest::option::weighted(0.8, proptest::collection::vec(0_u8..30, 0..24));
    prop_oneof![
        (0_u8..3, answer).prop_map(|(name, answer)| Step::Resolved(name, answer)),
        (0_u16..3, 0_u16..2).prop_map(|(member, service)| Step::Rotate(member, service)),
    ]
}

proptest! {
    /// Following the changes alone gives what the book says, and what the book says always fits.
    #[test]
    fn whatever_happens_changes_tell_the_whole_story(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let hosts = ["n0", "n1", "n0"].map(|name| Host::Name(name.to_owned()));
        let mut book = AddressBook::new(&topology(&hosts));
        let mut followed: HashMap<TargetId, SocketAddr> = HashMap::new();
        for step in steps {
            let before = book.clone();
            let failed = matches!(&step, Step::Resolved(_, answer)
                if answer.as_ref().is_none_or(Vec::is_empty));
            let changes = match step {
                Step::Resolved(name, answer) => {
                    let answer = answer.map(|lasts| ips(&lasts)).ok_or("no".to_owned());
                    book.handle_resolved(&format!("n{name}"), answer)
                }
                Step::Rotate(m, s) => book.rotate(target(m, s)).into_iter().collect(),
            };
            prop_assert!(!failed || changes.is_empty());
            for change in changes {
                match change {
                    Change::Current { target, address } => {
                        followed.insert(target, address);
                    }
                    Change::Gone { target, address } => {
                        prop_assert!(before.addresses(target).any(|a| a == address));
                        prop_assert!(book.addresses(target).all(|a| a != address));
                        prop_assert_ne!(followed.get(&target), Some(&address));
                    }
                }
            }
            for m in 0..3 {
                for s in 0..2 {
                    let t = target(m, s);
                    prop_assert_eq!(book.current(t), followed.get(&t).copied());
                    let all: Vec<_> = book.addresses(t).collect();
                    prop_assert!(all.len() <= MAX_ADDRESSES);
                    prop_assert_eq!(book.current(t).is_none(), all.is_empty());
                    prop_assert!(book.current(t).is_none_or(|c| all.contains(&c)));
                    let kept = before.current(t).filter(|c| all.contains(c));
                    let rotated = before.addresses(t).eq(book.addresses(t));
                    prop_assert!(rotated || kept.is_none() || book.current(t) == kept);
                }
            }
        }
    }
}
