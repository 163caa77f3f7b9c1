//! What clients see while the proxy itself is replaced, again and again: twinpool's upgrade beside
//! HAProxy's reload, in network namespaces.
//!
//! See `benches/README.md` for the method.

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use support::child::Child;
use support::clock::{now, seconds, wait_for};
use support::load::{Load, New, Report};
use support::proxies::{Proxy, control_socket, haproxy_again};
use support::scene::{CLIENT, PROXY, Plan, Scene};
use support::stats::{Table, median, show, worst};
use support::{Result, http, inside, lab, load, member};

/// The member that dies, and the pool whose site does.
const STRUCK: &str = "p1m2";
/// Load before the first replacement.
const WARM: Duration = Duration::from_secs(3);
/// From the end of one replacement to the next, where nothing dies.
const PAUSE: Duration = Duration::from_millis(800);
/// How long a member stays dead, and what is left to it to come back.
const DEAD: Duration = Duration::from_millis(1_500);
/// The same for a site: checks and a pair's `after` prove it, its users come home after `hold`.
const DARK: Duration = Duration::from_millis(3_000);
const HOME: Duration = Duration::from_secs(10);
/// Long sessions that end so long after a death may have ended by it.
const SHADOW: Duration = Duration::from_secs(3);
/// Of so many clients that noticed it is said how.
const TOLD: usize = 10;
/// How long one replacement may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What clients see while the proxy is replaced.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench upgrade --")]
struct Args {
    /// Replacements of each proxy. In every fifth a member dies, in every tenth a site.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// New connections a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Sessions that live from before the first replacement to after the last.
    #[arg(long, default_value_t = 60)]
    sessions: u32,
    /// Proxies: twinpool, haproxy.
    #[arg(long, value_delimiter = ',', default_value = "twinpool,haproxy", value_parser = Proxy::parse)]
    proxies: Vec<Proxy>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What dies while a proxy is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Nothing,
    Member,
    Site,
}

/// What clients saw.
struct Outcome {
    made: usize,
    failed: usize,
    /// Those that had begun when their member or its site died, or whose request it had read.
    under_way: usize,
    kinds: String,
    /// Seconds from a client's connect to its answer.
    took: Vec<f64>,
    /// Long sessions that ended though nothing had died.
    cut: usize,
    /// Milliseconds that each replacement took.
    replaced: Vec<f64>,
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
    let mut table = Table::new(&[
        "proxy",
        "replaced",
        "new connections",
        "failed",
        "of them under way when something died",
        "half took, ms",
        "slowest, ms",
        "long sessions cut",
        "a replacement takes, ms: median / worst",
    ]);
    let mut clean = true;
    for &proxy in &args.proxies {
        if let Some(why) = proxy.obstacle() {
            println!("left out: {why}");
            continue;
        }
        let outcome = replace_again_and_again(args, proxy)?;
        if outcome.failed > 0 {
            println!("{}: {}", proxy.name(), outcome.kinds);
        }
        clean &= proxy != Proxy::Twinpool || outcome.failed == outcome.under_way;
        clean &= proxy != Proxy::Twinpool || outcome.cut == 0;
        table.row([
            proxy.name().to_owned(),
            outcome.replaced.len().to_string(),
            outcome.made.to_string(),
            outcome.failed.to_string(),
            outcome.under_way.to_string(),
            show(median(&outcome.took) * 1e3, 1),
            show(worst(&outcome.took) * 1e3, 0),
            format!("{} of {}", outcome.cut, args.sessions),
            format!(
                "{} / {}",
                show(median(&outcome.replaced), 0),
                show(worst(&outcome.replaced), 0)
            ),
        ]);
    }
    table.print();
    match clean {
        true => Ok(()),
        false => Err("somebody may have noticed an upgrade of twinpool".into()),
    }
}

