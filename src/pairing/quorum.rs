//! Quorum: how many members a pool of some size needs to start, and to stay functional.

use crate::topology::{Quorum, QuorumNeed};

/// Sizes of front-end pools: servers, to start, to stay, and of how many of the first to stay.
const FRONT_END: [[u16; 4]; 13] = [
    [1, 1, 1, 1],
    [2, 1, 1, 2],
    [3, 3, 2, 3],
    [4, 3, 2, 4],
    [5, 4, 3, 5],
    [6, 5, 3, 6],
    [7, 5, 4, 7],
    [8, 6, 4, 7],
    [9, 7, 4, 7],
    [10, 8, 5, 9],
    [11, 9, 5, 9],
    [12, 10, 5, 9],
    [16, 12, 7, 12],
];

/// The quorum of a front-end pool of so many members; none for a size that the table lacks.
pub fn front_end(members: usize) -> Option<Quorum> {
    let [size, start, stay, first] = FRONT_END
        .into_iter()
        .find(|row| usize::from(row[0]) == members)?;
    Some(Quorum {
        to_start: QuorumNeed {
            members: start,
            of_first: size,
        },
        to_stay: QuorumNeed {
            members: stay,
            of_first: first,
        },
    })
}

/// The quorum of a pool of `members` that needs `need` of them, wherever in the list.
pub fn number(need: u16, members: u16) -> Quorum {
    let need = QuorumNeed {
        members: need,
        of_first: members,
    };
    Quorum {
        to_start: need,
        to_stay: need,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_end_table_has_the_sizes_it_has() {
        let sizes: Vec<usize> = (0..=20).filter(|&n| front_end(n).is_some()).collect();
        assert_eq!(sizes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16]);
    }

    #[test]
    fn no_pool_needs_more_than_it_has_and_none_stays_on_nobody() {
        for size in 0..=16 {
            let Some(quorum) = front_end(size) else {
                continue;
            };
            let (start, stay) = (quorum.to_start, quorum.to_stay);
            assert!(usize::from(start.members) <= size);
            assert!(stay.members >= 1 && stay.members <= stay.of_first);
            assert!(stay.members <= start.members);
            assert!(usize::from(stay.of_first) <= size);
        }
    }

    #[test]
    fn of_eight_servers_four_of_the_first_seven_keep_it_up() {
        let eight = front_end(8).unwrap();
        assert_eq!((eight.to_start.members, eight.to_start.of_first), (6, 8));
        assert_eq!((eight.to_stay.members, eight.to_stay.of_first), (4, 7));
    }
}
