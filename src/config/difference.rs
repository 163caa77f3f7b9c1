//! What a configuration changes in another one, in words.

use std::fmt;

use super::Config;
use crate::topology::{Pool, Succession, Topology};

/// What one configuration changes in another, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    lines: Vec<String>,
}

/// What changes where `new` takes the place of `old`.
pub fn between(old: &Config, new: &Config) -> Difference {
    let mut lines = Vec::new();
    let (was, is) = (&old.topology, &new.topology);
    let succession = Succession::between(was, is);
    for pool in &is.pools {
        match was.pool_named(&pool.name) {
            None => lines.push(format!("+ pool {}", pool.name)),
            Some(before) => pools(was, before, is, pool, &succession, &mut lines),
        }
    }
    for pool in was
        .pools
        .iter()
        .filter(|pool| is.pool_named(&pool.name).is_none())
    {
        lines.push(format!("- pool {}", pool.name));
    }
    Difference { lines }
}

fn pools(
    was: &Topology,
    before: &Pool,
    is: &Topology,
    pool: &Pool,
    succession: &Succession,
    lines: &mut Vec<String>,
) {
    for member in &before.members {
        if succession.member(member.id).is_none() {
            lines.push(format!("- member {}", was.member_path(member.id)));
        }
    }
    let kept: Vec<_> = before
        .members
        .iter()
        .filter_map(|member| succession.member(member.id))
        .collect();
    for member in pool.members.iter().filter(|m| !kept.contains(&m.id)) {
        lines.push(format!("+ member {}", is.member_path(member.id)));
    }
}

impl Difference {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return f.write_str("nothing has changed");
        }
        f.write_str(&self.lines.join("\n"))
    }
}
