//! The live view: everything on one screen of 24 rows, the last two of them for what is typed.
//!
//! A pure function of a [`Scene`]; where it is shown, and when, is the caller's.

use std::time::Duration;

use super::ledger::took;
use super::members::Mood;
use crate::cli::paint::{Ink, Look, cut, harmless};
use crate::health::Verdict;
use crate::health::readiness::Mode;
use crate::observe::events::{condition_word, mode_word};
use crate::observe::stamp::span;
use crate::observe::status::{HomePhase, HomeStatus, MemberStatus, PoolStatus, Status};
use crate::pairing::Condition;

/// Rows of the view.
pub(super) const ROWS: usize = 22;

/// What is shown.
pub(super) struct Scene<'a> {
    /// What twinpool knows; or why it does not say.
    pub(super) status: Result<&'a Status, String>,
    /// What was done to each member.
    pub(super) moods: &'a [(&'a str, Mood)],
    /// New sessions a second for each of them.
    pub(super) rates: &'a [f64],
    pub(super) clients: Feeling,
    /// Commands that work in another terminal, and addresses to look at.
    pub(super) look_at: &'a [String],
    /// What can be typed.
    pub(super) commands: &'a str,
    /// What the last typed line did.
    pub(super) said: &'a str,
}

/// What clients saw in the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Feeling {
    /// Answers a second.
    pub(super) answers: f64,
    /// Failures in the last seconds.
    pub(super) failed: usize,
    /// Failures since the start.
    pub(super) failed_ever: u64,
    /// Long sessions.
    pub(super) residents: usize,
    /// Those that are without a session.
    pub(super) out: usize,
    /// Long sessions that were cut since the start.
    pub(super) cut_ever: u64,
    /// Half of the answers took no longer.
    pub(super) median: Duration,
    /// Of a hundred answers 99 took no longer.
    pub(super) p99: Duration,
}

/// The view, in [`ROWS`] lines.
pub(super) fn screen(scene: &Scene<'_>, look: Look) -> String {
    let mut rows = Vec::new();
    match &scene.status {
        Ok(status) => {
            rows.push(headline(status, look));
            rows.push(look.ink(Ink::Faint, &MemberRow::titles()));
            for pool in &status.pools {
                rows.push(pool_row(status, pool, look));
                for member in &pool.members {
                    rows.push(member_row(scene, status, member, look));
                }
            }
        }
        Err(why) => rows.push(look.ink(Ink::Bad, &format!("no status: {why}"))),
    }
    rows.push(String::new());
    rows.extend(clients(scene.clients, look));
    rows.push(String::new());
    let below: Vec<String> = std::iter::once(String::new())
        .chain(scene.look_at.iter().cloned())
        .chain([
            format!("type  {}", scene.commands),
            look.ink(Ink::Title, &cut(scene.said, look.width)),
        ])
        .collect();
    let room = ROWS.saturating_sub(rows.len() + below.len());
    if let Ok(status) = scene.status {
        let events = status.recent.iter().rev().take(room);
        rows.extend(events.map(|event| {
            let line = format!(
                "{}  {}",
                event.at.clock_face(status.now),
                harmless(&event.text)
            );
            cut(&line, look.width)
        }));
    }
    rows.resize(ROWS.saturating_sub(below.len()), String::new());
    rows.extend(below);
    rows.truncate(ROWS);
    rows.join("\n") + "\n"
}

/// The same in a line, for where there is no terminal.
pub(super) fn line(scene: &Scene<'_>) -> String {
    let felt = scene.clients;
    let pools = match &scene.status {
        Ok(status) => status
            .pools
            .iter()
            .map(|pool| {
                let users = home(status, pool).map_or(String::new(), |home| {
                    format!(" with users {}", users_text(status, home))
                });
                format!("{} {}{users}", pool.name, condition_word(pool.condition))
            })
            .collect::<Vec<_>>()
            .join(", "),
        Err(why) => format!("no status: {why}"),
    };
    let moods: Vec<String> = scene
        .moods
        .iter()
        .filter(|(_, mood)| *mood != Mood::Well)
        .map(|(name, mood)| format!(", {name} {mood}"))
        .collect();
    format!(
        "{pools}{}; {:.0} answers/s, {} failed since the start, p50 {}, p99 {}; {} of {} long \
         sessions out, {} cut since the start",
        moods.concat(),
        felt.answers,
        felt.failed_ever,
        took(felt.median),
        took(felt.p99),
        felt.out,
        felt.residents,
        felt.cut_ever,
    )
}

