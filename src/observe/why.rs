//! [`Why`]: everything behind a pool's condition, a member's verdicts or a pair's redirects: the rule
//! that decides, how far its counts have come, the last exchanges, and what comes next.

mod pair;

pub use pair::{HomeWhy, PairWhy};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names::{self, Named, NoSuch};
use super::stamp::{Stamp, span};
use super::status::{Isolated, PoolStatus, TargetStatus, isolated, pool_status, target_status};
use super::view::View;
use crate::topology::{BelowQuorum, Check, CheckKind, Member, Pool, Service};

/// An explanation; as JSON, of one or the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Why {
    /// Of a pool or a member.
    Pool(Box<PoolWhy>),
    /// Of a pair.
    Pair(Box<PairWhy>),
}

/// An explanation of a pool or a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolWhy {
    /// What was asked about: `POOL` or `POOL/MEMBER`.
    pub name: String,
    /// The moment.
    pub now: Stamp,
    /// While the instance holds its verdicts.
    pub isolated: Option<Isolated>,
    /// The pool.
    pub pool: PoolStatus,
    /// The rule that decides the pool's condition.
    pub rule: String,
    /// The member, when one was asked about.
    pub member: Option<String>,
    /// The targets behind the answer: of a member all its services, of a pool the primary service
    /// on each member.
    pub targets: Vec<TargetWhy>,
    /// Where the pool's users are sent, when a pool was asked about that has a twin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<HomeWhy>,
}

/// What stands behind one verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetWhy {
    /// The member's name.
    pub member: String,
    /// What is thought of it.
    pub status: TargetStatus,
    /// What is asked, how often, and what the answers do.
    pub rule: String,
    /// The last probes, newest first.
    pub exchanges: Vec<ExchangeWhy>,
}

/// One probe, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeWhy {
    /// When it came back.
    pub at: Stamp,
    /// Whether the answer was good; none when the fault was our own.
    pub good: Option<bool>,
    /// What was asked and what came.
    pub text: String,
}

/// Explains `POOL`, `POOL/MEMBER` or `PAIR`.
pub fn why(view: &View<'_>, name: &str) -> Result<Why, NoSuch> {
    Ok(match names::find(view.topology, name)? {
        Named::Pool(pool) => Why::Pool(Box::new(of_pool(view, name, pool, None))),
        Named::Member(pool, member) => Why::Pool(Box::new(of_pool(view, name, pool, Some(member)))),
        Named::Pair(named) => Why::Pair(Box::new(pair::why(view, named))),
    })
}

fn of_pool(view: &View<'_>, name: &str, pool: &Pool, member: Option<&Member>) -> PoolWhy {
    let targets = match member {
        Some(member) => pool
            .services
            .iter()
            .map(|service| target(view, member, service))
            .collect(),
        None => pool
            .members
            .iter()
            .map(|member| target(view, member, pool.primary()))
            .collect(),
    };
    PoolWhy {
        name: name.to_owned(),
        now: view.clock().stamp(view.now),
        isolated: isolated(view),
        pool: pool_status(view, pool),
        rule: quorum_rule(pool),
        member: member.map(|member| member.name.clone()),
        targets,
        redirect: match member {
            Some(_) => None,
            None => pair::of_pool(view, pool),
        },
    }
}

fn target(view: &View<'_>, member: &Member, service: &Service) -> TargetWhy {
    let clock = view.clock();
    let target = member.id.target(service.id);
    let mut exchanges: Vec<ExchangeWhy> = (view.exchanges)(target)
        .into_iter()
        .map(|exchange| ExchangeWhy {
            at: clock.stamp(exchange.at),
            good: exchange.good,
            text: exchange.text,
        })
        .collect();
    exchanges.reverse();
    TargetWhy {
        member: member.name.clone(),
        status: target_status(view, target),
        rule: check_rule(&service.check),
        exchanges,
    }
}

/// The rule that decides a pool's condition, in words.
pub(super) fn quorum_rule(pool: &Pool) -> String {
    let need = pool.quorum.to_stay;
    let below = match pool.below_quorum {
        BelowQuorum::Serve => "those that answer go on serving",
        BelowQuorum::Refuse => "new sessions are refused",
    };
    format!(
        "serving while all of the first {of} members in file order are present on {primary}, \
         degraded while at least {need} are, lost below that; then {below}. A member that is \
         drained counts as present, one that is down or in maintenance does not.",
        of = need.of_first,
        primary = pool.primary().name,
        need = need.members,
    )
}

/// What is asked, how often, and what the answers do, in words.
pub(super) fn check_rule(check: &Check) -> String {
    let asked = match (&check.kind, check.tls) {
        (CheckKind::Tcp, false) => "tcp: accepts a connection".to_owned(),
        (CheckKind::Tcp, true) => "tcp over tls: completes a handshake".to_owned(),
        (CheckKind::Tls, _) => "tls: answers a ClientHello".to_owned(),
        (CheckKind::Http(http), tls) => format!(
            "{}: {} {} answers {} to {}",
            if tls { "https" } else { "http" },
            http.method,
            http.path,
            http.status.start(),
            http.status.end()
        ),
        (CheckKind::Sip, false) => "sip: answers OPTIONS".to_owned(),
        (CheckKind::Sip, true) => "sip over tls: answers OPTIONS".to_owned(),
        (CheckKind::Stun, _) => "stun: answers a Binding request over UDP".to_owned(),
    };
    format!(
        "{asked} within {}; asked every {}, every {} in doubt; {} failures in a row turn it away, \
         {} good answers in a row bring it back, {} failures without such a run are flapping",
        setting(check.timeout),
        setting(check.interval),
        setting(check.in_doubt),
        check.fall,
        check.rise,
        check.flap
    )
}

/// A configured span, exactly: `250 ms` where seconds would hide something.
pub(super) fn setting(configured: Duration) -> String {
    match configured.subsec_millis() {
        0 => span(configured),
        _ => format!("{} ms", configured.as_millis()),
    }
}
