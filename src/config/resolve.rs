//! A whole file: its sections, and what only shows when they are seen together.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

use super::diagnostic::Diagnostic;
use super::presets::{self, RoleDef, ServiceDef};
use super::reader::{Notes, Table, unknown};
use super::{Config, Control, Errors, Instance, Loaded, Observe, check, pool};
use crate::topology::{Pool, PoolId, Site, SiteId, Topology};

const MOST_POOLS: usize = 1_000;
const MOST_WORKERS: u32 = 256;
const MOST_SITES: usize = 1_000;
const LONGEST_NAME: usize = 64;
/// The place of what the file does not say.
const UNWRITTEN: Range<usize> = usize::MAX..usize::MAX;
/// The kernel allows 107 bytes; some are left for the name that it is bound under at first.
const LONGEST_SOCKET: usize = 100;
const OBSERVE: &str = "127.0.0.1:9600";
const SOCKET: &str = "/run/twinpool/control.sock";

pub(super) fn resolve(text: &str, file: &str) -> Result<Loaded, Errors> {
    let notes = Notes::default();
    let config = read(text, &notes);
    let (warnings, errors): (Vec<_>, Vec<_>) = notes
        .into_diagnostics()
        .into_iter()
        .partition(|d| d.is_warning);
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded {
            config,
            warnings: Errors::new(file, text, warnings),
        }),
        _ => {
            let all = errors.into_iter().chain(warnings).collect();
            Err(Errors::new(file, text, all))
        }
    }
}

pub(super) fn read(text: &str, notes: &Notes) -> Option<Config> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let is_toml = errors.is_empty();
    for error in errors {
        let place = error.span().unwrap_or(0..0);
        let message = format!("not TOML: {}", error.message().trim());
        let help = if message.contains("duplicate") {
            "keep one of the two"
        } else {
            "texts stand in quotes, `key = \"text\"`, lists in [ ], a header is `[pools.NAME]`"
        };
        notes.note(Diagnostic::new(message, place).help(help));
    }
    if !is_toml {
        // What else seems to lack may stand in the part that could not be read.
        return None;
    }
    let root = Table::new(notes, "the file", 0..0, Some(root.get_ref()));
    for later in ["pairs", "cluster"] {
        if let Some(value) = root.get(later) {
            let message = format!("`{later}` is not in this version yet");
            let help = "leave it out; it comes with a later version";
            notes.note(Diagnostic::new(message, value.span).help(help));
        }
    }
    let sites = sites(&root.table("sites", "sites"));
    let names: Vec<String> = sites.iter().map(|site| site.name.clone()).collect();
    let mut roles = presets::roles();
    own_roles(&root.table("roles", "roles"), &mut roles);
    let (instance, site_place) = instance(&root.table("instance", "[instance]"), &names);
    let (observe, observe_place) = observe(&root.table("observe", "[observe]"));
    let control = control(&root.table("control", "[control]"));
    let (pools, listeners) = pools(
        &root.table("pools", "pools"),
        &roles,
        &names,
        instance.site,
        notes,
    );
    // Pools of other sites are bound by other instances, and may have the same addresses.
    let is_here = |pool: &Pool| instance.site.is_none_or(|site| pool.site == Some(site));
    // The page listens first. Where its address is a default there is no place to point at.
    let place = observe_place.unwrap_or(UNWRITTEN);
    let own = observe.listen.map(|address| (address, place));
    let bound = pools.iter().zip(listeners).filter(|(p, _)| is_here(p));
    let bound: Vec<_> = own.into_iter().chain(bound.flat_map(|(_, l)| l)).collect();
    tell_shared_listeners(&bound, notes);
    let pools = fronted(pools, instance.site.zip(site_place), &names, notes);
    Some(Config {
        instance,
        observe,
        control,
        topology: Topology {
            sites,
            pools,
            pairs: Vec::new(),
        },
    })
}