fn headline(status: &Status, look: Look) -> String {
    let age = span(status.now.since(status.started));
    let text = format!(
        "twinpool demo, running for {age}, {} sessions",
        status.sessions.open
    );
    look.ink(Ink::Title, &cut(&text, look.width))
}

fn pool_row(status: &Status, pool: &PoolStatus, look: Look) -> String {
    let ink = match pool.condition {
        Condition::Serving => Ink::Good,
        Condition::Degraded => Ink::Warn,
        Condition::Lost => Ink::Bad,
    };
    let users = home(status, pool).map_or(String::new(), |home| {
        format!("; users {}", users_text(status, home))
    });
    let text = format!(
        "{}: {} for {}, {} of {} up{users}",
        pool.name,
        condition_word(pool.condition),
        span(status.now.since(pool.since)),
        pool.present,
        pool.of_first,
    );
    look.ink(ink, &cut(&text, look.width))
}

/// What is said of a pool's users, where it has a twin.
fn home<'a>(status: &'a Status, pool: &PoolStatus) -> Option<&'a HomeStatus> {
    let mut homes = status.pairs.iter().flat_map(|pair| &pair.pools);
    homes.find(|home| home.pool == pool.name)
}

/// Where a pool's users are.
fn users_text(status: &Status, home: &HomeStatus) -> String {
    let since = span(status.now.since(home.since));
    let text = match home.phase {
        HomePhase::Home if home.spilling => "home, some spilling".to_owned(),
        HomePhase::Home => "home".to_owned(),
        HomePhase::Away => format!("away for {since}"),
        HomePhase::Returning => format!("coming home, {} %", home.share),
    };
    match home.to_move {
        0 => text,
        n => format!("{text}, {n} to move"),
    }
}

/// The columns of a member's row.
struct MemberRow;

impl MemberRow {
    fn titles() -> String {
        MemberRow::lay_out("member", "made", "found", "since", "holds", "new/s", "why")
    }

    fn lay_out(
        member: &str,
        mood: &str,
        verdict: &str,
        since: &str,
        load: &str,
        rate: &str,
        why: &str,
    ) -> String {
        format!("  {member:<8}{mood:<6}{verdict:<13}{since:>11}{load:>7}{rate:>7}  {why}")
    }
}

fn member_row(scene: &Scene<'_>, status: &Status, member: &MemberStatus, look: Look) -> String {
    let place = scene
        .moods
        .iter()
        .position(|(name, _)| *name == member.name);
    let mood = place.map_or(String::new(), |at| scene.moods[at].1.to_string());
    let rate = place.and_then(|at| scene.rates.get(at)).copied();
    let Some(target) = member.services.first() else {
        return member.name.clone();
    };
    let found = match member.mode {
        Mode::Ready => target.verdict.to_string(),
        mode => mode_word(mode).to_owned(),
    };
    let ink = match (member.mode, target.verdict) {
        (Mode::Drain | Mode::Maintenance, _) => Ink::Wanted,
        (Mode::Ready, Verdict::Up) => Ink::Good,
        (Mode::Ready, Verdict::Busy | Verdict::Unknown) => Ink::Warn,
        (Mode::Ready, Verdict::Down) => Ink::Bad,
    };
    let row = MemberRow::lay_out(
        &member.name,
        &mood,
        &found,
        &span(status.now.since(target.since)),
        &member.load.to_string(),
        &format!("{:.0}", rate.unwrap_or(0.0)),
        &harmless(&target.reason),
    );
    look.ink(ink, &cut(&row, look.width))
}

