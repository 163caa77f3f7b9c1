//! What happened lately: transitions, in words, in a bounded ring.
//!
//! One sentence is made of each transition, here and nowhere else; the log, `/v1/events` and the
//! status page all tell that sentence. The ring keeps storms whole; the log collapses them (see
//! [`crate::log`]). The daemon writes each to disk too, and begins with what is found there, so that
//! numbers go on rising over a restart.

mod query;
mod redirects;

pub use query::{MOST_TOLD, Query, is_of_pair, is_told};
pub use redirects::redirect_cause_text;

use std::collections::VecDeque;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use self::redirects::Decision;
use super::names::{self, Named};
use super::stamp::{Stamp, span};
use super::status::cause_text;
use crate::health::readiness::{Mode, OperatorState};
use crate::health::{Reason, Verdict};
use crate::log::EVENTS;
use crate::pairing;
use crate::time::Time;
use crate::topology::{PoolId, TargetId, Topology};

/// How many events are kept in memory: weeks of a quiet instance, minutes of the worst storm, in
/// some MiB: most are a line long.
pub const KEPT: usize = 8_192;
/// The longest sentence, in characters: errors and reasons that others wrote are in it.
const LONGEST_TEXT: usize = 2_000;

/// The largest number an event may have: every reader of JSON gets it right.
const LARGEST_SEQ: u64 = 1 << 53;

/// A sentence that is no longer than it may be, and tells where it was cut.
fn cut(text: String) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        None => text,
        Some(_) => text.chars().take(LONGEST_TEXT - 1).chain(['…']).collect(),
    }
}

/// One transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one with every event, from 1; over restarts too where there is a state directory.
    pub seq: u64,
    /// When.
    pub at: Stamp,
    /// What changed.
    pub kind: Kind,
    /// The pool, where there is one.
    pub pool: Option<String>,
    /// The member, where there is one.
    pub member: Option<String>,
    /// The service, where there is one.
    pub service: Option<String>,
    /// The pair, where it is about one.
    pub pair: Option<String>,
    /// The site, where it is about a whole one.
    pub site: Option<String>,
    /// The whole of it in a sentence.
    pub text: String,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A member's verdict for a service.
    Verdict,
    /// A pool's condition.
    Condition,
    /// A service lost its last usable member, or got one again.
    Service,
    /// An operator's decision.
    Operator,
    /// A drained member's sessions met their deadline.
    Deadline,
    /// A service balanced by `first` has another member.
    First,
    /// The instance thinks that the fault is its own, or no longer.
    Isolation,
    /// Where a pool's users are sent.
    Redirect,
    /// Automation ended for a pair, or a person ended the alarm.
    Alarm,
    /// A pair's record could not be written, or can be again.
    Store,
    /// Automation of pairs was paused, or goes on.
    Pause,
    /// Every pool of a site is lost, or no longer.
    Site,
    /// Sessions go to the twin one by one, or no longer.
    Spill,
    /// The instance itself: started, draining, a fault of its own.
    Instance,
    /// What a person ordered over the control socket, and what came of it.
    Command,
    /// The last session of a pool's users that had to move has ended.
    Moved,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 16] = [
        Kind::Verdict,
        Kind::Condition,
        Kind::Service,
        Kind::Operator,
        Kind::Deadline,
        Kind::First,
        Kind::Isolation,
        Kind::Redirect,
        Kind::Alarm,
        Kind::Store,
        Kind::Pause,
        Kind::Site,
        Kind::Spill,
        Kind::Instance,
        Kind::Command,
        Kind::Moved,
    ];

    /// The word for it, as it is written and asked for.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Verdict => "verdict",
            Kind::Condition => "condition",
            Kind::Service => "service",
            Kind::Operator => "operator",
            Kind::Deadline => "deadline",
            Kind::First => "first",
            Kind::Isolation => "isolation",
            Kind::Redirect => "redirect",
            Kind::Alarm => "alarm",
            Kind::Store => "store",
            Kind::Pause => "pause",
            Kind::Site => "site",
            Kind::Spill => "spill",
            Kind::Instance => "instance",
            Kind::Command => "command",
            Kind::Moved => "moved",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Kind, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.word() == word);
        found.ok_or_else(|| {
            let words = Kind::ALL.map(Kind::word);
            let shown: String = word.chars().take(40).collect();
            format!(
                "no kind of event is named {shown:?}; there are: {}",
                words.join(", ")
            )
        })
    }
}

