//! Hosts that vanish, hang and die, and an uplink that is cut: what twinpool's clients see, and
//! what it says. Needs root and `ip`; says so and passes where they are missing.

#[allow(dead_code, reason = "each program uses a part of it")]
mod support;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use support::clock::{now, seconds, wait_for};
use support::daemon::{Told, events, isolated, total};
use support::load::{Load, Report};
use support::proxies::Proxy;
use support::scene::{CLIENT, PROXY, Plan, Scene};
use support::stats::worst;
use support::trial::{Trial, main as run_trials};
use support::{Result, inside, lab, load, member};

const TRIALS: &[Trial] = &[
    Trial {
        name: "an_uplink_cut_for_2_s_ends_no_session_and_changes_no_verdict",
        run: || uplink(Break::SwitchPort, 2),
    },
    Trial {
        name: "an_uplink_cut_for_10_s_ends_no_session_and_changes_no_verdict",
        run: || uplink(Break::SwitchPort, 10),
    },
    Trial {
        name: "a_link_down_for_2_s_ends_no_session_and_changes_no_verdict",
        run: || uplink(Break::OwnLink, 2),
    },
    Trial {
        name: "a_link_down_for_10_s_ends_no_session_and_changes_no_verdict",
        run: || uplink(Break::OwnLink, 10),
    },
    Trial {
        name: "the_only_link_cut_for_2_s_ends_no_session_and_changes_no_verdict",
        run: || uplink(Break::OnlyLink, 2),
    },
    Trial {
        name: "the_only_link_cut_for_10_s_ends_no_session_and_changes_no_verdict",
        run: || uplink(Break::OnlyLink, 10),
    },
    Trial {
        name: "a_vanished_host_loses_no_new_connection_and_frees_its_sessions",
        run: a_vanished_host,
    },
    Trial {
        name: "a_hung_member_frees_its_sessions_and_comes_back",
        run: a_hung_member,
    },
    Trial {
        name: "a_killed_member_loses_only_what_was_with_it_and_comes_back",
        run: a_killed_member,
    },
];

/// The member that is struck.
const STRUCK: &str = "p1m1";
/// Long sessions of each load.
const SESSIONS: u32 = 30;
/// Load before anything happens.
const WARM: Duration = Duration::from_secs(3);
/// Long enough for every detection and its consequences, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(15);
/// A struck member may have had one more request than it noted: taken by its kernel, not yet read,
/// or on the way.
const UNREAD: usize = 1;

/// How the way to the members is broken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Break {
    /// The switch drops all packets of the proxy's member-side link; carrier stays.
    SwitchPort,
    /// The proxy's member-side link goes down.
    OwnLink,
    /// The switch drops all packets of the only link that the proxy has.
    OnlyLink,
}

fn main() -> ExitCode {
    inside::main().unwrap_or_else(|| run_trials(TRIALS, lab::obstacle))
}

fn uplink(how: Break, seconds: u64) -> Result<()> {
    let mut scene = Scene::new(Plan {
        proxy: Proxy::Twinpool,
        pools: 2,
        paired: false,
        two_links: how != Break::OnlyLink,
        silent: false,
        work: member::SOME_WORK,
    })?;
    let cut = Duration::from_secs(seconds);
    // TCP's next retry after a cut comes as late as the cut was long.
    let after = cut + Duration::from_secs(5);
    let clients: Vec<load::Running> = scene
        .fronts
        .iter()
        .map(|front| {
            let load = Load {
                target: front.listen,
                rate: 50,
                sessions: SESSIONS,
                span: WARM + cut + after,
            };
            load::start(&scene.lab, CLIENT, load)
        })
        .collect::<Result<_>>()?;
    sleep(WARM);
    let before = events(&scene.lab)?.len();
    let cut_at = now();
    let lab = &scene.lab;
    match how {
        Break::SwitchPort => lab.cut(PROXY, "eth1", true)?,
        Break::OwnLink => lab.link(PROXY, "eth1", false)?,
        Break::OnlyLink => lab.cut(PROXY, "eth0", true)?,
    }
    sleep(cut);
    let said_so = how == Break::OnlyLink || isolated(lab)?;
    match how {
        Break::SwitchPort => lab.cut(PROXY, "eth1", false)?,
        Break::OwnLink => lab.link(PROXY, "eth1", true)?,
        Break::OnlyLink => lab.cut(PROXY, "eth0", false)?,
    }
    let mended_at = now();
    let reports: Vec<Report> = clients
        .into_iter()
        .map(load::Running::report)
        .collect::<Result<_>>()?;
    scene.proxy.must_live(&scene.log(Proxy::Twinpool))?;

    let judged = sessions_went_on(&reports, cut_at, mended_at)
        .and_then(|()| only_isolation_was_told(&scene, before, said_so));
    judged.map_err(|e| {
        let said = std::fs::read_to_string(scene.log(Proxy::Twinpool)).unwrap_or_default();
        format!("{e}\ntwinpool said:\n{said}")
    })?;
    wait_for("the end of isolation", PATIENCE, || {
        Ok((!isolated(&scene.lab)?).then_some(()))
    })
}

