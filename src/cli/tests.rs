use clap::error::ErrorKind;

use super::*;
use crate::health::Verdict;
use crate::health::readiness::Takes;
use crate::observe::sample::{self, Plight};
use crate::pairing::pair::Destination;

const PLAIN: Look = Look {
    width: 100,
    colour: false,
};
/// A terminal as it opens.
const TERMINAL: Look = Look {
    width: 80,
    colour: false,
};

macro_rules! shown {
    ($name:literal, $page:expr) => {
        shown!($name, $page, PLAIN)
    };
    ($name:literal, $page:expr, $look:expr) => {
        let page: String = $page;
        for line in page.lines() {
            let width = line.chars().count();
            assert!(width <= $look.width, "{width} columns: {line}");
            assert!(!line.contains('\x1b') && !line.ends_with(' '), "{line:?}");
        }
        insta::assert_snapshot!($name, page);
    };
}

#[test]
fn the_status_page_in_every_plight() {
    shown!("all_well", page::page(&sample::well(), PLAIN));
    shown!(
        "one_member_down",
        page::page(&sample::one_member_down(), PLAIN)
    );
    shown!("pool_lost", page::page(&sample::pool_lost(), PLAIN));
    shown!("below_quorum", page::page(&sample::below_quorum(), PLAIN));
    shown!("isolated", page::page(&sample::isolated(), PLAIN));
    shown!("drained", page::page(&sample::drained(), PLAIN));
    shown!("starting", page::page(&sample::starting(), PLAIN));
}

#[test]
fn several_troubles_are_told_worst_first() {
    let mut status = sample::drained();
    sample::take_down(&mut status, 0);
    status.store_problem = Some("/var/lib/twinpool: no space left on device".to_owned());
    status.own_faults.source_ports = 12_345;
    status.pools[0].services[1].lost = true;
    status.pools[0].services[1].usable = 0;
    shown!("several_troubles", page::page(&status, PLAIN));
}

#[test]
fn what_is_unusual_is_told() {
    shown!("oddities", page::page(&sample::oddities(), PLAIN));
    let mut draining = sample::well();
    draining.state = crate::observe::RunState::Draining;
    let page = page::page(&draining, PLAIN);
    assert!(
        page.starts_with("twinpool seoul-1: draining: 1,505 sessions left"),
        "{page}"
    );
}

#[test]
fn what_has_run_out_is_told_with_what_to_raise() {
    let status = sample::exhausted();
    shown!("exhausted", page::page(&status, PLAIN));
    let why = |name| explain::explanation(&sample::why_of(&status, name), PLAIN);
    shown!("why_pool_short", why("fe-seoul"));
    shown!("why_pool_over_udp", why("edge"));
    shown!("why_member_over_udp", why("edge/e1"));
}

#[test]
fn a_narrow_terminal_gets_narrow_lines() {
    let narrow = Look {
        width: 60,
        colour: false,
    };
    for status in [
        sample::one_member_down(),
        sample::oddities(),
        sample::isolated(),
        sample::exhausted(),
    ] {
        for line in page::page(&status, narrow).lines() {
            assert!(line.chars().count() <= 60, "{line}");
        }
    }
}

#[test]
fn why_tells_the_rule_the_counts_and_what_comes_next() {
    let why = |status, name| explain::explanation(&sample::why_of(&status, name), PLAIN);
    shown!(
        "why_member_down",
        why(sample::one_member_down(), "fe-seoul/fe1")
    );
    shown!("why_member_drained", why(sample::drained(), "fe-seoul/fe2"));
    shown!(
        "why_pool_degraded",
        why(sample::one_member_down(), "fe-seoul")
    );
    shown!("why_isolated", why(sample::isolated(), "fe-seoul/fe1"));
}

/// Seoul is dead: its front ends are away, its mediation waits for an order.
fn seoul_lost() -> Plight {
    let mut plight = Plight::new();
    plight.lose(&["fe-seoul", "med-seoul"]);
    plight.run(12_000);
    plight
}

/// The front ends of Seoul come home, a third of their clients so far.
fn coming_home() -> Plight {
    let mut plight = Plight::new();
    plight.order("fe-seoul", Destination::Twin);
    plight.run(60_000);
    plight.order("fe-seoul", Destination::Home);
    plight.run(31_000);
    plight
}

