//! What a reload may not change, and what to do instead: the same for the daemon, which refuses, and
//! for `validate --diff`, which foretells it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::config::Config;
use crate::health::readiness::Mode;
use crate::observe::events::mode_word;
use crate::topology::{MemberId, PoolId, Protocol, Side, Succession, Topology};

/// Why a configuration may not take the place of another one by a reload; empty when it may.
/// `is_away` says whether a pool's users are sent to its twin, all or a share of them.
pub fn refusals(
    old: &Config,
    new: &Config,
    succession: &Succession,
    is_away: impl Fn(PoolId) -> bool,
) -> Vec<String> {
    let mut refusals = stranded(old, succession, is_away);
    let fixed = fixed(old, new);
    let rooted = rooted(old, new);
    if !rooted.is_empty() {
        refusals.push(format!(
            "a reload cannot change {}; a restart can (`systemctl restart twinpool`)",
            rooted.join(", ")
        ));
    }
    if !fixed.is_empty() {
        refusals.push(format!(
            "a reload cannot change {}; an upgrade can, even to the same version \
             (`twinpool upgrade`)",
            fixed.join(", ")
        ));
    }
    refusals
}

/// The same for another process that takes over.
pub fn refusals_to_upgrade(old: &Config, new: &Config) -> Vec<String> {
    let rooted = rooted(old, new);
    match rooted.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "an upgrade cannot change {}; a restart can (`systemctl restart twinpool`)",
            rooted.join(", ")
        )],
    }
}

/// What operators decided of members that are gone under the topology that comes after `old`, a
/// line each.
pub fn forgotten(
    old: &Topology,
    succession: &Succession,
    operator: impl Fn(MemberId) -> Option<(Mode, String)>,
) -> Vec<String> {
    let members = old.pools.iter().flat_map(|pool| &pool.members);
    let gone = members.filter(|member| succession.member(member.id).is_none());
    let forgotten = gone.filter_map(|member| {
        let (mode, by) = operator(member.id)?;
        let (path, mode) = (
            old.member_path(member.id),
            (mode != Mode::Ready).then_some(mode)?,
        );
        let mode = mode_word(mode);
        Some(format!(
            "that {path} is in {mode} by {by} is forgotten with it"
        ))
    });
    forgotten.collect()
}

/// What only another process can put in force.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    changed([
        (
            "workers in [instance]",
            old.instance.workers == new.instance.workers,
        ),
        ("listen in [observe]", old.observe == new.observe),
        (
            "format in [log]",
            old.log.settings.format == new.log.settings.format,
        ),
    ])
}

/// What another process can put in force only once this one is gone.
fn rooted(old: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&old.instance, &new.instance);
    let site = |config: &Config| {
        let site = config.instance.site?;
        Some(config.topology.sites[site.index()].name.clone())
    };
    changed([
        ("site in [instance]", site(old) == site(new)),
        ("state_dir in [instance]", was.state_dir == is.state_dir),
        ("[control]", old.control == new.control),
    ])
}

fn changed<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    let changed = keys.into_iter().filter(|(_, same)| !same);
    changed.map(|(key, _)| key).collect()
}

/// Users who are away would not find home again without their pair.
pub fn stranded(
    old: &Config,
    succession: &Succession,
    is_away: impl Fn(PoolId) -> bool,
) -> Vec<String> {
    let mut stranded = Vec::new();
    let topology = &old.topology;
    for pair in &topology.pairs {
        if succession.pair(pair.id).is_some() {
            continue;
        }
        for side in Side::BOTH
            .into_iter()
            .filter(|side| is_away(pair.pool(*side)))
        {
            let name = |side| &topology.pool(pair.pool(side)).name;
            let (home, twin) = (name(side), name(side.other()));
            stranded.push(format!(
                "users of {home} are at {twin}, and the file no longer has the pair {} with both \
                 pools: bring them home first (`twinpool failback {home} --now`), or keep the pair",
                pair.name
            ));
        }
    }
    stranded
}

/// Why listeners cannot be opened while those of `old` are: one would take what comes to another.
pub fn overlapping(old: &Topology, new: &Topology) -> Vec<String> {
    let (had, wants) = (listened(old), listened(new));
    let told = wants.difference(&had).filter_map(|at| {
        let own = had.iter().find(|own| overlaps(at, own))?;
        Some(format!(
            "cannot listen on {} beside {}, where this instance listens: only a restart can \
             change one for the other (`systemctl restart twinpool`)",
            at.1, own.1
        ))
    });
    told.collect()
}

fn listened(topology: &Topology) -> BTreeSet<(Protocol, SocketAddr)> {
    let services = topology.pools.iter().flat_map(|pool| &pool.services);
    let listeners = services.flat_map(|service| {
        let all = service.listen.iter().chain(&service.listen_at_twin);
        all.map(|address| (service.protocol, *address))
    });
    listeners.collect()
}

