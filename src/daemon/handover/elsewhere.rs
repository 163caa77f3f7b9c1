//! What members hold in processes that drain. Each of those reports it again and again, and it
//! counts in the load of the member here: for the balancer, for `max_connections`, and for whoever
//! waits until a member that was drained may be switched off.
//!
//! A report is a run of records of [`RECORD`] bytes, big endian, and says everything anew:
//!
//! ```text
//! pool (u16) │ member (u16) │ sessions (u32)      all together: u16::MAX for both
//!                                                 is the main process: u16::MAX, 0, 0
//! ```
//!
//! A stream of records has no state, so it does not matter who takes one out of it: for a moment a
//! process and its successor both do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dispatch::{Handles, MemberHandle};
use crate::topology::{MemberId, PoolId, Topology};

/// Bytes of a record.
pub(super) const RECORD: usize = 8;
/// Bytes that are sent at once: a socket takes all of so few, or none.
pub(super) const PIECE: usize = 256 * RECORD;

const ALL: PoolId = PoolId(u16::MAX);

/// Who holds how many sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The process.
    All(u32),
    /// A member, by the id that the process knows it by.
    Of(MemberId, u32),
    /// None: the service manager knows that the successor of the process is the main one now.
    Main,
}

/// What one process that drains holds at the members here, by the ids that it knows them by.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(Mutex<HashMap<MemberId, Place>>);

#[derive(Debug)]
struct Place {
    member: Arc<MemberHandle>,
    sessions: u32,
}

/// Makes the reports of a process that drains.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Who has been told to hold some: that they hold none any more is told as well.
    known: BTreeSet<(PoolId, usize)>,
}

impl Record {
    pub(super) fn read(bytes: [u8; RECORD]) -> Record {
        let [p0, p1, m0, m1, sessions @ ..] = bytes;
        let (pool, member) = (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([m0, m1]));
        let sessions = u32::from_be_bytes(sessions);
        match PoolId(pool) {
            ALL if member == 0 => Record::Main,
            ALL => Record::All(sessions),
            pool => Record::Of(pool.member(member), sessions),
        }
    }

    pub(super) fn bytes(self) -> [u8; RECORD] {
        let (pool, member, sessions) = match self {
            Record::All(sessions) => (ALL.0, u16::MAX, sessions),
            Record::Of(member, sessions) => (member.pool.0, member.index() as u16, sessions),
            Record::Main => (ALL.0, 0, 0),
        };
        let mut bytes = [0; RECORD];
        bytes[..2].copy_from_slice(&pool.to_be_bytes());
        bytes[2..4].copy_from_slice(&member.to_be_bytes());
        bytes[4..].copy_from_slice(&sessions.to_be_bytes());
        bytes
    }
}

impl Reports {
    /// What there is to tell now.
    pub(super) fn next(
        &mut self,
        topology: &Topology,
        handles: &Handles,
        open: u64,
        is_main: bool,
    ) -> Vec<u8> {
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        let mut report = Record::All(open).bytes().to_vec();
        if is_main {
            report.extend(Record::Main.bytes());
        }
        for member in topology.pools.iter().flat_map(|pool| &pool.members) {
            let sessions = handles.member(member.id).load();
            let id = (member.id.pool, member.id.index());
            if sessions > 0 {
                self.known.insert(id);
            }
            if self.known.contains(&id) {
                report.extend(Record::Of(member.id, sessions).bytes());
            }
        }
        report
    }
}

impl Elsewhere {
    /// Counts at these members from now on, each by the id that the process knows it by.
    pub(super) fn count_at(&self, members: impl Iterator<Item = (MemberId, Arc<MemberHandle>)>) {
        let mut places = self.places();
        let before = std::mem::take(&mut *places);
        for (id, member) in members {
            let sessions = before.get(&id).map_or(0, |place| place.sessions);
            member.hold_elsewhere(0, sessions);
            places.insert(id, Place { member, sessions });
        }
        before.into_values().for_each(Place::forget);
    }

    /// The process holds so many at this one. One that is not here does not matter.
    pub(super) fn holds(&self, id: MemberId, sessions: u32) {
        if let Some(place) = self.places().get_mut(&id) {
            place.member.hold_elsewhere(place.sessions, sessions);
            place.sessions = sessions;
        }
    }

    /// The process is gone, or somebody else's: whatever it may still say, it holds nothing.
    pub(super) fn forget(&self) {
        let places = std::mem::take(&mut *self.places());
        places.into_values().for_each(Place::forget);
    }

    fn places(&self) -> MutexGuard<'_, HashMap<MemberId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn forget(self) {
        self.member.hold_elsewhere(self.sessions, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const FILE: &str = r#"
[pools.one]
role = "mediation"
members.a = "192.0.2.1"
members.b = "192.0.2.2"
services.sip = { listen = "127.0.0.1:5061" }
"#;

    fn read(report: &[u8]) -> Vec<Record> {
        let (records, rest) = report.as_chunks::<RECORD>();
        assert!(rest.is_empty());
        records.iter().map(|bytes| Record::read(*bytes)).collect()
    }

    #[test]
    fn what_a_process_holds_counts_at_the_members_until_it_is_gone() {
        let topology = config::parse(FILE, "f").unwrap().config.topology;
        let (theirs, ours) = (Handles::new(&topology), Handles::new(&topology));
        let [a, b] = [0, 1].map(|nth| topology.pools[0].id.member(nth));
        let mut reports = Reports::default();
        let elsewhere = Elsewhere::default();
        let all = || [a, b].into_iter().map(|id| (id, ours.member(id).clone()));
        elsewhere.count_at(all());
        let told = |reports: &mut Reports, open| {
            let records = read(&reports.next(&topology, &theirs, open, false));
            for record in &records {
                if let Record::Of(id, sessions) = *record {
                    elsewhere.holds(id, sessions);
                }
            }
            records
        };
        theirs.member(a).hold_elsewhere(0, 7);
        let first = told(&mut reports, u64::MAX);
        assert_eq!(first, [Record::All(u32::MAX), Record::Of(a, 7)]);
        assert_eq!([a, b].map(|id| ours.member(id).load()), [7, 0]);

        // Another topology of ours: nothing counts twice, and nothing is lost.
        elsewhere.count_at(all());
        assert_eq!(ours.member(a).load(), 7);

        theirs.member(a).hold_elsewhere(7, 0);
        theirs.member(b).hold_elsewhere(0, 2);
        let second = told(&mut reports, 2);
        let expected = [Record::All(2), Record::Of(a, 0), Record::Of(b, 2)];
        assert_eq!(second, expected, "who holds none any more is told");
        assert_eq!([a, b].map(|id| ours.member(id).load()), [0, 2]);

        elsewhere.holds(topology.pools[0].id.member(9), 5);
        elsewhere.forget();
        assert_eq!(ours.member(b).load(), 0);
        elsewhere.holds(b, 3);
        assert_eq!(ours.member(b).load(), 0, "it was somebody else's");
    }
}
