//! Isolation: whether the fault is our own.
//!
//! When our own uplink dies every member falls silent, one probe after the other, and the first of
//! them would be declared down before the others were asked. So silence alone never condemns where
//! there is another pool to compare with: it needs a *witness*, anyone who answers while the
//! accused does not. Only silence is doubted; a refusal, or any other answer, came through the
//! network.
//!
//! # When a silent target may be condemned
//!
//! ```text
//! accused   ├─silent─┤        ├─silent─┤          turn
//! witness               ├ok┤               ├ok┤
//!           run begins   (1)   last probe   (2)
//! ```
//!
//! 1. Somebody answered a probe that started after the accused fell silent, and the accused was
//!    asked once more after that answer and stayed silent: one outage, however long and wherever it
//!    ends, cannot explain both.
//! 2. Somebody answered a probe that started after the accused's last one: the network works now.
//!
//! In a living fleet both come by themselves. Where they do not, a few others are asked before the
//! accused is asked again. A hang is doubted like silence, from the moment it came back: the answer
//! may have been lost at any moment until then. What clients say begins a run, because a witness
//! asked after the client was asked after the silence began, but condemns nobody by itself.
//!
//! # When the instance is isolated
//!
//! If (2) is missing, an *inquiry* asks up to [`WITNESSES`] members that were last heard to answer,
//! spread over all pools. If one of them answers, the network works. If none does, and most members
//! of at least two pools are silent that were not given up before (or all witnesses were asked in
//! vain, which is as good for pools too large to ask everyone), then the instance is isolated until
//! somebody answers. If the silence does not reach so far, the members are to blame after all.
//!
//! Where pools have twins, a twin's must be among the silent ones: a site that dies takes several
//! pools with it, our own fault takes both of a pair. Twins of silent pools are asked first. A twin
//! that was given up before says nothing either way: its pool counts as one without.
//!
//! The other cause is a local link or route that vanished from under members that had answered:
//! isolated at once, until one of those members answers, or an operator takes them all into
//! maintenance.
//!
//! What was asked before an isolation ended, and came back silent after it, proves nothing.
//!
//! Nothing here asks, decides a verdict or ends anything; the decider does, with what is learnt
//! here.

mod inquiry;

use std::collections::BTreeSet;
use std::time::Duration;

use super::places::Places;
use super::words::IsolationCause;
use crate::health::{Answer, Failure};
use crate::time::Time;
use crate::topology::{MemberId, PoolId, Topology};
use inquiry::Inquiry;
pub(super) use inquiry::Judgement;

/// Witnesses that one inquiry asks at most: enough to have two or three in each of several pools,
/// few enough to be asked at one moment.
pub const WITNESSES: usize = 16;

/// Others that are asked when a target falls silent and nobody has been heard since: one answer is
/// enough, and not all of these will be dead too.
pub const CALLED: usize = 3;

/// How long a silent target waits for those to answer before it is asked again: a round trip
/// between sites.
pub const LEAD: Duration = Duration::from_millis(20);

/// From one call of others to the next at the least, however many targets fall silent.
pub const CALL_PAUSE: Duration = Duration::from_millis(50);

/// An inquiry ends so long after twice the longest check timeout: those who were out when it began
/// come back, are asked, and come back again.
pub const INQUIRY_MARGIN: Duration = Duration::from_millis(250);

/// What a client's connect says may have waited for so long on its way here.
pub const EVIDENCE_LAG: Duration = Duration::from_millis(100);

/// What a probe tells about the network, whatever it tells about its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Somebody answered, well or badly.
    Answer,
    /// A connection stood, then nothing came: the network worked when the probe started, but may
    /// have failed before the answer. So it proves as much as an answer does, and condemns no more
    /// than silence.
    Hang,
    /// Nothing at all.
    Silence,
    /// The fault was our own.
    Nothing,
}

