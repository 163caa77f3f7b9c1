//! Configuration from outside: what wrong files are told, and that the shipped ones are right.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use twinpool::config::{Config, known_keys, load, parse};
use twinpool::topology::{Automation, CheckKind, PairId, PairRules, Policy, PoolId, Protocol};

const REFERENCE: &str = include_str!("../config/twinpool.toml");
const DEMO: &str = include_str!("../config/demo.toml");
const EXAMPLE: &str = include_str!("../config/example.toml");

fn wrong_files() -> Vec<PathBuf> {
    let entries = fs::read_dir("tests/config/bad").unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_wrong_file_is_told_what_to_write_instead() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("config/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let files = wrong_files();
    assert!(files.len() >= 30, "only {} wrong files", files.len());
    for file in files {
        let errors = load(&file).expect_err(&format!("{} validated", file.display()));
        assert!(errors.diagnostics().iter().any(|one| !one.is_warning));
        for one in errors.diagnostics() {
            assert!(one.help.is_some(), "no help: {}", one.message);
        }
        let name = file.file_stem().unwrap().to_str().unwrap();
        settings.bind(|| insta::assert_snapshot!(name, errors.to_string()));
    }
}

#[test]
fn what_is_probably_not_meant_is_warned_of_and_runs() {
    let set = std::env::var_os("STATE_DIRECTORY");
    assert_eq!(set, None, "the warnings are those of a shell without it");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("config/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for name in ["warnings", "pair-warnings", "pairs-of-one-site"] {
        let loaded = load(Path::new(&format!("tests/config/{name}.toml"))).unwrap();
        settings.bind(|| insta::assert_snapshot!(name, loaded.warnings.to_string()));
    }
}

#[test]
fn the_readme_shows_what_a_wrong_file_is_told() {
    let text = fs::read_to_string("tests/config/bad/readme.toml").unwrap();
    let page = parse(&text, "twinpool.toml").unwrap_err().to_string();
    let readme = fs::read_to_string("README.md").unwrap();
    let block = format!("```\n$ twinpool validate twinpool.toml\n{page}```\n");
    assert!(readme.contains(&block), "README.md is to have:\n{block}");
}

#[test]
fn a_missing_file_says_how_to_name_one() {
    let errors = load(Path::new("tests/config/there-is-none.toml")).unwrap_err();
    let page = errors.to_string();
    assert!(page.contains("there-is-none.toml"), "{page}");
    assert!(page.contains("twinpool run CONFIG"), "{page}");
}

fn valid(text: &str) -> Config {
    let loaded = parse(text, "twinpool.toml").unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    loaded.config
}

#[test]
fn the_example_that_a_package_installs_is_valid_and_listens_on_this_machine_alone() {
    let config = valid(EXAMPLE);
    let services = config.topology.pools.iter().flat_map(|pool| &pool.services);
    let listen: Vec<_> = services.flat_map(|service| &service.listen).collect();
    assert!(!listen.is_empty());
    assert!(listen.iter().all(|address| address.ip().is_loopback()));
    assert!(config.topology.pairs.is_empty(), "it needs no state yet");
}

/// Lines without those that say a default.
fn without_defaults(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.ends_with("# default"));
    kept.map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_the_reference_calls_a_default_is_one() {
    let kept = without_defaults(REFERENCE);
    assert!(REFERENCE.lines().count() - kept.lines().count() > 25);
    assert_eq!(valid(REFERENCE), valid(&kept));
    for (at, line) in REFERENCE.lines().enumerate() {
        if line.ends_with("# default") {
            let others = REFERENCE.lines().enumerate().filter(|(i, _)| *i != at);
            let text: String = others.map(|(_, line)| format!("{line}\n")).collect();
            assert_eq!(valid(REFERENCE), valid(&text), "{line}");
        }
    }
}

#[test]
fn the_reference_mentions_every_key() {
    /// Not in this version; asking for them is how they are refused.
    const LATER: [&str; 1] = ["cluster"];
    let mut mentioned = BTreeSet::new();
    for line in REFERENCE.lines() {
        let line = line.trim_start_matches("# ");
        match line.strip_prefix('[') {
            Some(header) => {
                let header = header.split(']').next().unwrap();
                mentioned.extend(header.split('.').map(str::to_owned));
            }
            None => {
                if let Some((key, _)) = line.split_once(" = ") {
                    mentioned.insert(key.to_owned());
                }
            }
        }
    }
    let keys = known_keys(REFERENCE);
    assert!(keys.len() > 50, "only {} keys", keys.len());
    for (kind, key) in keys {
        let is_said = mentioned.contains(key) || LATER.contains(&key);
        assert!(is_said, "`{key}` in {kind} is not mentioned");
    }
}

#[test]
fn the_demo_fronts_two_sites_on_loopback_that_back_each_other_up() {
    let topology = valid(DEMO).topology;
    let [first, second] = topology.pools.as_slice() else {
        panic!("{} pools", topology.pools.len());
    };
    assert_eq!(topology.twin(first.id), Some(second.id));
    for member in first.members.iter().chain(&second.members) {
        for endpoint in &member.endpoints {
            assert_eq!(endpoint.host.to_string(), "127.0.0.1");
        }
    }
}

#[test]
fn pools_of_other_sites_may_listen_where_ours_do() {
    let text = |site: &str| {
        format!(
            "[instance]\n{site}\n[sites.a]\n[sites.b]\n\
             [pools.one]\nrole = \"mediation\"\nsite = \"a\"\nmembers.m = \"10.1.0.1\"\n\
             services.sip.listen = \"0.0.0.0:5070\"\n\
             [pools.two]\nrole = \"mediation\"\nsite = \"b\"\nmembers.m = \"10.2.0.1\"\n\
             services.sip.listen = \"0.0.0.0:5070\"\n"
        )
    };
    assert!(parse(&text(""), "f").is_err());
    assert_eq!(valid(&text("site = \"b\"")).topology.pools.len(), 1);
}

/// Two sites with a pool each, and a pair of them with these lines in it.
fn paired(lines: &str) -> String {
    let pool = |name: &str, site: &str, region: &str, net: u8| {
        format!(
            "[sites.{site}]\nregion = \"{region}\"\n[pools.{name}]\nrole = \"mediation\"\n\
             site = \"{site}\"\nmembers.m = \"10.{net}.0.1\"\n\
             services.sip.listen = \"10.{net}.0.10:5070\"\n"
        )
    };
    let (one, two) = (pool("one", "a", "north", 1), pool("two", "b", "south", 2));
    format!(
        "instance.state_dir = \"/var/lib/twinpool\"\n{one}{two}[pairs.both]\n\
         pools = [\"two\", \"one\"]\n{lines}"
    )
}

#[test]
fn a_pair_that_says_nothing_is_moved_by_people() {
    let config = valid(&paired(""));
    let [pair] = config.topology.pairs.as_slice() else {
        panic!("{:?}", config.topology.pairs);
    };
    assert_eq!((pair.id, pair.name.as_str()), (PairId(0), "both"));
    assert_eq!(pair.pools, [PoolId(1), PoolId(0)], "in the file's order");
    let rules = PairRules {
        failover: Automation::Manual,
        after: Duration::from_secs(10),
        failback: Automation::Manual,
        hold: Duration::from_secs(300),
        longest_hold: Duration::from_secs(3_600),
        ramp: Duration::from_secs(60),
    };
    assert_eq!(pair.rules, rules);
    assert!(!pair.spill && !pair.exclusive);
    assert_eq!((pair.move_rate.get(), pair.arrivals.get()), (500, 1_000));
}

#[test]
fn a_pair_that_fails_over_by_itself_spills_unless_told_not_to() {
    let spill = |lines: &str| valid(&paired(lines)).topology.pairs[0].spill;
    assert!(spill("failover = \"automatic\"\n"));
    assert!(!spill("failover = \"automatic\"\nspill = false\n"));
    assert!(spill("spill = true\n"));
}

#[test]
fn every_key_of_a_pair_is_heeded() {
    let config = valid(&paired(
        "failover = \"automatic\"\nafter = \"1s\"\nfailback = \"automatic\"\nhold = \"3s\"\n\
         longest_hold = \"9s\"\nramp = \"0s\"\nmove_rate = 7\narrivals = 8\n",
    ));
    let pair = &config.topology.pairs[0];
    let rules = PairRules {
        failover: Automation::Automatic,
        after: Duration::from_secs(1),
        failback: Automation::Automatic,
        hold: Duration::from_secs(3),
        longest_hold: Duration::from_secs(9),
        ramp: Duration::ZERO,
    };
    assert_eq!(pair.rules, rules);
    assert_eq!((pair.move_rate.get(), pair.arrivals.get()), (7, 8));
}

#[test]
fn a_hold_longer_than_the_default_of_the_longest_is_the_longest() {
    let config = valid(&paired("hold = \"2h\"\n"));
    let rules = &config.topology.pairs[0].rules;
    assert_eq!(rules.longest_hold, rules.hold);
}

#[test]
fn an_instance_of_one_site_has_its_own_pools_their_order_and_no_pair() {
    let text = paired(
        "[pools.last]\nrole = \"director\"\nsite = \"b\"\nmembers.m = \"10.2.0.2\"\n\
         after_pool = [\"two\", \"two\"]\nservices.sip.listen = \"10.2.0.10:5061\"\n\
         [pools.two.services.gateway-tls]\nlisten_at_twin = \"10.1.0.10:5070\"\n\
         [pools.one.services.gateway-tls]\nlisten = \"10.1.0.10:5067\"\n",
    );
    // Here the pool of the other site listens where its twin is to.
    assert!(refused(&text).contains("10.1.0.10:5070 is listened on twice"));
    let loaded = parse(&format!("instance.site = \"b\"\n{text}"), "f").unwrap();
    let warnings = loaded.warnings.to_string();
    assert!(warnings.contains("not in force"), "{warnings}");
    let topology = loaded.config.topology;
    assert!(topology.pairs.is_empty());
    let names: Vec<&str> = topology.pools.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["two", "last"]);
    assert_eq!(topology.pools[1].after_pools, [PoolId(0)]);
    let services = topology.pools.iter().flat_map(|pool| &pool.services);
    assert!(services.into_iter().all(|s| s.listen_at_twin.is_empty()));
}

