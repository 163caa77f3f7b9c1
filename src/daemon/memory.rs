//! What must outlive a restart, by name and by the wall clock: ids and boot time do not.

use serde::{Deserialize, Serialize};

use crate::health::readiness::{Mode, OperatorState};
use crate::observe::stamp::{Clock, Stamp};
use crate::pairing::{Pause, Standing};
use crate::time::Time;
use crate::topology::Topology;

/// The name of the file in the state directory.
pub(super) const NAME: &str = "standing";

/// A [`Standing`] as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    members: Vec<MemberMemory>,
    first: Vec<FirstMemory>,
    #[serde(default)]
    pause: Option<PauseMemory>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PauseMemory {
    by: String,
    reason: Option<String>,
    since: Stamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MemberMemory {
    pool: String,
    member: String,
    mode: Mode,
    by: String,
    reason: Option<String>,
    since: Stamp,
    until: Option<Stamp>,
    deadline: Option<Stamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FirstMemory {
    pool: String,
    service: String,
    member: String,
}

impl Remembered {
    /// What `standing` says, in names and wall-clock times.
    pub(super) fn new(standing: &Standing, topology: &Topology, clock: Clock) -> Remembered {
        let members = standing.operators.iter().map(|(id, state)| MemberMemory {
            pool: topology.pool(id.pool).name.clone(),
            member: topology.member(*id).name.clone(),
            mode: state.mode,
            by: state.by.clone(),
            reason: state.reason.clone(),
            since: clock.stamp(state.since),
            until: state.until.map(|until| clock.stamp(until)),
            deadline: state.deadline.map(|deadline| clock.stamp(deadline)),
        });
        let first = standing.first.iter().map(|(service, member)| FirstMemory {
            pool: topology.pool(service.pool).name.clone(),
            service: topology.service(*service).name.clone(),
            member: topology.member(*member).name.clone(),
        });
        let pause = standing.pause.as_ref().map(|pause| PauseMemory {
            by: pause.by.clone(),
            reason: pause.reason.clone(),
            since: clock.stamp(pause.since),
        });
        Remembered {
            members: members.collect(),
            first: first.collect(),
            pause,
        }
    }

    /// The same for this topology; pools, services and members that are no longer in it are left
    /// out, and so is what has lapsed meanwhile.
    pub(super) fn standing(&self, topology: &Topology, clock: Clock) -> Standing {
        let operators = self.members.iter().filter_map(|memory| {
            let member = topology
                .pool_named(&memory.pool)?
                .member_named(&memory.member)?;
            let until = memory.until.map(|until| time(clock, until));
            if until.is_some_and(|until| until <= clock.now) {
                return None;
            }
            let state = OperatorState {
                mode: memory.mode,
                by: memory.by.clone(),
                reason: memory.reason.clone(),
                since: time(clock, memory.since),
                until,
                deadline: memory.deadline.map(|deadline| time(clock, deadline)),
            };
            Some((member.id, state))
        });
        let first = self.first.iter().filter_map(|memory| {
            let pool = topology.pool_named(&memory.pool)?;
            let service = pool.service_named(&memory.service)?;
            Some((service.id, pool.member_named(&memory.member)?.id))
        });
        let pause = self.pause.as_ref().map(|memory| Pause {
            by: memory.by.clone(),
            reason: memory.reason.clone(),
            since: time(clock, memory.since),
        });
        Standing {
            operators: operators.collect(),
            first: first.collect(),
            pause,
        }
    }
}

/// When a stamp is by the deciding clock; moments before boot become boot.
pub(super) fn time(clock: Clock, stamp: Stamp) -> Time {
    let now = clock.stamp(clock.now);
    if stamp >= now {
        clock.now + now.until(stamp)
    } else {
        let ago = u64::try_from(now.since(stamp).as_nanos()).unwrap_or(u64::MAX);
        Time::from_nanos(clock.now.as_nanos().saturating_sub(ago))
    }
}

#[cfg(test)]
mod tests;