fn replace_again_and_again(args: &Args, proxy: Proxy) -> Result<Outcome> {
    let mut scene = Scene::new(Plan {
        proxy,
        pools: 2,
        paired: true,
        two_links: false,
        silent: true,
        work: member::SOME_WORK,
    })?;
    let deaths: Vec<Death> = (1..=args.rounds).map(Death::of).collect();
    let span = deaths.iter().map(|death| death.span()).sum::<Duration>();
    let target = scene.fronts[0].listen;
    let clients = load::start(
        &scene.lab,
        CLIENT,
        Load {
            target,
            rate: args.rate,
            sessions: args.sessions,
            span: WARM + span + Duration::from_millis(500) * args.rounds + Duration::from_secs(3),
            patience: Duration::from_secs(5),
        },
    )?;
    sleep(WARM);
    let mut line = Line::of(&scene, proxy);
    let (mut replaced, mut shadows) = (Vec::new(), Vec::new());
    let mut with_member = HashSet::new();
    for death in deaths {
        let began = now();
        let struck = std::thread::scope(|scope| -> Result<u64> {
            // In the middle of it, as far as one can tell.
            let dies = scope.spawn(|| {
                sleep(Duration::from_millis(15));
                // A process takes a moment to die, and a site dies host by host.
                death
                    .strikes(&scene)
                    .map(|()| now())
                    .map_err(|e| e.to_string())
            });
            line.replace(&scene)?;
            Ok(dies.join().map_err(|_| "a death failed")??)
        })?;
        replaced.push(seconds(began, now()) * 1e3);
        match death {
            Death::Nothing => sleep(PAUSE),
            Death::Member => {
                sleep(DEAD);
                with_member.extend(member::requests(&scene.lab, STRUCK)?);
                scene.restart(STRUCK)?;
                sleep(DEAD);
                shadows.push((struck, DEAD + SHADOW));
            }
            Death::Site => {
                sleep(DARK);
                for target in &scene.fronts[0].members {
                    with_member.extend(member::requests(&scene.lab, &target.name)?);
                    scene.lab.cut(&target.name, "eth0", false)?;
                }
                sleep(HOME);
                shadows.push((struck, DARK + HOME + SHADOW));
            }
        }
    }
    let report = clients.report()?;
    line.must_serve(&scene)?;
    let outcome = Outcome::of(&report, &with_member, &shadows, replaced);
    if outcome.failed > outcome.under_way {
        let kept = format!(
            "{}/upgrade-{}.log",
            env!("CARGO_TARGET_TMPDIR"),
            proxy.name()
        );
        std::fs::copy(scene.log(proxy), &kept)?;
        println!("what {} said: {kept}", proxy.name());
    }
    Ok(outcome)
}

impl Death {
    fn of(round: u32) -> Death {
        match round {
            round if round % 10 == 0 => Death::Site,
            round if round % 5 == 0 => Death::Member,
            _ => Death::Nothing,
        }
    }

    fn span(self) -> Duration {
        match self {
            Death::Nothing => PAUSE,
            Death::Member => DEAD * 2,
            Death::Site => DARK + HOME,
        }
    }

    fn strikes(self, scene: &Scene) -> Result<()> {
        match self {
            Death::Nothing => Ok(()),
            Death::Member => {
                let member = scene.member(STRUCK)?;
                member.signal(Signal::KILL)?;
                member.is_dead(LIMIT)
            }
            Death::Site => {
                for member in &scene.fronts[0].members {
                    scene.lab.cut(&member.name, "eth0", true)?;
                }
                Ok(())
            }
        }
    }
}

/// The processes of one proxy that followed the first, ended with it.
struct Line {
    proxy: Proxy,
    /// twinpool's, which start each other.
    successors: Vec<(u32, OwnedFd)>,
    /// HAProxy's, which this program starts.
    children: Vec<Child>,
    serving: u32,
}

impl Line {
    fn of(scene: &Scene, proxy: Proxy) -> Line {
        Line {
            proxy,
            successors: Vec::new(),
            children: Vec::new(),
            serving: scene.proxy.id(),
        }
    }

    /// Has another process serve; returns once it does.
    fn replace(&mut self, scene: &Scene) -> Result<()> {
        match self.proxy {
            Proxy::Twinpool => self.upgrade(scene),
            _ => self.reload(scene),
        }
    }

