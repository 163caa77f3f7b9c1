//! Whether two pools can be twins: each of them must be able to serve the other's users, and not
//! be lost by what loses the other.

use std::collections::HashSet;

use super::Mention;
use crate::config::diagnostic::Diagnostic;
use crate::config::pool;
use crate::config::reader::Table;
use crate::config::resolve::NamedSite;
use crate::topology::{Pool, PoolId, SiteId};

/// Judges pairs one after the other, and tells what it finds.
pub(super) struct Fit<'a, 't> {
    table: &'a Table<'t>,
    sites: &'a [NamedSite],
    /// Sites that were told to need a region.
    told: HashSet<SiteId>,
}

impl<'a, 't> Fit<'a, 't> {
    pub(super) fn new(table: &'a Table<'t>, sites: &'a [NamedSite]) -> Fit<'a, 't> {
        Fit {
            table,
            sites,
            told: HashSet::new(),
        }
    }

    /// The ids of two pools, if both could be read. What keeps them from being a pair is told.
    pub(super) fn ids(
        &mut self,
        pair: &str,
        first: &Mention<'_>,
        second: &Mention<'_>,
    ) -> Option<[PoolId; 2]> {
        let read = [first.pool.read.as_ref()?, second.pool.read.as_ref()?];
        let [one, two] = read.map(|read| &read.pool);
        self.tell_places(pair, (first, read[0]), (second, read[1]));
        if one.role == two.role {
            if read.iter().all(|read| read.is_whole) {
                self.tell_missing(first, one, two);
                self.tell_missing(second, two, one);
                self.tell_protocols(first, one, two);
            }
        } else {
            let message = format!(
                "`{}` is a pool of role `{}`, and `{}` of role `{}`",
                two.name, two.role, one.name, one.role
            );
            let help = "write two pools of the same role: either serves the users of the other";
            self.table.note(
                Diagnostic::new(message, second.place.clone())
                    .label(&two.role)
                    .also(first.place.clone(), &one.role)
                    .help(help),
            );
        }
        self.warn_of_room(first, one, two);
        self.warn_of_room(second, two, one);
        Some([one.id, two.id])
    }

