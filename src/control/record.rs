//! What is kept of a command among the events: who, what, why, and what came of it.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::redirect;
use super::server::Ordered;
use crate::observe::desk::{Desk, Redirect, Refused};
use crate::observe::events::{Commanded, mode_word};
use crate::observe::stamp::span;

/// Commands that were refused and are told one by one in a [`WINDOW`]; more are counted. A script
/// that goes wrong must not push what matters out of the log.
const MOST_REFUSED: u32 = 20;
/// See there.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest part of what was typed that is kept, in characters.
const LONGEST: usize = 200;

/// A command that is being carried out. None is kept of one that changes nothing.
pub(super) struct Record(Option<Commanded>);

impl Record {
    pub(super) fn of(order: &Ordered, by: String) -> Record {
        let (what, about, reason) = match order {
            Ordered::Member(command) => {
                let mut what = format!("{} {}", mode_word(command.mode), command.member);
                if let Some(lasting) = command.lasting {
                    what += &format!(" for {}", span(lasting));
                }
                if command.force {
                    what += " --force";
                }
                (what, Some(&command.member), &command.reason)
            }
            // The daemon tells of it, with what it changed; so it does where nobody sent a command.
            Ordered::Reload { .. } | Ordered::Upgrade { .. } | Ordered::LogLevel(_) => {
                return Record(None);
            }
            Ordered::Pairs(redirection) if redirection.dry_run => return Record(None),
            Ordered::Pairs(redirection) => {
                let about = match &redirection.what {
                    Redirect::Failover(name)
                    | Redirect::Failback(name)
                    | Redirect::Evacuate(name)
                    | Redirect::Restore(name) => Some(name),
                    Redirect::Pause | Redirect::Resume => None,
                };
                let typed = redirect::again(redirection);
                let what = typed.strip_prefix("twinpool ").unwrap_or(&typed);
                (what.to_owned(), about, &redirection.reason)
            }
        };
        let cut = |text: &str| text.chars().take(LONGEST).collect::<String>();
        Record(Some(Commanded {
            by,
            what: cut(&what),
            about: about.map(|about| cut(about)),
            reason: reason.clone(),
            outcome: Ok(String::new()),
        }))
    }

    /// Keeps what came of it.
    pub(super) fn keep(self, desk: &dyn Desk, quota: &Quota, outcome: &Result<String, Refused>) {
        let Some(mut command) = self.0 else {
            return;
        };
        command.outcome = match outcome {
            Ok(done) => Ok(done.clone()),
            Err(refused) => match quota.take() {
                None => return,
                Some(0) => Err(refused.to_string()),
                Some(untold) => Err(format!("{refused}; {untold} more were refused before")),
            },
        };
        desk.record(command);
    }
}

/// Bounds how many refused commands are told.
#[derive(Debug, Default)]
pub(super) struct Quota {
    since: Cell<Option<Instant>>,
    told: Cell<u32>,
    untold: Cell<u64>,
}

impl Quota {
    /// How many were not told before this one; none where this one is not to be told either.
    fn take(&self) -> Option<u64> {
        let is_over = self
            .since
            .get()
            .is_none_or(|since| since.elapsed() >= WINDOW);
        if is_over {
            self.since.set(Some(Instant::now()));
            self.told.set(0);
        }
        if self.told.get() >= MOST_REFUSED {
            self.untold.set(self.untold.get() + 1);
            return None;
        }
        self.told.set(self.told.get() + 1);
        Some(self.untold.take())
    }
}
