//! What `twinpool validate` prints of a configuration that validated.
//!
//! Names are harmless to a terminal (the configuration's reader allows no others); anything else
//! is written by us. Nothing is decided here.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Loaded;
use crate::config::duration::write as span;
use crate::config::worst_case::{
    PoolWorstCase, has_flows, is_fronted, notices_hang, of_flows, of_loss, of_pool,
};
use crate::topology::{
    Automation, BelowQuorum, CheckKind, Member, Pair, Policy, Pool, Protocol, QuorumNeed, Service,
    Side, Topology,
};

/// Members that are listed by name; a longer list is cut and says so.
const LISTED_MEMBERS: usize = 32;

/// The configuration as twinpool understands it, pool by pool, then pair by pair.
pub fn report(loaded: &Loaded) -> String {
    let topology = &loaded.config.topology;
    let mut page = String::new();
    for pool in &topology.pools {
        describe(&mut page, pool, topology);
        page.push('\n');
    }
    for pair in &topology.pairs {
        describe_pair(&mut page, pair, topology);
        page.push('\n');
    }
    page.push_str(&loaded.warnings.render(false));
    let members = topology.pools.iter().map(|pool| pool.members.len()).sum();
    line(
        &mut page,
        &format!(
            "valid: {}, {}{}",
            count(topology.pools.len(), "pool"),
            count(members, "member"),
            match topology.pairs.len() {
                0 => String::new(),
                pairs => format!(", {}", count(pairs, "pair")),
            }
        ),
    );
    page
}

fn describe(page: &mut String, pool: &Pool, topology: &Topology) {
    let site = pool.site.map_or(String::new(), |site| {
        format!(" in {}", topology.sites[site.index()].name)
    });
    line(page, &format!("pool {} ({}){site}", pool.name, pool.role));
    line(page, &format!("  members: {}", members(pool)));
    line(page, &format!("  quorum: {}", quorum(pool)));
    for service in &pool.services {
        describe_service(page, pool, service);
    }
    if !pool.after_pools.is_empty() {
        let before: Vec<&str> = pool
            .after_pools
            .iter()
            .map(|id| topology.pool(*id).name.as_str())
            .collect();
        line(
            page,
            &format!(
                "  moves after {} when its site is evacuated or restored",
                before.join(", ")
            ),
        );
    }
    let worst = worst_case(pool, &of_pool(pool), |_| true);
    line(page, &format!("  a dead member is out after {worst}"));
    if let Some(flows) = of_flows(pool) {
        describe_flows(page, pool, &flows, &worst);
    }
}

/// When the flows of a dead member move, where that is not when it is `out` for the whole pool.
fn describe_flows(page: &mut String, pool: &Pool, worst: &PoolWorstCase, out: &str) {
    let services = pool.services.iter().filter(|service| has_flows(service));
    let services = names(pool, services.map(|service| service.id.index()));
    let worst = worst_case(pool, worst, has_flows);
    let when = match worst == out {
        true => "then".to_owned(),
        false => format!("after {worst}"),
    };
    line(
        page,
        &format!(
            "    its flows over UDP ({services}) go to others {when}, each with its client's next \
             datagram; until then what goes to a silent member is lost"
        ),
    );
}

/// After how long at most these services of a dead member are out.
fn worst_case(pool: &Pool, worst: &PoolWorstCase, is_one: impl Fn(&Service) -> bool) -> String {
    let hang = match worst.hang {
        Some(hang) => format!("{} if it hangs", seconds(hang)),
        None => format!("a hang is not noticed by {}", blind(pool, is_one)),
    };
    format!(
        "at most {} if its host refuses, {} if its host is silent; {hang}",
        seconds(worst.refused),
        seconds(worst.silent)
    )
}

fn members(pool: &Pool) -> String {
    let mut listed: Vec<String> = pool
        .members
        .iter()
        .take(LISTED_MEMBERS)
        .map(|one| member(one, pool))
        .collect();
    if pool.members.len() > LISTED_MEMBERS {
        listed.push(format!("and {} more", pool.members.len() - LISTED_MEMBERS));
    }
    listed.join(", ")
}

fn member(member: &Member, pool: &Pool) -> String {
    let host = &member.endpoints[pool.primary.index()].host;
    let mut more = Vec::new();
    if member.weight.get() != 1 {
        more.push(format!("weight {}", member.weight));
    }
    if let Some(most) = member.max_connections {
        more.push(format!("at most {most} sessions"));
    }
    if member.backup {
        more.push("backup".to_owned());
    }
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(" [{}]", more.join(", "))
    };
    format!("{} {host}{more}", member.name)
}

