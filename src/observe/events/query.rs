//! Which events are asked for.

use std::time::Duration;

use super::{Event, Events, Kind};
use crate::observe::names::NoSuch;
use crate::observe::stamp::Stamp;
use crate::topology::{Pair, Topology};

/// The most events in one answer: some hundreds of KiB, made in a few milliseconds.
pub const MOST_TOLD: usize = 1_000;

/// Which events are asked for; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Those after this number, the first of them; without it the last ones.
    pub after: Option<u64>,
    /// Of a member (`POOL/MEMBER`), a pool, a pair or a site.
    pub name: Option<String>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of the last so long.
    pub lasting: Option<Duration>,
    /// So many at most, and [`MOST_TOLD`].
    pub most: Option<usize>,
}

impl Events {
    /// Those that are asked for, oldest first.
    ///
    /// # Errors
    /// When nothing has the name: neither what there is, nor what was told of.
    pub fn asked(
        &self,
        query: &Query,
        topology: &Topology,
        now: Stamp,
    ) -> Result<Vec<Event>, NoSuch> {
        let subject = match &query.name {
            Some(name) => Some(Subject::named(topology, name, self)?),
            None => None,
        };
        let is_wanted = |event: &&Event| {
            query.kind.is_none_or(|kind| event.kind == kind)
                && query
                    .lasting
                    .is_none_or(|lasting| now.since(event.at) <= lasting)
                && subject.as_ref().is_none_or(|subject| subject.has(event))
        };
        let most = query.most.unwrap_or(MOST_TOLD).min(MOST_TOLD);
        let wanted = self.after_seq(query.after.unwrap_or(0)).filter(is_wanted);
        Ok(match query.after {
            Some(_) => wanted.take(most).cloned().collect(),
            None => {
                let mut last: Vec<Event> = wanted.rev().take(most).cloned().collect();
                last.reverse();
                last
            }
        })
    }
}

/// What a name stands for.
enum Subject<'a> {
    Member(&'a str, &'a str),
    Pool(&'a str),
    Pair(&'a Topology, &'a Pair),
    /// And the names of its pools.
    Site(&'a str, Vec<&'a str>),
    /// Nothing that there is; something that was.
    Gone(&'a str),
}

impl<'a> Subject<'a> {
    fn named(
        topology: &'a Topology,
        name: &'a str,
        events: &Events,
    ) -> Result<Subject<'a>, NoSuch> {
        if let Some((pool, member)) = name.split_once('/') {
            let subject = Subject::Member(pool, member);
            let known = topology
                .pool_named(pool)
                .is_some_and(|pool| pool.member_named(member).is_some());
            return match known || events.ring.iter().any(|event| subject.has(event)) {
                true => Ok(subject),
                false => Err(match crate::observe::names::find_member(topology, name) {
                    Err(missing) => missing,
                    Ok(_) => NoSuch::new("member", name, std::iter::empty()),
                }),
            };
        }
        if topology.pool_named(name).is_some() {
            return Ok(Subject::Pool(name));
        }
        if let Some(pair) = topology.pair_named(name) {
            return Ok(Subject::Pair(topology, pair));
        }
        if let Some(site) = topology.sites.iter().position(|site| site.name == name) {
            let of_site =
                |pool: &&crate::topology::Pool| pool.site.is_some_and(|own| own.index() == site);
            let pools = topology.pools.iter().filter(of_site);
            return Ok(Subject::Site(
                name,
                pools.map(|p| p.name.as_str()).collect(),
            ));
        }
        let gone = Subject::Gone(name);
        if events.ring.iter().any(|event| gone.has(event)) {
            return Ok(gone);
        }
        let pools = topology.pools.iter().map(|pool| pool.name.as_str());
        let pairs = topology.pairs.iter().map(|pair| pair.name.as_str());
        let sites = topology.sites.iter().map(|site| site.name.as_str());
        let known = pools.chain(pairs).chain(sites);
        Err(NoSuch::new("pool, pair or site", name, known))
    }

    fn has(&self, event: &Event) -> bool {
        let is = |own: &Option<String>, name: &str| own.as_deref() == Some(name);
        match self {
            Subject::Member(pool, member) => is(&event.pool, pool) && is(&event.member, member),
            Subject::Pool(pool) => is(&event.pool, pool),
            Subject::Pair(topology, pair) => is_of_pair(topology, pair, event),
            Subject::Site(site, pools) => {
                is(&event.site, site) || pools.iter().any(|pool| is(&event.pool, pool))
            }
            Subject::Gone(name) => {
                is(&event.pool, name) || is(&event.pair, name) || is(&event.site, name)
            }
        }
    }
}

/// Whether an event is part of a pair's story: its own, the conditions of its pools, their sites,
/// and what holds all automation.
pub fn is_of_pair(topology: &Topology, pair: &Pair, event: &Event) -> bool {
    let pools = pair.pools.map(|pool| topology.pool(pool));
    let of_pool = || pools.iter().any(|p| Some(&p.name) == event.pool.as_ref());
    let of_site = || {
        let sites = pools.iter().filter_map(|pool| pool.site);
        let mut names = sites.map(|site| &topology.sites[site.index()].name);
        names.any(|name| Some(name) == event.site.as_ref())
    };
    match event.kind {
        Kind::Redirect | Kind::Moved | Kind::Alarm | Kind::Store | Kind::Spill => {
            event.pair.as_ref() == Some(&pair.name)
        }
        Kind::Condition => of_pool(),
        Kind::Site => of_site(),
        Kind::Pause | Kind::Isolation => true,
        // What a command did is told by what it did; one that was refused changed nothing.
        Kind::Command
        | Kind::Verdict
        | Kind::Service
        | Kind::Operator
        | Kind::Deadline
        | Kind::First
        | Kind::Instance => false,
    }
}

/// Whether an event belongs on a page of what happened lately: a command that was carried out is
/// told by what it did.
pub fn is_told(event: &Event) -> bool {
    event.kind != Kind::Command
}
