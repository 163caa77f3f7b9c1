//! What `twinpool validate` prints of a configuration that validated.

use std::fmt::Write;
use std::time::Duration;

use crate::config::Loaded;
use crate::config::duration::write as span;
use crate::config::worst_case::until_out;
use crate::topology::{CheckKind, Policy, Pool, Service, Topology};

/// The configuration as twinpool understands it, pool by pool.
pub fn report(loaded: &Loaded) -> String {
    let topology = &loaded.config.topology;
    let mut page = String::new();
    for pool in &topology.pools {
        describe(&mut page, pool, topology);
    }
    page.push_str(&loaded.warnings.render(false));
    let members = topology.pools.iter().map(|pool| pool.members.len()).sum();
    let pools = counted(topology.pools.len(), "pool");
    line(
        &mut page,
        &format!("valid: {pools}, {}", counted(members, "member")),
    );
    page
}

fn describe(page: &mut String, pool: &Pool, topology: &Topology) {
    let site = pool.site.map_or(String::new(), |site| {
        format!(" in {}", topology.sites[site.index()].name)
    });
    let need = pool.quorum.to_stay;
    let of = if usize::from(need.of_first) == pool.members.len() {
        format!("{} of {}", need.members, pool.members.len())
    } else {
        format!("{} of the first {}", need.members, need.of_first)
    };
    line(
        page,
        &format!(
            "pool {} ({}){site}: needs {of} members",
            pool.name, pool.role
        ),
    );
    for service in &pool.services {
        describe_service(page, pool, service);
    }
    let worst = pool
        .services
        .iter()
        .map(|service| until_out(&service.check));
    let refused = worst.clone().map(|w| w.refused).max().unwrap_or_default();
    let silent = worst.map(|w| w.silent).max().unwrap_or_default();
    line(
        page,
        &format!(
            "  a dead member is out after at most {} if its host refuses, {} if it is silent",
            seconds(refused),
            seconds(silent)
        ),
    );
    page.push('\n');
}

fn describe_service(page: &mut String, pool: &Pool, service: &Service) {
    let listen: Vec<String> = service.listen.iter().map(ToString::to_string).collect();
    let front = if listen.is_empty() {
        "checked, not fronted".to_owned()
    } else {
        format!("listens on {}", listen.join(", "))
    };
    let primary = if service.id == pool.primary {
        " (primary)"
    } else {
        ""
    };
    let requires: Vec<&str> = service
        .requires
        .iter()
        .map(|id| pool.services[id.index()].name.as_str())
        .collect();
    let requires = if requires.is_empty() {
        String::new()
    } else {
        format!(", requires {}", requires.join(", "))
    };
    line(
        page,
        &format!(
            "  {}{primary}: {front}; {}; {} every {}{requires}",
            service.name,
            policy(service.balance),
            check(service),
            span(service.check.interval),
        ),
    );
}

fn check(service: &Service) -> String {
    let kind = match &service.check.kind {
        CheckKind::Tcp => "tcp".to_owned(),
        CheckKind::Tls => "tls".to_owned(),
        CheckKind::Sip => "sip".to_owned(),
        CheckKind::Http(http) => format!("http {} {}", http.method, http.path),
    };
    let over = if service.check.tls { " over tls" } else { "" };
    format!("check {kind}{over}")
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::LeastConnections => "least connections",
        Policy::RoundRobin => "round robin",
        Policy::Random => "random",
        Policy::Source => "by source",
        Policy::First => "first alone",
    }
}

fn seconds(duration: Duration) -> String {
    // Rounded up: it is told as a most.
    let tenths = duration.as_millis().div_ceil(100);
    format!("{}.{} s", tenths / 10, tenths % 10)
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn line(page: &mut String, text: &str) {
    // Writing to a String does not fail.
    writeln!(page, "{text}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn the_report_tells_what_was_understood() {
        let text = include_str!("../../config/twinpool.toml");
        insta::assert_snapshot!("validate_reference", report(&parse(text, "f").unwrap()));
        let text = include_str!("../../tests/config/warnings.toml");
        insta::assert_snapshot!("validate_warnings", report(&parse(text, "f").unwrap()));
        let mut text = "[pools.big]\nrole = \"front-end\"\n".to_owned();
        for number in 1..=8 {
            text.push_str(&format!("members.fe{number} = \"10.1.0.{number}\"\n"));
        }
        text.push_str("services.web-internal.listen = \"10.1.0.10:443\"\n");
        text.push_str("services.web-internal.check = { kind = \"http\", tls = true }\n");
        insta::assert_snapshot!("validate_implied", report(&parse(&text, "f").unwrap()));
    }
}
