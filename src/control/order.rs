//! From a [`Command`] as it was typed to an [`Order`] that the decider takes, and back to words.

use std::time::Duration;

use crate::config::duration;
use crate::health::readiness::Mode;
use crate::observe::desk::{Command, Refused};
use crate::observe::events::mode_word;
use crate::observe::names;
use crate::observe::stamp::span;
use crate::pairing::{Order, Refusal};
use crate::time::Time;
use crate::topology::{MemberId, Topology};

/// Looks the member up and turns spans into moments.
pub fn order(command: Command, topology: &Topology, now: Time) -> Result<Order, Refused> {
    let (_, member) = names::find_member(topology, &command.member)?;
    if command.mode == Mode::Ready && command.lasting.is_some() {
        return Err(Refused::Malformed(
            "ready has no duration; leave \"for\" out".to_owned(),
        ));
    }
    Ok(Order {
        member: member.id,
        mode: command.mode,
        by: command.by,
        reason: command.reason,
        until: command.lasting.map(|lasting| now + lasting),
        force: command.force,
    })
}

/// Why the decider refused, and what to do instead.
pub fn refused(refusal: &Refusal, member: MemberId, topology: &Topology) -> Refused {
    match refusal {
        Refusal::WouldLosePool { pool, remain, need } => Refused::Harmful(format!(
            "maintenance of {member} would lose {pool}: {remain} would remain present, {need} are \
             needed. Bring another member back first, drain {member} instead, or repeat with \
             --force",
            member = topology.member_path(member),
            pool = topology.pool(*pool).name,
        )),
    }
}

/// What is answered to a command that was carried out.
pub fn done(order: &Order, topology: &Topology, now: Time) -> String {
    let member = topology.member_path(order.member);
    let deadline = span(topology.pool(order.member.pool).drain_deadline);
    let lapses = match order.until {
        Some(until) => format!("; lapses in {}", span(now.until(until))),
        None => String::new(),
    };
    match order.mode {
        Mode::Ready => format!("{member} is ready"),
        mode => format!(
            "{member}: {}; no new sessions, those it has end in {deadline}{lapses}",
            mode_word(mode)
        ),
    }
}

/// How long a drain or maintenance lasts, as `config::duration` reads it; never nothing.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("a duration of nothing; leave it out".to_owned()),
        Ok(span) => Ok(span),
        Err(_) => {
            let shown: String = text.chars().take(40).collect();
            let shown = shown.escape_debug();
            Err(format!(
                "\"{shown}\" is not a duration; write it like 90s, 30m, 2h or 1h30m"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample::{NOW, topology};

    #[test]
    fn a_span_carries_its_unit() {
        for (text, millis) in [
            ("250ms", 250),
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            (" 7d ", 604_800_000),
        ] {
            assert_eq!(
                parse_span(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "2",
            "h",
            "-2h",
            "2 fortnights",
            "2h3",
            "1.5h",
            "99999999999s",
            "0s",
            "400d",
        ] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_becomes_an_order_with_moments() {
        let command = Command {
            mode: Mode::Drain,
            member: "fe-seoul/fe3".to_owned(),
            by: "alice".to_owned(),
            reason: None,
            lasting: Some(Duration::from_secs(60)),
            force: false,
        };
        let topology = topology();
        let ordered = order(command, &topology, NOW).unwrap();
        assert_eq!(ordered.member, topology.pools[0].members[2].id);
        assert_eq!(ordered.until, Some(NOW + Duration::from_secs(60)));
        assert_eq!(
            done(&ordered, &topology, NOW),
            "fe-seoul/fe3: drain; no new sessions, those it has end in 10 min; lapses in 1 min"
        );
    }
}