fn quorum(pool: &Pool) -> String {
    let of = |need: QuorumNeed| {
        if usize::from(need.of_first) == pool.members.len() {
            format!("{} of {}", need.members, pool.members.len())
        } else {
            format!("{} of the first {}", need.members, need.of_first)
        }
    };
    let below = match pool.below_quorum {
        BelowQuorum::Serve => "below it those that answer go on serving",
        BelowQuorum::Refuse => "below it new sessions are refused",
    };
    let (start, stay) = (pool.quorum.to_start, pool.quorum.to_stay);
    let start = if start == stay {
        String::new()
    } else {
        format!(", {} to start", of(start))
    };
    format!("{} to stay{start}; {below}", of(stay))
}

fn describe_service(page: &mut String, pool: &Pool, service: &Service) {
    let front = if !is_fronted(service) {
        "not fronted, only checked".to_owned()
    } else {
        let own = (!service.listen.is_empty()).then(|| addresses(&service.listen));
        let at_twin = &service.listen_at_twin;
        let at_twin =
            (!at_twin.is_empty()).then(|| format!("for the twin's site on {}", addresses(at_twin)));
        let listens: Vec<String> = own.into_iter().chain(at_twin).collect();
        let over = match service.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => " over UDP",
        };
        format!(
            "listens{over} on {}, {}",
            listens.join(", "),
            policy(service.balance)
        )
    };
    let primary = if service.id == pool.primary {
        " (primary)"
    } else {
        ""
    };
    let requires = if service.requires.is_empty() {
        String::new()
    } else {
        format!(
            "; requires {}",
            names(pool, service.requires.iter().map(|id| id.index()))
        )
    };
    line(
        page,
        &format!(
            "  {}{primary}: {front}; {}{requires}",
            service.name,
            check(service),
        ),
    );
}

fn addresses(listen: &[SocketAddr]) -> String {
    let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
    listen.join(", ")
}

fn describe_pair(page: &mut String, pair: &Pair, topology: &Topology) {
    let [one, two] = pair.pools.map(|id| stands(topology.pool(id), topology));
    line(
        page,
        &format!("pair {}: {one} and {two} back each other up", pair.name),
    );
    line(
        page,
        &format!(
            "  failover: {}; failback: {}",
            failover(pair),
            failback(pair)
        ),
    );
    line(
        page,
        &format!(
            "  while users move, at most {} of their sessions are ended each second, and a member \
             takes at most {} new sessions of theirs each second",
            pair.move_rate, pair.arrivals
        ),
    );
    for side in Side::BOTH {
        describe_loss(page, pair, side, topology);
    }
}

fn stands(pool: &Pool, topology: &Topology) -> String {
    let Some(site) = pool.site.map(|site| &topology.sites[site.index()]) else {
        return pool.name.clone();
    };
    let region = site.region.as_deref().unwrap_or("no region");
    format!("{} ({}, {region})", pool.name, site.name)
}

fn failover(pair: &Pair) -> String {
    match pair.rules.failover {
        Automation::Manual => "when someone orders it".to_owned(),
        Automation::Automatic => {
            format!("automatic, {} after a pool is lost", span(pair.rules.after))
        }
    }
}

fn failback(pair: &Pair) -> String {
    let rules = &pair.rules;
    let begins = match rules.failback {
        Automation::Manual => "when someone orders it".to_owned(),
        Automation::Automatic => format!(
            "automatic, when the pool has been well for {} ({} at most, after relapses)",
            span(rules.hold),
            span(rules.longest_hold)
        ),
    };
    let ramp = if rules.ramp.is_zero() {
        "all at once".to_owned()
    } else {
        format!("over {}", span(rules.ramp))
    };
    format!("{begins}, {ramp}")
}

