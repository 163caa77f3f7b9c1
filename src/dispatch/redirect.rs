//! Where the users of a pool with a twin are sent: its row of the redirect table, as the byte path
//! reads it.
//!
//! Everything that takes a look-up is resolved when the snapshot is built. A connection asks three
//! things of it: which service serves this client ([`Redirect::serving`]), where it may go when
//! that one accepts it nowhere ([`Redirect::spill`]), and whether its arrival counts
//! ([`Redirect::pace`]).

use std::net::IpAddr;

use crate::balance::{Pace, client_part};
use crate::pairing::record::{Cause, Phase, Share};
use crate::pairing::{Condition, Decider};
use crate::topology::{Pool, PoolId, ServiceId};

/// Where the users of one home pool are sent.
#[derive(Debug)]
pub(super) struct Redirect {
    phase: Phase,
    /// Of the pair's record.
    generation: u64,
    /// By service of the home pool: the twin's of the same name, or itself where there is none.
    twins: Box<[ServiceId]>,
    spill: Spill,
    /// How many of these users a member takes a second, where that is limited.
    pace: Pace,
    /// Whether they move.
    moves: bool,
}

/// Where a connection may go that was accepted nowhere else.
#[derive(Clone, Copy, Debug, Default)]
struct Spill {
    to_twin: bool,
    to_home: bool,
}

impl Redirect {
    /// That of a pool with a twin; `moving` says whether its users are on the move.
    pub(super) fn new(decider: &Decider, pool: &Pool, moving: bool) -> Option<Redirect> {
        let topology = decider.topology();
        let (pair, side) = topology.pair_of(pool.id)?;
        let twin_of = |service| topology.twin_service(service).unwrap_or(service);
        let record = decider.pair(pair.id).record();
        let entry = record.entry(side);
        let phase = entry.phase;
        let may_take = |pool: PoolId| {
            let lost = decider.condition(pool).0 == Condition::Lost;
            pair.spill && !pair.exclusive && !lost
        };
        let returning = matches!(phase, Phase::Returning(_));
        // Who came home step by step is there: only those who were sent home at once arrive.
        let at_once = !matches!(entry.cause, Cause::Returned | Cause::Start);
        let moves = match phase {
            Phase::Home => moving && at_once,
            Phase::Away => moving,
            Phase::Returning(_) => true,
        };
        Some(Redirect {
            phase,
            generation: record.generation,
            twins: pool.services.iter().map(|s| twin_of(s.id)).collect(),
            spill: Spill {
                to_twin: phase != Phase::Away && may_take(pair.pool(side.other())),
                to_home: returning && may_take(pool.id),
            },
            pace: Pace::new(pair.arrivals),
            moves,
        })
    }

    /// Where these users are sent.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Of the record that says so.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The service that serves this client. While clients come home each moves once, and all in
    /// the same order.
    pub(super) fn serving(&self, service: ServiceId, client: IpAddr) -> ServiceId {
        let at_home = match self.phase {
            Phase::Home => true,
            Phase::Away => false,
            Phase::Returning(share) => client_part(client, Share::STEPS) < share.steps(),
        };
        if at_home { service } else { self.twin(service) }
    }

    /// Where a client may go that `serving` accepted nowhere.
    pub(super) fn spill(&self, service: ServiceId, serving: ServiceId) -> Option<ServiceId> {
        let (other, open) = if serving == service {
            (self.twin(service), self.spill.to_twin)
        } else {
            (service, self.spill.to_home)
        };
        (open && other != serving).then_some(other)
    }

    /// How many of these users a member of `serving` takes a second, if that is limited now: those
    /// who stay where they were do not count. Who spills to the twin always does: when a site dies
    /// all of its users come at once, long before the table sends them.
    pub(super) fn pace(&self, service: ServiceId, serving: ServiceId) -> Option<Pace> {
        let at_home = serving == service;
        let counts = match self.phase {
            Phase::Home => !at_home || self.moves,
            Phase::Away => !at_home && self.moves,
            Phase::Returning(_) => at_home && self.moves,
        };
        counts.then_some(self.pace)
    }

    fn twin(&self, service: ServiceId) -> ServiceId {
        self.twins[service.index()]
    }
}

#[cfg(test)]
mod tests;
