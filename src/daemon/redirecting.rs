//! What people order of pairs, carried out: one move after the other, each on disk and in force
//! before it is answered.
//!
//! ```text
//! Redirection ─► whom? ─► foresee (dry run) or handle_move ─► the record is written ─► a sentence
//! ```
//!
//! Of several moves the first that is refused or fails ends the order, and the answer says what was
//! done, what was not, and how to go on. Every wait for the disk is bounded; an order that ran out
//! of time says what may still come of it.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::hub::Hub;
use crate::clock;
use crate::control::redirect::{self, Change, Users};
use crate::observe::desk::{Redirect, Redirection, Refused};
use crate::observe::serve::EXCHANGE_TIMEOUT;
use crate::pairing::pair::{Destination, MoveRefusal};
use crate::pairing::plan;
use crate::pairing::record::Record;
use crate::topology::{PairId, SiteId};

/// How long one write is waited for: a disk that is only busy takes a fraction of it.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// How long all steps of an order may take: the answer is to arrive within [`EXCHANGE_TIMEOUT`].
const ANSWER_WITHIN: Duration = Duration::from_secs(EXCHANGE_TIMEOUT.as_secs() * 4 / 5);

/// Why a step of an order ended it, or that there was nothing to do.
enum Stop {
    /// They are there already: told, and what to do instead.
    Already(String, String),
    /// Refused, and whether `--force` overrides it.
    Refused(String, bool),
    /// Something failed.
    Failed(String),
}

/// Carries out an order, and answers once it is in force.
pub(super) async fn carry_out(hub: Rc<Hub>, order: Redirection) -> Result<String, Refused> {
    let until = Instant::now() + ANSWER_WITHIN;
    match &order.what {
        Redirect::Failover(pool) => one(&hub, pool, Destination::Twin, &order, until).await,
        Redirect::Failback(pool) => one(&hub, pool, Destination::Home, &order, until).await,
        Redirect::Evacuate(site) => all(&hub, site, Destination::Twin, &order, until).await,
        Redirect::Restore(site) => all(&hub, site, Destination::Home, &order, until).await,
        Redirect::Pause => pause(&hub, &order).await,
        Redirect::Resume => resume(&hub, &order, until).await,
    }
}

async fn one(
    hub: &Hub,
    pool: &str,
    to: Destination,
    order: &Redirection,
    until: Instant,
) -> Result<String, Refused> {
    let topology = hub.topology();
    let users = Users::named(&topology, pool)?;
    match step(hub, users, to, order, until).await {
        Ok(done) => Ok(done),
        Err(Stop::Already(told, instead)) => Err(Refused::Harmful(format!("{told}; {instead}"))),
        Err(Stop::Refused(told, _)) => Err(Refused::Harmful(told)),
        Err(Stop::Failed(told)) => Err(Refused::Failed(told)),
    }
}

/// Every pool of a site that has a twin, in order.
async fn all(
    hub: &Hub,
    name: &str,
    to: Destination,
    order: &Redirection,
    until: Instant,
) -> Result<String, Refused> {
    let topology = hub.topology();
    let site: SiteId = redirect::site(&topology, name)?;
    let pools = plan::evacuation(&topology, site);
    let moves: Vec<Users<'_>> = pools
        .iter()
        .filter_map(|pool| Users::of(&topology, *pool))
        .collect();
    if moves.is_empty() {
        return Err(Refused::Harmful(format!(
            "no pool of site {name} has a twin; write [pairs.NAME] into the configuration"
        )));
    }
    let mut lines = Vec::new();
    let mut stopped = None;
    for (index, &users) in moves.iter().enumerate() {
        let place = format!("{}/{}", index + 1, moves.len());
        let (told, stop) = match step(hub, users, to, order, until).await {
            Ok(told) | Err(Stop::Already(told, _)) => (told, None),
            Err(Stop::Refused(told, force)) => (told, Some((force, false))),
            Err(Stop::Failed(told)) => (told, Some((false, true))),
        };
        lines.push(format!("{place} {told}"));
        if let (Some(stop), None) = (stop, &stopped) {
            stopped = Some((index, stop));
            if !order.dry_run {
                break;
            }
        }
    }
    lines.extend(redirect::staying(&topology, site));
    let Some((at, (force, failed))) = stopped else {
        return Ok(lines.join("\n"));
    };
    let names = |moves: &[Users<'_>]| {
        let names: Vec<&str> = moves.iter().map(|users| users.home.name.as_str()).collect();
        names.join(", ")
    };
    let done = match at {
        0 => "nothing was done before".to_owned(),
        _ => format!("done before: {}", names(&moves[..at])),
    };
    let again = redirect::again(order);
    let forced = match force && !order.force {
        true => format!(", or with `{again} --force`"),
        false => String::new(),
    };
    lines.push(format!(
        "stopped at {}/{}: {done}; not done: {}. Go on with `{again}` once that is mended{forced}",
        at + 1,
        moves.len(),
        names(&moves[at..])
    ));
    let told = lines.join("\n");
    Err(match failed {
        true => Refused::Failed(told),
        false => Refused::Harmful(told),
    })
}