/// What a person ordered over the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commanded {
    /// Who, by the credentials of the connection.
    pub by: String,
    /// What, as it would be typed: `drain fe-seoul/fe1`.
    pub what: String,
    /// The member, pool or site that it names.
    pub about: Option<String>,
    /// Why, in their words.
    pub reason: Option<String>,
    /// What was done, or why not.
    pub outcome: Result<String, String>,
}

impl Commanded {
    /// `alice: drain fe-seoul/fe1 (kernel update): done: …`.
    fn text(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})"));
        let (word, told) = match &self.outcome {
            Ok(told) => ("done", told),
            Err(told) => ("refused", told),
        };
        // An answer of several steps has a line for each.
        let told = told.lines().collect::<Vec<_>>().join("; ");
        let text = format!(
            "{}: {}{}: {word}: {told}",
            self.by,
            self.what,
            reason.unwrap_or_default()
        );
        // What was typed is in it.
        let plain = |c: char| if c.is_control() { '·' } else { c };
        text.chars().map(plain).collect()
    }
}

/// The last [`KEPT`] events.
#[derive(Debug, Default)]
pub struct Events {
    ring: VecDeque<Event>,
    last_seq: u64,
}

impl Events {
    /// An empty ring.
    pub fn new() -> Events {
        Events::default()
    }

    /// Goes on after what happened before, oldest first.
    pub fn after(past: Vec<Event>) -> Events {
        let mut events = Events::new();
        for event in past {
            // Two instances may have written at once, as while one takes over from the other.
            let seq = event.seq.max(events.last_seq.saturating_add(1));
            // No instance gets as far; a damaged number must not be the last one.
            if seq <= LARGEST_SEQ {
                events.last_seq = seq;
                events.push(Event { seq, ..event });
            }
        }
        events
    }

    /// Tells a transition: keeps it, and logs it. `now` is the moment by the deciding clock, `at`
    /// the same by the wall's.
    pub fn tell(
        &mut self,
        topology: &Topology,
        event: &pairing::Event,
        now: Time,
        at: Stamp,
    ) -> &Event {
        let (kind, names) = about(topology, event);
        self.keep(kind, names, sentence(topology, event, now), at)
    }

    /// Tells something of the instance itself.
    pub fn tell_instance(&mut self, text: String, at: Stamp) -> &Event {
        self.keep(Kind::Instance, Names::default(), text, at)
    }

    /// Tells that the last session of a pool's users that stood on `off`'s members has ended.
    pub fn tell_moved(
        &mut self,
        topology: &Topology,
        home: PoolId,
        off: PoolId,
        at: Stamp,
    ) -> &Event {
        let names = Names {
            pool: Some(topology.pool(home).name.clone()),
            pair: topology.pair_of(home).map(|(pair, _)| pair.name.clone()),
            ..Names::default()
        };
        let text = redirects::moved(topology, home, off);
        self.keep(Kind::Moved, names, text, at)
    }

    /// Tells what a person ordered, and what came of it.
    pub fn tell_command(&mut self, topology: &Topology, command: &Commanded, at: Stamp) -> &Event {
        let names = Names::of_command(topology, command.about.as_deref());
        self.keep(Kind::Command, names, command.text(), at)
    }

