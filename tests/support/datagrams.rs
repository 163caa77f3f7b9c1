//! A scene over UDP: two sites that back each other up, members that answer datagrams with their
//! names, and clients whose flows ask again and again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::child::Child;
use super::clock::{now, wait_for};
use super::lab::Lab;
use super::load::Report;
use super::scene::{CLIENT, OBSERVE, OUTSIDE, PROXY, PROXY_IP};
use super::{Result, http, inside, stun};

const BINARY: &str = env!("CARGO_BIN_EXE_twinpool");
/// Where members listen, and the first pool's clients come; the second's come to the next port.
const PORT: u16 = 3478;
/// How long twinpool may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often a flow asks.
const PERIOD: Duration = Duration::from_millis(50);
/// How long answers to the last questions are waited for.
const LAST: Duration = Duration::from_millis(500);

/// Two pools, `p1` and `p2`, of three members each. Processes are dropped before their hosts.
#[derive(Debug)]
pub(crate) struct Sites {
    pub(crate) proxy: Child,
    _members: Vec<Child>,
    /// The hosts of each pool's members, named after them.
    pub(crate) hosts: [Vec<String>; 2],
    /// Where each pool's clients come.
    pub(crate) listen: [SocketAddr; 2],
    config: PathBuf,
    pub(crate) lab: Lab,
}

impl Sites {
    /// Builds them and waits until they serve. A host that vanishes is silence, as behind a router.
    pub(crate) fn new() -> Result<Sites> {
        let mut lab = Lab::new()?;
        lab.add_network(OUTSIDE)?;
        lab.add_host(CLIENT, OUTSIDE, Ipv4Addr::new(10, 77, 0, 2))?;
        lab.add_host(PROXY, OUTSIDE, PROXY_IP)?;
        let listen = [PORT, PORT + 1].map(|port| SocketAddr::from((PROXY_IP, port)));
        let mut text = format!(
            "[instance]\nstate_dir = {:?}\n[observe]\nlisten = \"{OBSERVE}\"\n\
             [control]\nsocket = {:?}\n[roles.media]\nprimary = \"av\"\n\
             services.av = {{ port = {PORT}, protocol = \"udp\", check = {{ kind = \"stun\" }} }}\n\
             [pairs.both]\npools = [\"p1\", \"p2\"]\nfailover = \"automatic\"\nafter = \"1s\"\n",
            lab.dir().join("state"),
            lab.dir().join("control.sock"),
        );
        let (mut members, mut hosts) = (Vec::new(), [Vec::new(), Vec::new()]);
        let mut addresses = Vec::new();
        for (n, hosts) in (1..).zip(&mut hosts) {
            text += &format!(
                "[sites.s{n}]\nregion = \"r{n}\"\n[pools.p{n}]\nrole = \"media\"\nsite = \"s{n}\"\n\
                 quorum = \"any\"\nservices.av.listen = \"{}\"\n",
                listen[usize::from(n) - 1]
            );
            for m in 1..=3 {
                let (name, address) = (format!("p{n}m{m}"), Ipv4Addr::new(10, 77, n, m));
                lab.add_host(&name, OUTSIDE, address)?;
                let mut command = inside::call("answer-datagrams")?;
                command.extend([name.clone(), format!("{address}:{PORT}")]);
                members.push(lab.start(&name, &name, &command)?);
                text += &format!("members.{name} = \"{address}\"\n");
                addresses.push((name.clone(), address));
                hosts.push(name);
            }
        }
        let known: Vec<_> = addresses.iter().map(|(n, a)| (n.as_str(), *a)).collect();
        lab.knows(PROXY, &known)?;
        let config = lab.dir().join("twinpool.toml");
        std::fs::write(&config, text)?;
        let path = config.to_str().ok_or("a path is not UTF-8")?;
        let command = [BINARY, "run", path].map(str::to_owned);
        let mut sites = Sites {
            proxy: lab.start(PROXY, "twinpool", &command)?,
            _members: members,
            hosts,
            listen,
            config,
            lab,
        };
        let log = sites.lab.log("twinpool");
        wait_for("a twinpool that serves", START_LIMIT, || {
            sites.proxy.must_live(&log)?;
            let (status, _) = http::get(&sites.lab, CLIENT, OBSERVE, "/readyz")?;
            Ok((status == 200).then_some(()))
        })
        .map_err(|e| format!("{e}; it said:\n{}", sites.said()))?;
        Ok(sites)
    }