/// Moves the users of one pool, or tells what that would come to.
async fn step(
    hub: &Hub,
    users: Users<'_>,
    to: Destination,
    asked: &Redirection,
    until: Instant,
) -> Result<String, Stop> {
    let pair = users.pair.id;
    let order = users.order(to, asked);
    loop {
        if Instant::now() >= until {
            let home = &users.home.name;
            return Err(Stop::Failed(format!(
                "{home}: not begun: the disk of `state_dir` is too slow to do all of it at once"
            )));
        }
        let now = clock::now();
        let (before, drains, isolated) = {
            let decider = hub.decider.borrow();
            (
                decider.pair(pair).record().clone(),
                redirect::drains(&decider, users, &order),
                decider.isolated().is_some(),
            )
        };
        let tell = |after: &Record| {
            let change = Change {
                users,
                before: &before,
                after,
                drains,
                isolated,
                stand: &|pool| hub.stand(pool),
            };
            change.text()
        };
        let foreseen = |order| hub.decider.borrow().foresee(pair, order, now);
        let moved = match asked.dry_run {
            true => foreseen(&order),
            false => hub.move_users(pair, &order, now),
        };
        let refusal = match moved {
            Ok(after) if asked.dry_run => return Ok(tell(&after)),
            Ok(after) => {
                let told = tell(&after);
                return match written(hub, pair, after.generation, until).await {
                    Some(Ok(())) => Ok(told),
                    Some(Err(error)) => Err(Stop::Failed(not_written(users, &error))),
                    None => Err(Stop::Failed(still_writing(users, after.generation))),
                };
            }
            Err(MoveRefusal::Writing) => {
                others_written(hub, users, until).await?;
                continue;
            }
            Err(refusal) => refusal,
        };
        let decider = hub.decider.borrow();
        let mut told = redirect::refused(refusal, users, to, &decider, now);
        if let MoveRefusal::Already(phase) = refusal {
            let already = redirect::already(&decider, users, now);
            return Err(Stop::Already(already, redirect::instead(users, to, phase)));
        }
        let can_be_forced = redirect::can_be_forced(refusal);
        if asked.dry_run && can_be_forced {
            let mut forced = order.clone();
            forced.force = true;
            told += &match decider.foresee(pair, &forced, now) {
                Ok(after) => format!(". With --force: {}", tell(&after)),
                Err(refusal) => {
                    let refused = redirect::refused(refusal, users, to, &decider, now);
                    format!(". With --force: {refused}")
                }
            };
        }
        return Err(Stop::Refused(told, can_be_forced));
    }
}

/// Resolves once a record is on disk and in force, or could not be written; none when that takes
/// too long. Listens from now on.
fn written(
    hub: &Hub,
    pair: PairId,
    generation: u64,
    until: Instant,
) -> impl Future<Output = Option<Result<(), String>>> + use<> {
    let until = until.min(Instant::now() + WRITE_PATIENCE);
    let written = hub.written(pair, generation);
    async move { timeout_at(until, written).await.ok() }
}

/// Waits until the change of a pair that is being written is over, however it went.
async fn others_written(hub: &Hub, users: Users<'_>, until: Instant) -> Result<(), Stop> {
    let pair = users.pair.id;
    let wanted = hub.decider.borrow().pair(pair).wanted().cloned();
    let Some(wanted) = wanted else { return Ok(()) };
    match written(hub, pair, wanted.generation, until).await {
        Some(_) => Ok(()),
        None => Err(Stop::Failed(format!(
            "{}: not carried out: another change of pair {} (generation {}) is being written, and \
             the disk does not answer; nothing changed. Look at the disk of `state_dir`",
            users.home.name, users.pair.name, wanted.generation
        ))),
    }
}

fn not_written(users: Users<'_>, error: &str) -> String {
    let home = &users.home.name;
    format!("{home}: not carried out: cannot write the record: {error}; nothing changed")
}

fn still_writing(users: Users<'_>, generation: u64) -> String {
    format!(
        "{}: not in force yet: the disk does not answer, and generation {generation} is not written. \
         It comes into force if the disk takes it; `twinpool redirects` tells, and look at the disk \
         of `state_dir`",
        users.home.name
    )
}

async fn pause(hub: &Hub, order: &Redirection) -> Result<String, Refused> {
    must_have_pairs(hub)?;
    let told = redirect::paused(&hub.decider.borrow());
    if order.dry_run {
        return Ok(told);
    }
    hub.pause(order.by.clone(), order.reason.clone(), clock::now());
    Ok(kept(hub, told).await)
}

