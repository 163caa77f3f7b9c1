//! The one line that `systemctl status` shows: what matters at a glance. Pure.

use std::fmt::{self, Display, Formatter};

use crate::observe::view::RunState;
use crate::pairing::Condition;
use crate::pairing::record::Phase;

/// Pools of one kind that are named; more are counted.
const NAMED: usize = 3;

/// What the line is made of.
#[derive(Clone, Debug)]
pub(super) struct Glance<'a> {
    pub(super) state: RunState,
    pub(super) is_isolated: bool,
    /// Whether all automation of pairs is paused.
    pub(super) is_paused: bool,
    /// Pools that this instance fronts.
    pub(super) pools: Vec<PoolGlance<'a>>,
    pub(super) sessions: u64,
    /// None where no service is over UDP.
    pub(super) flows: Option<u64>,
    /// Sessions that earlier processes have left after an upgrade.
    pub(super) earlier: u64,
    /// Home pools whose users are not all at home.
    pub(super) moved: Vec<Moved<'a>>,
    /// What the last reload said; empty for nothing.
    pub(super) reload: &'a str,
}

/// A pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolGlance<'a> {
    pub(super) name: &'a str,
    pub(super) condition: Condition,
    pub(super) present: u16,
    pub(super) of: u16,
}

/// A home pool, and where its users are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved<'a> {
    pub(super) home: &'a str,
    pub(super) twin: &'a str,
    pub(super) phase: Phase,
}

impl Display for Glance<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.state {
            RunState::Starting => f.write_str("first checks are under way; ")?,
            RunState::Draining => f.write_str("stopping, no new sessions; ")?,
            RunState::Serving => {}
        }
        if self.is_isolated {
            f.write_str("isolated: the fault may be its own, verdicts are held; ")?;
        }
        if self.state != RunState::Draining {
            self.pools(f)?;
        }
        count(f, self.sessions, "session")?;
        if let Some(flows) = self.flows {
            f.write_str(", ")?;
            count(f, flows, "flow")?;
        }
        if self.earlier > 0 {
            f.write_str(", ")?;
            count(f, self.earlier, "session")?;
            f.write_str(" from before an upgrade")?;
        }
        self.moved(f)?;
        if self.is_paused {
            f.write_str("; automation is paused")?;
        }
        if !self.reload.is_empty() {
            write!(f, "; {}", self.reload)?;
        }
        Ok(())
    }
}

impl Glance<'_> {
    /// `3 pools serving, 1 degraded (fe-seoul 2/3), `
    fn pools(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let of = |condition| {
            let pools = self.pools.iter();
            pools.filter(move |pool| pool.condition == condition)
        };
        let mut says_pools = false;
        for (condition, word) in [
            (Condition::Serving, "serving"),
            (Condition::Degraded, "degraded"),
            (Condition::Lost, "lost"),
        ] {
            let n = of(condition).count();
            if n == 0 {
                continue;
            }
            match (says_pools, n) {
                (true, _) => write!(f, "{n} {word}")?,
                (false, 1) => write!(f, "1 pool {word}")?,
                (false, _) => write!(f, "{n} pools {word}")?,
            }
            says_pools = true;
            if condition != Condition::Serving {
                let pools = of(condition);
                let named = pools.map(|p| format!("{} {}/{}", p.name, p.present, p.of));
                write!(f, " ({})", some(named, ", "))?;
            }
            f.write_str(", ")?;
        }
        Ok(())
    }

    /// `; fe-busan's users are at fe-seoul`
    fn moved(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let moved = self.moved.iter().filter_map(|moved| match moved.phase {
            Phase::Home => None,
            Phase::Away => Some(format!("{}'s users are at {}", moved.home, moved.twin)),
            Phase::Returning(share) => Some(format!(
                "{}'s users come home from {} ({} %)",
                moved.home,
                moved.twin,
                share.percent()
            )),
        });
        match some(moved, "; ") {
            moved if moved.is_empty() => Ok(()),
            moved => write!(f, "; {moved}"),
        }
    }
}

