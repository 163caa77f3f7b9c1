//! The hub as HTTP and the control socket see it.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::RwLockReadGuard;

use super::handover;
use super::hub::Hub;
use super::redirecting;
use super::reload;
use crate::clock;
use crate::control::order;
use crate::health::Answer;
use crate::health::runner::{self, Runner};
use crate::observe::desk::{Command, Desk, LocalFuture, Redirection, Refused, SetLevel};
use crate::observe::events::{Commanded, Event, Query};
use crate::observe::measures::{self, Measures, Sources};
use crate::observe::names::NoSuch;
use crate::observe::stamp::Stamp;
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
        let era = hub.era();
        let decider = hub.decider.borrow();
        let book = hub.book.borrow();
        let events = hub.events.borrow();
        let shortages = hub.shortages.borrow();
        let onsets = hub.onsets.borrow();
        let reloads = hub.reloads.borrow();
        let problem = hub.keeper.problem();
        let event_log = hub.journal.state();
        let earlier = hub.led.draining();
        let now = clock::now();
        look(&View {
            name: &era.config.instance.name,
            site: era.config.instance.site,
            state: hub.state.get(),
            started: hub.started,
            room: era.room,
            store_problem: problem.as_deref(),
            reload_refused: reloads.refusal(),
            event_log: &event_log,
            earlier: &earlier,
            decider: &decider,
            topology: &era.topology,
            workers: &era.counters,
            own_faults: &hub.own_faults,
            load: &|member| u64::from(era.handles.member(member).load()),
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

    fn measures(&self) -> Measures {
        let hub = &*self.0;
        let era = hub.era();
        self.view(|view| {
            let sources = Sources {
                reloads: &hub.reloads.borrow(),
                transitions: &hub.transitions.borrow(),
                queue: &|pool| u64::from(era.handles.queue(pool).waiting()),
                checks: &|target| hub.runner.times(target),
                probes_waiting: hub.runner.waiting() as u64,
            };
            measures::measures(view, &sources)
        })
    }

    fn why(&self, name: &str) -> Result<Why, NoSuch> {
        self.0.look_at_counts(clock::now());
        self.view(|view| why::why(view, name))
    }

    fn events(&self, query: &Query) -> Result<Vec<Event>, NoSuch> {
        let now = Stamp::from(clock::wall());
        self.0.events.borrow().asked(query, &self.0.topology(), now)
    }

    fn record(&self, command: Commanded) {
        self.0.tell_command(&command);
    }

    fn log_level(&self) -> Result<String, Refused> {
        self.0.log_level(clock::now())
    }

    fn set_log_level(&self, order: SetLevel) -> Result<String, Refused> {
        self.0.set_log_level(order)
    }

    fn redirect(&self, redirection: Redirection) -> LocalFuture<Result<String, Refused>> {
        let hub = self.0.clone();
        Box::pin(async move {
            let _by_ids = by_ids(&hub).await?;
            redirecting::carry_out(hub.clone(), redirection).await
        })
    }

    fn configuration(&self) -> Option<Arc<str>> {
        let era = self.0.era();
        let source = era.config.source.as_ref()?;
        Some(source.text.clone())
    }

    fn reload(&self, by: String) -> LocalFuture<Result<String, Refused>> {
        let hub = self.0.clone();
        Box::pin(async move { reload::reload(hub, &by).await })
    }

    fn upgrade(&self, by: String) -> LocalFuture<Result<String, Refused>> {
        let hub = self.0.clone();
        Box::pin(async move { handover::upgrade(hub, &by).await })
    }

    fn command(&self, command: Command) -> LocalFuture<Result<String, Refused>> {
        let hub = self.0.clone();
        Box::pin(async move {
            let _by_ids = by_ids(&hub).await?;
            let now = clock::now();
            let era = hub.era();
            let order = order::order(command, &era.topology, now)?;
            let done = order::done(&order, &era.topology, now);
            let member = order.member;
            hub.order(order, now)
                .map_err(|refusal| order::refused(&refusal, member, &era.topology))?;
            Ok(redirecting::kept(&hub, done).await)
        })
    }
}

/// Keeps ids what they are while it is held, unless another process decides by now.
async fn by_ids(hub: &Hub) -> Result<RwLockReadGuard<'_, ()>, Refused> {
    let guard = hub.commands.read().await;
    match hub.has_handed_over() {
        false => Ok(guard),
        true => Err(Refused::Failed(
            "another process has taken over meanwhile; say it again".to_owned(),
        )),
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
