//! Where members are found: names are looked up again and again, and sessions on addresses that
//! are gone end after a while.

use std::net::IpAddr;
use std::rc::Rc;

use super::super::resolver::Resolver;
use super::{Hub, Inputs};
use crate::clock;
use crate::dispatch::addresses::Change;
use crate::proxy::{ToWorker, Which};
use crate::time::Time;

impl Hub {
    /// A name was looked up. Sessions on addresses that are gone are kept for as long as those of
    /// a drained member.
    pub(super) fn resolved(self: &Rc<Self>, name: &str, answer: Result<Vec<IpAddr>, String>) {
        let changes = self.book.borrow_mut().handle_resolved(name, answer);
        if changes.is_empty() {
            return;
        }
        self.readdress();
        let now = clock::now();
        for change in changes {
            if let Change::Gone { target, address } = change {
                let deadline = self.topology().pool(target.pool).drain_deadline;
                let mut strays = self.strays.borrow_mut();
                strays.add(target, address.ip(), now + deadline, now);
            }
        }
    }

    /// Ends sessions on addresses that have not been their target's for long enough.
    pub(super) fn end_strays(&self, now: Time) {
        let due = self.strays.borrow_mut().take_due(now);
        for (target, others) in due {
            let book = self.book.borrow();
            let known = book.addresses(target).map(|address| address.ip());
            let keep = known.chain(others).collect();
            self.tell_workers(&ToWorker::End(Which::Strays { target, keep }));
        }
    }

    /// Some target is found elsewhere now.
    pub(in crate::daemon) fn readdress(&self) {
        self.watched.send_replace(self.book.borrow().in_use());
        self.publish();
    }

    /// Has the names looked up that members have now, where they are others than before.
    pub(in crate::daemon) fn look_names_up(&self, inputs: &mut Inputs) {
        let book = self.book.borrow();
        let names: Vec<String> = book.names().map(|(name, _)| name.to_owned()).collect();
        if names != inputs.resolved {
            let (resolver, answers) = Resolver::start(names.clone());
            (inputs.resolver, inputs.names) = (resolver, answers);
            inputs.resolved = names;
        }
    }
}