/// The first few of them, and how many more there are.
fn some(all: impl Iterator<Item = String>, between: &str) -> String {
    let mut all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(NAMED);
    if more > 0 {
        all.truncate(NAMED);
        all.push(format!("and {more} more"));
    }
    all.join(between)
}

fn count(f: &mut Formatter<'_>, n: u64, what: &str) -> fmt::Result {
    write!(f, "{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairing::record::Share;

    fn pool(name: &str, condition: Condition, present: u16) -> PoolGlance<'_> {
        PoolGlance {
            name,
            condition,
            present,
            of: 3,
        }
    }

    fn serving() -> Glance<'static> {
        Glance {
            state: RunState::Serving,
            is_isolated: false,
            is_paused: false,
            pools: vec![
                pool("fe-busan", Condition::Serving, 3),
                pool("edge-seoul", Condition::Serving, 3),
                pool("web", Condition::Serving, 3),
                pool("fe-seoul", Condition::Degraded, 2),
            ],
            sessions: 412,
            flows: None,
            earlier: 0,
            moved: Vec::new(),
            reload: "",
        }
    }

    #[test]
    fn a_line_says_what_serves_what_does_not_and_whose_users_are_elsewhere() {
        let mut glance = serving();
        glance.moved.push(Moved {
            home: "fe-busan",
            twin: "fe-seoul",
            phase: Phase::Away,
        });
        assert_eq!(
            glance.to_string(),
            "3 pools serving, 1 degraded (fe-seoul 2/3), 412 sessions; \
             fe-busan's users are at fe-seoul"
        );
    }

    #[test]
    fn where_all_is_well_it_is_short() {
        let mut glance = serving();
        glance.pools.truncate(1);
        glance.sessions = 1;
        glance.flows = Some(2);
        assert_eq!(glance.to_string(), "1 pool serving, 1 session, 2 flows");
        glance.earlier = 12;
        assert_eq!(
            glance.to_string(),
            "1 pool serving, 1 session, 2 flows, 12 sessions from before an upgrade"
        );
    }

    #[test]
    fn of_many_pools_a_few_are_named() {
        let mut glance = serving();
        let names = ["a", "b", "c", "d", "e"];
        glance.pools = names.map(|name| pool(name, Condition::Lost, 0)).to_vec();
        assert_eq!(
            glance.to_string(),
            "5 pools lost (a 0/3, b 0/3, c 0/3, and 2 more), 412 sessions"
        );
    }

    #[test]
    fn it_says_that_it_starts_stops_is_isolated_or_paused() {
        let mut glance = serving();
        glance.pools.truncate(1);
        glance.state = RunState::Starting;
        glance.is_paused = true;
        assert_eq!(
            glance.to_string(),
            "first checks are under way; 1 pool serving, 412 sessions; automation is paused"
        );
        glance.state = RunState::Serving;
        glance.is_paused = false;
        glance.is_isolated = true;
        assert_eq!(
            glance.to_string(),
            "isolated: the fault may be its own, verdicts are held; 1 pool serving, 412 sessions"
        );
        glance.state = RunState::Draining;
        glance.is_isolated = false;
        assert_eq!(
            glance.to_string(),
            "stopping, no new sessions; 412 sessions"
        );
    }

    #[test]
    fn users_on_their_way_home_and_the_last_reload_are_told() {
        let mut glance = serving();
        glance.pools.clear();
        glance.reload = "reload refused: line 3: unknown key";
        glance.moved = vec![
            Moved {
                home: "one",
                twin: "two",
                phase: Phase::Returning(Share::of(5).expect("a share")),
            },
            Moved {
                home: "two",
                twin: "one",
                phase: Phase::Home,
            },
        ];
        assert_eq!(
            glance.to_string(),
            "412 sessions; one's users come home from two (25 %); \
             reload refused: line 3: unknown key"
        );
    }
}
