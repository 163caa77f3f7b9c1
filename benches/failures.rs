//! What clients see while servers die: twinpool beside HAProxy, in network namespaces.
//!
//! See `benches/README.md` for the method.

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use rustix::process::Signal;

use support::clock::{now, seconds};
use support::daemon::events;
use support::load::Report;
use support::proxies::Proxy;
use support::scene::{CLIENT, Plan, Scene};
use support::stats::{Table, median, quantile, show, worst};
use support::{Result, inside, lab, load, member};

/// The member that events strike, and the pool that is struck with its site.
const STRUCK: &str = "p1m1";
const STRUCK_POOL: &str = "p1";
/// How long a member that was stopped has to read what its kernel took for it.
const READ_ON: Duration = Duration::from_millis(500);

/// Rounds differ by this much in when the event comes, so that it meets checks, which are asked
/// every second, in different phases.
const PHASE: Duration = Duration::from_millis(380);
/// What a connection may take above the median one and still be a normal one, seconds: a retried
/// packet or a cold core, far below the hedge of a connect.
const NORMAL: f64 = 0.1;

/// What clients see while servers die.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench failures --")]
struct Args {
    /// Rounds; in each, every proxy meets every event.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Events: kill, cut, hang, site.
    #[arg(long, value_delimiter = ',', default_value = "kill,cut,hang,site", value_parser = Event::parse)]
    events: Vec<Event>,
    /// Proxies: twinpool, haproxy.
    #[arg(long, value_delimiter = ',', default_value = "twinpool,haproxy", value_parser = Proxy::parse)]
    proxies: Vec<Proxy>,
    /// Seconds of load before the event.
    #[arg(long, default_value_t = 5)]
    warm: u64,
    /// Seconds of load after the event.
    #[arg(long, default_value_t = 12)]
    observe: u64,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What happens to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A member's process dies; its kernel resets what it had.
    Kill,
    /// A member's host vanishes: every packet is dropped, no reset.
    Cut,
    /// A member's process stops; its kernel still accepts.
    Hang,
    /// All hosts of a pool vanish; another site's pool can take its users.
    Site,
}

/// What clients saw of one event.
#[derive(Clone, Debug)]
struct Outcome {
    /// New connections that failed.
    failed: f64,
    /// Those of them whose request a struck member had read.
    with_member: f64,
    /// Seconds from the first failed to the last.
    failed_for: f64,
    /// Median of answered new connections before the event, seconds.
    normal: f64,
    /// Slowest answered new connection from the event on, seconds.
    slowest: f64,
    /// Slowest of those that began once the pool was declared lost, seconds; where it was, and
    /// the proxy says so.
    slowest_then: Option<f64>,
    /// Long sessions that were on the struck member.
    sessions: f64,
    /// Seconds from the event until each of them had an answer again.
    outages: Vec<f64>,
    /// Those of them that never had one.
    stuck: f64,
}

