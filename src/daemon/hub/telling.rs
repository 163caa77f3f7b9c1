//! What the hub tells people: into the events, and from there into the journal and the log.

use std::time::Duration;

use super::{Hub, clock_at};
use crate::clock;
use crate::health::OwnFault;
use crate::observe::events::Commanded;
use crate::observe::stamp::Stamp;
use crate::pairing::Event;
use crate::time::Time;
use crate::topology::PoolId;

/// A fault of our own is told at most so often for each kind; it is counted every time.
const TELL_FAULT: Duration = Duration::from_secs(10);

impl Hub {
    pub(in crate::daemon) fn tell(&self, event: &Event, now: Time) {
        self.transitions.borrow_mut().count(event);
        let at = clock_at(now).stamp(now);
        let mut events = self.events.borrow_mut();
        self.journal
            .keep(events.tell(&self.topology(), event, now, at));
    }

    pub(in crate::daemon) fn tell_instance(&self, text: String, now: Time) {
        let at = clock_at(now).stamp(now);
        let mut events = self.events.borrow_mut();
        self.journal.keep(events.tell_instance(text, at));
    }

    pub(in crate::daemon) fn tell_moved(&self, home: PoolId, off: PoolId, now: Time) {
        let at = clock_at(now).stamp(now);
        let mut events = self.events.borrow_mut();
        self.journal
            .keep(events.tell_moved(&self.topology(), home, off, at));
    }

    pub(in crate::daemon) fn tell_command(&self, command: &Commanded) {
        let at = Stamp::from(clock::wall());
        let mut events = self.events.borrow_mut();
        self.journal
            .keep(events.tell_command(&self.topology(), command, at));
    }

    pub(super) fn tell_fault(&self, fault: OwnFault, now: Time) {
        let mut told = self.faults_told.borrow_mut();
        match told.iter_mut().find(|(kind, _)| *kind == fault) {
            Some((_, last)) if now.since(*last) < TELL_FAULT => return,
            Some((_, last)) => *last = now,
            None => told.push((fault, now)),
        }
        tracing::warn!(%fault, "something failed through a fault of our own; no member is blamed");
    }
}
