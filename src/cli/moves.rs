//! Commands about pairs: what can be typed, what of it goes to the daemon, and what is printed.
//!
//! An order goes out as it was typed; whether it can be carried out is the daemon's to say. Its
//! answer may be of several lines, one a step. Nothing here decides or waits for the disk: an
//! answer that does not come in time leaves open whether the order was carried out, and says so.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::Failed;
use super::client::Client;
use super::paint::harmless;

/// What a dry run begins with.
const DRY_RUN: &str = "dry run: nothing is changed";

/// A pool, and how its users are to move.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct MovePool {
    /// The pool whose users move: their home
    pub pool: String,
    /// How.
    #[command(flatten)]
    pub how: How,
}

/// A site, and how the users of its pools are to move.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct MoveSite {
    /// The site whose pools' users move, pool by pool in the order of `after_pool`
    pub site: String,
    /// How.
    #[command(flatten)]
    pub how: How,
}

/// How users are to move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct How {
    /// Only tell what would happen, in which order, to how many sessions
    #[arg(long)]
    pub dry_run: bool,
    /// Without drain or ramp: what remains is ended at once, at the pair's bounded rate
    #[arg(long)]
    pub now: bool,
    /// Even where it is refused for a reason that --force overrides
    #[arg(long)]
    pub force: bool,
    /// Why, for those who look at `redirects` and `events`
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Why somebody wants it.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Because {
    /// Why, for those who look at `redirects` and `events`
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// An order about pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send a pool's users to its twin.
    Failover(MovePool),
    /// Bring them home.
    Failback(MovePool),
    /// Failover of every pool of a site.
    Evacuate(MoveSite),
    /// Failback of every pool of a site.
    Restore(MoveSite),
    /// Stop all automation.
    Pause(Because),
    /// Let it go on.
    Resume(Because),
}

/// An order as it goes over the socket; what was not typed is left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    now: bool,
    #[serde(skip_serializing_if = "is_false")]
    force: bool,
    #[serde(skip_serializing_if = "is_false")]
    dry_run: bool,
}

/// Gives the order and prints what was done, or what would be.
pub async fn give(client: &Client, order: Order, out: &mut impl Write) -> Result<(), Failed> {
    let (name, body) = order.parts();
    let told = client.redirect(name, &body).await?;
    if body.dry_run {
        writeln!(out, "{DRY_RUN}")?;
    }
    for line in told.lines() {
        writeln!(out, "{}", harmless(line))?;
    }
    Ok(())
}

impl Order {
    /// The command's name, and the body that goes with it.
    fn parts(self) -> (&'static str, Body) {
        let of_pool = |order: MovePool| Body {
            pool: Some(order.pool),
            ..order.how.into()
        };
        let of_site = |order: MoveSite| Body {
            site: Some(order.site),
            ..order.how.into()
        };
        let of_all = |because: Because| Body {
            reason: because.reason,
            ..Body::default()
        };
        match self {
            Order::Failover(order) => ("failover", of_pool(order)),
            Order::Failback(order) => ("failback", of_pool(order)),
            Order::Evacuate(order) => ("evacuate", of_site(order)),
            Order::Restore(order) => ("restore", of_site(order)),
            Order::Pause(because) => ("pause", of_all(because)),
            Order::Resume(because) => ("resume", of_all(because)),
        }
    }
}

impl From<How> for Body {
    fn from(how: How) -> Body {
        Body {
            reason: how.reason,
            now: how.now,
            force: how.force,
            dry_run: how.dry_run,
            ..Body::default()
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests;
