//! `after_pool`: which pools of a site move before which, when the site is evacuated or restored.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::pool::Read;
use super::reader::{Notes, unknown};
use super::resolve::NamedPool;

/// Turns the names in `after_pool` into ids, those that the file names directly.
pub(super) fn resolve(pools: &mut [NamedPool], sites: &[String], notes: &Notes) {
    let asked: Vec<Vec<(usize, Range<usize>)>> = pools
        .iter()
        .map(|pool| match &pool.read {
            Some(read) => befores(pool, read, pools, sites, notes),
            None => Vec::new(),
        })
        .collect();
    tell_circles(pools, &asked, notes);
    let id = |at: usize| Some(pools[at].read.as_ref()?.pool.id);
    let ids = asked.iter().map(|befores| {
        let ids = befores.iter().filter_map(|(at, _)| id(*at));
        ids.collect()
    });
    let ids: Vec<Vec<_>> = ids.collect();
    for (pool, ids) in pools.iter_mut().zip(ids) {
        if let Some(read) = &mut pool.read {
            read.pool.after_pools = ids;
        }
    }
}

/// The pools that one names, by their places in the list; whatever cannot be is told.
fn befores(
    pool: &NamedPool,
    read: &Read,
    pools: &[NamedPool],
    sites: &[String],
    notes: &Notes,
) -> Vec<(usize, Range<usize>)> {
    let mut found: Vec<(usize, Range<usize>)> = Vec::new();
    let name = &pool.name;
    if let Some((_, place)) = read.after_pool.first()
        && !read.wrote_site
    {
        let message = format!("`after_pool` orders the pools of one site, and `{name}` has none");
        let help = format!("write `site` in [pools.{name}], or leave `after_pool` out");
        notes.note(Diagnostic::new(message, place.clone()).help(help));
        return found;
    }
    for (before, place) in &read.after_pool {
        let Some(at) = pools.iter().position(|pool| pool.name == *before) else {
            let known = pools.iter().map(|pool| pool.name.as_str());
            notes.note(unknown("pool", before, place.clone(), known));
            continue;
        };
        if before == name {
            let message = format!("`{name}` cannot move after itself");
            let help = "write the pools that move before it, or leave `after_pool` out";
            notes.note(Diagnostic::new(message, place.clone()).help(help));
            continue;
        }
        let other = pools[at].read.as_ref();
        let site = read.pool.site;
        if other.is_none_or(|other| other.wrote_site && other.pool.site.is_none()) || site.is_none()
        {
            // It was told already what is wrong with one of the two.
            continue;
        }
        let other_site = other.and_then(|other| other.pool.site);
        if other_site != site {
            let of = |site: Option<crate::topology::SiteId>| match site {
                Some(site) => format!("in site `{}`", sites[site.index()]),
                None => "in no site".to_owned(),
            };
            let message = format!(
                "`{before}` stands {}, and `{name}` {}",
                of(other_site),
                of(site)
            );
            let help = "write pools of the same site: the order is that in which one site is \
                        evacuated or restored";
            let diagnostic = Diagnostic::new(message, place.clone());
            let diagnostic = diagnostic.also(pools[at].place.clone(), "this pool");
            notes.note(diagnostic.help(help));
            continue;
        }
        if found.iter().all(|(known, _)| *known != at) {
            found.push((at, place.clone()));
        }
    }
    found
}

/// Pools that wait for each other would never move. Told once a circle, not once for each in it.
fn tell_circles(pools: &[NamedPool], asked: &[Vec<(usize, Range<usize>)>], notes: &Notes) {
    let mut told = HashSet::new();
    for at in 0..pools.len() {
        let Some(circle) = circle(at, asked) else {
            continue;
        };
        let new = circle.iter().all(|pool| told.insert(*pool));
        let place = asked[at].iter().find(|(next, _)| *next == circle[1]);
        if let Some((_, place)) = place.filter(|_| new) {
            let names: Vec<&str> = circle.iter().map(|at| pools[*at].name.as_str()).collect();
            let names = format!("{} after {}", names.join(" after "), names[0]);
            let message = format!("pools wait for each other to move: {names}");
            let help = "take one of them out of an `after_pool`";
            notes.note(Diagnostic::new(message, place.clone()).help(help));
        }
    }
}

/// The shortest way from a pool back to itself, without its end.
fn circle(start: usize, asked: &[Vec<(usize, Range<usize>)>]) -> Option<Vec<usize>> {
    let mut from: HashMap<usize, usize> = HashMap::new();
    let mut ahead = VecDeque::from([start]);
    while let Some(at) = ahead.pop_front() {
        for (next, _) in &asked[at] {
            if *next == start {
                let mut way = vec![at];
                while let Some(before) = way.last().and_then(|at| from.get(at)) {
                    way.push(*before);
                }
                way.reverse();
                return Some(way);
            }
            if *next != start && !from.contains_key(next) {
                from.insert(*next, at);
                ahead.push_back(*next);
            }
        }
    }
    None
}