/// Whether one of two listeners takes what comes to the other: it listens at all addresses.
fn overlaps(one: &(Protocol, SocketAddr), other: &(Protocol, SocketAddr)) -> bool {
    let ((protocol, one), (of, other)) = (one, other);
    let takes_all = one.ip().is_unspecified() || other.ip().is_unspecified();
    let is_alike = one.is_ipv4() == other.is_ipv4() && one.port() == other.port();
    protocol == of && takes_all && is_alike && one.port() != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const PAIRED: &str = r#"
[sites.a]
region = "a"
[sites.b]
region = "b"
[pools.one]
role = "mediation"
site = "a"
members.m = "192.0.2.1"
services.sip = { listen = "127.0.0.1:5061" }
[pools.two]
role = "mediation"
site = "b"
members.m = "192.0.2.2"
services.sip = { listen = "127.0.0.1:5062" }
[pairs.both]
pools = ["one", "two"]
"#;

    fn told(from: &str, to: &str, away: &[u16]) -> Vec<String> {
        let parse = |text: &str| config::parse(text, "f").unwrap().config;
        assert!(PAIRED.contains(from));
        let (old, new) = (parse(PAIRED), parse(&PAIRED.replacen(from, to, 1)));
        let succession = Succession::between(&old.topology, &new.topology);
        refusals(&old, &new, &succession, |pool| away.contains(&pool.0))
    }

    const PAIR: &str = "[pairs.both]\npools = [\"one\", \"two\"]\n";

    #[test]
    fn a_pair_goes_only_while_everybody_is_at_home() {
        assert_eq!(told(PAIR, "", &[]), [""; 0]);
        let told = told(PAIR, "", &[1]);
        let [told] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert!(told.contains("users of two are at one"), "{told}");
        assert!(told.contains("`twinpool failback two --now`"), "{told}");
    }

    #[test]
    fn a_pair_by_another_name_or_of_other_pools_is_another_pair() {
        assert_eq!(told("[pairs.both]", "[pairs.other]", &[0]).len(), 1);
        assert_eq!(
            told(
                "pools = [\"one\", \"two\"]",
                "after = \"3s\"\npools = [\"one\", \"two\"]",
                &[0]
            )
            .len(),
            0
        );
    }

    #[test]
    fn what_only_another_process_can_change_is_named() {
        let told = told(
            "[sites.a]",
            "[instance]\nworkers = 7\n[observe]\nlisten = false\n[sites.a]",
            &[],
        );
        let [told] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert!(
            told.contains("workers in [instance], listen in [observe]"),
            "{told}"
        );
        assert!(told.contains("`twinpool upgrade`"), "{told}");
    }

    #[test]
    fn what_only_a_restart_can_change_is_named() {
        let told = told("[sites.a]", "[instance]\nsite = \"b\"\n[sites.a]", &[]);
        let [told] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert!(told.contains("site in [instance]; a restart can"), "{told}");
    }

    #[test]
    fn an_address_that_takes_all_is_not_opened_beside_another_of_its_port() {
        let topology = |text: &str| config::parse(text, "f").unwrap().config.topology;
        let told = |port: u16| {
            let new = PAIRED.replacen("127.0.0.1:5061", &format!("0.0.0.0:{port}"), 1);
            // Two of them in one file are another matter.
            let new = new.replacen("127.0.0.1:5062", "127.0.0.1:5064", 1);
            overlapping(&topology(PAIRED), &topology(&new))
        };
        for port in [5061, 5062] {
            let told = told(port);
            let [told] = told.as_slice() else {
                panic!("{told:?}");
            };
            assert!(
                told.contains(&format!("0.0.0.0:{port} beside 127.0.0.1:{port}")),
                "{told}"
            );
            assert!(told.contains("`systemctl restart twinpool`"), "{told}");
        }
        assert_eq!(told(5063), [""; 0]);
    }

    #[test]
    fn only_an_address_that_takes_all_overlaps_another_of_its_port_and_family() {
        let at = |address: &str| (Protocol::Tcp, address.parse().unwrap());
        assert!(overlaps(&at("0.0.0.0:80"), &at("127.0.0.1:80")));
        assert!(overlaps(&at("127.0.0.1:80"), &at("0.0.0.0:80")));
        assert!(!overlaps(&at("127.0.0.2:80"), &at("127.0.0.1:80")));
        assert!(!overlaps(&at("0.0.0.0:81"), &at("127.0.0.1:80")));
        assert!(!overlaps(&at("[::]:80"), &at("127.0.0.1:80")));
        assert!(!overlaps(&at("0.0.0.0:0"), &at("127.0.0.1:0")));
        let udp = (Protocol::Udp, "0.0.0.0:80".parse().unwrap());
        assert!(!overlaps(&udp, &at("127.0.0.1:80")));
    }

    #[test]
    fn what_an_operator_decided_of_a_member_that_goes_is_told() {
        let topology = |text: &str| config::parse(text, "f").unwrap().config.topology;
        let old = topology(PAIRED);
        let new = topology(&PAIRED.replacen("members.m", "members.n", 2));
        let told = |new: &Topology, mode| {
            let succession = Succession::between(&old, new);
            let operator = |member: MemberId| (member.pool.0 == 1).then(|| (mode, "amy".into()));
            forgotten(&old, &succession, operator)
        };
        assert_eq!(
            told(&new, Mode::Drain),
            ["that two/m is in drain by amy is forgotten with it"]
        );
        assert_eq!(told(&new, Mode::Ready), [""; 0]);
        assert_eq!(told(&old, Mode::Drain), [""; 0], "it stays");
    }
}
