//! The proxies that are compared: how each is configured and started.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

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
    /// Its members, all on one port.
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
            other => Err(format!(
                "no proxy is named {other}: write twinpool, haproxy or nginx"
            )),
        }
    }

    /// Its name in arguments and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Proxy::Twinpool => "twinpool",
            Proxy::Haproxy => "haproxy",
            Proxy::Nginx => "nginx",
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
    writeln!(
        text,
        "[roles.web]\nprimary = \"http\"\n\
         services.http = {{ port = {port}, check = {{ kind = \"http\", path = \"{}\" }} }}\n",
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
        "global\n    maxconn 7900\n\
         defaults\n    mode tcp\n    option splice-auto\n    option redispatch 1\n    retries 3\n\
         \x20   timeout connect 1s\n    timeout client 40s\n    timeout server 40s\n\
         frontend in\n    bind {}\n    default_backend members\n\
         backend members\n    balance leastconn\n    option allbackups\n    option httpchk GET /health\n\
         \x20   default-server inter 1s fall 3 on-marked-down shutdown-sessions observe layer4 error-limit 3 on-error mark-down\n",
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

/// HAProxy for cost: one thread, splice, checks every second.
pub(crate) fn haproxy_cost(dir: &Path, front: &Front) -> Result<Vec<String>> {
    let mut text = format!(
        "global\n    nbthread 1\n    maxconn 7900\n\
         defaults\n    mode tcp\n    option splice-auto\n    timeout connect 1s\n    timeout client 30m\n    timeout server 30m\n\
         frontend in\n    bind {}\n    default_backend members\n\
         backend members\n    balance leastconn\n    option httpchk GET /\n    default-server inter 1s fall 3\n",
        front.listen
    );
    for member in &front.members {
        writeln!(text, "    server {} {} check", member.name, member.address)?;
    }
    haproxy(dir, &text)
}

fn haproxy(dir: &Path, text: &str) -> Result<Vec<String>> {
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    Ok(words(&["haproxy", "-db", "-f", path_str(&file)?]))
}

/// nginx as a TCP proxy for cost: one worker. It has no checks of its own.
pub(crate) fn nginx_cost(dir: &Path, front: &Front) -> Result<Vec<String>> {
    let mut servers = String::new();
    for member in &front.members {
        write!(servers, "server {}; ", member.address)?;
    }
    let module = nginx_stream().ok_or("nginx has no stream module")?;
    let text = format!(
        "load_module {module};\n{}\
         stream {{ access_log off; upstream members {{ least_conn; {servers} }}\n\
         server {{ listen {}; proxy_pass members; proxy_timeout 30m; proxy_connect_timeout 1s; tcp_nodelay on; }} }}\n",
        nginx_head(dir, "proxy", 8192),
        front.listen
    );
    nginx(dir, "proxy", &text)
}

/// The members of the cost bench: one nginx process that answers on three ports, a file of 19
/// bytes at `/` and one of 1 MiB at `/big`.
pub(crate) fn nginx_members(dir: &Path, ports: [u16; 3]) -> Result<Vec<String>> {
    let root = dir.join("files");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join("big"), vec![b'x'; 1 << 20])?;
    let listens: String = ports
        .iter()
        .map(|port| format!("listen {}:{port}; ", Ipv4Addr::LOCALHOST))
        .collect();
    let text = format!(
        "{}http {{ access_log off; sendfile on; tcp_nodelay on; keepalive_timeout 1h; keepalive_requests 1000000000;\n\
         client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
         default_type text/plain;\n\
         server {{ {listens} root {}; location = / {{ return 200 \"nineteen bytes here\"; }} }} }}\n",
        nginx_head(dir, "members", 8192),
        root.display(),
        dir = dir.display(),
    );
    nginx(dir, "members", &text)
}

/// One process that is the worker too: its end is the end of nginx, and its memory all of it.
fn nginx_head(dir: &Path, name: &str, connections: u32) -> String {
    format!(
        "daemon off; master_process off; error_log stderr warn; pid {}/{name}.pid;\n\
         events {{ worker_connections {connections}; }}\n",
        dir.display()
    )
}

fn nginx(dir: &Path, name: &str, text: &str) -> Result<Vec<String>> {
    let file = dir.join(format!("{name}.nginx"));
    std::fs::write(&file, text)?;
    Ok(words(&[
        "nginx",
        "-e",
        "stderr",
        "-p",
        path_str(dir)?,
        "-c",
        path_str(&file)?,
    ]))
}

fn path_str(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| "a path is not UTF-8".into())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
