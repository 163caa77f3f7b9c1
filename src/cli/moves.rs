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
use crate::control::redirect::{AutomationBody, PoolBody, SiteBody};

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

/// An order as it goes over the socket.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body {
    Pool(PoolBody),
    Site(SiteBody),
    All(AutomationBody),
}

/// Gives the order and prints what was done, or what would be.
pub async fn give(client: &Client, order: Order, out: &mut impl Write) -> Result<(), Failed> {
    let (name, body) = order.parts();
    let told = client.redirect(name, &body).await?;
    if body.is_dry_run() {
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
        let of_all = |because: Because| {
            Body::All(AutomationBody {
                reason: because.reason,
            })
        };
        match self {
            Order::Failover(order) => ("failover", Body::Pool(order.into())),
            Order::Failback(order) => ("failback", Body::Pool(order.into())),
            Order::Evacuate(order) => ("evacuate", Body::Site(order.into())),
            Order::Restore(order) => ("restore", Body::Site(order.into())),
            Order::Pause(because) => ("pause", of_all(because)),
            Order::Resume(because) => ("resume", of_all(because)),
        }
    }
}

impl Body {
    fn is_dry_run(&self) -> bool {
        match self {
            Body::Pool(body) => body.dry_run,
            Body::Site(body) => body.dry_run,
            Body::All(_) => false,
        }
    }
}

impl From<MovePool> for PoolBody {
    fn from(order: MovePool) -> PoolBody {
        let How {
            dry_run,
            now,
            force,
            reason,
        } = order.how;
        PoolBody {
            pool: order.pool,
            reason,
            now,
            force,
            dry_run,
        }
    }
}

impl From<MoveSite> for SiteBody {
    fn from(order: MoveSite) -> SiteBody {
        let How {
            dry_run,
            now,
            force,
            reason,
        } = order.how;
        SiteBody {
            site: order.site,
            reason,
            now,
            force,
            dry_run,
        }
    }
}

#[cfg(test)]
mod tests;
