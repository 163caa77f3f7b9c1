use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// A client over IPv4, at the only listener.
fn client(number: u32) -> Origin {
    Origin {
        listener: 0,
        client: SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + number), 5_000)),
        local: None,
    }
}

/// A flow whose client has sent again after an answer.
fn prove(table: &mut Table<u32>, number: u32, now: Tick) -> FlowId {
    let id = table.insert(client(number), number, now);
    table.from_member(id, now);
    assert!(table.from_client(id, now));
    id
}

fn full_of_proven(most: u32, now: Tick) -> (Table<u32>, Vec<FlowId>) {
    let mut table = Table::new(most as usize);
    let ids = (0..most)
        .map(|number| prove(&mut table, number, now))
        .collect();
    (table, ids)
}

#[test]
fn a_flow_is_found_by_where_it_comes_from() {
    let mut table = Table::new(10);
    let v4 = client(1);
    let v6 = Origin {
        client: SocketAddr::from((Ipv6Addr::LOCALHOST, 5_000)),
        ..v4
    };
    let others = [
        v4,
        v6,
        Origin { listener: 1, ..v4 },
        Origin {
            client: SocketAddr::new(v4.client.ip(), 5_001),
            ..v4
        },
        Origin {
            local: Some(Ipv4Addr::LOCALHOST.into()),
            ..v4
        },
        Origin {
            local: Some(Ipv6Addr::LOCALHOST.into()),
            ..v6
        },
    ];
    for (number, origin) in others.into_iter().enumerate() {
        assert_eq!(table.find(&origin), None);
        let id = table.insert(origin, number, 0);
        assert_eq!(table.origin(id), Some(&origin));
    }
    for (number, origin) in others.iter().enumerate() {
        let id = table.find(origin).unwrap();
        assert_eq!(table.get(id), Some(&number));
        *table.get_mut(id).unwrap() += 10;
        assert_eq!(table.get(id), Some(&(number + 10)));
    }
    assert_eq!(table.len(), others.len());
}

#[test]
fn a_flow_is_proven_when_its_client_sends_again_after_an_answer() {
    let mut table = Table::new(10);
    let id = table.insert(client(1), 1, 0);
    assert!(!table.from_client(id, 0));
    assert!(!table.is_answered(id));
    table.from_member(id, 0);
    assert!(table.is_answered(id));
    assert!(!table.is_proven(id));
    assert!(table.from_client(id, 0));
    assert!(table.is_proven(id));
    assert!(!table.from_client(id, 0));
}

#[test]
fn a_table_without_flows_holds_no_memory() {
    let table = Table::<[u8; 64]>::new(1_000_000);
    assert_eq!(table.entries.capacity(), 0);
    assert_eq!(table.places.capacity(), 0);
}

#[test]
fn what_a_flood_took_is_given_back() {
    let mut table = Table::new(100_000);
    let ids: Vec<_> = (0..5_000)
        .map(|number| table.insert(client(number), number, 0))
        .collect();
    for id in &ids {
        assert!(table.remove(*id).is_some());
    }
    assert_eq!(table.len(), 0);
    assert_eq!((table.entries.capacity(), table.places.capacity()), (0, 0));
    let again = table.insert(client(0), 0, 0);
    assert!(!ids.contains(&again));
    assert!(ids.iter().all(|id| table.get(*id).is_none()));
}

#[test]
fn a_full_table_gives_up_the_oldest_flow_that_is_not_proven() {
    let mut table = Table::new(4);
    prove(&mut table, 0, 0);
    let first = table.insert(client(1), 1, 0);
    let second = table.insert(client(2), 2, 0);
    assert_eq!(table.room(0), Room::Free);
    prove(&mut table, 3, 0);
    // That it moved makes it no younger.
    table.from_client(first, 9);
    table.from_member(first, 9);
    assert_eq!(table.room(9), Room::GiveUp(first));
    // Asking changes nothing.
    assert_eq!(table.room(9), Room::GiveUp(first));
    assert_eq!(table.remove(first), Some(1));
    assert_eq!(table.room(9), Room::Free);
    table.insert(client(4), 4, 9);
    assert_eq!(table.room(9), Room::GiveUp(second));
}

