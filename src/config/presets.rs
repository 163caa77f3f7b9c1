//! Role presets: what the servers of the systems that twinpool serves listen on, and how each
//! service is checked and balanced.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::topology::{Check, CheckKind, Policy, Protocol, Verify};

/// What a service is before a pool says anything about it.
#[derive(Clone, Debug)]
pub(super) struct ServiceDef {
    pub(super) name: String,
    /// None when the pool has to say.
    pub(super) port: Option<u16>,
    pub(super) check: Check,
    pub(super) requires: Vec<String>,
    pub(super) balance: Policy,
    /// Whether it is one of a role's, which knows what carries it.
    pub(super) of_role: bool,
    pub(super) protocol: Protocol,
}

/// What the servers of a pool do.
#[derive(Clone, Debug)]
pub(super) struct RoleDef {
    pub(super) name: String,
    pub(super) primary: String,
    /// Whether its pools need a quorum by the front-end table.
    pub(super) needs_quorum: bool,
    pub(super) services: Vec<ServiceDef>,
}

/// One line of a role's table.
struct Row(&'static str, u16, Ask, &'static [&'static str], Policy);

/// How a preset asks.
#[derive(Clone, Copy, PartialEq)]
enum Ask {
    Tcp,
    Tls,
    /// Over UDP, as the service itself.
    Stun,
}

use Ask::{Stun, Tcp, Tls};
use Policy::{First, LeastConnections as Any, Source};

const SIP: &[&str] = &["sip"];
const NONE: &[&str] = &[];

const FRONT_END: &[Row] = &[
    Row("sip", 5061, Tls, NONE, Any),
    Row("focus", 444, Tcp, SIP, Any),
    Row("rpc", 135, Tcp, SIP, Source),
    Row("web-internal", 443, Tls, SIP, Source),
    Row("web-internal-http", 80, Tcp, SIP, Source),
    Row("web-external", 4443, Tls, SIP, Any),
    Row("web-external-http", 8080, Tcp, SIP, Any),
    Row("response-group", 5071, Tcp, SIP, Any),
    Row("dial-in", 5072, Tcp, SIP, Any),
    Row("announcement", 5073, Tcp, SIP, Any),
    Row("call-park", 5075, Tcp, SIP, Any),
    Row("audio-test", 5076, Tcp, SIP, Any),
    Row("bandwidth-policy", 5080, Tcp, SIP, Any),
    Row("turn-auth", 448, Tcp, SIP, Any),
    Row("mediation", 5070, Tcp, SIP, Any),
];

const DIRECTOR: &[Row] = &[
    Row("sip", 5061, Tls, NONE, Source),
    Row("focus", 444, Tcp, SIP, Source),
    Row("web-internal", 443, Tls, SIP, Source),
    Row("web-external", 4443, Tls, SIP, Source),
];

const EDGE: &[Row] = &[
    Row("access", 443, Tls, NONE, Any),
    Row("federation", 5061, Tls, NONE, Any),
    Row("web-conf", 443, Tls, NONE, Any),
    Row("av", 443, Tcp, NONE, Source),
    Row("av-udp", 3478, Stun, NONE, Source),
    Row("xmpp", 5269, Tcp, NONE, Any),
    Row("internal-sip", 5061, Tls, NONE, Any),
    Row("av-auth", 5062, Tls, NONE, Any),
    Row("internal-av", 443, Tcp, NONE, Source),
    Row("internal-av-udp", 3478, Stun, NONE, Source),
];

const MEDIATION: &[Row] = &[
    Row("sip", 5070, Tcp, NONE, Any),
    Row("gateway-tls", 5067, Tls, SIP, Any),
    Row("gateway-tcp", 5068, Tcp, SIP, Any),
];

const BACK_END: &[Row] = &[Row("sql", 1433, Tcp, NONE, First)];

/// Every preset.
pub(super) fn roles() -> Vec<RoleDef> {
    [
        ("front-end", "sip", true, FRONT_END),
        ("director", "sip", false, DIRECTOR),
        ("edge", "access", false, EDGE),
        ("mediation", "sip", false, MEDIATION),
        ("back-end", "sql", false, BACK_END),
    ]
    .into_iter()
    .map(|(name, primary, needs_quorum, rows)| RoleDef {
        name: name.to_owned(),
        primary: primary.to_owned(),
        needs_quorum,
        services: rows.iter().map(service).collect(),
    })
    .collect()
}

fn service(Row(name, port, ask, requires, balance): &Row) -> ServiceDef {
    ServiceDef {
        name: (*name).to_owned(),
        port: Some(*port),
        check: match ask {
            Tls => check(CheckKind::Tls),
            Tcp => check(CheckKind::Tcp),
            Stun => check(CheckKind::Stun),
        },
        requires: requires.iter().map(|&name| name.to_owned()).collect(),
        balance: *balance,
        of_role: true,
        protocol: match ask {
            Stun => Protocol::Udp,
            Tcp | Tls => Protocol::Tcp,
        },
    }
}

impl ServiceDef {
    /// A service that no role knows.
    pub(super) fn unknown(name: &str) -> ServiceDef {
        ServiceDef {
            name: name.to_owned(),
            port: None,
            check: check(CheckKind::Tcp),
            requires: Vec::new(),
            balance: Policy::default(),
            of_role: false,
            protocol: Protocol::Tcp,
        }
    }
}

/// A check of this kind with every default.
pub(super) fn check(kind: CheckKind) -> Check {
    let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    Check {
        kind,
        tls: false,
        verify: Verify::No,
        server_name: None,
        port: None,
        interval: Duration::from_secs(1),
        in_doubt: Duration::from_millis(250),
        jitter: 0.1,
        timeout: Duration::from_millis(500),
        fall: number(3),
        rise: number(2),
        flap: number(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_and_primary_is_a_service_of_its_role() {
        for role in roles() {
            let has = |name: &String| role.services.iter().any(|s| s.name == *name);
            assert!(has(&role.primary), "{}", role.name);
            for service in &role.services {
                assert!(
                    service.requires.iter().all(has),
                    "{} {}",
                    role.name,
                    service.name
                );
                assert!(!service.requires.contains(&service.name));
            }
        }
    }

    #[test]
    fn the_presets_are_those_of_the_domain() {
        // Role, primary, quorum by the table; then each service: port, check, requires, balance.
        let said = "\
front-end sip quorum
  sip 5061 tls - any
  focus 444 tcp sip any
  rpc 135 tcp sip source
  web-internal 443 tls sip source
  web-internal-http 80 tcp sip source
  web-external 4443 tls sip any
  web-external-http 8080 tcp sip any
  response-group 5071 tcp sip any
  dial-in 5072 tcp sip any
  announcement 5073 tcp sip any
  call-park 5075 tcp sip any
  audio-test 5076 tcp sip any
  bandwidth-policy 5080 tcp sip any
  turn-auth 448 tcp sip any
  mediation 5070 tcp sip any
director sip -
  sip 5061 tls - source
  focus 444 tcp sip source
  web-internal 443 tls sip source
  web-external 4443 tls sip source
edge access -
  access 443 tls - any
  federation 5061 tls - any
  web-conf 443 tls - any
  av 443 tcp - source
  av-udp 3478 stun - source
  xmpp 5269 tcp - any
  internal-sip 5061 tls - any
  av-auth 5062 tls - any
  internal-av 443 tcp - source
  internal-av-udp 3478 stun - source
mediation sip -
  sip 5070 tcp - any
  gateway-tls 5067 tls sip any
  gateway-tcp 5068 tcp sip any
back-end sql -
  sql 1433 tcp - first
";
        let mut is = String::new();
        for role in roles() {
            let quorum = if role.needs_quorum { "quorum" } else { "-" };
            is.push_str(&format!("{} {} {quorum}\n", role.name, role.primary));
            for service in &role.services {
                let check = match service.check.kind {
                    CheckKind::Stun if service.protocol == Protocol::Udp => "stun",
                    CheckKind::Tcp => "tcp",
                    CheckKind::Tls => "tls",
                    _ => "another",
                };
                let requires = match service.requires.as_slice() {
                    [] => "-".to_owned(),
                    names => names.join(","),
                };
                let balance = match service.balance {
                    Policy::LeastConnections => "any",
                    Policy::Source => "source",
                    Policy::First => "first",
                    _ => "another",
                };
                let (name, port) = (&service.name, service.port.unwrap());
                is.push_str(&format!("  {name} {port} {check} {requires} {balance}\n"));
            }
        }
        assert_eq!(is, said);
    }
}