async fn resume(hub: &Hub, order: &Redirection, until: Instant) -> Result<String, Refused> {
    must_have_pairs(hub)?;
    let (halts, results) = loop {
        let now = clock::now();
        let halts = redirect::halts(&hub.decider.borrow(), now);
        if halts.is_empty() {
            let seen = if order.dry_run {
                Vec::new()
            } else {
                hub.pairs.acknowledge()
            };
            return Ok(match seen.as_slice() {
                [] => "automation of pairs was not halted; nothing changed".to_owned(),
                pairs => format!(
                    "automation of pairs was not halted; the restored record of {} is taken as it \
                     stands",
                    pairs.join(", ")
                ),
            });
        }
        if order.dry_run {
            let ends: Vec<String> = halts.into_iter().map(|(_, ends)| ends).collect();
            return Ok(format!(
                "automation of pairs goes on; ends {}",
                ends.join(", ")
            ));
        }
        match hub.resume(order.by.clone(), now) {
            Ok(generations) => {
                // Before anything is waited for: each is to be heard of.
                let wait = |(pair, generation)| (pair, written(hub, pair, generation, until));
                break (halts, generations.into_iter().map(wait).collect::<Vec<_>>());
            }
            Err(busy) => {
                let topology = hub.topology();
                let home = topology.pair(busy).pools[0];
                if let Some(users) = Users::of(&topology, home) {
                    match others_written(hub, users, until).await {
                        Ok(()) => {}
                        Err(
                            Stop::Failed(told) | Stop::Refused(told, _) | Stop::Already(told, _),
                        ) => {
                            return Err(Refused::Failed(told));
                        }
                    }
                }
            }
        }
    };
    let mut failed = Vec::new();
    for (pair, result) in results {
        let topology = hub.topology();
        let name = &topology.pair(pair).name;
        match result.await {
            Some(Ok(())) => {}
            Some(Err(error)) => failed.push((
                pair,
                format!("{name}: cannot write the record: {error}; its automation stays ended"),
            )),
            None => failed.push((
                pair,
                format!("{name}: the disk does not answer; its automation stays ended until then"),
            )),
        }
    }
    let is_failed = |pair: &Option<PairId>| failed.iter().any(|(other, _)| Some(*other) == *pair);
    let ended = halts.into_iter().filter(|(pair, _)| !is_failed(pair));
    let ended: Vec<(Option<PairId>, String)> = ended.collect();
    let told = match ended.as_slice() {
        [] => "nothing was ended".to_owned(),
        all => {
            let all: Vec<&str> = all.iter().map(|(_, ended)| ended.as_str()).collect();
            format!("automation of pairs goes on; ended {}", all.join(", "))
        }
    };
    tell_resumed(hub, order, &ended);
    let told = kept(hub, told).await;
    if failed.is_empty() {
        return Ok(told);
    }
    let failed: Vec<String> = failed.into_iter().map(|(_, failed)| failed).collect();
    Err(Refused::Failed(format!(
        "{}; {told}. Repeat `twinpool resume` once that is mended",
        failed.join("; ")
    )))
}

/// Tells of a resume what nobody else does: what it ended pair by pair, and why.
fn tell_resumed(hub: &Hub, order: &Redirection, ended: &[(Option<PairId>, String)]) {
    let of_pairs = ended.iter().filter(|(pair, _)| pair.is_some());
    let of_pairs: Vec<&str> = of_pairs.map(|(_, ended)| ended.as_str()).collect();
    let because = order.reason.as_ref().map(|reason| format!(" ({reason})"));
    let ends = match of_pairs.as_slice() {
        [] if because.is_none() => return,
        [] => "automation goes on".to_owned(),
        all => format!("ends {}", all.join(", ")),
    };
    let because = because.unwrap_or_default();
    let told = format!("resume by {}{because}: {ends}", order.by);
    hub.tell_instance(told, clock::now());
}

/// What is answered once what operators decided is on disk, or cannot be.
pub(super) async fn kept(hub: &Hub, told: String) -> String {
    match timeout(WRITE_PATIENCE, hub.kept()).await {
        Ok(Ok(())) => told,
        Ok(Err(error)) => format!("{told}; this does not outlive a restart: {error}"),
        Err(_) => format!(
            "{told}; this may not outlive a restart: the disk does not answer within \
             {WRITE_PATIENCE:?}"
        ),
    }
}

fn must_have_pairs(hub: &Hub) -> Result<(), Refused> {
    match hub.topology().pairs.is_empty() {
        false => Ok(()),
        true => Err(Refused::Harmful(
            "there is no pair, and nothing to pause or resume; write [pairs.NAME] into the \
             configuration"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests;
