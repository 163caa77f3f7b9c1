use clap::error::ErrorKind;

use super::*;
use crate::observe::sample;

const PLAIN: Look = Look {
    width: 100,
    colour: false,
};

macro_rules! shown {
    ($name:literal, $page:expr) => {
        let page: String = $page;
        for line in page.lines() {
            let width = line.chars().count();
            assert!(width <= PLAIN.width, "{width} columns: {line}");
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
        page.starts_with("twinpool seoul-1: draining: 1,204 sessions left"),
        "{page}"
    );
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
    ] {
        for line in page::page(&status, narrow).lines() {
            assert!(line.chars().count() <= 60, "{line}");
        }
    }
}

#[test]
fn a_watched_page_is_cut_to_the_terminal_and_clears_what_was_there() {
    assert_eq!(
        redrawn("a\nb\nc\n", 24),
        "\x1b[Ha\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J"
    );
    assert_eq!(redrawn("a\nb\nc\n", 3), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
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

#[test]
fn a_terminal_gets_colours_and_the_same_words() {
    let colours = Look {
        colour: true,
        ..PLAIN
    };
    let page = page::page(&sample::pool_lost(), colours);
    assert!(page.contains("\x1b[1;31mLOST\x1b[0m"), "{page}");
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
    assert_eq!(bare, page::page(&sample::pool_lost(), PLAIN));
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
    assert!(matches!(line.task, Task::Run { config } if config == Path::new(DEFAULT_CONFIG)));
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
