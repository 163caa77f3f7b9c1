//! The hub as HTTP and the control socket see it.

use std::rc::Rc;

use super::hub::Hub;
use crate::clock;
use crate::control::order;
use crate::observe::desk::{Command, Desk, LocalFuture, Refused};
use crate::observe::events::Event;
use crate::observe::names::NoSuch;
use crate::observe::status::{self, PoolHealth, Status};
use crate::observe::view::{RunState, View};
use crate::observe::why::{self, Why};

/// Answers for the hub.
pub(super) struct HubDesk(Rc<Hub>);

impl HubDesk {
    pub(super) fn new(hub: Rc<Hub>) -> HubDesk {
        HubDesk(hub)
    }

    fn view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let hub = &*self.0;
        let decider = hub.decider.borrow();
        let book = hub.book.borrow();
        let events = hub.events.borrow();
        let problem = hub.keeper.problem();
        look(&View {
            name: &hub.config.instance.name,
            site: hub.config.instance.site,
            state: hub.state.get(),
            started: hub.started,
            session_limit: u64::from(hub.limits.sessions),
            store_problem: problem.as_deref(),
            decider: &decider,
            topology: &hub.topology,
            workers: &hub.counters,
            load: &|member| hub.handles.member(member).load(),
            address: &|target| book.current(target),
            checks: &|target| hub.runner.totals(target),
            exchanges: &|target| hub.runner.exchanges(target),
            events: &events,
            servers: &[
                ("observe", &*hub.observe_counters),
                ("control", &*hub.control_counters),
            ],
            now: clock::now(),
            wall: clock::wall(),
        })
    }
}

impl Desk for HubDesk {
    fn state(&self) -> RunState {
        self.0.state.get()
    }

    fn pool_health(&self, pool: &str) -> Option<PoolHealth> {
        let id = self.0.topology.pool_named(pool)?.id;
        Some(self.view(|view| status::pool_health(view, id)))
    }

    fn status(&self) -> Status {
        self.view(status::status)
    }

    fn why(&self, name: &str) -> Result<Why, NoSuch> {
        self.view(|view| why::why(view, name))
    }

    fn events(&self, since: u64) -> Vec<Event> {
        self.0.events.borrow().since(since)
    }

    fn command(&self, command: Command) -> LocalFuture<Result<String, Refused>> {
        let hub = self.0.clone();
        Box::pin(async move {
            let now = clock::now();
            let order = order::order(&hub.topology, &command, now)?;
            hub.order(order, now)
                .map_err(|refusal| order::refusal(&hub.topology, &command, refusal))?;
            let done = order::done(&hub.topology, &command);
            Ok(match hub.kept().await {
                Ok(()) => done,
                Err(error) => format!("{done} It will not outlive a restart: {error}"),
            })
        })
    }
}