/// What is known about the network between this instance and its members.
#[derive(Debug)]
pub(super) struct Isolation {
    /// Silence condemns at once where there is no other pool to compare with.
    doubts: bool,
    /// By target: its run of silence.
    silences: Vec<Option<Silence>>,
    /// By member.
    hearings: Vec<Hearing>,
    /// Start of the latest probe that anybody answered.
    answered: Time,
    inquiry: Option<Inquiry>,
    isolated: Option<Isolated>,
    /// When the last isolation ended.
    ended: Option<Time>,
    unrouted: BTreeSet<MemberId>,
    /// A run of silence older than that has been decided.
    window: Duration,
    /// How long an inquiry may take.
    patience: Duration,
    /// How long a client's connect may take.
    connecting: Duration,
    /// Where the next call for witnesses begins, so that they take turns.
    turn: usize,
    next_call: Time,
    members: Vec<MemberId>,
    /// By pool: the place of its twin.
    twins: Vec<Option<usize>>,
    places: Places,
}

/// A target that does not answer.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Silence {
    /// Whoever was asked after this moment and answered is a witness.
    since: Time,
    /// When the last probe of the run met it: when it started, or came back from a hang. None
    /// while only clients have.
    last: Option<Time>,
    /// Whether a witness had answered when that probe started.
    vouched: bool,
    /// The same for the probe that is out.
    vouched_out: bool,
}

/// What was last heard of a member, by the start of the probes that it answered or did not.
#[derive(Clone, Copy, Debug, Default)]
struct Hearing {
    answered: Time,
    silent: Time,
    silent_from: Time,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Isolated {
    cause: IsolationCause,
    since: Time,
    /// An answer to a probe that started later ends it.
    after: Time,
    /// Only an answer of one of these ends it; of anybody when empty.
    pub(super) behind: BTreeSet<MemberId>,
}

impl Isolation {
    pub(super) fn new(topology: &Topology, places: &Places) -> Isolation {
        let checks = || {
            let services = topology.pools.iter().flat_map(|pool| &pool.services);
            services.map(|service| &service.check)
        };
        let timeout = checks().map(|check| check.timeout).max();
        let patience = timeout.unwrap_or_default() * 2 + INQUIRY_MARGIN;
        let detection = checks().map(|check| {
            let between = check.in_doubt.mul_f64(1.0 + check.jitter);
            check.interval.mul_f64(1.0 + check.jitter)
                + check.timeout.max(between) * check.fall.get()
        });
        let members = topology.pools.iter().flat_map(|pool| &pool.members);
        let services = topology.pools.iter().flat_map(|pool| &pool.services);
        let connecting = services.map(|service| service.connect.budget);
        let pools = topology.pools.iter();
        let twins = pools.map(|pool| topology.twin(pool.id).map(PoolId::index));
        Isolation {
            doubts: topology
                .pools
                .iter()
                .filter(|p| !p.members.is_empty())
                .count()
                > 1,
            silences: vec![None; places.targets()],
            hearings: vec![Hearing::default(); places.members()],
            answered: Time::ZERO,
            inquiry: None,
            isolated: None,
            ended: None,
            unrouted: BTreeSet::new(),
            window: detection.max().unwrap_or_default() + patience,
            patience,
            connecting: connecting.max().unwrap_or_default(),
            turn: 0,
            next_call: Time::ZERO,
            members: members.map(|member| member.id).collect(),
            twins: twins.collect(),
            places: places.clone(),
        }
    }

    /// Why the instance is isolated, and since when, while it is.
    pub(super) fn cause(&self) -> Option<(IsolationCause, Time)> {
        self.isolated.as_ref().map(|now| (now.cause, now.since))
    }

    /// How long an inquiry may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    // What another one knew.

    /// When a member was last heard to answer, by the start of the probe, and whether no local route
    /// leads to it.
    pub(super) fn remember(&mut self, member: MemberId, answered: Time, unrouted: bool) {
        self.hearings[self.places.member(member)].answered = answered;
        if unrouted {
            self.unrouted.insert(member);
        }
    }

    /// A target has been silent already.
    pub(super) fn go_on(&mut self, place: usize, silence: Option<Silence>) {
        self.silences[place] = silence;
    }

    /// When anybody was last heard, and whether that was, or ended, an isolation.
    pub(super) fn resume(
        &mut self,
        answered: Time,
        isolated: Option<Isolated>,
        ended: Option<Time>,
    ) {
        (self.answered, self.isolated, self.ended) = (answered, isolated, ended);
    }