/// Names stand in paths, metrics and URLs.
pub(super) fn check_name(table: &Table<'_>, what: &str, name: &str, place: Range<usize>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.len() > LONGEST_NAME
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(plain)
    {
        let shown: String = name.chars().take(LONGEST_NAME).collect();
        let message = format!("`{}` cannot be the name of a {what}", shown.escape_debug());
        let help = format!(
            "use letters, digits, `.`, `_` and `-`, a letter or digit first, at most {LONGEST_NAME}"
        );
        table.note(Diagnostic::new(message, place).help(help));
    }
}

fn sites(table: &Table<'_>) -> Vec<Site> {
    let mut sites = Vec::new();
    let named = table.named();
    if named.len() > MOST_SITES {
        let message = format!("{} sites are more than one file may have", named.len());
        let help = format!("at most {MOST_SITES}");
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
    for (name, place, value) in named.into_iter().take(MOST_SITES) {
        check_name(table, "site", &name, place);
        let site = table.as_table(&value, "site");
        let region = site.string("region").map(|(region, _)| region);
        sites.push(Site { name, region });
    }
    sites
}

fn own_roles(table: &Table<'_>, roles: &mut Vec<RoleDef>) {
    for (name, place, value) in table.named() {
        check_name(table, "role", &name, place.clone());
        if roles.iter().any(|role| role.name == name) {
            let message = format!("there is a role `{name}` already");
            let help = "choose another name for your own";
            table.note(Diagnostic::new(message, place).help(help));
            continue;
        }
        let role = table.as_table(&value, "role");
        let services_table = role.table("services", "services of a role");
        let services = role_services(&services_table);
        let names = services.iter().map(|service| service.name.as_str());
        if services.is_empty() && !role.is_misread() && !services_table.is_misread() {
            let message = format!("role `{name}` has no services");
            let help = "write `services.http = { port = 8080 }` in it";
            table.note(Diagnostic::new(message, role.span()).help(help));
        }
        let primary = match role.string("primary") {
            Some((primary, place)) => {
                if !services.is_empty() && !services.iter().any(|service| service.name == primary) {
                    table.note(unknown("primary service", &primary, place, names));
                }
                primary
            }
            None => {
                let first = names.clone().next().unwrap_or("http");
                let message = format!("role `{name}` has no primary service");
                let help = format!(
                    "write `primary = \"{first}\"`: its check decides the pool's condition"
                );
                table.note(Diagnostic::new(message, role.span()).help(help));
                first.to_owned()
            }
        };
        roles.push(RoleDef {
            name,
            primary,
            needs_quorum: false,
            services,
        });
    }
}

fn role_services(table: &Table<'_>) -> Vec<ServiceDef> {
    let mut services: Vec<ServiceDef> = Vec::new();
    let mut requires = Vec::new();
    for (index, (name, place, value)) in table.named().into_iter().enumerate() {
        check_name(table, "service", &name, place);
        let service = table.as_table(&value, "service of a role");
        let mut def = ServiceDef::unknown(&name);
        match service.integer("port", 1..=65_535) {
            Some(port) => def.port = u16::try_from(port).ok(),
            None if service.get("port").is_none() && !service.is_misread() => {
                let message = format!("service `{name}` has no port");
                let help = "write the port that members serve it on, `port = 8080`";
                service.note(Diagnostic::new(message, service.span()).help(help));
            }
            None => {}
        }
        if let Some(value) = service.get("check") {
            def.check = check::read(&service, &value, &def.check);
        }
        if let Some(names) = service.names("requires") {
            def.requires = names.iter().map(|(name, _)| name.clone()).collect();
            requires.push((index, names));
        }
        services.push(def);
    }
    for (index, names) in requires {
        for (name, place) in names {
            if !services.iter().any(|service| service.name == name) {
                let known = services.iter().map(|service| service.name.as_str());
                table.note(unknown("service that is required", &name, place, known));
                services[index].requires.retain(|kept| *kept != name);
            }
        }
    }
    services
}

/// And the place of its site.
fn instance(table: &Table<'_>, sites: &[String]) -> (Instance, Option<Range<usize>>) {
    let mut site_place = None;
    let site = table.string("site").and_then(|(name, place)| {
        site_place = Some(place.clone());
        let found = sites.iter().position(|site| *site == name);
        if found.is_none() {
            let known = sites.iter().map(String::as_str);
            table.note(unknown_site(&name, place, known));
        }
        found
    });
    let environment = std::env::var_os("STATE_DIRECTORY");
    let state_dir = table.string("state_dir").and_then(|(dir, place)| {
        if dir.is_empty() {
            let message = "`state_dir` is empty";
            let help = "write `state_dir = \"/var/lib/twinpool\"`, or leave it out";
            table.note(Diagnostic::new(message, place).help(help));
            return None;
        }
        Some(PathBuf::from(dir))
    });
    let workers = table.integer("workers", 1..=MOST_WORKERS);
    let most = table.integer("max_sessions", 1..=u32::MAX);
    let instance = Instance {
        name: table
            .string("name")
            .map_or_else(host_name, |(name, _)| name),
        site: site.and_then(|index| u16::try_from(index).ok()).map(SiteId),
        state_dir: state_dir.or_else(|| environment.as_deref().and_then(first_directory)),
        workers: workers.and_then(|n| NonZeroUsize::new(n as usize)),
        max_sessions: most.and_then(NonZeroU32::new),
        stop_deadline: table
            .duration("stop_deadline")
            .unwrap_or(Duration::from_secs(30)),
    };
    (instance, site_place)
}

/// systemd separates several with colons.
fn first_directory(list: &OsStr) -> Option<PathBuf> {
    let first = list.as_bytes().split(|&byte| byte == b':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(first)))
}

/// A site that does not exist.
pub(super) fn unknown_site<'k>(
    name: &str,
    place: Range<usize>,
    known: impl Iterator<Item = &'k str>,
) -> Diagnostic {
    let mut known = known.peekable();
    let is_any = known.peek().is_some();
    let diagnostic = unknown("site", name, place, known);
    if is_any {
        return diagnostic;
    }
    diagnostic.help("write a `[sites.NAME]` of that name, or leave `site` out")
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// And its place, where it is written.
fn observe(table: &Table<'_>) -> (Observe, Option<Range<usize>>) {
    let default = || OBSERVE.parse().ok();
    let Some(value) = table.get("listen") else {
        let listen = default();
        return (Observe { listen }, None);
    };
    let listen = match (value.raw.as_bool(), value.raw.as_str()) {
        (Some(false), _) => None,
        (_, Some(text)) if text.parse::<SocketAddr>().is_ok() => text.parse().ok(),
        _ => {
            let message = "`listen` is not an address with a port";
            let help = format!("write `listen = \"{OBSERVE}\"`, or `listen = false` for none");
            table.note(Diagnostic::new(message, value.span.clone()).help(help));
            default()
        }
    };
    (Observe { listen }, Some(value.span))
}

fn control(table: &Table<'_>) -> Control {
    let socket = table.string("socket").map(|(path, place)| {
        if path.is_empty() || path.len() > LONGEST_SOCKET {
            let message = "`socket` is not a path that a socket can have";
            let help = format!("write `socket = \"{SOCKET}\"`; at most {LONGEST_SOCKET} bytes");
            table.note(Diagnostic::new(message, place).help(help));
        }
        PathBuf::from(path)
    });
    Control {
        socket: socket.unwrap_or_else(|| PathBuf::from(SOCKET)),
    }
}

type Listener = (SocketAddr, Range<usize>);

/// The pools, and the listeners of each.
fn pools(
    table: &Table<'_>,
    roles: &[RoleDef],
    sites: &[String],
    own_site: Option<SiteId>,
    notes: &Notes,
) -> (Vec<Pool>, Vec<Vec<Listener>>) {
    let named = table.named();
    if named.is_empty() && !table.is_misread() {
        let help = "write `[pools.NAME]` with a `role`, `members` and `services`";
        notes.note(Diagnostic::new("there is no pool", table.span()).help(help));
    }
    if named.len() > MOST_POOLS {
        let message = format!("{} pools are more than one instance fronts", named.len());
        let help = format!("at most {MOST_POOLS}; run several instances");
        notes.note(Diagnostic::new(message, table.span()).help(help));
    }
    let mut pools = Vec::new();
    let mut listeners = Vec::new();
    for (name, place, value) in named.into_iter().take(MOST_POOLS) {
        check_name(table, "pool", &name, place.clone());
        let id = PoolId(pools.len() as u16);
        let section = table.as_table(&value, "pool");
        if let Some(site) =
            own_site.filter(|_| section.get("site").is_none() && !section.is_misread())
        {
            let own = &sites[site.index()];
            let message = format!("pool `{name}` has no site, and is not fronted for that");
            let help = format!("write the site where it stands, `site = \"{own}\"` for this one's");
            notes.note(Diagnostic::new(message, place.clone()).help(help).warning());
        }
        if let Some(read) = pool::read(&section, name, id, roles, sites) {
            listeners.push(read.listeners);
            pools.push(read.pool);
        }
    }
    (pools, listeners)
}

/// Two listeners may not share an address; one on every address has all of them.
fn tell_shared_listeners(listeners: &[Listener], notes: &Notes) {
    let mut exact: HashMap<SocketAddr, &Listener> = HashMap::new();
    // By port and family: the first on every address, and the first on any.
    let mut on_every: HashMap<(u16, bool), &Listener> = HashMap::new();
    let mut on_any: HashMap<(u16, bool), &Listener> = HashMap::new();
    for listener in listeners {
        let (address, place) = listener;
        if address.port() == 0 {
            continue;
        }
        let key = (address.port(), address.is_ipv4());
        let is_every = address.ip().is_unspecified();
        let on_this = exact.get(address).or_else(|| on_every.get(&key));
        let earlier = on_this.or_else(|| on_any.get(&key).filter(|_| is_every));
        if let Some((other, other_place)) = earlier {
            notes.note(listened_on_twice(*address, place, *other, other_place));
        }
        exact.entry(*address).or_insert(listener);
        on_any.entry(key).or_insert(listener);
        if is_every {
            on_every.entry(key).or_insert(listener);
        }
    }
}

fn listened_on_twice(
    address: SocketAddr,
    place: &Range<usize>,
    other: SocketAddr,
    other_place: &Range<usize>,
) -> Diagnostic {
    let twice = |message| Diagnostic::new(message, place.clone()).label("here");
    if *other_place == UNWRITTEN {
        return twice(format!("{address} is listened on twice")).help(format!(
            "[observe] listens on {other} unless told otherwise; give this service another port, \
             or write another `listen` in [observe]"
        ));
    }
    let label = if other == address {
        "here too".to_owned()
    } else {
        format!("{other} takes it")
    };
    twice(format!("{address} is listened on twice"))
        .also(other_place.clone(), label)
        .help("give each listener an address or a port of its own")
}

/// The pools that this instance fronts, numbered anew.
fn fronted(
    pools: Vec<Pool>,
    site: Option<(SiteId, Range<usize>)>,
    sites: &[String],
    notes: &Notes,
) -> Vec<Pool> {
    let Some((site, place)) = site else {
        return pools;
    };
    let any = !pools.is_empty();
    let fronted = pools.into_iter().filter(|pool| pool.site == Some(site));
    let fronted: Vec<Pool> = fronted
        .enumerate()
        .map(|(index, pool)| renumbered(pool, PoolId(index as u16)))
        .collect();
    if any && fronted.is_empty() {
        let name = &sites[site.index()];
        let message = format!("no pool stands in site `{name}`, which this instance fronts");
        let help =
            format!("write `site = \"{name}\"` in a pool, or leave `site` of [instance] out");
        notes.note(Diagnostic::new(message, place).help(help));
    }
    fronted
}

fn renumbered(mut pool: Pool, id: PoolId) -> Pool {
    pool.id = id;
    pool.primary = id.service(pool.primary.index() as u16);
    for (index, member) in pool.members.iter_mut().enumerate() {
        member.id = id.member(index as u16);
    }
    for (index, service) in pool.services.iter_mut().enumerate() {
        service.id = id.service(index as u16);
        for required in &mut service.requires {
            *required = id.service(required.index() as u16);
        }
    }
    pool
}