/// No long session was ended, and all of them had an answer after the way was mended.
fn sessions_went_on(reports: &[Report], cut_at: u64, mended_at: u64) -> Result<()> {
    for report in reports {
        if let Some(end) = report.ends.first() {
            let (n, after) = (report.ends.len(), seconds(cut_at, end.at));
            return Err(format!(
                "{n} long sessions were ended, the first {after:.3} s after the cut: {}",
                end.how
            )
            .into());
        }
        let sessions: Vec<u32> = report.members_at(cut_at).into_keys().collect();
        if sessions.len() != SESSIONS as usize {
            return Err(format!("{} of {SESSIONS} sessions had begun", sessions.len()).into());
        }
        let back = report.outages(&sessions, mended_at);
        let lost = back.iter().filter(|outage| outage.is_none()).count();
        if lost > 0 {
            return Err(format!("{lost} long sessions did not go on after the cut").into());
        }
    }
    Ok(())
}

/// Isolation was reported, and no verdict changed since the first `before` events.
fn only_isolation_was_told(scene: &Scene, before: usize, said_so: bool) -> Result<()> {
    let told = events(&scene.lab)?.split_off(before);
    if let Some(verdict) = told.iter().find(|event| event.kind == "verdict") {
        return Err(format!("a verdict changed: {}", verdict.text).into());
    }
    if !said_so || !told.iter().any(|event| event.kind == "isolation") {
        return Err("isolation was not reported".into());
    }
    Ok(())
}

fn a_vanished_host() -> Result<()> {
    let scene = two_pools()?;
    let report = strike(&scene, |scene| scene.lab.cut(STRUCK, "eth0", true))?;
    only_the_struck_one_fell(&scene)?;
    lost_at_most(&scene, &report.clients, UNREAD)?;
    if total(&scene.lab, "hedged")? == 0 {
        return Err("no connect was hedged".into());
    }
    freed(&report)?;
    scene.lab.cut(STRUCK, "eth0", false)?;
    comes_back(&scene)
}

fn a_hung_member() -> Result<()> {
    let scene = two_pools()?;
    let report = strike(&scene, |scene| scene.member(STRUCK)?.signal(Signal::STOP))?;
    only_the_struck_one_fell(&scene)?;
    freed(&report)?;
    scene.member(STRUCK)?.signal(Signal::CONT)?;
    comes_back(&scene)
}

fn a_killed_member() -> Result<()> {
    let mut scene = two_pools()?;
    let report = strike(&scene, |scene| scene.member(STRUCK)?.signal(Signal::KILL))?;
    only_the_struck_one_fell(&scene)?;
    lost_at_most(&scene, &report.clients, UNREAD)?;
    freed(&report)?;
    scene.restart(STRUCK)?;
    comes_back(&scene)
}

fn two_pools() -> Result<Scene> {
    Scene::new(Plan {
        proxy: Proxy::Twinpool,
        pools: 2,
        paired: false,
        two_links: false,
        silent: false,
        work: member::SOME_WORK,
    })
}

/// What clients saw of a blow, and when it fell.
struct Struck {
    clients: Report,
    at: u64,
}

/// Strikes under load.
fn strike(scene: &Scene, blow: impl Fn(&Scene) -> Result<()>) -> Result<Struck> {
    let load = Load {
        target: scene.fronts[0].listen,
        rate: 100,
        sessions: SESSIONS,
        span: WARM + PATIENCE,
    };
    let clients = load::start(&scene.lab, CLIENT, load)?;
    sleep(WARM);
    let at = now();
    blow(scene)?;
    Ok(Struck {
        clients: clients.report()?,
        at,
    })
}

/// No verdict but the struck member's has fallen, and that one has.
fn only_the_struck_one_fell(scene: &Scene) -> Result<()> {
    let down: Vec<Told> = events(&scene.lab)?
        .into_iter()
        .filter(|event| event.kind == "verdict" && event.text.contains("down"))
        .collect();
    let struck = |event: &Told| event.member.as_deref() == Some(STRUCK);
    if down.is_empty() || !down.iter().all(struck) {
        return Err(format!("{STRUCK} alone should be down: {down:?}").into());
    }
    Ok(())
}

/// New connections failed only if the struck member had read their request, but for so many.
fn lost_at_most(scene: &Scene, report: &Report, more: usize) -> Result<()> {
    let with_struck = member::requests(&scene.lab, STRUCK)?;
    let beyond: Vec<_> = report
        .failed()
        .filter(|new| !with_struck.contains(&new.id))
        .collect();
    if beyond.len() > more {
        return Err(format!(
            "{} connections failed whose requests {STRUCK} did not have: {beyond:?}",
            beyond.len()
        )
        .into());
    }
    Ok(())
}

/// Every session that was on the struck member got an answer elsewhere.
fn freed(struck: &Struck) -> Result<()> {
    let sessions: Vec<u32> = struck
        .clients
        .members_at(struck.at)
        .iter()
        .filter(|(_, member)| **member == STRUCK)
        .map(|(session, _)| *session)
        .collect();
    if sessions.is_empty() {
        return Err(format!("no session was on {STRUCK}").into());
    }
    let outages = struck.clients.outages(&sessions, struck.at);
    let stuck = outages.iter().filter(|outage| outage.is_none()).count();
    if stuck > 0 {
        return Err(format!("{stuck} of {} sessions are stuck", sessions.len()).into());
    }
    println!(
        "the longest outage was {:.2} s",
        worst(&outages.into_iter().flatten().collect::<Vec<f64>>())
    );
    Ok(())
}

/// The struck member is up again.
fn comes_back(scene: &Scene) -> Result<()> {
    wait_for(&format!("{STRUCK} up again"), PATIENCE, || {
        let told = events(&scene.lab)?;
        let last = told
            .iter()
            .rfind(|event| event.kind == "verdict" && event.member.as_deref() == Some(STRUCK));
        Ok(last.is_some_and(|e| e.text.contains("up")).then_some(()))
    })
}