#[test]
fn a_pair_is_validated_whole_on_an_instance_of_one_site() {
    let text = paired("longest_hold = \"1s\"\n").replace("\"south\"", "\"north\"");
    let page = refused(&format!("instance.site = \"a\"\n{text}"));
    assert!(page.contains("stand in region `north`"), "{page}");
    assert!(page.contains("is shorter than `hold`"), "{page}");
}

#[test]
fn a_pool_waits_for_those_that_it_names_and_for_each_once() {
    let text = paired("").replace(
        "[pools.one]\n",
        "[pools.first]\nrole = \"director\"\nsite = \"a\"\nmembers.m = \"10.1.0.2\"\n\
         services.sip.listen = \"10.1.0.20:5061\"\n\
         [pools.one]\nafter_pool = \"first\"\n",
    );
    let topology = valid(&text).topology;
    let one = topology.pool_named("one").unwrap();
    let first = topology.pool_named("first").unwrap();
    assert_eq!(one.after_pools, [first.id]);
    assert!(first.after_pools.is_empty());
}

#[test]
fn a_requirement_of_the_role_need_not_be_named_as_a_service() {
    let text = "[pools.fe]\nrole = \"front-end\"\nmembers.fe1 = \"10.1.0.1\"\n\
                [pools.fe.services.web-internal]\nlisten = \"10.1.0.10:443\"\n\
                requires = [\"focus\"]\n";
    let config = valid(text);
    let pool = &config.topology.pools[0];
    let names: Vec<&str> = pool.services.iter().map(|s| s.name.as_str()).collect();
    assert!(
        names.contains(&"focus") && names.contains(&"sip"),
        "{names:?}"
    );
    // Through focus, which requires it.
    assert_eq!(pool.services[0].requires.len(), 2);
}