    /// Those after `seq`, oldest first. A `seq` that was never reached is of another log: then all.
    fn after_seq(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Event> {
        let seq = if seq > self.last_seq { 0 } else { seq };
        let skip = self.ring.partition_point(|event| event.seq <= seq);
        self.ring.range(skip..)
    }

    /// Those after `seq`, oldest first.
    #[cfg(test)]
    pub(crate) fn since(&self, seq: u64) -> Vec<Event> {
        self.after_seq(seq).cloned().collect()
    }

    /// The last `n`, oldest first.
    pub fn last(&self, n: usize) -> Vec<Event> {
        let skip = self.ring.len().saturating_sub(n);
        self.ring.iter().skip(skip).cloned().collect()
    }

    /// The last `n` of those that `is_wanted`, oldest first.
    pub fn last_of(&self, n: usize, is_wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let wanted = self.ring.iter().rev().filter(|event| is_wanted(event));
        let mut last: Vec<Event> = wanted.take(n).cloned().collect();
        last.reverse();
        last
    }

    fn keep(&mut self, kind: Kind, names: Names, text: String, at: Stamp) -> &Event {
        let text = cut(text);
        log(kind, &names, &text);
        self.last_seq += 1;
        self.push(Event {
            seq: self.last_seq,
            at,
            kind,
            pool: names.pool,
            member: names.member,
            service: names.service,
            pair: names.pair,
            site: names.site,
            text,
        });
        &self.ring[self.ring.len() - 1]
    }

    fn push(&mut self, event: Event) {
        if self.ring.len() == KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(event);
    }
}

/// Logs a transition with its names as fields. Each kind has a place of its own in the code, so that
/// a storm of verdicts does not keep a redirect from being told (see [`crate::log`]).
fn log(kind: Kind, names: &Names, text: &str) {
    let Names {
        pool,
        member,
        service,
        pair,
        site,
    } = names;
    let (pool, member, service) = (pool.as_deref(), member.as_deref(), service.as_deref());
    let (pair, site) = (pair.as_deref(), site.as_deref());
    macro_rules! told {
        ($kind:literal) => {
            tracing::info!(
                target: EVENTS, kind = $kind, pool, member, service, pair, site, "{text}"
            )
        };
    }
    match kind {
        Kind::Verdict => told!("verdict"),
        Kind::Condition => told!("condition"),
        Kind::Service => told!("service"),
        Kind::Operator => told!("operator"),
        Kind::Deadline => told!("deadline"),
        Kind::First => told!("first"),
        Kind::Isolation => told!("isolation"),
        Kind::Redirect => told!("redirect"),
        Kind::Alarm => told!("alarm"),
        Kind::Store => told!("store"),
        Kind::Pause => told!("pause"),
        Kind::Site => told!("site"),
        Kind::Spill => told!("spill"),
        Kind::Instance => told!("instance"),
        Kind::Command => told!("command"),
        Kind::Moved => told!("moved"),
    }
}

/// A transition in a sentence, `fe-seoul/fe1 sip: up → down: connection refused (L4), 3 of 3`.
pub fn sentence(topology: &Topology, event: &pairing::Event, now: Time) -> String {
    use pairing::Event as E;
    match event {
        E::Verdict {
            target,
            from,
            to,
            reason,
        } => {
            let path = topology.target_path(*target);
            let reason_told = reason_text(topology, *reason);
            let count = count_text(topology, *target, *from, *reason);
            format!("{path}: {from} → {to}: {reason_told}{count}")
        }
        E::Condition {
            pool,
            from,
            to,
            present,
            need,
        } => {
            let pool = topology.pool(*pool);
            let counted = pool.quorum.to_stay.of_first;
            format!(
                "{}: {} → {}: {present} of {counted} members present, {need} needed",
                pool.name,
                condition_word(*from),
                condition_word(*to)
            )
        }
        E::Service { service, lost } => {
            let path = topology.service_path(*service);
            match lost {
                true => format!("{path}: lost: no member usable"),
                false => format!("{path}: served again"),
            }
        }
        E::Operator { member, state } => {
            format!(
                "{}: {}",
                topology.member_path(*member),
                operator_text(state, now)
            )
        }
        E::Deadline { member } => format!(
            "{}: deadline met: the sessions that remained were ended",
            topology.member_path(*member)
        ),
        E::First { service, from, to } => format!(
            "{}: first is {} now, was {}",
            topology.service_path(*service),
            topology.member(*to).name,
            topology.member(*from).name
        ),
        E::Isolation { cause: Some(cause) } => {
            format!("isolated: {}; verdicts are held", cause_text(*cause))
        }
        E::Isolation { cause: None } => "no longer isolated: something answered again".to_owned(),
        E::Redirect {
            pool,
            from,
            to,
            cause,
            by,
            reason,
            generation,
        } => {
            let decision = Decision {
                cause: *cause,
                by,
                reason: reason.as_deref(),
            };
            redirects::redirected(topology, *pool, (*from, *to), &decision, *generation)
        }
        E::Alarm { pair, on } => redirects::alarm(topology, *pair, *on),
        E::Unwritten { pair, error } => redirects::unwritten(topology, *pair, error.as_deref()),
        E::Pause { pause, by } => redirects::pause(pause.as_ref(), by.as_deref()),
        E::Site { site, lost } => redirects::site(topology, *site, *lost),
        E::Spill { pool, on } => redirects::spill(topology, *pool, *on),
    }
}

/// A reason in words, with the layer that failed: `connection refused (L4)`.
pub fn reason_text(topology: &Topology, reason: Reason) -> String {
    match reason {
        Reason::NotYetAsked => "not yet asked".to_owned(),
        Reason::Answered => "answers well".to_owned(),
        Reason::Failed(failure) => format!("{failure} ({})", failure.layer()),
        Reason::Flapping => "flapping: failures come back before it has been well".to_owned(),
        Reason::Requires(service) => format!("requires {}", topology.service(service).name),
    }
}

/// The word for a condition.
pub fn condition_word(condition: pairing::Condition) -> &'static str {
    match condition {
        pairing::Condition::Serving => "serving",
        pairing::Condition::Degraded => "degraded",
        pairing::Condition::Lost => "lost",
    }
}