#[test]
fn a_table_full_of_proven_flows_gives_up_the_longest_idle_one_and_none_that_moves() {
    let (mut table, ids) = full_of_proven(3, 0);
    assert_eq!(table.room(IDLE - 1), Room::Full);
    table.from_client(ids[0], IDLE - 1);
    table.from_member(ids[1], IDLE - 1);
    assert_eq!(table.room(IDLE), Room::GiveUp(ids[2]));
    table.from_member(ids[2], IDLE);
    assert_eq!(table.room(IDLE), Room::Full);
    assert_eq!(table.room(2 * IDLE - 2), Room::Full);
    assert_eq!(table.room(2 * IDLE - 1), Room::GiveUp(ids[0]));
}

#[test]
fn a_flood_of_forged_clients_costs_each_other_their_places() {
    const MOST: u32 = 64;
    let mut table = Table::new(MOST as usize);
    let proven: Vec<_> = (0..MOST / 2).map(|n| prove(&mut table, n, 0)).collect();
    for number in 1_000..20_000 {
        let now = number / 100;
        if now % (IDLE - 1) == 0 {
            for id in &proven {
                table.from_client(*id, now);
            }
        }
        if let Room::GiveUp(id) = table.room(now) {
            assert!(!table.is_proven(id));
            table.remove(id);
        }
        let id = table.insert(client(number), number, now);
        // Members do answer.
        table.from_member(id, now);
    }
    assert_eq!(table.len(), MOST as usize);
    assert!(proven.iter().all(|id| table.is_proven(*id)));
}

#[test]
fn a_table_for_none_takes_none() {
    assert_eq!(Table::<u32>::new(0).room(0), Room::Full);
}

#[test]
fn generations_begin_anew_without_zero() {
    let mut table = Table::new(10);
    table.generation = u32::MAX;
    let id = table.insert(client(1), 1, 0);
    assert!(u64::from(id) >= 1 << 32);
    assert_eq!(table.get(id), Some(&1));
}

#[test]
fn numbers_below_2_to_the_32_name_no_flow() {
    let mut table = Table::new(10);
    table.insert(client(1), 1, 0);
    for number in [0, 1, u64::from(u32::MAX)] {
        assert_eq!(table.get(FlowId::from(number)), None);
    }
}

/// What may happen to a table; flows are named by a number into those that ever were.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A datagram of a client, with a flow or without.
    Heard(u32),
    FromClient(usize),
    FromMember(usize),
    Remove(usize),
    Pass(Tick),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..24_u32).prop_map(Step::Heard),
        3 => any::<usize>().prop_map(Step::FromClient),
        3 => any::<usize>().prop_map(Step::FromMember),
        1 => any::<usize>().prop_map(Step::Remove),
        1 => (0..IDLE).prop_map(Step::Pass),
    ]
}

/// A flow, as plainly as can be.
#[derive(Clone, Copy, Debug)]
struct Plain {
    id: FlowId,
    number: u32,
    moved: Tick,
    is_answered: bool,
    is_proven: bool,
}

/// A table, as plainly as can be: flows in the order in which they came.
#[derive(Debug, Default)]
struct Model(Vec<Plain>);

impl Model {
    fn at(&mut self, id: FlowId) -> Option<&mut Plain> {
        self.0.iter_mut().find(|flow| flow.id == id)
    }

    /// Whether the answer of a full table is right.
    fn allows(&self, room: Room, now: Tick) -> bool {
        let idle = |flow: &Plain| now.wrapping_sub(flow.moved);
        let longest = self.0.iter().map(idle).max().unwrap_or(0);
        let oldest = self.0.iter().find(|flow| !flow.is_proven);
        match (room, oldest) {
            (Room::GiveUp(id), Some(oldest)) => id == oldest.id,
            (Room::GiveUp(id), None) => self.0.iter().any(|flow| {
                flow.id == id && idle(flow) >= IDLE && longest.saturating_sub(idle(flow)) <= RELINK
            }),
            (Room::Full, None) => longest < IDLE + RELINK,
            (Room::Full, Some(_)) | (Room::Free, _) => false,
        }
    }
}

