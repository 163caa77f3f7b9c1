//! The flows of one worker, bounded. Pure: it holds what the shell gives it for each flow, and
//! says which one has to go. It never ends a flow by itself: who asked for room removes it.
//!
//! A flow is *proven* once its client has sent again after an answer came. Whoever forges the
//! addresses of others sees no answers, so a flood of them is a flood of flows that are not proven:
//! when the table is full, the oldest of those goes. Without one, the proven flow that has been
//! idle for longest goes, if that is [`IDLE`] at least. Otherwise nobody does, and the newcomer is
//! turned away. So a proven flow that moves is never given up, whatever comes. What it cannot do:
//! one who forges *and* sends twice at the right moment has a proven flow, too, and may keep
//! newcomers out for as long as [`IDLE`].
//!
//! Every operation takes the same time, whatever the number of flows, and allocates nothing unless
//! the number of flows grows. Flows stand in two lists through their places: those that are not
//! proven in the order in which they came, proven ones in the order in which they last moved. The
//! second order is coarse, so that a datagram seldom has to touch its neighbours: a flow goes to
//! its end [`RELINK`] after it last did, at its next datagram. Thus a flow may be taken for idle up
//! to that much longer than another than it is, but never for idle while it is not.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use slab::Slab;

use super::super::registry::Tick;
use super::super::worker::TICK;

/// Idle for less, a proven flow is never given up. One that is not proven ends after it at most, as
/// it may be one datagram under a forged address: as long as Linux keeps what it has seen in one
/// direction only (`nf_conntrack_udp_timeout`).
pub(super) const IDLE: Tick = ticks(Duration::from_secs(30));
/// How exact the order of proven flows is.
const RELINK: Tick = ticks(Duration::from_secs(5));
/// Places kept when the last flow leaves; what a flood took beyond them is given back.
const KEPT: usize = 1024;
/// No place.
const NOWHERE: u32 = u32::MAX;

const fn ticks(duration: Duration) -> Tick {
    duration.as_millis().div_ceil(TICK.as_millis()) as Tick
}

/// Where a flow comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The worker's listener that heard it.
    pub(super) listener: u16,
    pub(super) client: SocketAddr,
    /// The address at which a listener for all addresses was asked; answers come from there.
    pub(super) local: Option<IpAddr>,
}

/// Names a flow as long as it stands in the table: once it was removed, its id finds nothing, even
/// when another flow has its place.
///
/// As a number it is 2^32 at least, so smaller ones are free for other purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowId {
    place: u32,
    /// Differs from that of any of the 2^32 - 2 flows before and after it; never 0.
    generation: u32,
}

/// Whether the table takes one more flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It does.
    Free,
    /// Once this one has been removed.
    GiveUp(FlowId),
    /// Not now.
    Full,
}

/// What shows that a flow's client is where it says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    None,
    /// Its member has answered.
    Answered,
    /// Its client has sent again after an answer.
    Proven,
}

/// The flows of one worker, with what the shell holds for each.
#[derive(Debug)]
pub(super) struct Table<F> {
    most: usize,
    /// Keyed at random: nobody can choose addresses that fall together.
    places: HashMap<Origin, u32>,
    entries: Slab<Entry<F>>,
    /// The oldest first.
    unproven: List,
    /// Those that moved last, last.
    proven: List,
    generation: u32,
}

#[derive(Debug)]
struct Entry<F> {
    flow: F,
    origin: Origin,
    generation: u32,
    /// Its neighbours in its list.
    before: u32,
    after: u32,
    /// When a datagram last came, from either side.
    moved: Tick,
    /// When it last went to the end of its list.
    linked: Tick,
    is_answered: bool,
    is_proven: bool,
}

/// The ends of a list whose links are in its entries.
#[derive(Debug)]
struct List {
    first: u32,
    last: u32,
}

#[expect(
    clippy::wrong_self_convention,
    reason = "what comes from a client or a member converts nothing"
)]
impl<F> Table<F> {
    /// A table for `most` flows; it holds no memory until the first one comes.
    pub(super) fn new(most: usize) -> Table<F> {
        Table {
            // The last number is no place.
            most: most.min(NOWHERE as usize),
            places: HashMap::new(),
            entries: Slab::new(),
            unproven: List::EMPTY,
            proven: List::EMPTY,
            generation: 0,
        }
    }