#[test]
fn services_over_udp_have_defaults_of_their_own() {
    let config = valid(include_str!("config/udp.toml"));
    assert_eq!(
        config.instance.max_flows.map(|most| most.get()),
        Some(5_000)
    );
    let service = |pool: &str, name: &str| {
        let pool = config.topology.pool_named(pool).unwrap();
        pool.service_named(name).unwrap().clone()
    };
    let av_udp = service("edge-seoul", "av-udp");
    assert_eq!(av_udp.protocol, Protocol::Udp);
    assert_eq!(av_udp.check.kind, CheckKind::Stun);
    assert_eq!(av_udp.balance, Policy::Source);
    assert_eq!(av_udp.idle_timeout, Duration::from_secs(300));
    assert_eq!((av_udp.listen.len(), av_udp.listen_at_twin.len()), (2, 1));
    let av = service("edge-seoul", "av");
    assert_eq!((av.protocol, av.requires), (Protocol::Tcp, vec![av_udp.id]));
    assert_eq!(av.idle_timeout, Duration::from_secs(1_800));
    let internal = service("edge-seoul", "internal-av-udp");
    assert_eq!(internal.idle_timeout, Duration::from_secs(60));
    assert_eq!(internal.slow_start, Duration::ZERO);
    let media = service("edge-seoul", "media");
    assert_eq!(media.balance, Policy::RoundRobin);
    assert_eq!(
        (media.check.kind, media.check.port),
        (CheckKind::Tcp, Some(5_001))
    );
    let media = service("edge-busan", "media");
    assert_eq!(
        (media.balance, media.check.kind),
        (Policy::Source, CheckKind::Stun)
    );
    let dns = service("names", "dns");
    assert_eq!((dns.protocol, dns.balance), (Protocol::Udp, Policy::Source));
    assert_eq!((dns.check.kind, dns.check.port), (CheckKind::Tcp, None));
}

