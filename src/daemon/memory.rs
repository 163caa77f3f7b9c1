//! What must outlive a restart, by name and by the wall clock: ids and boot time do not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::health::readiness::{Mode, OperatorState};
use crate::pairing::Standing;
use crate::time::Time;
use crate::topology::Topology;

/// The name of the file in the state directory.
pub(super) const NAME: &str = "standing";

/// A [`Standing`] as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    members: Vec<MemberMemory>,
    first: Vec<FirstMemory>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MemberMemory {
    pool: String,
    member: String,
    mode: Mode,
    by: String,
    reason: Option<String>,
    /// Milliseconds since 1970, as the others.
    since: u64,
    until: Option<u64>,
    deadline: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FirstMemory {
    pool: String,
    service: String,
    member: String,
}

/// The moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Time,
    pub(super) wall: SystemTime,
}

impl Remembered {
    /// What `standing` says, in names and wall-clock times.
    pub(super) fn new(standing: &Standing, topology: &Topology, moment: Moment) -> Remembered {
        let members = standing.operators.iter().map(|(id, state)| MemberMemory {
            pool: topology.pool(id.pool).name.clone(),
            member: topology.member(*id).name.clone(),
            mode: state.mode,
            by: state.by.clone(),
            reason: state.reason.clone(),
            since: moment.to_wall(state.since),
            until: state.until.map(|until| moment.to_wall(until)),
            deadline: state.deadline.map(|deadline| moment.to_wall(deadline)),
        });
        let first = standing.first.iter().map(|(service, member)| FirstMemory {
            pool: topology.pool(service.pool).name.clone(),
            service: topology.service(*service).name.clone(),
            member: topology.member(*member).name.clone(),
        });
        Remembered {
            members: members.collect(),
            first: first.collect(),
        }
    }

    /// The same for this topology; pools, services and members that are no longer in it are left
    /// out, and so is what has lapsed meanwhile.
    pub(super) fn standing(&self, topology: &Topology, moment: Moment) -> Standing {
        let operators = self.members.iter().filter_map(|memory| {
            let member = topology
                .pool_named(&memory.pool)?
                .member_named(&memory.member)?;
            let until = memory.until.map(|until| moment.to_boot(until));
            if until.is_some_and(|until| until <= moment.now) {
                return None;
            }
            let state = OperatorState {
                mode: memory.mode,
                by: memory.by.clone(),
                reason: memory.reason.clone(),
                since: moment.to_boot(memory.since),
                until,
                deadline: memory.deadline.map(|deadline| moment.to_boot(deadline)),
            };
            Some((member.id, state))
        });
        let first = self.first.iter().filter_map(|memory| {
            let pool = topology.pool_named(&memory.pool)?;
            let service = pool.service_named(&memory.service)?;
            Some((service.id, pool.member_named(&memory.member)?.id))
        });
        Standing {
            operators: operators.collect(),
            first: first.collect(),
        }
    }
}

impl Moment {
    fn to_wall(self, time: Time) -> u64 {
        let wall = if time >= self.now {
            self.wall + self.now.until(time)
        } else {
            self.wall
                .checked_sub(self.now.since(time))
                .unwrap_or(UNIX_EPOCH)
        };
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Moments before boot become boot.
    fn to_boot(self, wall: u64) -> Time {
        let wall = UNIX_EPOCH + Duration::from_millis(wall);
        match wall.duration_since(self.wall) {
            Ok(ahead) => self.now + ahead,
            Err(behind) => {
                let behind = u64::try_from(behind.duration().as_nanos()).unwrap_or(u64::MAX);
                Time::from_nanos(self.now.as_nanos().saturating_sub(behind))
            }
        }
    }
}