    /// How many flows there may be from now on. Where there are more, newcomers take the places of
    /// others one by one, as in a full table.
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most.min(NOWHERE as usize);
    }

    /// The flow from there.
    pub(super) fn find(&self, origin: &Origin) -> Option<FlowId> {
        let place = *self.places.get(origin)?;
        Some(self.id(place))
    }

    /// Whether one more flow may come, and who has to be removed before.
    pub(super) fn room(&self, now: Tick) -> Room {
        if self.len() < self.most {
            return Room::Free;
        }
        if let Some(oldest) = self.unproven().next() {
            return Room::GiveUp(oldest);
        }
        let idle = |place: &u32| now.wrapping_sub(self.entry(*place).moved) >= IDLE;
        match self.proven.first().filter(idle) {
            Some(idle) => Room::GiveUp(self.id(idle)),
            None => Room::Full,
        }
    }

    /// Flows whose clients have not sent again after an answer, the oldest first.
    pub(super) fn unproven(&self) -> impl Iterator<Item = FlowId> {
        let after = |place: &u32| {
            let after = self.entry(*place).after;
            (after != NOWHERE).then_some(after)
        };
        iter::successors(self.unproven.first(), after).map(|place| self.id(place))
    }

    /// Takes a flow whose client just sent its first datagram. There must be [`Room`], and none
    /// from there yet.
    pub(super) fn insert(&mut self, origin: Origin, flow: F, now: Tick) -> FlowId {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let place = self.entries.insert(Entry {
            flow,
            origin,
            generation: self.generation,
            before: NOWHERE,
            after: NOWHERE,
            moved: now,
            linked: now,
            is_answered: false,
            is_proven: false,
        }) as u32;
        let replaced = self.places.insert(origin, place);
        debug_assert!(replaced.is_none(), "it is the only one from there");
        self.unproven.append(&mut self.entries, place);
        self.id(place)
    }

    /// What is held for a flow.
    pub(super) fn get(&self, id: FlowId) -> Option<&F> {
        self.look(id).map(|entry| &entry.flow)
    }

    /// What is held for a flow.
    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut F> {
        self.look_mut(id).map(|entry| &mut entry.flow)
    }

    /// Where a flow comes from.
    pub(super) fn origin(&self, id: FlowId) -> Option<&Origin> {
        self.look(id).map(|entry| &entry.origin)
    }

    /// Forgets a flow.
    pub(super) fn remove(&mut self, id: FlowId) -> Option<F> {
        let is_proven = self.look(id)?.is_proven;
        let list = match is_proven {
            true => &mut self.proven,
            false => &mut self.unproven,
        };
        list.unlink(&mut self.entries, id.place);
        let entry = self.entries.remove(id.place as usize);
        self.places.remove(&entry.origin);
        if self.entries.is_empty() && self.entries.capacity() > KEPT {
            self.entries = Slab::new();
            self.places = HashMap::with_hasher(self.places.hasher().clone());
        }
        Some(entry.flow)
    }

    /// Notes one more datagram from the flow's client; says whether this is what proved the flow.
    pub(super) fn from_client(&mut self, id: FlowId, now: Tick) -> bool {
        let Some(entry) = self.look_mut(id) else {
            return false;
        };
        if entry.is_answered && !entry.is_proven {
            entry.is_proven = true;
            entry.moved = now;
            entry.linked = now;
            self.unproven.unlink(&mut self.entries, id.place);
            self.proven.append(&mut self.entries, id.place);
            return true;
        }
        self.moved(id, now);
        false
    }

    /// Notes an answer from the flow's member.
    pub(super) fn from_member(&mut self, id: FlowId, now: Tick) {
        if let Some(entry) = self.look_mut(id) {
            entry.is_answered = true;
            self.moved(id, now);
        }
    }

    /// Whether the flow's member has ever answered.
    pub(super) fn is_answered(&self, id: FlowId) -> bool {
        self.look(id).is_some_and(|entry| entry.is_answered)
    }

    /// Whether the flow's client has sent again after an answer.
    pub(super) fn is_proven(&self, id: FlowId) -> bool {
        self.look(id).is_some_and(|entry| entry.is_proven)
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All flows, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &F)> {
        self.entries.iter().map(|(place, entry)| {
            let id = FlowId {
                place: place as u32,
                generation: entry.generation,
            };
            (id, &entry.flow)
        })
    }

    /// All flows, in no order: where each comes from, and what it has come to.
    pub(super) fn each(&mut self) -> impl Iterator<Item = (&Origin, Proof, &mut F)> {
        self.entries.iter_mut().map(|(_, entry)| {
            let proof = match (entry.is_answered, entry.is_proven) {
                (_, true) => Proof::Proven,
                (true, false) => Proof::Answered,
                (false, false) => Proof::None,
            };
            (&entry.origin, proof, &mut entry.flow)
        })
    }

    /// A datagram came: seldom enough, a proven flow goes to the end of its list.
    fn moved(&mut self, id: FlowId, now: Tick) {
        let entry = &mut self.entries[id.place as usize];
        entry.moved = now;
        if entry.is_proven && now.wrapping_sub(entry.linked) >= RELINK {
            entry.linked = now;
            self.proven.unlink(&mut self.entries, id.place);
            self.proven.append(&mut self.entries, id.place);
        }
    }

    fn look(&self, id: FlowId) -> Option<&Entry<F>> {
        let entry = self.entries.get(id.place as usize)?;
        (entry.generation == id.generation).then_some(entry)
    }

    fn look_mut(&mut self, id: FlowId) -> Option<&mut Entry<F>> {
        let entry = self.entries.get_mut(id.place as usize)?;
        (entry.generation == id.generation).then_some(entry)
    }

    fn entry(&self, place: u32) -> &Entry<F> {
        &self.entries[place as usize]
    }

    fn id(&self, place: u32) -> FlowId {
        FlowId {
            place,
            generation: self.entry(place).generation,
        }
    }
}