#[test]
fn listeners_over_udp_are_in_the_way_of_each_other_alone() {
    let text = |observe: &str, second: &str| {
        format!(
            "observe.listen = {observe}\n[pools.edge]\nrole = \"edge\"\nmembers.e = \"10.1.0.1\"\n\
             [pools.edge.services]\naccess = {{ listen = \"10.1.0.9:443\" }}\n\
             av-udp = {{ listen = \"10.1.0.9:443\" }}\n\
             internal-av-udp = {{ listen = \"{second}\" }}\n"
        )
    };
    valid(&text("\"10.1.0.9:3478\"", "10.1.0.9:3478"));
    let page = refused(&text("false", "10.1.0.9:443"));
    assert!(
        page.contains("10.1.0.9:443 is listened on twice over UDP"),
        "{page}"
    );
}

#[test]
fn a_shorter_interval_keeps_doubt_at_least_as_eager() {
    let text = "[pools.fe]\nrole = \"front-end\"\nmembers.fe1 = \"10.1.0.1\"\n\
                [pools.fe.services.sip]\nlisten = \"10.1.0.10:443\"\n\
                check = { kind = \"http\", interval = \"100ms\", timeout = \"50ms\" }\n\
                connect = { budget = \"300ms\" }\n";
    let service = &valid(text).topology.pools[0].services[0];
    assert!(service.check.in_doubt <= service.check.interval);
    assert!(!service.check.tls);
    assert!(service.connect.hedge < service.connect.budget);
}

#[test]
fn a_check_of_the_same_kind_keeps_what_the_role_says_of_it() {
    let role = "[roles.web]\nprimary = \"http\"\nservices.http = { port = 80, check = { kind = \"http\", \
                path = \"/health\", tls = true, interval = \"3s\" } }\n[pools.p]\nrole = \"web\"\n\
                members.a = \"192.0.2.1\"\n[pools.p.services.http]\nlisten = \"127.0.0.1:0\"\n";
    let check = |line: &str| {
        let config = valid(&format!("{role}{line}"));
        config.topology.pools[0].services[0].check.clone()
    };
    let same = check("check = { kind = \"http\", fall = 5 }");
    assert!(matches!(&same.kind, CheckKind::Http(http) if http.path == "/health"));
    assert!(same.tls);
    assert_eq!(
        (same.interval, same.fall.get()),
        (Duration::from_secs(3), 5)
    );
    let other = check("check = { kind = \"tcp\" }");
    assert_eq!(other.kind, CheckKind::Tcp);
    assert!(!other.tls, "another kind is not over TLS unless it says so");
    assert_eq!(other.interval, Duration::from_secs(3));
}

#[test]
fn a_stun_check_is_read_by_its_name_or_as_a_table_and_knows_nothing_of_tls() {
    let checked = |check: &str| {
        let text = format!(
            "[pools.fe]\nrole = \"front-end\"\n[pools.fe.members]\nfe1 = \"10.1.0.11\"\n\
             [pools.fe.services.sip]\nlisten = \"10.1.0.10:5061\"\ncheck = {check}\n"
        );
        valid(&text).topology.pools[0].services[0].check.clone()
    };
    let named = checked("\"stun\"");
    let table = checked("{ kind = \"stun\", port = 3478 }");
    for check in [&named, &table] {
        assert_eq!(check.kind, CheckKind::Stun);
        assert!(!check.tls && check.server_name.is_none());
    }
    // The service's own port, unless the check has one.
    assert_eq!((named.port, table.port), (None, Some(3478)));
}

