use super::*;
use Condition::{Degraded, Lost, Serving};

const ALL: [(Verdict, Mode); 12] = {
    use Mode::{Drain, Maintenance, Ready};
    use Verdict::{Busy, Down, Unknown, Up};
    [
        (Unknown, Ready),
        (Unknown, Drain),
        (Unknown, Maintenance),
        (Up, Ready),
        (Up, Drain),
        (Up, Maintenance),
        (Busy, Ready),
        (Busy, Drain),
        (Busy, Maintenance),
        (Down, Ready),
        (Down, Drain),
        (Down, Maintenance),
    ]
};

/// The front-end table: size, to stay, of the first so many.
const FRONT_END: [(usize, u16, u16); 13] = [
    (1, 1, 1),
    (2, 1, 2),
    (3, 2, 3),
    (4, 2, 4),
    (5, 3, 5),
    (6, 3, 6),
    (7, 4, 7),
    (8, 4, 7),
    (9, 4, 7),
    (10, 5, 9),
    (11, 5, 9),
    (12, 5, 9),
    (16, 7, 12),
];

fn of(need: (u16, u16), members: &[(Verdict, Mode)], settled: bool) -> (Condition, u16) {
    let (members_needed, of_first) = need;
    let need = QuorumNeed {
        members: members_needed,
        of_first,
    };
    condition(need, members.iter().copied(), settled)
}

const WELL: (Verdict, Mode) = (Verdict::Up, Mode::Ready);
const DEAD: (Verdict, Mode) = (Verdict::Down, Mode::Ready);

#[test]
fn who_is_present_and_who_is_not() {
    for (verdict, mode) in ALL {
        let expected = match (verdict, mode) {
            (Verdict::Down, _) | (_, Mode::Maintenance) => false,
            (Verdict::Unknown | Verdict::Up | Verdict::Busy, Mode::Ready | Mode::Drain) => true,
        };
        assert_eq!(is_present(verdict, mode), expected, "{verdict} {mode:?}");
    }
}

#[test]
fn one_member_in_every_state() {
    for (verdict, mode) in ALL {
        let here = is_present(verdict, mode);
        let (settled, _) = of((1, 1), &[(verdict, mode)], true);
        let expected = match (here, (verdict, mode) == WELL) {
            (false, _) => Lost,
            (true, true) => Serving,
            (true, false) => Degraded,
        };
        assert_eq!(settled, expected, "{verdict} {mode:?}");
        let (before, _) = of((1, 1), &[(verdict, mode)], false);
        let well = mode == Mode::Ready && matches!(verdict, Verdict::Up | Verdict::Unknown);
        assert_eq!(
            before,
            if well { Serving } else { Degraded },
            "{verdict} {mode:?}"
        );
    }
}

/// Every set of dead members of every pool of the table up to twelve.
#[test]
fn the_front_end_table_holds_for_every_set_of_dead_members() {
    for (size, need, of_first) in FRONT_END.into_iter().filter(|row| row.0 <= 12) {
        for dead in 0u32..1 << size {
            let is_dead = |n: usize| dead >> n & 1 == 1;
            let members: Vec<_> = (0..size)
                .map(|n| if is_dead(n) { DEAD } else { WELL })
                .collect();
            let counted = (0..usize::from(of_first)).filter(|&n| !is_dead(n)).count() as u16;
            let expected = match dead {
                _ if counted < need => Lost,
                0 => Serving,
                _ => Degraded,
            };
            assert_eq!(of((need, of_first), &members, true), (expected, counted));
        }
    }
}

#[test]
fn members_beyond_those_that_count_cannot_keep_a_pool() {
    let mut members = vec![DEAD; 12];
    members.extend([WELL; 4]);
    assert_eq!(of((7, 12), &members, true), (Lost, 0));
    let mut members = vec![WELL; 12];
    members.extend([DEAD; 4]);
    assert_eq!(of((7, 12), &members, true), (Degraded, 12));
}

#[test]
fn a_busy_a_drained_and_an_unknown_member_cost_no_quorum() {
    let members = [
        (Verdict::Busy, Mode::Ready),
        (Verdict::Up, Mode::Drain),
        (Verdict::Unknown, Mode::Ready),
    ];
    assert_eq!(of((3, 3), &members, true), (Degraded, 3));
}