#[test]
fn the_redirect_table_in_every_plight() {
    let shown = |plight: &Plight| redirects::page(&plight.status(), TERMINAL);
    shown!("redirects_none", redirects::page(&sample::well(), TERMINAL));
    shown!("redirects_home", shown(&Plight::new()), TERMINAL);
    shown!("redirects_site_lost", shown(&seoul_lost()), TERMINAL);
    shown!("redirects_returning", shown(&coming_home()), TERMINAL);
    let mut both = Plight::new();
    both.lose(&["fe-seoul", "fe-busan"]);
    shown!("redirects_pair_lost", shown(&both), TERMINAL);
    let mut halted = Plight::new();
    let pause = Some("network work".to_owned());
    let now = halted.now;
    halted.decider.handle_pause("alice".to_owned(), pause, now);
    halted.lose(&["fe-seoul"]);
    halted.run(30_000);
    halted.spilling = vec![halted.pool("fe-busan")];
    shown!("redirects_paused", shown(&halted), TERMINAL);
}

#[test]
fn the_redirect_table_tells_what_stands_in_the_way() {
    let mut unwritten = Plight::new();
    unwritten.disk = Some("/var/lib/twinpool: no space left on device".to_owned());
    unwritten.lose(&["fe-seoul"]);
    unwritten.run(12_000);
    let page = redirects::page(&unwritten.status(), TERMINAL);
    shown!("redirects_unwritten", page, TERMINAL);
    let home = crate::pairing::Record::home(7, sample::NOW);
    let mut damaged = Plight::with(vec![(home.clone(), true), (home, false)]);
    damaged.record_problem = Some("pair-korea.json has a wrong checksum".to_owned());
    let page = redirects::page(&damaged.status(), TERMINAL);
    shown!("redirects_damaged", page, TERMINAL);
}

#[test]
fn sessions_that_are_left_on_the_twin_are_told() {
    let mut plight = Plight::new();
    plight.order("med-seoul", Destination::Twin);
    plight.order("med-seoul", Destination::Home);
    plight.run(200_000);
    for (left, told) in [
        (1, "med-seoul: 1 session is still to move home\n"),
        (1_204, "med-seoul: 1,204 sessions are still to move home\n"),
    ] {
        plight.to_move = left;
        let page = redirects::page(&plight.status(), TERMINAL);
        assert!(page.contains(told), "{page}");
    }
    plight.to_move = 0;
    let page = redirects::page(&plight.status(), TERMINAL);
    assert!(!page.contains("still to move"), "{page}");
}

#[test]
fn the_status_page_tells_where_users_are() {
    shown!(
        "status_site_lost",
        page::page(&seoul_lost().status(), PLAIN)
    );
    shown!(
        "status_returning",
        page::page(&coming_home().status(), PLAIN)
    );
    let mut spilling = Plight::new();
    spilling.spilling = vec![spilling.pool("fe-seoul")];
    let page = page::page(&spilling.status(), PLAIN);
    assert!(page.contains("; spilling to fe-busan"), "{page}");
}

#[test]
fn why_tells_a_pairs_rules_where_its_users_are_and_what_comes_next() {
    let why = |plight: &Plight, name| explain::explanation(&plight.why(name), TERMINAL);
    shown!("why_pair_home", why(&Plight::new(), "korea"), TERMINAL);
    shown!("why_pair_away", why(&seoul_lost(), "korea"), TERMINAL);
    shown!("why_pair_waits", why(&seoul_lost(), "media"), TERMINAL);
    shown!("why_pair_returning", why(&coming_home(), "korea"), TERMINAL);
    shown!("why_pool_away", why(&seoul_lost(), "fe-seoul"), TERMINAL);
}

#[test]
fn pages_of_pairs_fit_every_terminal() {
    for plight in [seoul_lost(), coming_home()] {
        for width in [60, 80, 100] {
            let look = Look {
                width,
                colour: false,
            };
            let status = plight.status();
            for page in [
                page::page(&status, look),
                redirects::page(&status, look),
                explain::explanation(&plight.why("korea"), look),
            ] {
                for line in page.lines() {
                    assert!(line.chars().count() <= width, "{line}");
                }
            }
        }
    }
}

#[test]
fn a_terminal_gets_colours_and_the_same_words() {
    let colours = Look {
        colour: true,
        ..PLAIN
    };
    let page = page::page(&sample::pool_lost(), colours);
    assert!(page.contains("\x1b[1;31mLOST\x1b[0m"), "{page}");
    assert_eq!(bare(&page), page::page(&sample::pool_lost(), PLAIN));
    let (lost, well) = (seoul_lost().status(), Plight::new().status());
    let page = redirects::page(&lost, colours);
    assert!(page.contains("\x1b[1;31mSITE LOST\x1b[0m"), "{page}");
    assert_eq!(bare(&page), redirects::page(&lost, PLAIN));
    let page = redirects::page(&well, colours);
    assert!(
        page.starts_with("\x1b[1;32mtwinpool seoul-1: all"),
        "{page}"
    );
}

/// A page without its colours.
fn bare(page: &str) -> String {
    let mut bare = String::new();
    let mut inside = false;
    for c in page.chars() {
        match c {
            '\x1b' => inside = true,
            'm' if inside => inside = false,
            _ if inside => {}
            _ => bare.push(c),
        }
    }
    bare
}