/// The word for an operator's mode.
pub fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Ready => "ready",
        Mode::Drain => "drain",
        Mode::Maintenance => "maintenance",
    }
}

fn operator_text(state: &OperatorState, now: Time) -> String {
    let mut text = format!("{} by {}", mode_word(state.mode), state.by);
    if let Some(reason) = &state.reason {
        text += &format!(" ({reason})");
    }
    if let Some(until) = state.until {
        text += &format!(", for {}", span(now.until(until)));
    }
    if let Some(deadline) = state.deadline {
        text += &format!(", sessions end in {}", span(now.until(deadline)));
    }
    text
}

/// `, 3 of 3`: how many answers in a row it took, where that is what decided.
fn count_text(topology: &Topology, target: TargetId, from: Verdict, reason: Reason) -> String {
    let check = &topology.service(target.service()).check;
    match (from, reason) {
        (Verdict::Up, Reason::Failed(_)) => format!(", {0} of {0}", check.fall),
        (Verdict::Down | Verdict::Busy, Reason::Answered) => format!(", {0} of {0}", check.rise),
        (_, Reason::Flapping) => format!(", {0} of {0}", check.flap),
        _ => String::new(),
    }
}

#[derive(Default)]
struct Names {
    pool: Option<String>,
    member: Option<String>,
    service: Option<String>,
    pair: Option<String>,
    site: Option<String>,
}

impl Names {
    /// Of what a command names, as far as there is such a thing.
    fn of_command(topology: &Topology, about: Option<&str>) -> Names {
        let mut names = Names::default();
        let Some(about) = about else {
            return names;
        };
        let pool = match names::find(topology, about) {
            Ok(Named::Member(pool, member)) => {
                names.member = Some(member.name.clone());
                Some(pool)
            }
            Ok(Named::Pool(pool)) => Some(pool),
            Ok(Named::Pair(_)) | Err(_) => None,
        };
        names.pool = pool.map(|pool| pool.name.clone());
        let site = topology.sites.iter().find(|site| site.name == about);
        names.site = site
            .filter(|_| pool.is_none())
            .map(|site| site.name.clone());
        names
    }
}