    pub(super) fn silence(&self, place: usize) -> Option<Silence> {
        self.silences[place]
    }

    pub(super) fn answered(&self, member: MemberId) -> Time {
        self.hearings[self.places.member(member)].answered
    }

    pub(super) fn last_answer(&self) -> Time {
        self.answered
    }

    pub(super) fn is_unrouted(&self, member: MemberId) -> bool {
        self.unrouted.contains(&member)
    }

    pub(super) fn isolated(&self) -> Option<&Isolated> {
        self.isolated.as_ref()
    }

    pub(super) fn ended(&self) -> Option<Time> {
        self.ended
    }

    // What comes in.

    /// A probe goes out.
    pub(super) fn handle_ask(&mut self, place: usize) {
        let answered = self.answered;
        if let Some(silence) = &mut self.silences[place] {
            silence.vouched_out = answered > silence.since;
        }
    }

    /// A probe that started at `started` came back.
    pub(super) fn handle_probe(
        &mut self,
        place: usize,
        member: MemberId,
        heard: Heard,
        started: Time,
        now: Time,
    ) {
        if let Some(inquiry) = &mut self.inquiry
            && inquiry.out.remove(&place)
            && heard == Heard::Silence
        {
            inquiry.silent[member.pool.index()] += 1;
        }
        match heard {
            Heard::Answer => {
                self.silences[place] = None;
                self.handle_sign(member, started);
            }
            Heard::Hang => {
                // The answer may have been lost at any moment until now.
                self.prolong(place, now);
                self.handle_sign(member, started);
            }
            Heard::Silence => {
                self.prolong(place, started);
                let hearing = &mut self.hearings[self.places.member(member)];
                if hearing.silent <= hearing.answered {
                    hearing.silent_from = started;
                }
                hearing.silent = hearing.silent.max(started);
            }
            Heard::Nothing => {}
        }
    }

    /// A member gave a sign of life, asked for at `started`.
    pub(super) fn handle_sign(&mut self, member: MemberId, started: Time) {
        let hearing = &mut self.hearings[self.places.member(member)];
        hearing.answered = hearing.answered.max(started);
        self.answered = self.answered.max(started);
    }

    /// A client has met silence until `now`, and was owed an answer from `since` on. True when a run
    /// of it begins with that: from then on, unless the member answered somebody who asked later.
    pub(super) fn handle_evidence(&mut self, place: usize, since: Time, now: Time) -> bool {
        let begins = self.silences[place].is_none();
        if begins {
            let member = self.places.target_at(place).member();
            let answered = self.hearings[self.places.member(member)].answered;
            let since = if answered < since { since } else { now };
            // Whoever is asked at this moment is asked later.
            let before = Time::from_nanos(since.as_nanos().saturating_sub(1));
            self.silences[place] = Some(Silence::new(before));
        }
        begins
    }

    /// These members, and no others, have no path from here. Gives back those among them that had
    /// one, and those that have one again.
    pub(super) fn handle_paths(
        &mut self,
        unrouted: BTreeSet<MemberId>,
    ) -> (Vec<MemberId>, Vec<MemberId>) {
        let lost = unrouted.difference(&self.unrouted).copied().collect();
        let back = self.unrouted.difference(&unrouted).copied().collect();
        self.unrouted = unrouted;
        (lost, back)
    }

    // What is made of it.

    /// Whether this target's silence is its own fault, as far as can be known.
    pub(super) fn condemns(&self, place: usize) -> bool {
        let Some(silence) = &self.silences[place] else {
            return true;
        };
        !self.doubts
            || silence
                .last
                .is_some_and(|last| silence.vouched && self.answered > last)
    }

    /// Whether it has to be asked once more, or others have to be first.
    pub(super) fn lacks_witness_now(&self, place: usize) -> bool {
        self.silences[place]
            .and_then(|silence| silence.last)
            .is_some_and(|last| self.answered <= last)
    }

    /// Whether this target is silent and nobody has been heard since it fell silent.
    pub(super) fn is_doubtful(&self, place: usize) -> bool {
        self.doubts && self.silences[place].is_some_and(|silence| self.answered <= silence.since)
    }

