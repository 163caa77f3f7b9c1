//! Hosts that vanish, hang and die, and an uplink that is cut: what twinpool's clients see, and
//! what it says. Needs root and `ip`; says so and passes where they are missing.

#[allow(dead_code, reason = "each program uses a part of it")]
mod support;

use std::collections::HashSet;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use support::clock::{Stalls, now, seconds, wait_for};
use support::daemon::{Told, events, isolated, phase, total};
use support::datagrams::Sites;
use support::load::{Load, New, Report};
use support::proxies::Proxy;
use support::scene::{CLIENT, PROXY, Plan, Scene};
use support::stats::worst;
use support::trial::{Trial, main as run_trials};
use support::{Result, datagrams, inside, lab, load, member};

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
        name: "an_uplink_cut_for_10_s_moves_no_user_of_a_pair",
        run: || uplink_of(Break::SwitchPort, 10, true),
    },
    Trial {
        name: "a_dead_site_loses_no_new_connection_and_its_users_come_home_by_themselves",
        run: a_dead_site,
    },
    Trial {
        name: "a_dead_sites_flows_are_answered_by_the_twin_within_what_the_pair_promises",
        run: a_dead_site_under_datagrams,
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
/// The pool whose site dies, and its twin.
const POOL: &str = "p1";
const TWIN: &str = "p2";
/// Long sessions of each load.
const SESSIONS: u32 = 30;
/// Flows over UDP of each load.
const FLOWS: u32 = 40;
/// Seconds in which flows of those who are not concerned have their next answer.
const OWN_USERS: f64 = 1.0;
/// Load before anything happens.
const WARM: Duration = Duration::from_secs(3);
/// Long enough for every detection and its consequences, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(15);
/// A site's users are watched at its twin for so long before it returns.
const AWAY: Duration = Duration::from_secs(2);
/// Until a dead site has returned and its users are home, on a machine that is busy: the pair's
/// `hold` and `ramp` are 5 s together.
const ROUND_TRIP: Duration = Duration::from_secs(35);
/// How long a new connection waits. Twinpool may look for a member for 2 s; the rest is for a machine
/// that stalls.
const NEW_PATIENCE: Duration = Duration::from_secs(6);

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
    uplink_of(how, seconds, false)
}