    fn upgrade(&mut self, scene: &Scene) -> Result<()> {
        let socket = control_socket(scene.lab.dir());
        let said = Command::new(env!("CARGO_BIN_EXE_twinpool"))
            .args(["upgrade", "--socket", &socket])
            .output()?;
        let told = String::from_utf8_lossy(&said.stdout);
        let pid: Option<u32> = told
            .split_once("process ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let Some(pid) = pid.filter(|_| said.status.success()) else {
            let why = String::from_utf8_lossy(&said.stderr);
            return Err(format!("an upgrade failed: {why}").into());
        };
        let id = Pid::from_raw(i32::try_from(pid)?).ok_or("no process")?;
        self.successors
            .push((pid, pidfd_open(id, PidfdFlags::empty())?));
        self.serving = pid;
        Ok(())
    }

    fn reload(&mut self, scene: &Scene) -> Result<()> {
        let command = haproxy_again(scene.lab.dir(), self.serving)?;
        let name = format!("haproxy-{}", self.children.len() + 2);
        let child = scene.lab.start(PROXY, &name, &command)?;
        let before = self.serving;
        self.serving = child.id();
        self.children.push(child);
        // It has told the one before to drain once it listens itself.
        wait_for("the new haproxy", LIMIT, || {
            let listens = std::fs::read_to_string(format!("/proc/{before}/net/tcp"));
            Ok((drains(before) || listens.is_err()).then_some(()))
        })
    }

    fn must_serve(&self, scene: &Scene) -> Result<()> {
        let (status, _) = http::get(&scene.lab, CLIENT, scene.fronts[0].listen, "/health")?;
        match status {
            200 => Ok(()),
            other => Err(format!("in the end {} answers {other}", self.proxy.name()).into()),
        }
    }
}

/// Whether a process has no listening socket of the proxy's any more, or is gone.
fn drains(pid: u32) -> bool {
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return true;
    };
    let Ok(table) = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")) else {
        return true;
    };
    // proc_pid_net(5): the fourth field is the state, 0A for LISTEN, the tenth the inode.
    let listening: HashSet<&str> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&"0A"))
        .filter_map(|fields| fields.get(9).copied())
        .collect();
    !fds.flatten().any(|fd| {
        let link = std::fs::read_link(fd.path()).unwrap_or_default();
        let link = link.to_string_lossy();
        link.strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inode| listening.contains(inode))
    })
}

impl Drop for Line {
    fn drop(&mut self) {
        for (pid, handle) in &self.successors {
            // Most have ended by themselves.
            if let Err(error) = pidfd_send_signal(handle, Signal::KILL)
                && error != rustix::io::Errno::SRCH
            {
                eprintln!("process {pid} may live still: {error}");
            }
        }
    }
}

impl Outcome {
    fn of(
        report: &Report,
        with_member: &HashSet<u64>,
        shadows: &[(u64, Duration)],
        replaced: Vec<f64>,
    ) -> Outcome {
        let failed: Vec<_> = report.failed().collect();
        // A site takes a moment to die.
        let early = Duration::from_millis(500).as_nanos() as u64;
        let shadow = |at: u64| {
            let falls = |(struck, long): &&(u64, Duration)| {
                at + early >= *struck && seconds(*struck, at) <= long.as_secs_f64()
            };
            shadows.iter().rev().find(falls)
        };
        let cut: HashSet<u32> = report
            .ends
            .iter()
            .filter(|end| shadow(end.at).is_none())
            .map(|end| end.session)
            .collect();
        let was_under_way = |new: &New| {
            shadow(new.ended)
                .is_some_and(|(struck, _)| new.began <= *struck || with_member.contains(&new.id))
        };
        let noticed = failed.iter().filter(|new| !was_under_way(new));
        for new in noticed.clone().take(TOLD) {
            let struck = shadow(new.ended).map(|(struck, _)| seconds(*struck, new.began));
            println!("not under way: {new:?}, begun {struck:?} s after something died");
        }
        if let more @ 1.. = noticed.count().saturating_sub(TOLD) {
            println!("and {more} more");
        }
        Outcome {
            made: report.news.len(),
            under_way: failed.iter().filter(|new| was_under_way(new)).count(),
            failed: failed.len(),
            kinds: report.failures(),
            took: report.took(0, u64::MAX),
            cut: cut.len(),
            replaced,
        }
    }
}
