//! The page as parsers see it that are not ours.

use std::process::{Command, Stdio};

use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{OpenMetricsType, OpenMetricsValue};

use super::*;
use crate::topology::Protocol;

/// Every family there is: two pairs, one of them away, services over TCP and UDP, members that went
/// down and came back, histograms with something in them, an access log.
pub(super) fn rich() -> String {
    let mut plight = Plight::new();
    let topology = Arc::make_mut(&mut plight.topology);
    topology.pools[3].services[0].protocol = Protocol::Udp;
    plight.flows = Some(crate::observe::view::Ceiling {
        most: 8_000,
        each: 4_000,
        by: crate::observe::view::LimitedBy::Setting,
    });
    plight.lose(&["fe-seoul"]);
    plight.run(15_000);
    let mut status = plight.status();
    status.servers = sample::well().servers;
    status.access = Some(AccessStatus {
        written: 9,
        dropped: 1,
        lost: 1,
    });
    text(Arc::new(status), plight.measures())
}

fn plights() -> Vec<String> {
    let mut pages = vec![rich()];
    for status in [
        sample::well(),
        sample::one_member_down(),
        sample::pool_lost(),
        sample::isolated(),
        sample::oddities(),
        sample::exhausted(),
    ] {
        pages.push(page(status));
    }
    pages
}

#[test]
fn a_parser_of_open_metrics_that_is_not_ours_takes_every_page() {
    for page in plights() {
        let parsed = parse_openmetrics(&page).unwrap_or_else(|error| panic!("{error:?}\n{page}"));
        assert!(parsed.families.len() > 50, "{}", parsed.families.len());
        for (name, family) in &parsed.families {
            assert!(name.starts_with("twinpool_"), "{name}");
            assert!(family.help.len() > 10, "{name}: {}", family.help);
            assert!(family.iter_samples().next().is_some(), "{name} is empty");
        }
    }
}

#[test]
fn the_parser_refuses_what_is_wrong() {
    let page = rich();
    let good = "# TYPE twinpool_sessions_accepted counter\n";
    assert!(page.contains(good));
    for wrong in [
        page.replace(good, "# TYPE twinpool_sessions_accepted gauge\n"),
        page.replace(good, "# TYPE twinpool_sessions_accepted count\n"),
        page.replace("# EOF\n", ""),
        page.replace("le=\"+Inf\"", "le=\"many\""),
        page.replace("pool=\"", "pool="),
    ] {
        assert!(wrong != page && parse_openmetrics(&wrong).is_err());
    }
}

#[test]
fn histograms_are_whole() {
    let parsed = parse_openmetrics(&rich()).unwrap();
    let mut seen = 0;
    for (name, family) in &parsed.families {
        if family.family_type != OpenMetricsType::Histogram {
            continue;
        }
        assert!(name.ends_with("_seconds"), "{name}");
        for sample in family.iter_samples() {
            let OpenMetricsValue::Histogram(times) = &sample.value else {
                panic!("{name} is a histogram");
            };
            let last = times.buckets.last().expect("a last bucket");
            assert_eq!(last.upper_bound, f64::INFINITY, "{name}");
            assert_eq!(last.count.as_f64() as u64, times.count.unwrap(), "{name}");
            let rises = |pair: &[openmetrics_parser::HistogramBucket]| {
                pair[0].upper_bound < pair[1].upper_bound
                    && pair[0].count.as_f64() <= pair[1].count.as_f64()
            };
            assert!(times.buckets.windows(2).all(rises), "{name}");
            seen += u64::from(times.count.unwrap() > 0);
        }
    }
    assert!(seen >= 6, "only {seen} histograms have counted anything");
}

/// Prometheus's own linter reads its older format, in which a counter's family has its suffix.
#[test]
fn promtool_finds_nothing_to_say() {
    let Some(mut promtool) = promtool(&["check", "metrics"]) else {
        return;
    };
    let mut child = promtool
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let older = in_older_format(&rich());
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, older.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Prometheus's tool, where there is one: of a package, not of this project.
pub(super) fn promtool(arguments: &[&str]) -> Option<Command> {
    let version = Command::new("promtool").arg("--version").output();
    if version.is_err() {
        eprintln!("skipped: there is no promtool here; Debian's package prometheus has it");
        return None;
    }
    let mut command = Command::new("promtool");
    command.args(arguments).stdout(Stdio::piped());
    Some(command)
}

fn in_older_format(page: &str) -> String {
    let mut suffixes: HashMap<&str, &str> = HashMap::new();
    for line in page.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            suffixes.insert(
                name,
                match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                },
            );
        }
    }
    let mut older = String::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        older += &match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT"), ..) => continue,
            (Some("#"), Some("TYPE"), Some(name), Some("info")) => {
                format!("# TYPE {name}_info gauge")
            }
            (Some("#"), Some(what), Some(name), Some(rest)) => {
                format!("# {what} {name}{} {rest}", suffixes[name])
            }
            _ => line.to_owned(),
        };
        older.push('\n');
    }
    older
}
