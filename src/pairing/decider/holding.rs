//! The decider where it doubts itself: what it does with what [`Isolation`] learns.
//!
//! [`Isolation`]: crate::pairing::isolation

use std::collections::BTreeSet;

use super::{Decider, Item};
use crate::health::readiness::Mode;
use crate::health::{Failure, Verdict};
use crate::pairing::isolation::{Judgement, LEAD};
use crate::pairing::words::{Event, IsolationCause};
use crate::time::Time;
use crate::topology::MemberId;

impl Decider {
    /// A client's connect failed; its member owed an answer from `since` on, if that is how.
    pub(super) fn handle_failed_connect(
        &mut self,
        place: usize,
        failure: Failure,
        since: Time,
        now: Time,
    ) {
        if self.machines[place].verdict().0 == Verdict::Down {
            return;
        }
        if failure.is_silence() && self.isolation.outlasts_evidence(now) {
            self.machines[place].pull(now);
            self.schedule(place);
            return;
        }
        self.machines[place].handle_evidence(failure, now);
        let begins = failure.is_silence() && self.isolation.handle_evidence(place, since, now);
        self.weigh(place, now);
        if begins {
            self.call_witnesses(place, now);
        } else if let Some(&until) = self.waiting.get(&place) {
            self.machines[place].defer(until);
        }
        self.schedule(place);
    }

    /// A member gave a sign of life: the network works, as of `asked`.
    pub(super) fn handle_sign(&mut self, member: MemberId, asked: Time, now: Time) {
        if self.isolation.is_ended_by(member, asked) {
            self.end_isolation(now);
        }
        if self.isolation.inquires() {
            self.close_inquiry();
        }
        for place in std::mem::take(&mut self.waiting).into_keys() {
            self.machines[place].pull(now);
            self.schedule(place);
        }
        for place in self.held.clone() {
            self.weigh(place, now);
        }
    }

    /// A target fell silent. Where nobody has been heard since, a few others are asked first.
    pub(super) fn call_witnesses(&mut self, place: usize, now: Time) {
        let down = self.machines[place].verdict().0 == Verdict::Down;
        if down || !self.isolation.is_doubtful(place) || self.isolation.cause().is_some() {
            return;
        }
        for other in self.isolation.call(&self.machines, now) {
            if other != place {
                self.machines[other].pull(now);
                self.schedule(other);
            }
        }
        let until = now + LEAD;
        self.machines[place].defer(until);
        self.waiting.insert(place, until);
    }

    /// Whether an answer of this target now shows that its silence was not its own: it was held, or
    /// nobody else was heard either.
    pub(super) fn is_refuted(&self, place: usize) -> bool {
        let doubted = self.isolation.is_doubtful(place)
            || self.isolation.cause().is_some()
            || self.machines[place].due().is_some();
        doubted && self.isolation.is_silent(place)
    }

    /// Begins an inquiry where one is needed, or takes it one step further.
    pub(super) fn advance_inquiry(&mut self, now: Time, late: bool) {
        if self.isolation.cause().is_some() {
            return;
        }
        let held = &self.held;
        let wanted = held
            .iter()
            .any(|&place| self.isolation.lacks_witness_now(place));
        if !wanted {
            self.close_inquiry();
            return;
        }
        if !self.isolation.inquires() {
            let until = now + self.isolation.patience();
            self.agenda.set(Item::Inquiry, Some(until));
        }
        let pools = self.topology.pools.len();
        let ask = self.isolation.inquire(&self.machines, now, pools);
        for place in ask {
            self.machines[place].pull(now);
            self.schedule(place);
        }
        let again = late && self.isolation.is_late_again();
        if late && !again {
            let until = now + self.isolation.patience();
            self.agenda.set(Item::Inquiry, Some(until));
        }
        let judgement = self.isolation.judge(&self.machines, now, again);
        match judgement {
            Judgement::Open => {}
            Judgement::Ours(cause) => self.begin_isolation(cause, BTreeSet::new(), now),
            Judgement::Theirs => {
                self.close_inquiry();
                for place in self.held.clone() {
                    // A fault of our own since then leaves it open.
                    let clear = self.machines[place].own_fault().is_none();
                    if clear && self.isolation.lacks_witness_now(place) {
                        self.turn(place, now);
                    }
                }
            }
        }
    }

    /// Local links or routes to these members are gone. That is news where they had answered, have
    /// not been given up, and are not in maintenance.
    pub(super) fn paths_vanished(&mut self, mut behind: BTreeSet<MemberId>, now: Time) {
        behind.retain(|&member| {
            self.isolation.has_answered(member)
                && self.operators.mode(member) != Mode::Maintenance
                && self.lives(member)
        });
        if behind.is_empty() {
            return;
        }
        if let Some(already) = self.isolation.behind() {
            behind.extend(already);
        }
        self.begin_isolation(IsolationCause::PathVanished, behind, now);
    }

    fn begin_isolation(&mut self, cause: IsolationCause, behind: BTreeSet<MemberId>, now: Time) {
        let before = self.isolation.cause().map(|(cause, _)| cause);
        self.isolation.begin(cause, behind, now);
        self.agenda.set(Item::Inquiry, None);
        if before != Some(cause) {
            self.tell(Event::Isolation { cause: Some(cause) });
        }
        self.refresh_isolated(now);
    }

    /// Starts afresh: failures that silence left behind are forgotten, those in doubt are asked
    /// soon, what is due otherwise happens now.
    pub(super) fn end_isolation(&mut self, now: Time) {
        self.forget_silence(now);
        self.tell(Event::Isolation { cause: None });
        self.refresh_isolated(now);
        for place in 0..self.machines.len() {
            self.weigh(place, now);
            self.schedule(place);
        }
        self.meet_overdue(now);
    }

    /// Silence until now proves nothing, and neither does what was asked before and comes back
    /// silent.
    pub(super) fn forget_silence(&mut self, now: Time) {
        for place in 0..self.machines.len() {
            let silent = self.isolation.is_silent(place);
            if silent && self.machines[place].verdict().0 != Verdict::Down {
                self.machines[place].forgive();
                self.isolation.doubt_anew(place, now);
                self.pull_spread(place, now);
            }
        }
        self.close_inquiry();
        self.isolation.end(now);
        self.held.clear();
        self.waiting.clear();
    }

    /// Asks a target soon, but not all at one moment.
    pub(super) fn pull_spread(&mut self, place: usize, now: Time) {
        let spread = self.machines[place].rules().in_doubt;
        let at = now + spread.mul_f64(self.dice.share());
        self.machines[place].pull(at);
        self.schedule(place);
    }

    /// Whether any service of a member is not down.
    fn lives(&self, member: MemberId) -> bool {
        let down = |place: usize| self.machines[place].verdict().0 == Verdict::Down;
        !self.places.targets_of(member).all(down)
    }

    fn close_inquiry(&mut self) {
        self.isolation.close_inquiry();
        self.agenda.set(Item::Inquiry, None);
    }
}
