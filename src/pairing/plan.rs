//! In which order the pools of a site move, when all of them are to go to their twins or to come
//! back. Pure: whoever carries it out takes one pool after the other, and stops at the first that
//! fails.

use std::collections::BTreeSet;

use crate::topology::{PoolId, SiteId, Topology};

/// The pools of a site that have a twin, in the order in which they move, out as well as back:
/// each after those that it waits for (`after_pool`), otherwise as in the file.
///
/// A pool also waits for what the pools that it waits for wait for, even where those themselves do
/// not move. Pools that wait for each other, which a configuration refuses, move as in the file.
pub fn evacuation(topology: &Topology, site: SiteId) -> Vec<PoolId> {
    let pools = topology.pools.iter();
    let moves = pools.filter(|p| p.site == Some(site) && topology.pair_of(p.id).is_some());
    let mut left: Vec<(PoolId, BTreeSet<PoolId>)> = moves
        .map(|pool| (pool.id, waits_for(topology, pool.id)))
        .collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let waits = |before: &BTreeSet<PoolId>| left.iter().any(|(pool, _)| before.contains(pool));
        let ready = left.iter().position(|(_, before)| !waits(before));
        let (pool, _) = left.remove(ready.unwrap_or(0));
        order.push(pool);
    }
    order
}

/// What a pool waits for, directly and indirectly.
fn waits_for(topology: &Topology, pool: PoolId) -> BTreeSet<PoolId> {
    let mut found = BTreeSet::new();
    let mut open = topology.pool(pool).after_pools.clone();
    while let Some(before) = open.pop() {
        if found.insert(before) {
            open.extend(&topology.pool(before).after_pools);
        }
    }
    found.remove(&pool);
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pairing::decider::tests::{PLAIN, Plan, automatic, pair_up, topology};

    const HERE: SiteId = SiteId(0);
    const THERE: SiteId = SiteId(1);

    /// Pools with even ids stand here, their twins with the next id there; and `after` says what
    /// waits for what.
    fn pairs(count: u16, after: &[(u16, u16)]) -> Topology {
        let plans: Vec<Plan<'_>> = vec![(2, PLAIN); usize::from(count) * 2];
        let mut topology = topology(&plans);
        pair_up(&mut topology, &automatic());
        for &(pool, before) in after {
            let after = &mut topology.pools[usize::from(pool)].after_pools;
            after.push(PoolId(before));
        }
        topology
    }

    fn order(topology: &Topology, site: SiteId) -> Vec<u16> {
        let order = evacuation(topology, site);
        order.into_iter().map(|pool| pool.0).collect()
    }

    #[test]
    fn pools_that_wait_for_none_move_as_in_the_file() {
        let topology = pairs(3, &[]);
        assert_eq!(order(&topology, HERE), [0, 2, 4]);
        assert_eq!(order(&topology, THERE), [1, 3, 5]);
    }

    #[test]
    fn a_pool_moves_after_those_that_it_waits_for_and_keeps_its_place_otherwise() {
        let topology = pairs(4, &[(0, 4), (2, 0)]);
        assert_eq!(order(&topology, HERE), [4, 0, 2, 6]);
        assert_eq!(order(&topology, THERE), [1, 3, 5, 7]);
    }

    #[test]
    fn pools_without_a_twin_do_not_move_but_hand_on_what_they_wait_for() {
        let mut topology = pairs(3, &[(0, 2), (2, 4)]);
        topology.pairs.remove(1);
        assert_eq!(order(&topology, HERE), [4, 0]);
    }

    #[test]
    fn what_stands_elsewhere_is_not_waited_for() {
        let topology = pairs(2, &[(0, 3)]);
        assert_eq!(order(&topology, HERE), [0, 2]);
    }

    #[test]
    fn a_site_without_pairs_moves_nothing() {
        let mut topology = pairs(2, &[]);
        topology.pairs.clear();
        assert_eq!(order(&topology, HERE), [0u16; 0]);
    }

    #[test]
    fn pools_that_wait_for_each_other_all_move() {
        let topology = pairs(3, &[(0, 2), (2, 0), (4, 4)]);
        let mut all = order(&topology, HERE);
        all.sort_unstable();
        assert_eq!(all, [0, 2, 4]);
    }

    proptest! {
        /// Whatever waits for whatever without a circle, each moves once and none too early.
        #[test]
        fn every_pool_moves_once_and_after_all_that_it_waits_for(
            edges in prop::collection::vec((0..12u16, 0..12u16), 0..30),
        ) {
            // The larger waits for the smaller in a shuffled sense: no circle.
            let place = |n: u16| n * 7 % 12;
            let edges = edges.into_iter().filter(|&(a, b)| place(a) > place(b));
            let edges: Vec<(u16, u16)> = edges.map(|(a, b)| (a * 2, b * 2)).collect();
            let topology = pairs(12, &edges);
            let order = order(&topology, HERE);
            let at = |pool| order.iter().position(|&moved| moved == pool);
            prop_assert_eq!(order.len(), 12);
            for (pool, before) in edges {
                prop_assert!(at(before) < at(pool), "{pool} waits for {before}: {order:?}");
            }
        }
    }
}