/// How long the users of one pool wait for the other, and what that consists of.
fn describe_loss(page: &mut String, pair: &Pair, side: Side, topology: &Topology) {
    let [home, twin] = [side, side.other()].map(|side| topology.pool(pair.pool(side)));
    let (home_name, twin_name) = (&home.name, &twin.name);
    let primary = home.primary();
    let worst = of_loss(home, &pair.rules);
    let (known, published) = (seconds(worst.known), seconds(worst.published));
    let told = match (worst.total(), worst.after) {
        (Some(total), Some(after)) => format!(
            "its users are on {twin_name} at most {} later: {known} until the {} check tells, {} \
             `after`, {published} to write it down and publish it",
            seconds(total),
            primary.name,
            seconds(after)
        ),
        _ => format!(
            "the {} check tells at most {known} later; its users are on {twin_name} when someone \
             orders `twinpool failover {home_name}`, at most {published} later, to write it down \
             and publish it",
            primary.name
        ),
    };
    line(
        page,
        &format!("  if the members of {home_name} fall silent, {told}"),
    );
    if !notices_hang(&primary.check) {
        line(
            page,
            &format!(
                "    that they hang is not noticed by the tcp check of {}",
                primary.name
            ),
        );
    }
    if pair.spill {
        let fronted = home.services.iter().filter(|one| is_fronted(one));
        let over_tcp = fronted.filter(|one| one.protocol == Protocol::Tcp);
        if let Some(longest) = over_tcp.map(|one| one.connect.first_share()).max() {
            line(
                page,
                &format!(
                    "    before that, a connection that no member of {home_name} accepts goes to \
                     {twin_name} by itself, at most {} after it came (spill)",
                    seconds(longest)
                ),
            );
        }
        if home.services.iter().any(has_flows) {
            line(
                page,
                &format!(
                    "    before that, a flow over UDP that the members of {home_name} refuse, or \
                     for which none is left, goes to {twin_name} by itself, at once (spill)"
                ),
            );
        }
    }
}

fn check(service: &Service) -> String {
    let check = &service.check;
    let kind = match &check.kind {
        CheckKind::Tcp => "tcp".to_owned(),
        CheckKind::Tls => "tls".to_owned(),
        CheckKind::Sip => "sip".to_owned(),
        CheckKind::Stun => "stun".to_owned(),
        CheckKind::Http(http) => format!("http {} {}", http.method, http.path),
    };
    let over = if check.tls { " over tls" } else { "" };
    let port = check
        .port
        .map_or(String::new(), |port| format!(" on port {port}"));
    format!(
        "{kind} check{over}{port} every {}, {} to answer, out after {} failed",
        span(check.interval),
        span(check.timeout),
        check.fall
    )
}

/// Those of these services that do not notice a hang, themselves or by what they require.
fn blind(pool: &Pool, is_one: impl Fn(&Service) -> bool) -> String {
    let sees = |index: usize| notices_hang(&pool.services[index].check);
    let services = pool.services.iter().filter(|service| is_one(service));
    let blind = services.filter(|service| {
        let mut all = service.requires.iter().map(|id| id.index());
        !sees(service.id.index()) && !all.any(sees)
    });
    let names = names(pool, blind.map(|service| service.id.index()));
    format!("the tcp checks of {names}")
}

fn names(pool: &Pool, services: impl Iterator<Item = usize>) -> String {
    let names: Vec<&str> = services
        .map(|index| pool.services[index].name.as_str())
        .collect();
    names.join(", ")
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::LeastConnections => "to the least loaded",
        Policy::RoundRobin => "round robin",
        Policy::Random => "at random",
        Policy::Source => "by the client's address",
        Policy::First => "to the first alone",
    }
}

/// Rounded up: a worst case must not look better than it is.
fn seconds(duration: Duration) -> String {
    let hundredths = duration.as_nanos().div_ceil(10_000_000);
    format!("{}.{:02} s", hundredths / 100, hundredths % 100)
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
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
        let text = include_str!("../../tests/config/pair-warnings.toml");
        insta::assert_snapshot!("validate_pairs", report(&parse(text, "f").unwrap()));
        let mut text = "[pools.big]\nrole = \"front-end\"\n".to_owned();
        for number in 1..=8 {
            text.push_str(&format!("members.fe{number} = \"10.1.0.{number}\"\n"));
        }
        text.push_str("services.web-internal.listen = \"10.1.0.10:443\"\n");
        text.push_str("services.web-internal.check = { kind = \"http\", tls = true }\n");
        insta::assert_snapshot!("validate_implied", report(&parse(&text, "f").unwrap()));
        let text = include_str!("../../tests/config/udp.toml");
        insta::assert_snapshot!("validate_udp", report(&parse(text, "f").unwrap()));
    }
}