fn main() -> ExitCode {
    if let Some(played) = inside::main() {
        return played;
    }
    let args = Args::parse();
    if let Some(why) = lab::obstacle() {
        println!("skipped: {why}");
        return ExitCode::SUCCESS;
    }
    match compare(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> Result<()> {
    let mut proxies = args.proxies.clone();
    proxies.retain(|proxy| match proxy.obstacle() {
        Some(why) => {
            println!("left out: {why}");
            false
        }
        None => true,
    });
    let mut outcomes: Vec<(Event, Proxy, Outcome)> = Vec::new();
    for round in 1..=args.rounds {
        for &event in &args.events {
            for &proxy in &proxies {
                let outcome = strike(args, proxy, event, round)?;
                println!(
                    "round {round}, {}, {}: {}",
                    event.name(),
                    proxy.name(),
                    outcome.line()
                );
                outcomes.push((event, proxy, outcome));
            }
        }
    }
    let rows = |event, proxy| -> Vec<Outcome> {
        let of = |(e, p, _): &&(Event, Proxy, Outcome)| *e == event && *p == proxy;
        outcomes
            .iter()
            .filter(of)
            .map(|(_, _, o)| o.clone())
            .collect()
    };
    let mut seen = Table::new(&[
        "event",
        "proxy",
        "failed new connections (their request with the member)",
        "failing for, s",
        "slowest connect above normal, s",
        "once lost, s",
        "long sessions out, s: median / worst",
        "stuck",
    ]);
    let mut targets = Table::new(&["event", "figure", "target", "worst round", "result"]);
    for &event in &args.events {
        for &proxy in &proxies {
            let rounds = rows(event, proxy);
            seen.row(summary(event, proxy, &rounds));
            if proxy == Proxy::Twinpool {
                judge(event, &rounds, &mut targets);
            }
        }
    }
    println!(
        "\nMedian of {} rounds, the worst in brackets where it differs.",
        args.rounds
    );
    seen.print();
    if proxies.contains(&Proxy::Twinpool) {
        targets.print();
    }
    Ok(())
}

/// Lets one event happen to one proxy.
fn strike(args: &Args, proxy: Proxy, event: Event, round: u32) -> Result<Outcome> {
    let mut scene = Scene::new(Plan {
        proxy,
        pools: if event == Event::Site { 2 } else { 1 },
        paired: event == Event::Site,
        two_links: false,
        silent: true,
        work: member::SOME_WORK,
    })?;
    let warm = Duration::from_secs(args.warm) + PHASE * round;
    let observe = Duration::from_secs(args.observe);
    let load = load::usual(scene.fronts[0].listen, warm + observe);
    let clients = load::start(&scene.lab, CLIENT, load)?;
    sleep(warm);
    let at = now();
    match event {
        Event::Kill => scene.member(STRUCK)?.signal(Signal::KILL)?,
        Event::Cut => scene.lab.cut(STRUCK, "eth0", true)?,
        Event::Hang => scene.member(STRUCK)?.signal(Signal::STOP)?,
        Event::Site => {
            for member in &scene.fronts[0].members {
                scene.lab.cut(&member.name, "eth0", true)?;
            }
        }
    }
    let report = clients.report()?;
    scene.proxy.must_live(&scene.log(proxy))?;
    if event == Event::Hang {
        scene.member(STRUCK)?.signal(Signal::CONT)?;
        sleep(READ_ON);
    }
    let mut with_struck = HashSet::new();
    for (name, _) in scene.members.iter().filter(|(name, _)| event.strikes(name)) {
        with_struck.extend(member::requests(&scene.lab, name)?);
    }
    let lost = match (event, proxy) {
        (Event::Site, Proxy::Twinpool) => Some(declared_lost(&scene)?),
        _ => None,
    };
    Outcome::of(event, &report, at, lost, &with_struck)
}

/// When twinpool declared the struck pool lost.
fn declared_lost(scene: &Scene) -> Result<u64> {
    let told = events(&scene.lab)?;
    let lost = told.iter().find(|event| {
        event.kind == "condition"
            && event.pool.as_deref() == Some(STRUCK_POOL)
            && event.text.contains("→ lost")
    });
    Ok(lost.ok_or("the struck pool was never declared lost")?.at)
}

impl Event {
    fn parse(name: &str) -> std::result::Result<Event, String> {
        match name {
            "kill" => Ok(Event::Kill),
            "cut" => Ok(Event::Cut),
            "hang" => Ok(Event::Hang),
            "site" => Ok(Event::Site),
            other => Err(format!(
                "no event is named {other}: write kill, cut, hang or site"
            )),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Event::Kill => "kill",
            Event::Cut => "cut",
            Event::Hang => "hang",
            Event::Site => "site",
        }
    }

    /// Whether it happens to this member.
    fn strikes(self, member: &str) -> bool {
        match self {
            Event::Site => member.starts_with(STRUCK_POOL),
            Event::Kill | Event::Cut | Event::Hang => member == STRUCK,
        }
    }
}

impl Outcome {
    fn of(
        event: Event,
        report: &Report,
        at: u64,
        lost: Option<u64>,
        with_struck: &HashSet<u64>,
    ) -> Result<Outcome> {
        if let Some(early) = report.failed().find(|new| new.ended < at) {
            return Err(format!("a connection failed before the event: {early:?}").into());
        }
        let failed: Vec<_> = report.failed().collect();
        let ends = failed.iter().map(|new| new.ended);
        let span = ends.clone().min().zip(ends.max());
        let struck: Vec<u32> = report
            .members_at(at)
            .iter()
            .filter(|(_, member)| event.strikes(member))
            .map(|(session, _)| *session)
            .collect();
        let outages = report.outages(&struck, at);
        let took = report.took(at, u64::MAX);
        if struck.is_empty() || took.is_empty() {
            return Err("no client was there to see the event".into());
        }
        Ok(Outcome {
            failed: failed.len() as f64,
            with_member: failed
                .iter()
                .filter(|n| with_struck.contains(&n.id))
                .count() as f64,
            failed_for: span.map_or(0.0, |(first, last)| seconds(first, last)),
            normal: median(&report.took(0, at)),
            slowest: worst(&took),
            slowest_then: lost.map(|lost| worst(&report.took(lost, u64::MAX))),
            sessions: struck.len() as f64,
            stuck: outages.iter().filter(|o| o.is_none()).count() as f64,
            outages: outages.into_iter().flatten().collect(),
        })
    }

    /// Seconds that the slowest connection took above a normal one.
    fn above_normal(&self) -> f64 {
        self.slowest - self.normal
    }

    /// The same of those that began once the pool was declared lost.
    fn then_above_normal(&self) -> f64 {
        self.slowest_then.unwrap_or(f64::NAN) - self.normal
    }

    fn line(&self) -> String {
        format!(
            "{} failed ({} with the member) over {} s; slowest {} s, once lost {} s, normal {} s; {} sessions out {} s median, {} s worst, {} stuck",
            self.failed,
            self.with_member,
            show(self.failed_for, 2),
            show(self.slowest, 3),
            show(self.slowest_then.unwrap_or(f64::NAN), 3),
            show(self.normal, 4),
            self.sessions,
            show(median(&self.outages), 2),
            show(worst(&self.outages), 2),
            self.stuck,
        )
    }
}

fn each(rounds: &[Outcome], of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
    rounds.iter().map(of).collect()
}

/// The median, and the worst in brackets where it reads differently.
fn both(values: &[f64], decimals: usize) -> String {
    let (middle, most) = (
        show(median(values), decimals),
        show(worst(values), decimals),
    );
    match middle == most {
        true => middle,
        false => format!("{middle} [{most}]"),
    }
}

fn summary(event: Event, proxy: Proxy, rounds: &[Outcome]) -> Vec<String> {
    vec![
        event.name().into(),
        proxy.name().into(),
        format!(
            "{} ({})",
            both(&each(rounds, |o| o.failed), 0),
            both(&each(rounds, |o| o.with_member), 0)
        ),
        both(&each(rounds, |o| o.failed_for), 1),
        both(&each(rounds, Outcome::above_normal), 2),
        both(&each(rounds, Outcome::then_above_normal), 2),
        format!(
            "{} / {}",
            both(&each(rounds, |o| median(&o.outages)), 2),
            both(&each(rounds, |o| worst(&o.outages)), 2)
        ),
        format!(
            "{} of {}",
            both(&each(rounds, |o| o.stuck), 0),
            both(&each(rounds, |o| o.sessions), 0)
        ),
    ]
}

/// Holds twinpool's rounds against the targets; every round has to meet them.
fn judge(event: Event, rounds: &[Outcome], table: &mut Table) {
    let mut line = |figure: &str, target: &str, limit: f64, values: Vec<f64>, decimals| {
        let most = worst(&values);
        // Of no round there is no figure, which meets nothing.
        let met = if most <= limit { "met" } else { "**missed**" };
        table.row([
            event.name().to_owned(),
            figure.to_owned(),
            target.to_owned(),
            show(most, decimals),
            met.to_owned(),
        ]);
    };
    let beyond = "failed beyond the requests that were with the member";
    let median_out = |o: &Outcome| quantile(&o.outages, 0.5);
    match event {
        Event::Kill => line(
            beyond,
            "0",
            0.0,
            each(rounds, |o| o.failed - o.with_member),
            0,
        ),
        Event::Cut | Event::Site => {
            let (said, limit) = match event {
                Event::Site => ("0.8", 0.8),
                _ => ("0.3", 0.3),
            };
            line(
                beyond,
                "0",
                0.0,
                each(rounds, |o| o.failed - o.with_member),
                0,
            );
            line(
                "slowest connect above normal, s",
                said,
                limit,
                each(rounds, Outcome::above_normal),
                2,
            );
            if event == Event::Site {
                line(
                    "the same once the pool was declared lost, s",
                    "normal (0.1)",
                    NORMAL,
                    each(rounds, Outcome::then_above_normal),
                    2,
                );
            }
            line(
                "sessions out, median, s",
                "1.2",
                1.2,
                each(rounds, median_out),
                2,
            );
            line(
                "sessions out, worst, s",
                "2.0",
                2.0,
                each(rounds, |o| worst(&o.outages)),
                2,
            );
            line("sessions stuck", "0", 0.0, each(rounds, |o| o.stuck), 0);
        }
        Event::Hang => {
            line(
                "failed new connections",
                "20",
                20.0,
                each(rounds, |o| o.failed),
                0,
            );
            line(
                "sessions out, worst, s",
                "3.5",
                3.5,
                each(rounds, |o| worst(&o.outages)),
                2,
            );
            line("sessions stuck", "0", 0.0, each(rounds, |o| o.stuck), 0);
        }
    }
}