    /// What twinpool printed.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.lab.log("twinpool")).unwrap_or_default()
    }

    /// How long the users of `p1` may take to `p2` when their members fall silent: what `validate`
    /// tells of this configuration.
    pub(crate) fn promise(&self) -> Result<f64> {
        let told = Command::new(BINARY)
            .arg("validate")
            .arg(&self.config)
            .output()?;
        let told = String::from_utf8(told.stdout)?;
        let promise = told
            .split_once("its users are on p2 at most ")
            .and_then(|(_, rest)| rest.split(' ').next());
        let promise = promise.ok_or_else(|| format!("no promise in:\n{told}"))?;
        Ok(promise.parse()?)
    }
}

/// Clients that run.
#[derive(Debug)]
pub(crate) struct Asking {
    child: Child,
    span: Duration,
}

/// Has so many flows ask there, from the clients' host, for this long.
pub(crate) fn ask(lab: &Lab, target: SocketAddr, flows: u32, span: Duration) -> Result<Asking> {
    let mut command = inside::call("ask-datagrams")?;
    command.extend([
        target.to_string(),
        flows.to_string(),
        span.as_millis().to_string(),
    ]);
    Ok(Asking {
        child: lab.start_read(CLIENT, "asking", &command)?,
        span,
    })
}

impl Asking {
    /// Waits for the end and returns which answers came; a flow is a session of the report.
    pub(crate) fn report(self) -> Result<Report> {
        let limit = self.span + LAST + Duration::from_secs(10);
        Report::parse(&self.child.read_to_end(limit)?)
    }
}

/// The part of a member: name and address.
pub(crate) fn answer_main(args: &[String]) -> Result<()> {
    let [name, address] = args else {
        return Err("a name and an address are needed".into());
    };
    let socket = std::net::UdpSocket::bind(address)?;
    let mut bytes = [0; 2048];
    loop {
        let (length, peer) = socket.recv_from(&mut bytes)?;
        let got = &bytes[..length];
        let answer = match stun::binding(got) {
            Some(transaction) => stun::success(transaction, peer),
            None => [got, b" ", name.as_bytes()].concat(),
        };
        if let Err(e) = socket.send_to(&answer, peer) {
            // It ends nobody else's flow.
            eprintln!("{name}: no answer to {peer}: {e}");
        }
    }
}

/// The part of the clients: target, flows and milliseconds. Prints lines of a [`Report`].
pub(crate) fn ask_main(args: &[String]) -> Result<()> {
    let [target, flows, millis] = args else {
        return Err("a target, a number of flows and milliseconds are needed".into());
    };
    let target: SocketAddr = target.parse()?;
    let (flows, span) = (flows.parse()?, Duration::from_millis(millis.parse()?));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async move {
        let mut asking = tokio::task::JoinSet::new();
        for flow in 0..flows {
            asking.spawn_local(async move {
                // Spread over one period, so that questions do not come in bursts.
                sleep(PERIOD * flow / flows).await;
                ask_on(target, flow, span).await
            });
        }
        while let Some(answers) = asking.join_next().await {
            print!("{}", answers??);
        }
        Ok(())
    })
}

/// The questions of one flow, each with the moment when it was sent; and the answers, which tell
/// it again.
async fn ask_on(target: SocketAddr, flow: u32, span: Duration) -> std::io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(target).await?;
    let mut ticks = interval_at(Instant::now(), PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (end, last) = (Instant::now() + span, Instant::now() + span + LAST);
    let mut answers = String::new();
    let mut bytes = [0; 128];
    loop {
        tokio::select! {
            _ = ticks.tick(), if Instant::now() < end => {
                socket.send(format!("{flow} {}", now()).as_bytes()).await?;
            }
            got = socket.recv(&mut bytes) => {
                let answer = String::from_utf8_lossy(&bytes[..got?]).into_owned();
                let Some((sent, member)) = answer.rsplit_once(' ') else {
                    return Err(std::io::Error::other("an answer without a name"));
                };
                answers += &format!("answer {sent} {} {member}\n", now());
            }
            () = tokio::time::sleep_until(last) => return Ok(answers),
        }
    }
}
