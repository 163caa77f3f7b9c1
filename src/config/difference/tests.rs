use super::*;
use crate::config;

const BASE: &str = r#"
[sites.seoul]
region = "kr-north"
[sites.busan]
region = "kr-south"
[pools.fe]
role = "mediation"
site = "seoul"
quorum = 1
members.m1 = "192.0.2.1"
members.m2 = "192.0.2.2"
services.sip = { listen = "127.0.0.1:5061", check = { kind = "tcp", interval = "1s" } }
[pools.be]
role = "mediation"
site = "busan"
quorum = 1
members.n1 = "192.0.2.3"
services.sip = { listen = "127.0.0.1:5062", check = { kind = "tcp" } }
[pairs.korea]
pools = ["fe", "be"]
"#;

fn told(changes: &[(&str, &str)]) -> String {
    let mut text = BASE.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let parse = |text: &str| config::parse(text, "f").unwrap().config;
    between(&parse(BASE), &parse(&text)).to_string()
}

#[test]
fn the_same_file_changes_nothing() {
    assert_eq!(told(&[]), "nothing has changed");
    assert_eq!(
        told(&[("\n[pools.be]", "\n# a remark\n[pools.be]")]),
        "nothing has changed"
    );
}

#[test]
fn each_kind_of_change_is_told_in_a_line() {
    for (from, to, line) in [
        (
            "members.m2 = \"192.0.2.2\"\n",
            "",
            "- member fe/m2: takes no new sessions, those it has end within 10m",
        ),
        (
            "members.m2 =",
            "members.m3 = \"192.0.2.9\"\nmembers.m2 =",
            "+ member fe/m3 at 192.0.2.9",
        ),
        (
            "members.m1 = \"192.0.2.1\"",
            "members.m1 = { address = \"192.0.2.1\", weight = 3 }",
            "~ member fe/m1: weight 1 -> 3",
        ),
        (
            "interval = \"1s\"",
            "interval = \"2s\"",
            "~ service fe/sip: check.interval 1s -> 2s",
        ),
        (
            "kind = \"tcp\", interval",
            "kind = \"tls\", interval",
            "~ service fe/sip: check asks something else",
        ),
        (
            "127.0.0.1:5061",
            "127.0.0.1:5065",
            "~ service fe/sip: listen gains 127.0.0.1:5065",
        ),
        (
            "127.0.0.1:5061",
            "127.0.0.1:5065",
            "~ service fe/sip: listen loses 127.0.0.1:5061; who came by it stays",
        ),
        (
            "[pairs.korea]\npools = [\"fe\", \"be\"]\n",
            "",
            "- pair korea: its pools no longer back each other up",
        ),
        (
            "pools = [\"fe\", \"be\"]\n",
            "pools = [\"fe\", \"be\"]\nafter = \"20s\"\n",
            "~ pair korea: after 10s -> 20s",
        ),
        (
            "[sites.seoul]",
            "[log]\nlevel = \"debug\"\n[sites.seoul]",
            "~ [log]: level info -> debug",
        ),
        (
            "[sites.seoul]",
            "[log]\nformat = \"json\"\n[sites.seoul]",
            "~ [log]: format auto -> json",
        ),
        (
            "[sites.seoul]",
            "[log]\naccess = \"journal\"\n[sites.seoul]",
            "~ [log]: access unset -> journal",
        ),
        (
            "[sites.seoul]",
            "[instance]\nstop_deadline = \"7s\"\n[sites.seoul]",
            "~ [instance]: stop_deadline",
        ),
        (
            "[sites.seoul]",
            "[instance]\nupgrade_deadline = \"1h\"\n[sites.seoul]",
            "~ [instance]: upgrade_deadline 10m -> 1h",
        ),
        (
            "services.sip = { listen = \"127.0.0.1:5061\"",
            "drain_deadline = \"5m\"\nservices.sip = { listen = \"127.0.0.1:5061\"",
            "~ pool fe: drain_deadline 10m -> 5m",
        ),
    ] {
        let told = told(&[(from, to)]);
        assert!(
            told.lines().any(|one| one.starts_with(line)),
            "{line:?} in:\n{told}"
        );
    }
}

#[test]
fn a_member_at_another_address_is_another_member() {
    let told = told(&[("192.0.2.1", "192.0.2.77")]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], "+ member fe/m1 at 192.0.2.77");
    assert!(lines[1].starts_with("- member fe/m1:"), "{told}");
}

#[test]
fn members_in_another_order_are_told_because_quorum_counts_them_so() {
    let (one, two) = (
        "members.m1 = \"192.0.2.1\"\n",
        "members.m2 = \"192.0.2.2\"\n",
    );
    let told = told(&[(&format!("{one}{two}"), &format!("{two}{one}"))]);
    assert_eq!(told, "~ pool fe: the order of its members has changed");
}

#[test]
fn a_pool_that_goes_takes_its_pair_along() {
    let at = BASE.find("[pools.be]").unwrap();
    let told = told(&[(&BASE[at..], "")]);
    let lines: Vec<&str> = told.lines().collect();
    assert!(
        lines.contains(&"- pool be: its sessions end within 10m"),
        "{told}"
    );
    assert!(
        lines.iter().any(|line| line.starts_with("- pair korea")),
        "{told}"
    );
}
