//! What people type, `POOL`, `POOL/MEMBER` and `PAIR`, looked up; or what they probably meant.

use std::fmt;

use crate::topology::{Member, Pair, Pool, Topology};

/// Names less alike than this (Jaro-Winkler, 0 to 1) are not suggested.
const ALIKE: f64 = 0.7;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Named<'a> {
    /// A pool.
    Pool(&'a Pool),
    /// A member of it.
    Member(&'a Pool, &'a Member),
    /// A pair.
    Pair(&'a Pair),
}

/// A name that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuch {
    /// What it should have been: `pool`, `member`, `pool or pair`.
    pub what: &'static str,
    /// What was typed, cut to a bounded length.
    pub name: String,
    /// What was probably meant.
    pub nearest: Option<String>,
    /// What there is, where nothing was near.
    pub known: Vec<String>,
}

/// The longest part of a name that is repeated in an error.
const REPEATED: usize = 80;
/// How many known names an error lists.
const LISTED: usize = 12;

/// Looks up `POOL`, `POOL/MEMBER` or `PAIR`; a pool before a pair that has its name.
pub fn find<'a>(topology: &'a Topology, name: &str) -> Result<Named<'a>, NoSuch> {
    if name.contains('/') {
        return find_member(topology, name).map(|(pool, member)| Named::Member(pool, member));
    }
    if let Some(pool) = topology.pool_named(name) {
        return Ok(Named::Pool(pool));
    }
    topology.pair_named(name).map(Named::Pair).ok_or_else(|| {
        let pools = topology.pools.iter().map(|pool| pool.name.as_str());
        let pairs = topology.pairs.iter().map(|pair| pair.name.as_str());
        let what = match topology.pairs.is_empty() {
            true => "pool",
            false => "pool or pair",
        };
        NoSuch::new(what, name, pools.chain(pairs))
    })
}

/// Looks up `POOL`.
pub fn find_pool<'a>(topology: &'a Topology, name: &str) -> Result<&'a Pool, NoSuch> {
    topology.pool_named(name).ok_or_else(|| {
        if let Some(pair) = topology.pair_named(name) {
            // Neither is nearer: whose users are meant is for the person to say.
            let pools = pair.pools.map(|pool| topology.pool(pool).name.clone());
            return NoSuch {
                what: "pool",
                name: name.to_owned(),
                nearest: None,
                known: pools.into(),
            };
        }
        let known = topology.pools.iter().map(|pool| pool.name.as_str());
        NoSuch::new("pool", name, known)
    })
}

/// Looks up `POOL/MEMBER`.
pub fn find_member<'a>(
    topology: &'a Topology,
    name: &str,
) -> Result<(&'a Pool, &'a Member), NoSuch> {
    let found = name.split_once('/').and_then(|(pool, member)| {
        let pool = topology.pool_named(pool)?;
        Some((pool, pool.member_named(member)?))
    });
    found.ok_or_else(|| {
        let (pool, of) = name.split_once('/').unwrap_or((name, ""));
        let known_pool = topology.pool_named(pool);
        let paths: Vec<String> = topology
            .pools
            .iter()
            .filter(|pool| known_pool.is_none_or(|known| known.id == pool.id))
            .flat_map(|pool| pool.members.iter())
            .map(|member| topology.member_path(member.id))
            .collect();
        let mut missing = NoSuch::new("member", name, paths.iter().map(String::as_str));
        if of.is_empty() {
            missing.nearest = None;
        }
        missing
    })
}

impl NoSuch {
    /// `name` is none of `known`.
    pub fn new<'a>(what: &'static str, name: &str, known: impl Iterator<Item = &'a str>) -> NoSuch {
        let name: String = name.chars().take(REPEATED).collect();
        let known: Vec<&str> = known.collect();
        let nearest = known
            .iter()
            .map(|candidate| (strsim::jaro_winkler(&name, candidate), candidate))
            .filter(|(alike, _)| *alike >= ALIKE)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, candidate)| (*candidate).to_owned());
        NoSuch {
            what,
            name,
            nearest,
            known: known.iter().take(LISTED).map(|k| (*k).to_owned()).collect(),
        }
    }
}

impl fmt::Display for NoSuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no {} is named \"{}\"",
            self.what,
            self.name.escape_debug()
        )?;
        match (&self.nearest, self.known.as_slice()) {
            (Some(nearest), _) => write!(f, "; did you mean \"{nearest}\"?"),
            (None, []) => Ok(()),
            (None, known) => write!(f, "; there are: {}", known.join(", ")),
        }
    }
}

impl std::error::Error for NoSuch {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample::{pair_topology, topology};

    fn missing(name: &str) -> String {
        find(&topology(), name).unwrap_err().to_string()
    }

    #[test]
    fn pools_and_members_are_found() {
        let topology = topology();
        assert!(matches!(find(&topology, "med"), Ok(Named::Pool(pool)) if pool.name == "med"));
        assert!(matches!(
            find(&topology, "fe-seoul/fe2"),
            Ok(Named::Member(_, member)) if member.name == "fe2"
        ));
    }

    #[test]
    fn pairs_are_found_after_pools() {
        let mut topology = pair_topology();
        assert!(matches!(find(&topology, "korea"), Ok(Named::Pair(pair)) if pair.name == "korea"));
        assert_eq!(
            find(&topology, "koera").unwrap_err().to_string(),
            "no pool or pair is named \"koera\"; did you mean \"korea\"?"
        );
        topology.pairs[0].name = "fe-seoul".to_owned();
        assert!(matches!(
            find(&topology, "fe-seoul"),
            Ok(Named::Pool(pool)) if pool.name == "fe-seoul"
        ));
    }

    #[test]
    fn what_was_probably_meant_is_suggested() {
        assert_eq!(
            missing("fe-soul"),
            "no pool is named \"fe-soul\"; did you mean \"fe-seoul\"?"
        );
        assert_eq!(
            missing("fe-seoul/f1"),
            "no member is named \"fe-seoul/f1\"; did you mean \"fe-seoul/fe1\"?"
        );
    }

    #[test]
    fn where_nothing_is_near_what_there_is_is_listed() {
        assert_eq!(
            missing("xyz"),
            "no pool is named \"xyz\"; there are: fe-seoul, med, edge"
        );
        let topology = topology();
        let without_member = find_member(&topology, "med").unwrap_err().to_string();
        assert_eq!(
            without_member,
            "no member is named \"med\"; there are: med/m1"
        );
    }

    #[test]
    fn a_hostile_name_is_repeated_short_and_harmless() {
        let told = missing(&format!("\x1b[2J{}", "x".repeat(10_000)));
        assert!(told.len() < 200 && !told.contains('\x1b'), "{told}");
    }
}
