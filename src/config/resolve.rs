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
use super::listeners::{Listener, UNWRITTEN, tell_shared_listeners};
use super::presets::{self, RoleDef};
use super::reader::{Notes, Table, unknown};
use super::{
    Config, Errors, Instance, Loaded, Observe, after_pool, control, logs, pairs, pool, roles,
};
use crate::topology::{Pool, PoolId, Protocol, Site, SiteId, Topology};

pub(super) const MOST_POOLS: usize = 1_000;
const MOST_WORKERS: u32 = 256;
const MOST_SITES: usize = 1_000;
pub(super) const LONGEST_NAME: usize = 64;
const OBSERVE: &str = "127.0.0.1:9600";

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
    if let Some(value) = root.get("cluster") {
        let message = "`cluster` is not in this version yet";
        let help = "leave it out; it comes with a later version";
        notes.note(Diagnostic::new(message, value.span).help(help));
    }
    let sites = sites(&root.table("sites", "sites"));
    let names: Vec<String> = sites.iter().map(|named| named.site.name.clone()).collect();
    let mut roles = presets::roles();
    roles::own_roles(&root.table("roles", "roles"), &mut roles);
    let (instance, instance_places) = instance(&root.table("instance", "[instance]"), &names);
    let (observe, observe_place) = observe(&root.table("observe", "[observe]"));
    let control = control::control(&root.table("control", "[control]"));
    let log = logs::read(&root.table("log", "[log]"));
    let mut pools = pools(
        &root.table("pools", "pools"),
        &roles,
        &names,
        instance.site,
        notes,
    );
    after_pool::resolve(&mut pools, &names, notes);
    let pairs_table = root.table("pairs", "pairs");
    let pairs = pairs::read(&pairs_table, &pools, &sites);
    if !pairs_table.is_misread() {
        pairs::tell_unpaired(&pools, &pairs, notes);
    }
    if let Some(first) = &pairs.first {
        tell_not_in_force(&instance, &instance_places, first, notes);
    }
    // The page listens first. Where its address is a default there is no place to point at.
    let place = observe_place.unwrap_or(UNWRITTEN);
    let own = observe.listen.map(|address| Listener {
        address,
        protocol: Protocol::Tcp,
        place,
    });
    let bound = pools.iter().flat_map(|pool| pool.bound(instance.site));
    let bound: Vec<_> = own.into_iter().chain(bound).collect();
    tell_shared_listeners(&bound, notes);
    let pools = pools.into_iter().filter_map(|named| named.read);
    let pools: Vec<Pool> = pools.map(|read| read.pool).collect();
    let sites: Vec<Site> = sites.into_iter().map(|named| named.site).collect();
    let (pools, pairs) = match instance.site.zip(instance_places.site) {
        Some(site) => (fronted(pools, site, &names, notes), Vec::new()),
        None => (pools, pairs.pairs),
    };
    Some(Config {
        source: None,
        instance,
        observe,
        control,
        log,
        topology: Topology {
            sites,
            pools,
            pairs,
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

/// A site, and the places that others may have to point at.
pub(super) struct NamedSite {
    pub(super) site: Site,
    pub(super) place: Range<usize>,
    /// Whether it says its region, rightly or not.
    pub(super) wrote_region: bool,
}

fn sites(table: &Table<'_>) -> Vec<NamedSite> {
    let mut sites = Vec::new();
    let named = table.named();
    if named.len() > MOST_SITES {
        let message = format!("{} sites are more than one file may have", named.len());
        let help = format!("at most {MOST_SITES}");
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
    for (name, place, value) in named.into_iter().take(MOST_SITES) {
        check_name(table, "site", &name, place.clone());
        let site = table.as_table(&value, "site");
        let wrote_region = site.is_misread() || site.get("region").is_some();
        let region = site.string("region").map(|(region, place)| {
            if region.trim().is_empty() {
                let message = format!("the region of site `{name}` is empty");
                let help = "write the area that it stands in, `region = \"kr-north\"`, or leave \
                            `region` out";
                site.note(Diagnostic::new(message, place).help(help));
            }
            region
        });
        sites.push(NamedSite {
            site: Site { name, region },
            place,
            wrote_region,
        });
    }
    sites
}

/// Where `[instance]` says what others may have to point at.
struct InstancePlaces {
    site: Option<Range<usize>>,
    /// Whether it says where state is kept, rightly or not.
    wrote_state_dir: bool,
}

fn instance(table: &Table<'_>, sites: &[String]) -> (Instance, InstancePlaces) {
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
    let flows = table.integer("max_flows", 1..=u32::MAX);
    let instance = Instance {
        name: table
            .string("name")
            .map_or_else(host_name, |(name, _)| name),
        site: site.and_then(|index| u16::try_from(index).ok()).map(SiteId),
        state_dir: state_dir.or_else(|| environment.as_deref().and_then(first_directory)),
        workers: workers.and_then(|n| NonZeroUsize::new(n as usize)),
        max_sessions: most.and_then(NonZeroU32::new),
        max_flows: flows.and_then(NonZeroU32::new),
        stop_deadline: table
            .duration("stop_deadline")
            .unwrap_or(Duration::from_secs(30)),
        upgrade_deadline: table
            .duration("upgrade_deadline")
            .unwrap_or(Duration::from_secs(600)),
    };
    let places = InstancePlaces {
        site: site_place,
        wrote_state_dir: table.get("state_dir").is_some(),
    };
    (instance, places)
}

/// What keeps pairs that validate from doing anything here, or this instance from running.
fn tell_not_in_force(
    instance: &Instance,
    places: &InstancePlaces,
    pair: &Range<usize>,
    notes: &Notes,
) {
    if let (Some(_), Some(place)) = (instance.site, &places.site) {
        let message = "pairs are not in force on an instance of one site";
        let help = "leave `site` of [instance] out, so that one instance fronts both pools of a \
                    pair; instances that share pairs come with a later version";
        let diagnostic = Diagnostic::new(message, place.clone()).also(pair.clone(), "such a pair");
        notes.note(diagnostic.help(help).warning());
    } else if instance.state_dir.is_none() && !places.wrote_state_dir {
        let message = "there are pairs, and nowhere to keep who is sent where";
        let help = "write `state_dir = \"/var/lib/twinpool\"` in [instance], or have systemd set \
                    $STATE_DIRECTORY; `twinpool run` refuses to start without";
        notes.note(Diagnostic::new(message, pair.clone()).help(help).warning());
    }
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

/// A pool, and the places that others may have to point at.
pub(super) struct NamedPool {
    pub(super) name: String,
    pub(super) place: Range<usize>,
    /// None where too little of it was right.
    pub(super) read: Option<pool::Read>,
}

impl NamedPool {
    /// Where an instance of this site listens for it; one without a site stands in for the twin's
    /// too. Pools of other sites are bound by other instances, and may have the same addresses.
    fn bound(&self, own_site: Option<SiteId>) -> Vec<Listener> {
        let Some(read) = &self.read else {
            return Vec::new();
        };
        match own_site {
            None => read
                .listeners
                .iter()
                .chain(&read.at_twin)
                .cloned()
                .collect(),
            Some(_) if read.pool.site == own_site => read.listeners.clone(),
            Some(_) => Vec::new(),
        }
    }
}

fn pools(
    table: &Table<'_>,
    roles: &[RoleDef],
    sites: &[String],
    own_site: Option<SiteId>,
    notes: &Notes,
) -> Vec<NamedPool> {
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
    let mut id = PoolId(0);
    for (name, place, value) in named.into_iter().take(MOST_POOLS) {
        check_name(table, "pool", &name, place.clone());
        let section = table.as_table(&value, "pool");
        if let Some(site) =
            own_site.filter(|_| section.get("site").is_none() && !section.is_misread())
        {
            let own = &sites[site.index()];
            let message = format!("pool `{name}` has no site, and is not fronted for that");
            let help = format!("write the site where it stands, `site = \"{own}\"` for this one's");
            notes.note(Diagnostic::new(message, place.clone()).help(help).warning());
        }
        let read = pool::read(&section, name.clone(), id, roles, sites);
        id.0 += u16::from(read.is_some());
        pools.push(NamedPool { name, place, read });
    }
    pools
}

/// The pools that an instance of a site fronts, numbered anew.
fn fronted(
    pools: Vec<Pool>,
    (site, place): (SiteId, Range<usize>),
    sites: &[String],
    notes: &Notes,
) -> Vec<Pool> {
    let any = !pools.is_empty();
    let mut fronted: Vec<Pool> = pools;
    fronted.retain(|pool| pool.site == Some(site));
    let ids = fronted.iter().map(|pool| pool.id).zip((0..).map(PoolId));
    let ids: HashMap<PoolId, PoolId> = ids.collect();
    for pool in &mut fronted {
        renumber(pool, &ids);
    }
    if any && fronted.is_empty() {
        let name = &sites[site.index()];
        let message = format!("no pool stands in site `{name}`, which this instance fronts");
        let help =
            format!("write `site = \"{name}\"` in a pool, or leave `site` of [instance] out");
        notes.note(Diagnostic::new(message, place).help(help));
    }
    fronted
}

fn renumber(pool: &mut Pool, ids: &HashMap<PoolId, PoolId>) {
    let id = ids[&pool.id];
    pool.id = id;
    pool.primary = id.service(pool.primary.index() as u16);
    pool.after_pools = pool
        .after_pools
        .iter()
        .filter_map(|after| ids.get(after).copied())
        .collect();
    for (index, member) in pool.members.iter_mut().enumerate() {
        member.id = id.member(index as u16);
    }
    for (index, service) in pool.services.iter_mut().enumerate() {
        service.id = id.service(index as u16);
        // It stands at the twin's site, which another instance fronts.
        service.listen_at_twin.clear();
        for required in &mut service.requires {
            *required = id.service(required.index() as u16);
        }
    }
}