fn about(topology: &Topology, event: &pairing::Event) -> (Kind, Names) {
    use pairing::Event as E;
    let pool_name = |id| Some(topology.pool(id).name.clone());
    let of_pool = |kind, id| {
        let names = Names {
            pool: pool_name(id),
            ..Names::default()
        };
        (kind, names)
    };
    let of_member = |kind, id: crate::topology::MemberId| {
        let names = Names {
            pool: pool_name(id.pool),
            member: Some(topology.member(id).name.clone()),
            ..Names::default()
        };
        (kind, names)
    };
    let of_service = |kind, id: crate::topology::ServiceId| {
        let names = Names {
            pool: pool_name(id.pool),
            service: Some(topology.service(id).name.clone()),
            ..Names::default()
        };
        (kind, names)
    };
    let of_pair = |kind, id| {
        let names = Names {
            pair: Some(topology.pair(id).name.clone()),
            ..Names::default()
        };
        (kind, names)
    };
    let of_home = |kind, id| {
        let (kind, mut names) = of_pool(kind, id);
        names.pair = topology.pair_of(id).map(|(pair, _)| pair.name.clone());
        (kind, names)
    };
    match event {
        E::Verdict { target, .. } => {
            let (kind, mut names) = of_member(Kind::Verdict, target.member());
            names.service = Some(topology.service(target.service()).name.clone());
            (kind, names)
        }
        E::Condition { pool, .. } => of_pool(Kind::Condition, *pool),
        E::Service { service, .. } => of_service(Kind::Service, *service),
        E::Operator { member, .. } => of_member(Kind::Operator, *member),
        E::Deadline { member } => of_member(Kind::Deadline, *member),
        E::First { service, .. } => of_service(Kind::First, *service),
        E::Isolation { .. } => (Kind::Isolation, Names::default()),
        E::Redirect { pool, .. } => of_home(Kind::Redirect, *pool),
        E::Spill { pool, .. } => of_home(Kind::Spill, *pool),
        E::Alarm { pair, .. } => of_pair(Kind::Alarm, *pair),
        E::Unwritten { pair, .. } => of_pair(Kind::Store, *pair),
        E::Pause { .. } => (Kind::Pause, Names::default()),
        E::Site { site, .. } => {
            let names = Names {
                site: Some(topology.sites[site.index()].name.clone()),
                ..Names::default()
            };
            (Kind::Site, names)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Failure;
    use crate::observe::sample::{NOW, ago, topology};
    use crate::pairing::Condition;
    use crate::pairing::Event as E;
    use crate::pairing::IsolationCause;
    use std::time::Duration;

    fn told(event: E) -> String {
        sentence(&topology(), &event, NOW)
    }

    #[test]
    fn every_transition_is_told_in_a_sentence() {
        let topology = topology();
        let pool = &topology.pools[0];
        let fe1 = pool.members[0].id;
        let verdict = |service: usize, from, to, reason| E::Verdict {
            target: fe1.target(pool.services[service].id),
            from,
            to,
            reason,
        };
        let state = OperatorState {
            mode: Mode::Drain,
            by: "alice".to_owned(),
            reason: Some("kernel".to_owned()),
            since: NOW,
            until: Some(NOW + Duration::from_secs(7_200)),
            deadline: Some(NOW + Duration::from_secs(600)),
        };
        for (event, sentence) in [
            (
                verdict(
                    0,
                    Verdict::Up,
                    Verdict::Down,
                    Reason::Failed(Failure::Refused),
                ),
                "fe-seoul/fe1 sip: up → down: connection refused (L4), 3 of 3",
            ),
            (
                verdict(0, Verdict::Down, Verdict::Up, Reason::Answered),
                "fe-seoul/fe1 sip: down → up: answers well, 2 of 2",
            ),
            (
                verdict(0, Verdict::Unknown, Verdict::Up, Reason::Answered),
                "fe-seoul/fe1 sip: unknown → up: answers well",
            ),
            (
                verdict(0, Verdict::Up, Verdict::Busy, Reason::Flapping),
                "fe-seoul/fe1 sip: up → busy: flapping: failures come back before it has been \
                 well, 6 of 6",
            ),
            (
                verdict(
                    1,
                    Verdict::Up,
                    Verdict::Down,
                    Reason::Requires(pool.primary),
                ),
                "fe-seoul/fe1 web-internal: up → down: requires sip",
            ),
            (
                E::Condition {
                    pool: pool.id,
                    from: Condition::Degraded,
                    to: Condition::Lost,
                    present: 1,
                    need: 2,
                },
                "fe-seoul: degraded → lost: 1 of 3 members present, 2 needed",
            ),
            (
                E::Service {
                    service: pool.services[1].id,
                    lost: true,
                },
                "fe-seoul/web-internal: lost: no member usable",
            ),
            (
                E::Operator { member: fe1, state },
                "fe-seoul/fe1: drain by alice (kernel), for 2 h, sessions end in 10 min",
            ),
            (
                E::Deadline { member: fe1 },
                "fe-seoul/fe1: deadline met: the sessions that remained were ended",
            ),
            (
                E::First {
                    service: pool.primary,
                    from: fe1,
                    to: pool.members[1].id,
                },
                "fe-seoul/sip: first is fe2 now, was fe1",
            ),
            (
                E::Isolation {
                    cause: Some(IsolationCause::ManySilent {
                        pools: 2,
                        members: 4,
                    }),
                },
                "isolated: 4 members of 2 pools fell silent at once; verdicts are held",
            ),
            (
                E::Isolation { cause: None },
                "no longer isolated: something answered again",
            ),
        ] {
            assert_eq!(told(event), sentence);
        }
    }

    #[test]
    fn the_ring_keeps_the_last_events_and_their_numbers() {
        let mut events = Events::new();
        for n in 0..KEPT + 10 {
            events.tell_instance(format!("event {n}"), ago(0));
        }
        let all = events.since(0);
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0].seq, 11);
        let last = KEPT as u64 + 10;
        assert_eq!(events.since(last - 1).len(), 1);
        assert_eq!(events.since(last).len(), 0);
        assert_eq!(events.last(2)[1].seq, last);
    }

    #[test]
    fn a_reader_from_before_a_restart_is_told_everything() {
        let mut events = Events::new();
        events.tell_instance("started".to_owned(), ago(0));
        assert_eq!(events.since(5_000).len(), 1);
    }

    #[test]
    fn an_event_names_what_it_is_about() {
        let topology = topology();
        let pool = &topology.pools[0];
        let mut events = Events::new();
        let event = E::Verdict {
            target: pool.members[2].id.target(pool.services[1].id),
            from: Verdict::Up,
            to: Verdict::Down,
            reason: Reason::Requires(pool.primary),
        };
        let kept = events.tell(&topology, &event, NOW, ago(0));
        assert_eq!(kept.kind, Kind::Verdict);
        assert_eq!(kept.pool.as_deref(), Some("fe-seoul"));
        assert_eq!(kept.member.as_deref(), Some("fe3"));
        assert_eq!(kept.service.as_deref(), Some("web-internal"));
    }
}