#[test]
fn bounds_are_kept_and_told() {
    let members = |n: usize| {
        let lines = (0..n).map(|i| format!("m{i} = \"10.{}.{}.1\"\n", i / 250, i % 250));
        let lines: String = lines.collect();
        format!(
            "[pools.p]\nrole = \"back-end\"\nservices.sql.listen = \"127.0.0.1:0\"\n\
             [pools.p.members]\n{lines}"
        )
    };
    assert_eq!(
        valid(&members(4_096)).topology.pools[0].members.len(),
        4_096
    );
    assert!(refused(&members(4_097)).contains("at most 4096"));
    let pools = |n: usize| {
        let pool = |i| {
            format!(
                "[pools.p{i}]\nrole = \"back-end\"\nservices.sql.listen = \"127.0.0.1:0\"\n\
                 members.a = \"192.0.2.1\"\n"
            )
        };
        (0..n).map(pool).collect::<String>()
    };
    assert_eq!(valid(&pools(1_000)).topology.pools.len(), 1_000);
    assert!(refused(&pools(1_001)).contains("at most 1000"));
    let pairs = |n: usize| {
        let names = (0..n).map(|i| format!("[pairs.x{i}]\npools = [\"p0\", \"q\"]\n"));
        format!("{}{}", pools(1), names.collect::<String>())
    };
    assert!(!refused(&pairs(500)).contains("at most 500"));
    assert!(refused(&pairs(501)).contains("at most 500"));
    let services = |n: usize| {
        let lines = (0..n).map(|i| format!("s{i} = {{ port = 1, listen = \"127.0.0.1:0\" }}\n"));
        let lines: String = lines.collect();
        format!(
            "[pools.p]\nrole = \"back-end\"\nmembers.a = \"192.0.2.1\"\n[pools.p.services]\n{lines}"
        )
    };
    assert_eq!(valid(&services(255)).topology.pools[0].services.len(), 256);
    assert!(refused(&services(257)).contains("at most 256"));
}

#[test]
fn text_that_never_ends_its_brackets_is_refused() {
    for open in ["[", "{a=", "a.", "[[", "a=[", "a={a="] {
        let deep = open.repeat(100_000);
        assert!(parse(&deep, "twinpool.toml").is_err());
        assert!(parse(&format!("a = {deep}"), "twinpool.toml").is_err());
    }
}

#[test]
fn a_pool_without_a_site_is_not_dropped_silently() {
    let text = "instance.site = \"a\"\n[sites.a]\n\
                [pools.one]\nrole = \"mediation\"\nsite = \"a\"\nmembers.m = \"10.1.0.1\"\n\
                services.sip.listen = \"10.1.0.30:5070\"\n\
                [pools.two]\nrole = \"mediation\"\nmembers.m = \"10.2.0.1\"\n\
                services.sip.listen = \"10.1.0.30:5071\"\n";
    let loaded = parse(text, "f").unwrap();
    assert_eq!(loaded.config.topology.pools.len(), 1);
    assert!(
        loaded
            .warnings
            .to_string()
            .contains("pool `two` has no site")
    );
}

#[test]
fn a_file_without_end_is_not_read_for_ever() {
    let errors = load(Path::new("/dev/zero")).unwrap_err();
    assert!(errors.to_string().contains("/dev/zero"), "{errors}");
}

fn refused(text: &str) -> String {
    parse(text, "f").unwrap_err().to_string()
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        if let Err(errors) = parse(&text, "f") {
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn no_mutilated_file_panics(
        demo: bool,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, "[ -~é\\n]{0,4}"), 1..5),
    ) {
        let mut chars: Vec<char> = if demo { DEMO } else { REFERENCE }.chars().collect();
        for (at, len, with) in cuts {
            let at = at.index(chars.len());
            let end = (at + len).min(chars.len());
            chars.splice(at..end, with.chars());
        }
        let text: String = chars.into_iter().collect();
        if let Err(errors) = parse(&text, "f") {
            prop_assert!(!errors.to_string().is_empty());
            prop_assert!(!errors.render(true).is_empty());
        }
    }

    #[test]
    fn no_value_of_a_wrong_kind_panics(
        at: prop::sample::Index,
        value in prop::sample::select(vec![
            "3", "-1", "99999999999999999999", "1.5", "true", "\"\"", "\"é\"", "[]", "[1, \"a\"]",
            "[[]]", "{}", "{ a = { b = 1 } }", "1979-05-27", "0x10", "nan",
        ]),
    ) {
        let lines: Vec<&str> = REFERENCE.lines().collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].contains(" = ")).collect();
        let changed = keys[at.index(keys.len())];
        let text: String = lines.iter().enumerate().map(|(i, line)| {
            let (key, _) = line.split_once(" = ").unwrap_or((line, ""));
            if i == changed { format!("{key} = {value}\n") } else { format!("{line}\n") }
        }).collect();
        if let Err(errors) = parse(&text, "f") {
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}
