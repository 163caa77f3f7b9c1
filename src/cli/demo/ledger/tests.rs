use super::*;

const WEB2: Fallen<'static> = Fallen {
    member: "web2",
    unheard: 0,
};

/// Its only use is by the place of who asked; the first is a user of the first site.
const RESIDENT: Who = Who::Resident(0);

fn trouble(who: Who, how: Failure, with: Option<&str>) -> Trouble {
    Trouble {
        who,
        home: 0,
        how,
        with: with.map(str::to_owned),
    }
}

fn lost(troubles: &[Trouble], fallen: Option<Fallen<'_>>) -> usize {
    sort(troubles, fallen.as_slice(), None).told.len()
}

fn good(title: &str) -> Seen {
    Seen {
        title: title.to_owned(),
        visitors: 10,
        resident_answers: 10,
        ..Seen::default()
    }
}

#[test]
fn what_was_with_the_fallen_member_is_excused() {
    let troubles = [
        trouble(Who::Visitor, Failure::Reset, Some("web2")),
        trouble(RESIDENT, Failure::Reset, Some("web2")),
        trouble(RESIDENT, Failure::Reset, Some("web2")),
    ];
    let losses = sort(&troubles, &[WEB2], None);
    assert_eq!(losses.told, Vec::<String>::new());
    assert_eq!((losses.visitors_excused, losses.residents_excused), (1, 2));
}

#[test]
fn what_was_with_another_member_is_lost() {
    let other = [trouble(RESIDENT, Failure::Reset, Some("web1"))];
    assert_eq!(lost(&other, Some(WEB2)), 1);
}

#[test]
fn while_nobody_fell_every_failure_is_a_loss() {
    let troubles = [
        trouble(Who::Visitor, Failure::Reset, None),
        trouble(RESIDENT, Failure::Reset, Some("web2")),
    ];
    assert_eq!(lost(&troubles, None), 2);
}

#[test]
fn of_what_nobody_heard_only_as_much_is_excused_as_the_fallen_member_held_unheard() {
    let unheard = vec![trouble(Who::Visitor, Failure::Reset, None); 3];
    let fallen = Fallen { unheard: 2, ..WEB2 };
    let losses = sort(&unheard, &[fallen], None);
    assert_eq!((losses.visitors_excused, losses.visitors_lost), (2, 1));
}

#[test]
fn only_a_reset_is_an_honest_end() {
    for how in [
        Failure::Refused,
        Failure::Closed,
        Failure::Silence,
        Failure::Strange,
    ] {
        let with_it = [trouble(Who::Visitor, how, Some("web2"))];
        assert_eq!(lost(&with_it, Some(WEB2)), 1, "{how}");
    }
}

#[test]
fn a_story_without_losses_is_a_success() {
    let mut fall = good("web2 dies");
    fall.change = Some(Change {
        what: "web2 is down".to_owned(),
        noticed: Some(Duration::from_millis(600)),
        answers: None,
    });
    fall.losses.residents_excused = 15;
    assert_eq!(faults(&[good("all is well"), fall]), Vec::<String>::new());
}

#[test]
fn every_kind_of_fault_is_told() {
    let change = |what: &str, noticed, answers| {
        Some(Change {
            what: what.to_owned(),
            noticed,
            answers,
        })
    };
    let lossy = Seen {
        losses: sort(&[trouble(Who::Visitor, Failure::Refused, None)], &[], None),
        ..good("a")
    };
    let cases = [
        (
            lossy,
            "a: lost a new connection that no member heard of: refused",
        ),
        (
            Seen {
                visitors: 0,
                ..good("b")
            },
            "b: no new connection was answered",
        ),
        (
            Seen {
                resident_answers: 0,
                ..good("c")
            },
            "c: no request of a long session was answered",
        ),
        (
            Seen {
                still_out: 3,
                ..good("d")
            },
            "d: 3 long sessions had not found another member when it was over",
        ),
        (
            Seen {
                change: change("web2 is down", None, None),
                ..good("e")
            },
            "e: twinpool did not find that web2 is down",
        ),
        (
            Seen {
                change: change("web2 is up", Some(Duration::ZERO), Some(0)),
                ..good("f")
            },
            "f: web2 is up and was given nothing to do",
        ),
        (
            Seen {
                moved: 2,
                ..good("g")
            },
            "g: 2 long sessions went to another site without need",
        ),
        (
            Seen {
                moved: 38,
                moves: Some(Moves {
                    of: "seoul",
                    to: "busan",
                    all: 40,
                    there: 38,
                }),
                ..good("h")
            },
            "h: 2 of the 40 long sessions of seoul's users were not with busan when it was over",
        ),
    ];
    for (act, told) in cases {
        assert_eq!(faults(&[act]), [told]);
    }
    assert_eq!(faults(&[]), ["nothing was played"]);
}