#[test]
fn why_tells_what_a_member_in_doubt_waits_for() {
    let told = |change: fn(&mut crate::observe::status::TargetStatus)| {
        let mut status = sample::well();
        change(&mut status.pools[0].members[0].services[0]);
        let page = explain::explanation(&sample::why_of(&status, "fe-seoul/fe1"), PLAIN);
        page.replace("\n             ", " ")
    };
    let busy = told(|target| {
        target.verdict = Verdict::Busy;
        target.own_verdict = Verdict::Busy;
        target.reason = "answered 503 (L7)".to_owned();
        target.takes = Takes::LastResort;
        target.progress.failures = 15;
        target.progress.successes = 1;
    });
    for words in [
        "fe-seoul/fe1 is a last resort for sip",
        "sip: busy since ",
        "answered 503 (L7)",
        "15 failures in a row, 3 turn it away, 1 of 2 good answers",
        "up after 2 good answers in a row, 1 so far",
    ] {
        assert!(busy.contains(words), "{words}: {busy}");
    }
    let unknown = told(|target| {
        target.verdict = Verdict::Unknown;
        target.own_verdict = Verdict::Unknown;
        target.reason = "not yet asked".to_owned();
        target.next_probe = None;
    });
    for words in [
        "sip: unknown since ",
        "being asked now; judged by its first answers",
    ] {
        assert!(unknown.contains(words), "{words}: {unknown}");
    }
    let doubt = told(|target| target.progress.failures = 2);
    let next = "away after 3 failures in a row, 2 so far";
    assert!(
        doubt.contains(next) && doubt.contains("2 of 3 failures in a row"),
        "{doubt}"
    );
}

/// The README shows pages as they are.
#[test]
fn the_readme_shows_what_is_printed() {
    let readme = include_str!("../../README.md");
    let shows = |page: &str| {
        let begin = page.lines().next().unwrap_or_default();
        assert!(
            readme.contains(&format!("```\n{page}")),
            "the block of README.md that begins {begin:?} is to be:\n{page}"
        );
    };
    let status = page::page(&sample::one_member_down(), PLAIN);
    let of_one_pool: Vec<&str> = status.split("\n\nmed (").collect();
    shows(&format!("$ twinpool status\n{}\n…\n```", of_one_pool[0]));
    let why = explain::explanation(
        &sample::why_of(&sample::one_member_down(), "fe-seoul/fe1"),
        PLAIN,
    );
    let of_one_service: Vec<&str> = why.split("\n\nweb-internal").collect();
    shows(&format!(
        "$ twinpool why fe-seoul/fe1\n{}\n…\n```",
        of_one_service[0]
    ));
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    CommandLine::command().debug_assert();
}

#[test]
fn wrong_usage_is_told_apart_from_refusal() {
    let wrong = |line: &str| CommandLine::try_parse_from(line.split(' ')).unwrap_err();
    for line in [
        "twinpool",
        "twinpool drian fe-seoul/fe1",
        "twinpool drain",
        "twinpool drain fe-seoul/fe1 --for 2",
        "twinpool ready fe-seoul/fe1 --for 2h",
        "twinpool status --json --watch",
    ] {
        assert_eq!(wrong(line).exit_code(), 2, "{line}");
    }
    assert!(
        wrong("twinpool drian fe-seoul/fe1")
            .to_string()
            .contains("'drain'")
    );
    let span = wrong("twinpool drain fe-seoul/fe1 --for 2");
    assert_eq!(span.kind(), ErrorKind::ValueValidation);
    assert!(span.to_string().contains("90s, 30m, 2h"), "{span}");
}

#[test]
fn paths_have_their_defaults() {
    let line = CommandLine::try_parse_from(["twinpool", "run"]).unwrap();
    assert_eq!(line.socket, None);
    assert!(
        matches!(line.task, Task::Run { config, successor: false, .. } if config == Path::new(DEFAULT_CONFIG))
    );
    let line = "twinpool status --socket /tmp/s";
    let line = CommandLine::try_parse_from(line.split(' ')).unwrap();
    assert_eq!(line.socket.as_deref(), Some(Path::new("/tmp/s")));
}

#[test]
fn a_site_that_dies_is_told_on_every_page() {
    let mut plight = sample::Plight::new();
    plight.lose(&["fe-seoul", "med-seoul"]);
    plight.run(12_000);
    shown!("site_lost", page::page(&plight.status(), PLAIN));
    shown!(
        "why_pair",
        explain::explanation(&plight.why("korea"), PLAIN)
    );
    let pool = explain::explanation(&plight.why("fe-seoul"), PLAIN);
    assert!(
        pool.contains("  redirect   its users are on fe-busan since 03:14:"),
        "{pool}"
    );
}
