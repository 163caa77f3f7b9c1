//! [`Legacy`]: what one decider leaves to the next, when a configuration is read anew or another
//! process takes over.
//!
//! ```text
//! Decider ─► Legacy ─► renumber(where everything is found now, what is asked of it now) ─► Decider
//! ```
//!
//! A verdict with its counts, an operator's decision, a pair's machine with its clocks, and what is
//! known of the network go on as they were. Whoever is asked something else from now on keeps its
//! verdict until the answers call for another, and is asked at once. Inquiries that are open begin
//! anew, from the same silences.

use super::Condition;
use super::isolation::{Isolated, Silence};
use super::operators::Decision;
use super::pair::PairMachine;
use super::record::Phase;
use super::words::Pause;
use crate::health::machine::Machine;
use crate::health::{Reason, Verdict};
use crate::time::Time;
use crate::topology::{MemberId, PairId, PoolId, ServiceId, Side, Succession, TargetId, Topology};

/// Everything that a decider knows and that its topology does not say, in that topology's ids.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Legacy {
    pub(super) targets: Vec<TargetLegacy>,
    pub(super) members: Vec<MemberLegacy>,
    pub(super) pools: Vec<(PoolId, Condition, Time)>,
    pub(super) services: Vec<ServiceLegacy>,
    pub(super) pairs: Vec<(PairId, PairMachine, Option<String>)>,
    pub(super) pause: Option<Pause>,
    /// Start of the latest probe that anybody answered.
    pub(super) answered: Time,
    pub(super) isolated: Option<Isolated>,
    /// When the last isolation ended.
    pub(super) isolation_ended: Option<Time>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct TargetLegacy {
    pub(super) target: TargetId,
    pub(super) machine: Machine,
    pub(super) silence: Option<Silence>,
    /// The effective verdict.
    pub(super) verdict: Verdict,
    pub(super) reason: Reason,
    pub(super) since: Time,
    pub(super) returned: Option<Time>,
    /// Whether the probe that is out, if one is, still comes back.
    pub(super) comes_back: bool,
    /// Whether it was another question that was asked until now.
    pub(super) asked_anew: bool,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct MemberLegacy {
    pub(super) member: MemberId,
    /// Start of the latest probe that it answered.
    pub(super) answered: Time,
    pub(super) decision: Option<Decision>,
    /// Whether no local route leads to it.
    pub(super) unrouted: bool,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct ServiceLegacy {
    pub(super) service: ServiceId,
    /// Without a usable member.
    pub(super) lost: bool,
    /// The chosen member, where `first` chooses.
    pub(super) first: Option<MemberId>,
}

/// How what is asked of a target from now on compares with what was asked of it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The same is asked at the same place; a probe that is out still counts.
    Same,
    /// Something else is asked, or somewhere else; a probe that is out is forgotten.
    Other,
}

impl Legacy {
    /// The same in the ids of the next topology, without what is no longer in it.
    #[must_use]
    pub fn renumber(
        self,
        succession: &Succession,
        question: impl Fn(TargetId, TargetId) -> Question,
    ) -> Legacy {
        let targets = self.targets.into_iter().filter_map(|legacy| {
            let target = succession.target(legacy.target)?;
            let other = question(legacy.target, target) == Question::Other;
            let reason = match legacy.reason {
                Reason::Requires(service) => Reason::Requires(succession.service(service)?),
                reason => reason,
            };
            Some(TargetLegacy {
                target,
                reason,
                comes_back: legacy.comes_back && !other,
                asked_anew: legacy.asked_anew || other,
                ..legacy
            })
        });
        let members = self.members.into_iter().filter_map(|legacy| {
            let member = succession.member(legacy.member)?;
            Some(MemberLegacy { member, ..legacy })
        });
        let pools = self
            .pools
            .into_iter()
            .filter_map(|(pool, condition, since)| {
                Some((succession.pool(pool)?, condition, since))
            });
        let services = self.services.into_iter().filter_map(|legacy| {
            Some(ServiceLegacy {
                service: succession.service(legacy.service)?,
                lost: legacy.lost,
                first: legacy.first.and_then(|first| succession.member(first)),
            })
        });
        let pairs = self
            .pairs
            .into_iter()
            .filter_map(|(pair, machine, unwritten)| {
                Some((succession.pair(pair)?, machine, unwritten))
            });
        let isolated = self.isolated.and_then(|mut isolated| {
            let before = std::mem::take(&mut isolated.behind);
            let behind = before.iter().filter_map(|m| succession.member(*m));
            isolated.behind = behind.collect();
            // Where all whose path vanished are gone, nobody's answer would end it.
            (before.is_empty() || !isolated.behind.is_empty()).then_some(isolated)
        });
        Legacy {
            targets: targets.collect(),
            members: members.collect(),
            pools: pools.collect(),
            services: services.collect(),
            pairs: pairs.collect(),
            isolated,
            ..self
        }
    }

    /// The same where no probe that is out comes back: they were another process's.
    #[must_use]
    pub fn without_probes(mut self) -> Legacy {
        for target in &mut self.targets {
            target.comes_back = false;
        }
        self
    }

    /// Pools of `topology`, whose ids these are, whose users are sent to the twin, all or some.
    pub fn away(&self, topology: &Topology) -> impl Iterator<Item = PoolId> {
        let known = self.pairs.iter().filter_map(|(id, machine, _)| {
            let pair = topology.pairs.get(id.index())?;
            Some((pair, machine.record()))
        });
        known.flat_map(|(pair, record)| {
            let is_away = |side: &Side| record.phase(*side) != Phase::Home;
            let away = Side::BOTH.into_iter().filter(is_away);
            away.map(|side| pair.pool(side)).collect::<Vec<_>>()
        })
    }

    /// Pairs whose record is being written. What comes of that is not known here: wait for it.
    pub fn writing(&self) -> impl Iterator<Item = PairId> + '_ {
        let pairs = self.pairs.iter();
        pairs.filter_map(|(pair, machine, _)| machine.wanted().map(|_| *pair))
    }
}