    /// Whether this target is silent.
    pub(super) fn is_silent(&self, place: usize) -> bool {
        self.silences[place].is_some()
    }

    /// Whether a member has ever answered.
    pub(super) fn has_answered(&self, member: MemberId) -> bool {
        self.hearings[self.places.member(member)].answered > Time::ZERO
    }

    /// Holds from now on. `behind` are the members whose path vanished.
    pub(super) fn begin(&mut self, cause: IsolationCause, behind: BTreeSet<MemberId>, now: Time) {
        let since = self
            .isolated
            .as_ref()
            .map_or(now, |isolated| isolated.since);
        self.isolated = Some(Isolated {
            cause,
            since,
            after: match cause {
                IsolationCause::ManySilent { .. } => {
                    let silences = self.silences.iter().flatten();
                    let last = silences.filter_map(|silence| silence.last).max();
                    last.unwrap_or(now)
                }
                IsolationCause::PathVanished => now,
            },
            behind,
        });
        self.inquiry = None;
    }

    /// Members whose path vanished, while that is why the instance is isolated.
    pub(super) fn behind(&self) -> Option<&BTreeSet<MemberId>> {
        let isolated = self.isolated.as_ref()?;
        (isolated.cause == IsolationCause::PathVanished).then_some(&isolated.behind)
    }

    /// Leaves a member out of those whose answer is awaited. True when nobody is left.
    pub(super) fn leave_out(&mut self, member: MemberId) -> bool {
        let Some(isolated) = &mut self.isolated else {
            return false;
        };
        isolated.behind.remove(&member) && isolated.behind.is_empty()
    }

    /// Whether an answer of this member, asked for at `started`, ends the isolation.
    pub(super) fn is_ended_by(&self, member: MemberId, started: Time) -> bool {
        self.isolated.as_ref().is_some_and(|isolated| {
            started > isolated.after
                && (isolated.behind.is_empty() || isolated.behind.contains(&member))
        })
    }

    /// Holds no longer, and forgets every silence.
    pub(super) fn end(&mut self, now: Time) {
        self.isolated = None;
        self.ended = Some(now);
        self.inquiry = None;
        self.silences.fill(None);
    }

    /// Whether a probe that started at `started` started while this instance was isolated, or
    /// before, and has come back after that: then its silence means nothing.
    pub(super) fn outlasts(&self, started: Time) -> bool {
        self.isolated.is_none() && self.ended.is_some_and(|ended| started <= ended)
    }

    /// Whether what a client says at `now` may be about a connect that it began while this instance
    /// was isolated.
    pub(super) fn outlasts_evidence(&self, now: Time) -> bool {
        self.isolated.is_none()
            && self
                .ended
                .is_some_and(|ended| now < ended + self.connecting)
    }

    /// A silent target was not given up, however long ago it fell silent: until it is heard, its
    /// member is among those that another outage would hide.
    pub(super) fn doubt_anew(&mut self, place: usize, now: Time) {
        let member = self.places.target_at(place).member();
        self.hearings[self.places.member(member)].silent_from = now;
    }

    /// Forgets a target's silence, because it has been decided.
    pub(super) fn settle(&mut self, place: usize) {
        self.silences[place] = None;
    }

    fn prolong(&mut self, place: usize, last: Time) {
        let silence = self.silences[place].get_or_insert(Silence::new(last));
        silence.last = Some(last);
        silence.vouched = silence.vouched_out;
    }
}

impl From<Answer> for Heard {
    fn from(answer: Answer) -> Heard {
        match answer {
            Answer::Bad(Failure::NoAnswer) => Heard::Hang,
            Answer::Bad(failure) if failure.is_silence() => Heard::Silence,
            Answer::Good | Answer::Bad(_) => Heard::Answer,
            Answer::OwnFault(_) => Heard::Nothing,
        }
    }
}

impl Silence {
    fn new(since: Time) -> Silence {
        Silence {
            since,
            last: None,
            vouched: false,
            vouched_out: false,
        }
    }
}

#[cfg(test)]
mod tests;
