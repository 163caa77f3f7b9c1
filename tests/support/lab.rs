//! Hosts in network namespaces around a switch with one or more networks.

use std::collections::HashMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::child::{Child, bound_to_us, on_path, run};
use super::clock::wait_for;
use super::{Result, inside};

/// What stands in the way of a lab here; none when one can be built.
pub(crate) fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    if !on_path("ip") {
        return Some("`ip` is missing (Debian: iproute2)".into());
    }
    let name = format!("twinpool-{}-try", std::process::id());
    let tried = run(&["ip", "netns", "add", &name])
        .and_then(|_| run(&["ip", "-n", &name, "link", "add", "sw", "type", "bridge"]));
    let removed = run(&["ip", "netns", "del", &name]);
    let error = tried.and(removed).err()?;
    Some(format!("no network namespaces with bridges here: {error}"))
}

/// A switch and the hosts around it. Dropping it removes them; end the processes on them before.
#[derive(Debug)]
pub(crate) struct Lab {
    prefix: String,
    dir: PathBuf,
    /// The network that each port of the switch belongs to.
    networks: HashMap<String, String>,
    janitor: std::process::Child,
}

impl Lab {
    /// A switch without hosts, and a temporary directory.
    pub(crate) fn new() -> Result<Lab> {
        static LABS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = LABS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let prefix = format!("twinpool-{}-{n}-", std::process::id());
        let dir = std::env::temp_dir().join(format!("{prefix}lab"));
        let call = inside::call("janitor")?;
        // A group of its own, so that an interrupt from the terminal does not end it first.
        let janitor = Command::new(&call[0])
            .args(&call[1..])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let mut lab = Lab {
            prefix,
            dir: dir.clone(),
            networks: HashMap::new(),
            janitor,
        };
        lab.entrust(&format!("dir {}", dir.display()))?;
        std::fs::create_dir(&dir)?;
        lab.namespace("switch")?;
        Ok(lab)
    }

    /// Makes a network of this name on the switch: a bridge of its own, which others' packets do
    /// not reach.
    pub(crate) fn add_network(&self, network: &str) -> Result<()> {
        self.ip(
            "switch",
            &format!("link add {network} type bridge mcast_snooping 0"),
        )?;
        self.ip("switch", &format!("link set {network} up"))?;
        Ok(())
    }

    /// Adds a host, with a link `eth0` to a network and an address in that network's /16.
    pub(crate) fn add_host(&mut self, host: &str, network: &str, address: Ipv4Addr) -> Result<()> {
        self.namespace(host)?;
        self.add_link(host, "eth0", network, address)?;
        Ok(())
    }

    /// Gives a host one more link, to a network, with an address in that network's /16.
    pub(crate) fn add_link(
        &mut self,
        host: &str,
        link: &str,
        network: &str,
        address: Ipv4Addr,
    ) -> Result<()> {
        let ns = self.ns(host);
        let port = port(host, link);
        self.ip(
            "switch",
            &format!("link add {port} type veth peer name {link} netns {ns}"),
        )?;
        self.ip("switch", &format!("link set {port} master {network} up"))?;
        self.ip(host, &format!("addr add {address}/16 dev {link}"))?;
        self.ip(host, &format!("link set {link} up"))?;
        self.networks.insert(port, network.to_owned());
        Ok(())
    }

    /// Makes every packet from and to this link of the host vanish, or lets them pass again. The
    /// host's carrier stays.
    pub(crate) fn cut(&self, host: &str, link: &str, cut: bool) -> Result<()> {
        let port = port(host, link);
        let network = self.networks.get(&port).ok_or("no such link")?;
        // A port that belongs to no bridge leads nowhere: its namespace has no address.
        let to = match cut {
            true => "nomaster".to_owned(),
            false => format!("master {network}"),
        };
        self.ip("switch", &format!("link set {port} {to}"))?;
        Ok(())
    }

    /// Takes the host's own link down, or up again.
    pub(crate) fn link(&self, host: &str, link: &str, up: bool) -> Result<()> {
        let to = if up { "up" } else { "down" };
        self.ip(host, &format!("link set {link} {to}"))?;
        Ok(())
    }

    /// Lets `host` know the hardware addresses of `others` for good, so that one that vanishes is
    /// silence to it, as behind a router, and never "host unreachable" for want of an ARP answer.
    pub(crate) fn knows(&self, host: &str, others: &[(&str, Ipv4Addr)]) -> Result<()> {
        for (other, address) in others {
            let shown = self.ip(other, "-br link show eth0")?;
            let mac = shown
                .split_whitespace()
                .find(|word| word.len() == 17 && word.matches(':').count() == 5)
                .ok_or("no hardware address in what `ip link` shows")?;
            self.ip(
                host,
                &format!("neigh replace {address} lladdr {mac} nud permanent dev eth0"),
            )?;
        }
        Ok(())
    }

    /// Runs `ip` with these words (none of which has a blank) in a host's namespace.
    pub(crate) fn ip(&self, host: &str, words: &str) -> Result<String> {
        let ns = self.ns(host);
        let mut command = vec!["ip", "-n", &ns];
        command.extend(words.split_whitespace());
        run(&command)
    }

    /// Starts a program on a host; what it prints goes to [`Lab::log`].
    pub(crate) fn start(&self, host: &str, what: &str, command: &[String]) -> Result<Child> {
        Child::start(what, &self.on(host, command)?, &self.log(what))
    }

    /// Starts a program on a host, its output to be read.
    pub(crate) fn start_read(&self, host: &str, what: &str, command: &[String]) -> Result<Child> {
        Child::start_read(what, &self.on(host, command)?)
    }

    /// The file that [`Lab::start`] lets a program print to.
    pub(crate) fn log(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{what}.log"))
    }

    /// A directory that goes with the lab.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn on(&self, host: &str, command: &[String]) -> Result<Vec<String>> {
        let mut full: Vec<String> = ["ip", "netns", "exec", &self.ns(host)]
            .map(str::to_owned)
            .into();
        full.extend(bound_to_us(command)?);
        Ok(full)
    }

    fn namespace(&mut self, host: &str) -> Result<()> {
        let ns = self.ns(host);
        self.entrust(&format!("netns {ns}"))?;
        run(&["ip", "netns", "add", &ns])?;
        self.ip(host, "link set lo up")?;
        Ok(())
    }

    fn ns(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    /// Tells the janitor what to remove when this lab, or this process, is gone.
    fn entrust(&mut self, what: &str) -> Result<()> {
        let stdin = self.janitor.stdin.as_mut().ok_or("the janitor is gone")?;
        writeln!(stdin, "{what}")?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let gone = wait_for("the janitor's end", Duration::from_secs(10), || {
            Ok(self.janitor.try_wait()?)
        });
        if let Err(e) = gone {
            eprintln!("{e}: namespaces {}* may be left", self.prefix);
        }
    }
}

/// The switch's side of a host's link. Names of links have 15 characters at most.
fn port(host: &str, link: &str) -> String {
    format!("{host}.{link}")
}

/// The janitor: reads what to remove, and removes it when its input ends.
pub(crate) fn janitor() -> Result<()> {
    let entrusted = std::io::read_to_string(std::io::stdin())?;
    for line in entrusted.lines().rev() {
        match line.split_once(' ') {
            Some(("netns", ns)) if Path::new("/run/netns").join(ns).exists() => {
                run(&["ip", "netns", "del", ns])?;
            }
            Some(("dir", dir)) if Path::new(dir).exists() => std::fs::remove_dir_all(dir)?,
            _ => {}
        }
    }
    Ok(())
}
