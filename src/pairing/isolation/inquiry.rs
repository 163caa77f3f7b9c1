//! Inquiries: who is asked to bear witness, and what it means when nobody does.

use std::collections::BTreeSet;

use super::{CALL_PAUSE, CALLED, Isolation, WITNESSES};
use crate::health::Verdict;
use crate::health::machine::Machine;
use crate::pairing::words::IsolationCause;
use crate::time::Time;
use crate::topology::MemberId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It answered when it was last asked, or was never asked.
    Heard,
    /// It fell silent, and that has not led to anything yet.
    Silent,
    /// It has been silent for long.
    Gone,
}

/// Witnesses that were asked, and what came of it.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// Witnesses whose answers are awaited.
    pub(super) out: BTreeSet<usize>,
    /// Witnesses that did not answer, by pool.
    pub(super) silent: Vec<u16>,
    /// It has taken as long as it may, once.
    late: bool,
}

/// What an inquiry came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pairing) enum Judgement {
    /// Not everyone asked has come back.
    Open,
    /// The members are to blame.
    Theirs,
    /// We are.
    Ours(IsolationCause),
}

impl Isolation {
    /// A few others to ask, because a target fell silent; none when some have been asked just now.
    pub(in crate::pairing) fn call(&mut self, machines: &[Machine], now: Time) -> Vec<usize> {
        if now < self.next_call {
            return Vec::new();
        }
        self.next_call = now + CALL_PAUSE;
        let mut called = self.witnesses(machines, now, CALLED);
        called.retain(|&place| machines[place].out_since().is_none());
        called
    }

    /// Whether an inquiry is under way.
    pub(in crate::pairing) fn inquires(&self) -> bool {
        self.inquiry.is_some()
    }

    /// Begins an inquiry, or goes on with one whose witnesses all came back, while there is anyone
    /// left to ask. Gives back whom to ask now.
    pub(in crate::pairing) fn inquire(
        &mut self,
        machines: &[Machine],
        now: Time,
        pools: usize,
    ) -> Vec<usize> {
        let inquiry = self.inquiry.take().unwrap_or_else(|| Inquiry {
            out: BTreeSet::new(),
            silent: vec![0; pools],
            late: false,
        });
        let asked: usize = inquiry.silent.iter().map(|&n| usize::from(n)).sum();
        let room = WITNESSES.saturating_sub(asked + inquiry.out.len());
        let mut inquiry = inquiry;
        let mut ask = self.witnesses(machines, now, room);
        ask.retain(|&place| inquiry.out.insert(place));
        ask.retain(|&place| machines[place].out_since().is_none());
        self.inquiry = Some(inquiry);
        ask
    }

    /// Ends an inquiry: somebody answered, or it has been judged.
    pub(in crate::pairing) fn close_inquiry(&mut self) {
        self.inquiry = None;
    }

    /// Whether an inquiry that has taken as long as it may has done so before. Who was asked comes
    /// back in that time, unless we were not running: then the answers are here, yet to be heard.
    pub(in crate::pairing) fn is_late_again(&mut self) -> bool {
        let inquiry = self.inquiry.as_mut();
        inquiry.is_some_and(|inquiry| std::mem::replace(&mut inquiry.late, true))
    }

    /// What the inquiry has come to; `late` when it has taken as long as it may.
    pub(in crate::pairing) fn judge(
        &self,
        machines: &[Machine],
        now: Time,
        late: bool,
    ) -> Judgement {
        let Some(inquiry) = &self.inquiry else {
            return Judgement::Theirs;
        };
        if !inquiry.out.is_empty() && !late {
            return Judgement::Open;
        }
        let pools = inquiry.silent.len();
        let mut silent = vec![0u16; pools];
        let mut alive = vec![0u16; pools];
        for &member in &self.members {
            match self.standing(member, machines, now) {
                Standing::Heard => alive[member.pool.index()] += 1,
                Standing::Silent => {
                    alive[member.pool.index()] += 1;
                    silent[member.pool.index()] += 1;
                }
                Standing::Gone => {}
            }
        }
        let asked: usize = inquiry.silent.iter().map(|&n| usize::from(n)).sum();
        let in_vain = asked >= WITNESSES;
        let fell = |pool: &usize| {
            let most = silent[*pool] > alive[*pool] / 2;
            most || (in_vain && silent[*pool] > 0)
        };
        let fallen: Vec<usize> = (0..pools).filter(fell).collect();
        // A twin that was given up before cannot fall any more.
        let twin = |&pool: &usize| self.twins[pool].filter(|&twin| alive[twin] > 0);
        let mut twins = fallen.iter().filter_map(twin).peekable();
        let among = twins.peek().is_none() || twins.any(|twin| fallen.contains(&twin));
        if fallen.len() < 2 || !among {
            return Judgement::Theirs;
        }
        Judgement::Ours(IsolationCause::ManySilent {
            pools: fallen.len() as u16,
            members: fallen.iter().map(|&pool| silent[pool]).sum(),
        })
    }

    /// One target each of up to `most` members that were heard when last asked, drawn from all
    /// pools in turn, beginning where the last draw ended, but the twins of silent pools first.
    fn witnesses(&mut self, machines: &[Machine], now: Time, most: usize) -> Vec<usize> {
        let mut by_pool: Vec<Vec<MemberId>> = Vec::new();
        let mut sought = BTreeSet::new();
        for &member in &self.members {
            match self.standing(member, machines, now) {
                Standing::Heard => match by_pool.last_mut() {
                    Some(same) if same[0].pool == member.pool => same.push(member),
                    _ => by_pool.push(vec![member]),
                },
                Standing::Silent => sought.extend(self.twins[member.pool.index()]),
                Standing::Gone => {}
            }
        }
        self.turn = self.turn.wrapping_add(1);
        if !by_pool.is_empty() {
            let turn = self.turn % by_pool.len();
            by_pool.rotate_left(turn);
        }
        by_pool.sort_by_key(|members| !sought.contains(&members[0].pool.index()));
        let rounds = by_pool.iter().map(Vec::len).max().unwrap_or(0);
        let mut chosen = Vec::new();
        for round in 0..rounds {
            for members in &by_pool {
                if round < members.len() && chosen.len() < most {
                    let member = members[(round + self.turn) % members.len()];
                    chosen.extend(self.best_target(member, machines));
                }
            }
        }
        chosen
    }

    /// Where a member is most likely to answer.
    fn best_target(&self, id: MemberId, machines: &[Machine]) -> Option<usize> {
        self.places.targets_of(id).min_by_key(|&place| {
            let machine = &machines[place];
            let down = machine.verdict().0 == Verdict::Down;
            (self.is_silent(place), down, machine.out_since().is_some())
        })
    }

    fn standing(&self, id: MemberId, machines: &[Machine], now: Time) -> Standing {
        let hearing = &self.hearings[self.places.member(id)];
        if hearing.silent <= hearing.answered {
            return Standing::Heard;
        }
        let undecided =
            |place: usize| self.is_silent(place) && machines[place].verdict().0 != Verdict::Down;
        let recent = now.since(hearing.silent_from) < self.window;
        let never_decided = self.places.targets_of(id).any(undecided);
        if recent || never_decided {
            Standing::Silent
        } else {
            Standing::Gone
        }
    }
}
