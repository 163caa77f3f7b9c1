//! Pairs: two pools that back each other up.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{PoolId, ServiceId, Topology};

/// A pair.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PairId(pub u16);

impl PairId {
    /// Its place in [`Topology::pairs`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Two pools with one role, in different sites and regions, that serve each other's users.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// This pair's own id.
    pub id: PairId,
    /// The name in `[pairs.NAME]`.
    pub name: String,
    /// The two, in file order.
    pub pools: [PoolId; 2],
    /// The rules of its redirects.
    pub rules: PairRules,
    /// Whether a session that no home member took goes to the twin.
    pub spill: bool,
    /// Whether home users must never be served by both pools at once.
    pub exclusive: bool,
    /// Sessions of a moving pool that are ended each second, where they remain on the wrong side.
    pub move_rate: NonZeroU32,
    /// New connections of a moving pool's users that one member takes each second.
    pub arrivals: NonZeroU32,
}

/// When users of a pair are sent to the twin, and home.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PairRules {
    /// Who sends the users of a lost pool to its twin.
    pub failover: Automation,
    /// How long a pool is lost before automation does.
    pub after: Duration,
    /// Who sends them home.
    pub failback: Automation,
    /// How long a recovered pool stays well, continuously, before automation does.
    pub hold: Duration,
    /// What [`hold`](PairRules::hold) grows to at most; a relapse after that ends automation.
    pub longest_hold: Duration,
    /// How long the share of clients that go home rises to all of them.
    pub ramp: Duration,
}

/// Who begins something.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Automation {
    /// A person.
    #[default]
    Manual,
    /// twinpool, where a person does not.
    Automatic,
}

/// One of the two pools of a pair, by its place in [`Pair::pools`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

impl Side {
    /// Both, in order.
    pub const BOTH: [Side; 2] = [Side::First, Side::Second];

    /// Its place in a list of two.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The twin's.
    pub const fn other(self) -> Side {
        match self {
            Side::First => Side::Second,
            Side::Second => Side::First,
        }
    }
}

impl Pair {
    /// The pool on this side.
    pub fn pool(&self, side: Side) -> PoolId {
        self.pools[side.index()]
    }

    /// The side where a pool stands, if it is of this pair.
    pub fn side(&self, pool: PoolId) -> Option<Side> {
        Side::BOTH.into_iter().find(|&side| self.pool(side) == pool)
    }
}

impl Topology {
    /// The pair with this id.
    pub fn pair(&self, id: PairId) -> &Pair {
        &self.pairs[id.index()]
    }

    /// The pair with this name.
    pub fn pair_named(&self, name: &str) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.name == name)
    }

    /// The pair that a pool is of, and its side.
    pub fn pair_of(&self, pool: PoolId) -> Option<(&Pair, Side)> {
        let of = |pair| Some((pair, Pair::side(pair, pool)?));
        self.pairs.iter().find_map(of)
    }

    /// The pool that backs this one up.
    pub fn twin(&self, pool: PoolId) -> Option<PoolId> {
        self.pair_of(pool)
            .map(|(pair, side)| pair.pool(side.other()))
    }

    /// The twin's service of the same name, which serves this one's users while they are away.
    pub fn twin_service(&self, service: ServiceId) -> Option<ServiceId> {
        let twin = self.pool(self.twin(service.pool)?);
        Some(twin.service_named(&self.service(service).name)?.id)
    }
}