#[test]
fn many_losses_are_counted_instead_of_told() {
    let act = Seen {
        losses: sort(
            &vec![trouble(Who::Visitor, Failure::Reset, None); 8],
            &[],
            None,
        ),
        ..good("a")
    };
    let told = faults(&[act]);
    assert_eq!(told.len(), TOLD + 1);
    assert_eq!(told[TOLD], "a: and 3 more lost");
}

#[test]
fn the_table_is_markdown_that_lines_up() {
    let mut fall = good("web2 dies");
    fall.slowest = Duration::from_micros(2_340);
    fall.outages = [1, 30, 2].map(Duration::from_millis).to_vec();
    fall.losses.residents_excused = 3;
    fall.change = Some(Change {
        what: "web2 is down".to_owned(),
        noticed: Some(Duration::from_millis(10_250)),
        answers: None,
    });
    let table = table(&[good("users come home"), fall], 60);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[..4].iter().all(|line| line.len() == lines[0].len()));
    assert!(lines.iter().all(|line| line.chars().count() <= 80));
    assert!(lines[3].contains(" 2.3 ms |   3 |"), "{}", lines[3]);
    assert!(lines[3].ends_with(" 30 ms |     0 |"), "{}", lines[3]);
}

#[test]
fn a_loss_is_seen_in_the_table() {
    assert_eq!(sorted(0, 0), "0");
    assert_eq!(sorted(3, 0), "3");
    assert_eq!(sorted(3, 1), "4, 1 lost");
}

#[test]
fn a_user_who_is_brought_home_is_cut_off_the_other_site_once() {
    let back = Return {
        home: 0,
        off: &["busan1", "busan2"],
    };
    let of = |place, home, with| Trouble {
        home,
        ..trouble(Who::Resident(place), Failure::Reset, Some(with))
    };
    let sorted = |troubles: &[Trouble]| sort(troubles, &[], Some(back));
    let two = sorted(&[of(0, 0, "busan1"), of(1, 0, "busan2")]);
    assert_eq!((two.residents_brought, two.told.len()), (2, 0));
    for lost in [
        vec![of(0, 0, "busan1"), of(0, 0, "busan2")],
        vec![of(0, 0, "seoul1")],
        vec![of(0, 1, "busan1")],
        vec![trouble(Who::Visitor, Failure::Reset, Some("busan1"))],
        vec![trouble(RESIDENT, Failure::Silence, Some("busan1"))],
    ] {
        assert_eq!(sorted(&lost).told.len(), 1, "{lost:?}");
    }
}

#[test]
fn what_was_in_their_hands_is_summed_over_all_acts() {
    let mut fall = good("a");
    fall.losses.residents_excused = 15;
    fall.losses.visitors_excused = 1;
    let told = |acts: &[Seen]| {
        let told = success(acts);
        let (_, held) = told.split_once("fell: ").expect("what they held");
        held.to_owned()
    };
    assert_eq!(
        told(&[fall.clone(), good("b"), fall.clone()]),
        "30 long sessions and 2 new connections."
    );
    assert_eq!(told(&[good("b")]), "0 long sessions and 0 new connections.");
    fall.losses.residents_brought = 40;
    assert_eq!(
        told(&[fall]),
        "15 long sessions and 1 new connection. 40 more were ended once each to bring their \
         users home."
    );
}