/// An uplink that is cut under two pools, which back each other up or do not.
fn uplink_of(how: Break, seconds: u64, paired: bool) -> Result<()> {
    let mut scene = Scene::new(Plan {
        proxy: Proxy::Twinpool,
        pools: 2,
        paired,
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
                patience: NEW_PATIENCE,
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

    told(&scene, || {
        sessions_went_on(&reports, cut_at, mended_at)?;
        only_isolation_was_told(&scene, before, said_so)
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

/// Isolation was reported, and since the first `before` events no verdict changed and nobody's
/// users were moved.
fn only_isolation_was_told(scene: &Scene, before: usize, said_so: bool) -> Result<()> {
    let told = events(&scene.lab)?.split_off(before);
    if let Some(verdict) = told.iter().find(|event| event.kind == "verdict") {
        return Err(format!("a verdict changed: {}", verdict.text).into());
    }
    if let Some(moved) = told.iter().find(|event| event.kind == "redirect") {
        return Err(format!("users were moved: {}", moved.text).into());
    }
    if !said_so || !told.iter().any(|event| event.kind == "isolation") {
        return Err("isolation was not reported".into());
    }
    Ok(())
}

fn a_vanished_host() -> Result<()> {
    let scene = two_pools()?;
    let struck = strike(&scene, |scene| scene.lab.cut(STRUCK, "eth0", true))?;
    told(&scene, || {
        only_the_struck_one_fell(&scene)?;
        lost_only_with(&scene, &struck.clients, &[STRUCK], struck.blow)?;
        if total(&scene.lab, "hedged")? == 0 {
            return Err("no connect was hedged".into());
        }
        freed(&struck)
    })?;
    scene.lab.cut(STRUCK, "eth0", false)?;
    comes_back(&scene)
}

fn a_hung_member() -> Result<()> {
    let scene = two_pools()?;
    let struck = strike(&scene, |scene| scene.member(STRUCK)?.signal(Signal::STOP))?;
    told(&scene, || {
        only_the_struck_one_fell(&scene)?;
        freed(&struck)
    })?;
    scene.member(STRUCK)?.signal(Signal::CONT)?;
    comes_back(&scene)
}

fn a_killed_member() -> Result<()> {
    let mut scene = two_pools()?;
    let struck = strike(&scene, |scene| {
        let member = scene.member(STRUCK)?;
        member.signal(Signal::KILL)?;
        // It dies when it is scheduled; its kernel takes connections for it until then.
        member.is_dead(PATIENCE)
    })?;
    told(&scene, || {
        only_the_struck_one_fell(&scene)?;
        lost_only_with(&scene, &struck.clients, &[STRUCK], struck.blow)?;
        freed(&struck)
    })?;
    scene.restart(STRUCK)?;
    comes_back(&scene)
}

/// Adds to a failure what twinpool said.
fn told(scene: &Scene, judged: impl FnOnce() -> Result<()>) -> Result<()> {
    judged().map_err(|e| {
        let said = std::fs::read_to_string(scene.log(Proxy::Twinpool)).unwrap_or_default();
        format!("{e}\ntwinpool said:\n{said}").into()
    })
}

fn a_dead_site() -> Result<()> {
    let mut scene = Scene::new(Plan {
        proxy: Proxy::Twinpool,
        pools: 2,
        paired: true,
        two_links: false,
        silent: true,
        work: member::SOME_WORK,
    })?;
    let clients: Vec<load::Running> = scene
        .fronts
        .iter()
        .map(|front| {
            let load = Load {
                target: front.listen,
                rate: 80,
                sessions: SESSIONS,
                span: WARM + ROUND_TRIP,
                patience: NEW_PATIENCE,
            };
            load::start(&scene.lab, CLIENT, load)
        })
        .collect::<Result<_>>()?;
    sleep(WARM);
    let blow = Blow::strike(|| site_cut(&scene, true))?;
    let trip = there_and_back(&scene);
    let reports: Vec<Report> = clients
        .into_iter()
        .map(load::Running::report)
        .collect::<Result<_>>()?;
    scene.proxy.must_live(&scene.log(Proxy::Twinpool))?;
    let [users, twins] = reports.as_slice() else {
        return Err("two loads, two reports".into());
    };
    told(&scene, || {
        let returned = trip?;
        nothing_befell(twins, blow)?;
        users_came_through(&scene, users, blow, returned)
    })
}

/// Cuts every host of the pool off, or lets it return.
fn site_cut(scene: &Scene, cut: bool) -> Result<()> {
    for member in &scene.fronts[0].members {
        scene.lab.cut(&member.name, "eth0", cut)?;
    }
    Ok(())
}

/// Waits for a dead site's users to be sent away, lets it return, and waits for them to be home;
/// when it returned.
fn there_and_back(scene: &Scene) -> Result<u64> {
    let is = |wanted: &'static str| move || Ok((phase(&scene.lab, POOL)? == wanted).then_some(()));
    wait_for("the dead site's users away", PATIENCE, is("away"))?;
    sleep(AWAY);
    let returned = now();
    site_cut(scene, false)?;
    wait_for("their return home", ROUND_TRIP - AWAY, is("home"))?;
    Ok(returned)
}

/// The users of the pool that took others in saw nothing of it.
fn nothing_befell(report: &Report, blow: Blow) -> Result<()> {
    let failed: Vec<&New> = report.failed().collect();
    if !failed.is_empty() {
        let all = blow.tells(&failed);
        return Err(format!("connections of {TWIN}'s own users failed: {all}").into());
    }
    if let Some(end) = report.ends.first() {
        let after = seconds(blow.began, end.at);
        return Err(format!(
            "a session of {TWIN}'s own users ended {after:.3} s after the blow: {}",
            end.how
        )
        .into());
    }
    Ok(())
}

/// The users of a site that died and returned lost no new connection, and their long sessions were
/// at the twin meanwhile, are home again, and were ended for each of that once.
fn users_came_through(scene: &Scene, report: &Report, blow: Blow, returned: u64) -> Result<()> {
    let died = blow.began;
    let of_pool: Vec<&str> = scene.fronts[0]
        .members
        .iter()
        .map(|m| m.name.as_str())
        .collect();
    // None failed after the site returned, either.
    lost_only_with(scene, report, &of_pool, blow)?;
    let sessions: Vec<u32> = report.members_at(died).into_keys().collect();
    if sessions.len() != SESSIONS as usize {
        return Err(format!("{} of {SESSIONS} sessions had begun", sessions.len()).into());
    }
    back_again(report, &sessions, died)?;
    for (when, at, pool) in [
        ("when it died", died, POOL),
        ("before it returned", returned, TWIN),
        ("in the end", u64::MAX, POOL),
    ] {
        let with = report.members_at(at);
        let elsewhere = with.values().filter(|m| !m.starts_with(pool)).count();
        if elsewhere > 0 {
            return Err(format!("{elsewhere} sessions were not with {pool} {when}").into());
        }
    }
    for session in sessions {
        let ends = |from, to| {
            let own = report.ends.iter().filter(|end| end.session == session);
            own.filter(|end| (from..to).contains(&end.at)).count()
        };
        let ends = (ends(0, returned), ends(returned, u64::MAX));
        if ends != (1, 1) {
            return Err(format!(
                "session {session} was ended {} times by the death and {} times by the return",
                ends.0, ends.1
            )
            .into());
        }
    }
    Ok(())
}

fn a_dead_site_under_datagrams() -> Result<()> {
    let mut sites = Sites::new()?;
    let promise = sites.promise()?;
    let span = WARM + Duration::from_secs_f64(promise) + AWAY;
    let ask = |target| datagrams::ask(&sites.lab, target, FLOWS, span);
    let (users, twins) = (ask(sites.listen[0])?, ask(sites.listen[1])?);
    sleep(WARM);
    let (died, stalls) = (now(), Stalls::watch());
    for host in &sites.hosts[0] {
        sites.lab.cut(host, "eth0", true)?;
    }
    let (users, twins) = (users.report()?, twins.report()?);
    let stalled = stalls.seconds()?;
    sites.proxy.must_live(&sites.lab.log("twinpool"))?;
    let judged = answered_in(&users, died, promise + stalled).and_then(|()| {
        stood_with(&users, died, POOL)?;
        stood_with(&users, u64::MAX, TWIN)?;
        stood_with(&twins, died, TWIN)?;
        stood_with(&twins, u64::MAX, TWIN)?;
        answered_in(&twins, died, OWN_USERS + stalled)
    });
    judged.map_err(|e| format!("{e}\ntwinpool said:\n{}", sites.said()).into())
}

/// Each flow has an answer to a question that it asked after the moment, so many seconds after it.
fn answered_in(report: &Report, from: u64, promise: f64) -> Result<()> {
    let flows: Vec<u32> = (0..FLOWS).collect();
    back_again(report, &flows, from)?;
    let longest = worst(
        &report
            .outages(&flows, from)
            .into_iter()
            .flatten()
            .collect::<Vec<f64>>(),
    );
    if longest > promise {
        return Err(format!("{longest:.2} s without an answer, {promise:.2} s allowed").into());
    }
    Ok(())
}

/// All flows stood with members of this pool at the moment.
fn stood_with(report: &Report, at: u64, pool: &str) -> Result<()> {
    let with = report.members_at(at);
    let there = with.values().filter(|m| m.starts_with(pool)).count();
    if there != FLOWS as usize {
        return Err(format!("{there} of {FLOWS} flows stood with {pool}").into());
    }
    Ok(())
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

/// When a blow fell.
#[derive(Clone, Copy, Debug)]
struct Blow {
    /// Nothing was struck before.
    began: u64,
    /// Nobody reaches what was struck from now on.
    complete: u64,
}

impl Blow {
    fn strike(blow: impl FnOnce() -> Result<()>) -> Result<Blow> {
        let began = now();
        blow()?;
        let complete = now();
        Ok(Blow { began, complete })
    }

    /// Connections and how they failed, on this blow's time.
    fn tells(self, failed: &[&New]) -> String {
        let took = seconds(self.began, self.complete);
        let mut told = format!("{} (the blow took {took:.3} s)", failed.len());
        for new in failed {
            let how = match &new.result {
                Ok(member) | Err(member) => member,
            };
            told += &format!(
                "\n  {}: began {:+.3} s, ended {:+.3} s from the blow: {how}",
                new.id,
                seconds(self.began, new.began),
                seconds(self.began, new.ended),
            );
        }
        told
    }
}

/// What clients saw of a blow.
struct Struck {
    clients: Report,
    blow: Blow,
}

/// Strikes under load.
fn strike(scene: &Scene, blow: impl Fn(&Scene) -> Result<()>) -> Result<Struck> {
    let load = Load {
        target: scene.fronts[0].listen,
        rate: 100,
        sessions: SESSIONS,
        span: WARM + PATIENCE,
        patience: NEW_PATIENCE,
    };
    let clients = load::start(&scene.lab, CLIENT, load)?;
    sleep(WARM);
    let blow = Blow::strike(|| blow(scene))?;
    Ok(Struck {
        clients: clients.report()?,
        blow,
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

/// New connections failed only with the struck members: they had begun before the blow was complete,
/// were under way when it fell, and no other member had read their request. Struck members need not
/// have read it: it may have been on the way to them, or in their kernel. On a machine that stalls,
/// that can be any number.
fn lost_only_with(scene: &Scene, report: &Report, struck: &[&str], blow: Blow) -> Result<()> {
    let mut with_others = HashSet::new();
    for (member, _) in &scene.members {
        if !struck.contains(&member.as_str()) {
            with_others.extend(member::requests(&scene.lab, member)?);
        }
    }
    let under_way = |new: &New| new.began < blow.complete && new.ended >= blow.began;
    for (fault, is_at_fault) in [
        (
            "connections failed that were not under way when the blow fell",
            &(|new: &New| !under_way(new)) as &dyn Fn(&New) -> bool,
        ),
        (
            "connections failed whose requests another member had read",
            &|new: &New| with_others.contains(&new.id),
        ),
    ] {
        let failed: Vec<&New> = report.failed().filter(|new| is_at_fault(new)).collect();
        if !failed.is_empty() {
            return Err(format!("{fault}: {}", blow.tells(&failed)).into());
        }
    }
    Ok(())
}

/// Every session that was on the struck member got an answer elsewhere.
fn freed(struck: &Struck) -> Result<()> {
    let sessions: Vec<u32> = struck
        .clients
        .members_at(struck.blow.began)
        .iter()
        .filter(|(_, member)| **member == STRUCK)
        .map(|(session, _)| *session)
        .collect();
    if sessions.is_empty() {
        return Err(format!("no session was on {STRUCK}").into());
    }
    back_again(&struck.clients, &sessions, struck.blow.began)
}

/// Each of these sessions got an answer to a request that it sent after a moment.
fn back_again(report: &Report, sessions: &[u32], at: u64) -> Result<()> {
    let outages = report.outages(sessions, at);
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