    /// Different sites and regions: what loses one site must not lose its twin.
    fn tell_places(
        &mut self,
        pair: &str,
        (first, one): (&Mention<'_>, &pool::Read),
        (second, two): (&Mention<'_>, &pool::Read),
    ) {
        self.tell_without_site(first, one, two);
        self.tell_without_site(second, two, one);
        let (Some(here), Some(there)) = (one.pool.site, two.pool.site) else {
            return;
        };
        let both = |message: String, help: String| {
            let diagnostic = Diagnostic::new(message, second.place.clone()).label("here");
            let diagnostic = diagnostic.also(first.place.clone(), "and here");
            self.table.note(diagnostic.help(help));
        };
        let sites = [here, there].map(|site| &self.sites[site.index()]);
        let names = sites.map(|named| &named.site.name);
        if here == there {
            let site = names[0];
            both(
                format!("both pools of pair `{pair}` stand in site `{site}`"),
                "write pools of two sites: what loses the site loses both".to_owned(),
            );
            return;
        }
        let regions = sites.map(|named| named.site.region.as_deref().map(str::trim));
        if let [Some(one), Some(two)] = regions
            && one.eq_ignore_ascii_case(two)
        {
            let also = match one == two {
                true => String::new(),
                false => format!(", also written `{two}`"),
            };
            both(
                format!("both pools of pair `{pair}` stand in region `{one}`{also}"),
                format!(
                    "write pools of two regions, or the `region` where [sites.{}] and [sites.{}] \
                     really are",
                    names[0], names[1]
                ),
            );
        }
        for (mention, id) in [(first, here), (second, there)] {
            let named = &self.sites[id.index()];
            if !named.wrote_region && self.told.insert(id) {
                let site = &named.site.name;
                let message = format!(
                    "site `{site}` has no region, and the pools of a pair stand in two of them"
                );
                let help =
                    format!("write the area that it stands in, `region = \"…\"` in [sites.{site}]");
                self.table.note(
                    Diagnostic::new(message, mention.place.clone())
                        .also(named.place.clone(), "this site")
                        .help(help),
                );
            }
        }
    }

    fn tell_without_site(&self, mention: &Mention<'_>, read: &pool::Read, twin: &pool::Read) {
        if read.wrote_site {
            return;
        }
        let name = &mention.pool.name;
        let message = format!("`{name}` has no site, and the pools of a pair stand in two");
        let ids = (0..).map(SiteId).zip(self.sites);
        let mut others = ids.filter(|(id, _)| twin.pool.site != Some(*id));
        let help = match others.next() {
            Some((_, other)) => {
                let other = &other.site.name;
                format!("write `site = \"{other}\"` in [pools.{name}], or where it stands")
            }
            None => format!(
                "write `[sites.NAME]` with its `region`, and `site = \"NAME\"` in [pools.{name}]"
            ),
        };
        self.table.note(
            Diagnostic::new(message, mention.place.clone())
                .also(mention.pool.place.clone(), "this pool")
                .help(help),
        );
    }

    /// Services of one name that different protocols carry.
    fn tell_protocols(&self, mention: &Mention<'_>, pool: &Pool, twin: &Pool) {
        for theirs in &twin.services {
            let Some(ours) = pool.service_named(&theirs.name) else {
                continue;
            };
            if ours.protocol != theirs.protocol {
                let (name, other, service) = (&pool.name, &twin.name, &ours.name);
                let message = format!(
                    "`{service}` is served over {} by `{name}`, and over {} by `{other}`",
                    ours.protocol, theirs.protocol
                );
                let help = format!(
                    "write the same `protocol` in [pools.{name}.services.{service}] and \
                     [pools.{other}.services.{service}]"
                );
                self.table
                    .note(Diagnostic::new(message, mention.place.clone()).help(help));
            }
        }
    }

    /// The services of `twin` that `pool` lacks.
    fn tell_missing(&self, mention: &Mention<'_>, pool: &Pool, twin: &Pool) {
        let has = |name: &str| pool.service_named(name).is_some();
        let names = twin.services.iter().map(|service| service.name.as_str());
        let missing: Vec<&str> = names.filter(|name| !has(name)).collect();
        let Some(first) = missing.first() else {
            return;
        };
        let (name, other) = (&pool.name, &twin.name);
        let listed: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
        let listed = listed.join(", ");
        let (what, leave, more) = match missing.len() {
            1 => ("service", "it", ""),
            _ => ("services", "them", " and so on"),
        };
        let message = format!("`{name}` lacks the {what} {listed}, which `{other}` has");
        let help = format!(
            "write `[pools.{name}.services.{first}]`{more}, or leave {leave} out of `{other}`: \
             users of either pool need the same services at both"
        );
        self.table
            .note(Diagnostic::new(message, mention.place.clone()).help(help));
    }

    /// Whether `pool` has room for the users of `twin` beside its own, as far as the file tells.
    fn warn_of_room(&self, mention: &Mention<'_>, pool: &Pool, twin: &Pool) {
        let (name, other) = (&pool.name, &twin.name);
        if let (Some(here), Some(there)) = (room(pool), room(twin))
            && here < there
        {
            let message = format!(
                "`{name}` has room for {here} sessions, fewer than the {there} of `{other}`, whose \
                 users it is to carry beside its own"
            );
            let help = format!(
                "the room is the sum of `max_connections` over the members that are not backups: \
                 raise it or add members in [pools.{name}], or write less in [pools.{other}]"
            );
            let diagnostic = Diagnostic::new(message, mention.place.clone());
            self.table.note(diagnostic.help(help).warning());
        }
        let members = pool.members.len();
        if members > 1 && usize::from(pool.quorum.to_stay.members) == members {
            let message = format!(
                "`{name}` needs all of its {members} members: the first that fails while it \
                 carries the users of `{other}` too loses both populations"
            );
            let help = format!(
                "write `quorum = {}` or less in [pools.{name}], or add members",
                members - 1
            );
            let diagnostic = Diagnostic::new(message, mention.place.clone());
            self.table.note(diagnostic.help(help).warning());
        }
    }
}

/// The sessions that a pool's members may hold together. None when one of them has no limit.
fn room(pool: &Pool) -> Option<u64> {
    let is_used = |backup: bool| !backup || pool.members.iter().all(|member| member.backup);
    let used = pool.members.iter().filter(|member| is_used(member.backup));
    let limits = used.map(|member| Some(u64::from(member.max_connections?.get())));
    limits.sum::<Option<u64>>().filter(|room| *room > 0)
}