fn clients(felt: Feeling, look: Look) -> [String; 2] {
    let failed = format!(
        "{} failed in the last seconds ({} since the start)",
        felt.failed, felt.failed_ever
    );
    let ink = if felt.failed > 0 { Ink::Bad } else { Ink::Good };
    let out = format!("{} of {} out", felt.out, felt.residents);
    let out_ink = if felt.out > 0 { Ink::Bad } else { Ink::Good };
    [
        format!(
            "clients        {:.0} answers/s, {}",
            felt.answers,
            look.ink(ink, &failed)
        ),
        format!(
            "long sessions  {}, {} cut since the start; p50 {}, p99 {}",
            look.ink(out_ink, &out),
            felt.cut_ever,
            took(felt.median),
            took(felt.p99)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample;
    use crate::observe::sample::Plight;

    const LOOK: Look = Look {
        width: 80,
        colour: false,
    };

    fn shown(status: Result<&Status, String>) -> Vec<String> {
        let look_at = ["look  here".to_owned(), "try   this".to_owned()];
        let scene = Scene {
            status,
            moods: &[("fe1", Mood::Dead), ("fe2", Mood::Well)],
            rates: &[49.6, 0.0],
            clients: Feeling {
                answers: 500.0,
                failed: 1,
                failed_ever: 3,
                residents: 60,
                out: 2,
                cut_ever: 15,
                median: Duration::from_micros(800),
                p99: Duration::from_micros(2_100),
            },
            look_at: &look_at,
            commands: "kill fe1",
            said: "fe1 is dead now",
        };
        screen(&scene, LOOK).lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_view_fits_a_small_terminal_whatever_happens() {
        for status in [
            sample::well(),
            sample::one_member_down(),
            sample::pool_lost(),
            sample::isolated(),
            sample::oddities(),
            sample::starting(),
        ] {
            let rows = shown(Ok(&status));
            assert_eq!(rows.len(), ROWS);
            for row in rows {
                assert!(row.chars().count() <= 80, "{row}");
            }
        }
        assert_eq!(shown(Err("nobody answers".to_owned())).len(), ROWS);
    }

    #[test]
    fn where_users_are_shows_in_their_pools_row_from_the_loss_of_a_site_to_their_return() {
        let mut plight = Plight::new();
        let row = |plight: &Plight| {
            let rows = shown(Ok(&plight.status()));
            let row = rows.into_iter().find(|row| row.starts_with("fe-seoul: "));
            let row = row.expect("a row of the pool");
            let (_, users) = row.split_once("; users ").expect("where its users are");
            users.to_owned()
        };
        assert_eq!(row(&plight), "home");
        plight.lose(&["fe-seoul"]);
        plight.spilling = vec![plight.pool("fe-seoul")];
        assert_eq!(row(&plight), "home, some spilling");
        plight.run(10_500);
        assert!(row(&plight).starts_with("away for "), "{}", row(&plight));
        plight.set("fe-seoul", false);
        plight.run(330_000);
        plight.to_move = 7;
        let coming = row(&plight);
        assert!(coming.starts_with("coming home, "), "{coming}");
        assert!(coming.ends_with(" %, 7 to move"), "{coming}");
    }

    #[test]
    fn a_fallen_member_shows_as_made_and_as_found() {
        let status = sample::one_member_down();
        let rows = shown(Ok(&status));
        let row = rows.iter().find(|row| row.trim_start().starts_with("fe1"));
        let row = row.expect("a row of fe1");
        assert!(row.contains("dead") && row.contains("down"), "{row}");
    }

    #[test]
    fn what_can_be_done_is_always_on_the_view() {
        for status in [Ok(&sample::oddities()), Err("nobody answers".to_owned())] {
            let rows = shown(status);
            for words in [
                "look  here",
                "try   this",
                "type  kill fe1",
                "fe1 is dead now",
            ] {
                assert!(rows.iter().any(|row| row == words), "{words}");
            }
        }
    }

    #[test]
    fn what_clients_feel_is_on_the_view() {
        let rows = shown(Ok(&sample::well()));
        assert!(
            rows.contains(
                &"clients        500 answers/s, 1 failed in the last seconds (3 since the start)"
                    .to_owned()
            )
        );
        assert!(
            rows.contains(
                &"long sessions  2 of 60 out, 15 cut since the start; p50 0.8 ms, p99 2.1 ms"
                    .to_owned()
            )
        );
    }
}