impl List {
    const EMPTY: List = List {
        first: NOWHERE,
        last: NOWHERE,
    };

    fn first(&self) -> Option<u32> {
        (self.first != NOWHERE).then_some(self.first)
    }

    /// Puts an entry that is in no list behind all others.
    fn append<F>(&mut self, entries: &mut Slab<Entry<F>>, place: u32) {
        let entry = &mut entries[place as usize];
        (entry.before, entry.after) = (self.last, NOWHERE);
        match self.last {
            NOWHERE => self.first = place,
            last => entries[last as usize].after = place,
        }
        self.last = place;
    }

    /// Takes an entry of this list out of it.
    fn unlink<F>(&mut self, entries: &mut Slab<Entry<F>>, place: u32) {
        let entry = &entries[place as usize];
        let (before, after) = (entry.before, entry.after);
        match before {
            NOWHERE => self.first = after,
            before => entries[before as usize].after = after,
        }
        match after {
            NOWHERE => self.last = before,
            after => entries[after as usize].before = before,
        }
    }
}

impl Hash for Origin {
    /// One word for a client over IPv4 at a listener of one address, which is nearly all of what
    /// hashing costs. What is left out (scopes, flow labels) is compared all the same.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u32::from(self.client.port()) << 16 | u32::from(self.listener);
        match self.client.ip() {
            IpAddr::V4(ip) => state.write_u64(u64::from(ip.to_bits()) << 32 | u64::from(ports)),
            IpAddr::V6(ip) => {
                state.write_u128(ip.to_bits());
                state.write_u32(ports);
            }
        }
        match self.local {
            None => {}
            Some(IpAddr::V4(ip)) => state.write_u32(ip.to_bits()),
            Some(IpAddr::V6(ip)) => state.write_u128(ip.to_bits()),
        }
    }
}

impl From<FlowId> for u64 {
    fn from(id: FlowId) -> u64 {
        u64::from(id.generation) << 32 | u64::from(id.place)
    }
}

impl From<u64> for FlowId {
    /// Whatever the number, the id finds its flow or nothing.
    fn from(number: u64) -> FlowId {
        FlowId {
            place: number as u32,
            generation: (number >> 32) as u32,
        }
    }
}

#[cfg(test)]
mod tests;