proptest! {
    #[test]
    fn a_table_does_what_a_plain_one_does(
        most in 1..12_usize,
        start in prop_oneof![Just(0), Just(Tick::MAX - 50), any::<Tick>()],
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut table = Table::new(most);
        let mut model = Model::default();
        let mut ever: Vec<FlowId> = Vec::new();
        let mut now = start;
        for step in steps {
            let known = |pick: usize| (!ever.is_empty()).then(|| ever[pick % ever.len()]);
            match step {
                Step::Heard(number) => {
                    let plain = model.0.iter().find(|flow| flow.number == number);
                    prop_assert_eq!(table.find(&client(number)), plain.map(|flow| flow.id));
                    if plain.is_some() {
                        continue;
                    }
                    let room = table.room(now);
                    match room {
                        Room::Free => prop_assert!(model.0.len() < most),
                        room => {
                            prop_assert_eq!(model.0.len(), most);
                            prop_assert!(model.allows(room, now), "{room:?} at {now} {model:?}");
                        }
                    }
                    match room {
                        Room::Full => continue,
                        Room::Free => {}
                        Room::GiveUp(id) => {
                            prop_assert!(table.remove(id).is_some());
                            model.0.retain(|flow| flow.id != id);
                        }
                    }
                    let id = table.insert(client(number), number, now);
                    prop_assert!(!ever.contains(&id));
                    ever.push(id);
                    model.0.push(Plain {
                        id,
                        number,
                        moved: now,
                        is_answered: false,
                        is_proven: false,
                    });
                }
                Step::FromClient(pick) => {
                    let Some(id) = known(pick) else { continue };
                    let proved = model.at(id).is_some_and(|flow| {
                        flow.moved = now;
                        let proved = flow.is_answered && !flow.is_proven;
                        flow.is_proven |= proved;
                        proved
                    });
                    prop_assert_eq!(table.from_client(id, now), proved);
                }
                Step::FromMember(pick) => {
                    let Some(id) = known(pick) else { continue };
                    if let Some(flow) = model.at(id) {
                        flow.moved = now;
                        flow.is_answered = true;
                    }
                    table.from_member(id, now);
                }
                Step::Remove(pick) => {
                    let Some(id) = known(pick) else { continue };
                    let number = model.at(id).map(|flow| flow.number);
                    model.0.retain(|flow| flow.id != id);
                    prop_assert_eq!(table.remove(id), number);
                }
                Step::Pass(ticks) => now = now.wrapping_add(ticks),
            }
            prop_assert!(table.len() <= most);
            prop_assert_eq!(table.len(), model.0.len());
            prop_assert_eq!(table.places.len(), model.0.len());
            for id in &ever {
                let plain = model.at(*id).copied();
                prop_assert_eq!(table.get(*id).copied(), plain.map(|flow| flow.number));
                prop_assert_eq!(table.origin(*id).copied(), plain.map(|flow| client(flow.number)));
                prop_assert_eq!(table.is_proven(*id), plain.is_some_and(|flow| flow.is_proven));
                prop_assert_eq!(table.is_answered(*id), plain.is_some_and(|flow| flow.is_answered));
                prop_assert_eq!(FlowId::from(u64::from(*id)), *id);
            }
            let mut all: Vec<_> = table.iter().map(|(id, number)| (u64::from(id), *number)).collect();
            let mut plain: Vec<_> = model.0.iter().map(|f| (u64::from(f.id), f.number)).collect();
            all.sort_unstable();
            plain.sort_unstable();
            prop_assert_eq!(all, plain);
        }
    }
}
