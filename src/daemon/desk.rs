//! The hub as HTTP and the control socket see it.

use std::rc::Rc;

use super::hub::Hub;
use super::redirecting;
use crate::clock;
use crate::control::order;
use crate::health::Answer;
use crate::health::runner::{self, Runner};
use crate::observe::desk::{Command, Desk, LocalFuture, Redirection, Refused, SetLevel};
use crate::observe::events::Event;
use crate::observe::names::NoSuch;
use crate::observe::status::{self, PoolHealth, Scope, Status};
use crate::observe::view::{CheckTotals, Exchange, RunState, View};
use crate::observe::why::{self, Why};
use crate::topology::TargetId;

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
        let shortages = hub.shortages.borrow();
        let onsets = hub.onsets.borrow();
        let problem = hub.keeper.problem();
        let now = clock::now();
        look(&View {
            name: &hub.config.instance.name,
            site: hub.config.instance.site,
            state: hub.state.get(),
            started: hub.started,
            room: hub.room,
            store_problem: problem.as_deref(),
            decider: &decider,
            topology: &hub.topology,
            workers: &hub.counters,
            own_faults: &hub.own_faults,
            load: &|member| u64::from(hub.handles.member(member).load()),
            address: &|target| book.current(target),
            checks: &|target| check_totals(&hub.runner, target),
            exchanges: &|target| exchanges(&hub.runner, target),
            onsets: &onsets,
            shortages: &shortages,
            to_move: &|pool| hub.to_move(pool),
            drains_until: &|pool| hub.drains_until(pool),
            spilling: &|pool| hub.is_spilling(pool),
            record_problem: &|pair| hub.pairs.problem(pair, now),
            events: &events,
            access: hub.logs.counts(),
            servers: &[
                ("observe", &*hub.observe_counters),
                ("control", &*hub.control_counters),
            ],
            now,
            wall: clock::wall(),
        })
    }
}

impl Desk for HubDesk {
    fn state(&self) -> RunState {
        self.0.state.get()
    }

    fn pool_health(&self, pool: &str, scope: Scope) -> Option<PoolHealth> {
        self.view(|view| status::pool_health(view, pool, scope))
    }

    fn status(&self) -> Status {
        self.0.look_at_counts(clock::now());
        self.view(status::status)
    }

    fn why(&self, name: &str) -> Result<Why, NoSuch> {
        self.0.look_at_counts(clock::now());
        self.view(|view| why::why(view, name))
    }

    fn events(&self, since: u64) -> Vec<Event> {
        self.0.events.borrow().since(since)
    }

    fn log_level(&self) -> Result<String, Refused> {
        self.0.log_level(clock::now())
    }

    fn set_log_level(&self, order: SetLevel) -> Result<String, Refused> {
        self.0.set_log_level(order)
    }

    fn redirect(&self, redirection: Redirection) -> LocalFuture<Result<String, Refused>> {
        Box::pin(redirecting::carry_out(self.0.clone(), redirection))
    }

    fn command(&self, command: Command) -> LocalFuture<Result<String, Refused>> {
        let hub = self.0.clone();
        Box::pin(async move {
            let now = clock::now();
            let order = order::order(command, &hub.topology, now)?;
            let done = order::done(&order, &hub.topology, now);
            let member = order.member;
            hub.order(order, now)
                .map_err(|refusal| order::refused(&refusal, member, &hub.topology))?;
            Ok(redirecting::kept(&hub, done).await)
        })
    }
}

fn check_totals(runner: &Runner, target: TargetId) -> CheckTotals {
    let counts = runner.counts(target);
    CheckTotals {
        good: counts.good,
        bad: counts.bad,
        own_fault: counts.own_fault,
    }
}

fn exchanges(runner: &Runner, target: TargetId) -> Vec<Exchange> {
    let exchange = |exchange: runner::Exchange| Exchange {
        at: exchange.at,
        good: match exchange.outcome.answer {
            Answer::Good => Some(true),
            Answer::Bad(_) => Some(false),
            Answer::OwnFault(_) => None,
        },
        text: exchange.outcome.transcript,
    };
    runner.exchanges(target).into_iter().map(exchange).collect()
}
