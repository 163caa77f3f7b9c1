use super::*;
use crate::observe::sample::{self, Plight};
use crate::pairing::Record;
use crate::pairing::pair::Destination;

/// `LABEL what`, worst first.
fn told(plight: &Plight) -> Vec<String> {
    let told = |problem: Problem| format!("{} {}", problem.label, problem.what);
    problems(&plight.status()).into_iter().map(told).collect()
}

/// The one problem with this label.
fn the(plight: &Plight, label: &str) -> Problem {
    let mut found = problems(&plight.status());
    found.retain(|problem| problem.label == label);
    assert_eq!(found.len(), 1, "{label}: {:?}", told(plight));
    found.remove(0)
}

fn next(plight: &Plight, label: &str) -> String {
    the(plight, label).next.unwrap()
}

fn whom(plight: &Plight, label: &str) -> String {
    the(plight, label).whom.unwrap()
}

#[test]
fn nothing_is_wrong_with_pairs_whose_users_are_at_home() {
    assert_eq!(told(&Plight::new()), Vec::<String>::new());
}

#[test]
fn every_kind_stands_in_its_place_and_is_counted() {
    for (place, severity) in Severity::ALL.into_iter().enumerate() {
        let before = &Severity::ALL[..place];
        assert!(before.iter().all(|worse| *worse < severity), "{severity:?}");
        assert!(!severity.counted(1).is_empty());
    }
    assert_eq!(Severity::PoolLost.counted(2), "2 pools lost");
}

#[test]
fn a_lost_pool_tells_when_its_users_go_to_the_twin() {
    let mut plight = Plight::new();
    plight.lose(&["fe-seoul"]);
    let now = plight.status().now;
    plight.run(3_000);
    let lost = the(&plight, "LOST");
    assert_eq!(lost.severity, Severity::PoolLost);
    assert_eq!(lost.what, "pool fe-seoul: 0 of 3 members present, 2 needed");
    assert!(lost.since.is_some_and(|since| since <= now));
    assert_eq!(
        lost.next.as_deref(),
        Some("its users go to fe-busan in 6.9 s, unless it serves again before")
    );
    assert_eq!(
        lost.whom.as_deref(),
        Some(
            "all users of fe-seoul: no member takes new sessions; its sessions go to fe-busan one \
             by one (serving: 3 members usable); 0 sessions open"
        )
    );
}

#[test]
fn a_lost_pool_of_a_manual_pair_waits_for_its_command() {
    let mut plight = Plight::new();
    plight.lose(&["med-seoul"]);
    plight.run(60_000);
    assert_eq!(
        next(&plight, "LOST"),
        "waits for `twinpool failover med-seoul`"
    );
}

#[test]
fn a_lost_pool_waits_for_its_command_while_automation_is_paused() {
    let mut plight = Plight::new();
    let now = plight.now;
    plight.decider.handle_pause("bob".to_owned(), None, now);
    plight.lose(&["fe-seoul"]);
    plight.run(60_000);
    assert_eq!(
        next(&plight, "LOST"),
        "automation is paused: waits for `twinpool failover fe-seoul`"
    );
}

#[test]
fn users_who_are_away_are_told_with_what_brings_them_home() {
    let mut plight = Plight::new();
    plight.lose(&["fe-seoul"]);
    plight.run(12_000);
    let away = the(&plight, "AWAY");
    assert_eq!(away.severity, Severity::Away);
    assert_eq!(
        away.what,
        "fe-seoul: its users are on fe-busan, by twinpool: the home pool was lost"
    );
    let whom = away.whom.unwrap();
    assert!(
        whom.contains("fe-seoul itself: lost for") && whom.contains("0 of 3 members present"),
        "{whom}"
    );
    assert_eq!(
        away.next.as_deref(),
        Some("its users go home once it has been well for 5 min; it has to serve again before")
    );
    let labels: Vec<&str> = problems(&plight.status()).iter().map(|p| p.label).collect();
    assert_eq!(labels, ["AWAY", "DOWN"], "its loss is told with it");

    plight.set("fe-seoul", false);
    plight.run(20_000);
    let next = next(&plight, "AWAY");
    assert!(
        next.starts_with("its users begin to go home in 4 min"),
        "{next}"
    );
}

#[test]
fn users_sent_away_by_order_are_no_fault_until_their_pool_is_lost() {
    let mut plight = Plight::new();
    plight.order("med-seoul", Destination::Twin);
    let sent = the(&plight, "AWAY");
    assert!(!sent.severity.is_fault());
    assert_eq!(
        sent.what,
        "med-seoul: its users are on med-busan, by alice: kernel update"
    );
    assert!(
        sent.next
            .unwrap()
            .starts_with("stays so until `twinpool failback med-seoul`")
    );
    plight.lose(&["med-seoul"]);
    assert!(the(&plight, "AWAY").severity.is_fault());
}

#[test]
fn users_who_come_home_are_told_with_their_share() {
    let mut plight = Plight::new();
    plight.order("fe-seoul", Destination::Twin);
    plight.order("fe-seoul", Destination::Home);
    plight.to_move = 1_234;
    plight.run(11_000);
    let returning = the(&plight, "RETURNING");
    assert!(!returning.severity.is_fault());
    assert_eq!(
        returning.what,
        "fe-seoul: 15 % of its clients are home, the others on fe-busan, by alice: kernel update"
    );
    assert_eq!(
        returning.next.as_deref(),
        Some("20 % of its clients go home in 4 s, all of them in 1 min 24 s")
    );
    assert!(returning.whom.unwrap().contains("1,234 still to move"));
}

#[test]
fn pools_of_a_site_that_one_order_moved_are_one_problem() {
    let mut plight = Plight::new();
    plight.order("fe-seoul", Destination::Twin);
    plight.order("med-seoul", Destination::Twin);
    let sent = the(&plight, "AWAY");
    assert_eq!(
        sent.what,
        "2 pools of site seoul: their users are away, by alice: kernel update: fe-seoul on \
         fe-busan, med-seoul on med-busan"
    );
    assert_eq!(
        sent.next.as_deref(),
        Some("stays so until `twinpool restore seoul`")
    );
    assert_eq!(sent.about.len(), 2);
}

#[test]
fn a_lost_site_is_one_problem() {
    let mut plight = Plight::new();
    plight.lose(&["fe-seoul", "med-seoul"]);
    plight.run(2_000);
    let lost = the(&plight, "SITE LOST");
    assert_eq!(told(&plight).len(), 1, "{:?}", told(&plight));
    assert_eq!(
        lost.what,
        "site seoul: all of its pools are lost: fe-seoul, med-seoul; their members: connection \
         refused (L4)"
    );
    let soon = lost.next.unwrap();
    assert!(
        soon.starts_with("fe-seoul: its users go to fe-busan in ")
            && soon.ends_with("med-seoul: waits for `twinpool failover med-seoul`"),
        "{soon}"
    );
    let affected = lost.whom.unwrap();
    assert!(
        affected.contains("med-seoul: no member takes new sessions"),
        "{affected}"
    );

    plight.run(12_000);
    plight.order("med-seoul", Destination::Twin);
    assert_eq!(
        whom(&plight, "SITE LOST"),
        "away: fe-seoul on fe-busan, med-seoul on med-busan"
    );
    assert_eq!(told(&plight).len(), 1, "{:?}", told(&plight));
    assert!(next(&plight, "SITE LOST").ends_with("for the others see `twinpool redirects`"));
}

#[test]
fn several_pools_of_a_lost_site_that_wait_are_evacuated_by_one_command() {
    let mut plight = Plight::new();
    let now = plight.now;
    plight.decider.handle_pause("bob".to_owned(), None, now);
    plight.lose(&["fe-seoul", "med-seoul"]);
    assert_eq!(
        next(&plight, "SITE LOST"),
        "automation is paused: `twinpool evacuate seoul` sends the users of fe-seoul, med-seoul \
         to their twins"
    );
}

#[test]
fn a_pair_whose_pools_are_both_lost_is_the_worst_and_told_once() {
    let mut plight = Plight::new();
    plight.lose(&["fe-seoul", "fe-busan"]);
    plight.run(2_000);
    let found = told(&plight);
    assert_eq!(found.len(), 1, "{found:?}");
    let lost = the(&plight, "PAIR LOST");
    assert_eq!(lost.severity, Severity::PairLost);
    assert_eq!(
        lost.what,
        "pair korea: both pools are lost: fe-seoul (0 of 3 members present, 2 needed), fe-busan \
         (0 of 3 members present, 2 needed); their members: connection refused (L4)"
    );
    assert_eq!(
        lost.next.as_deref(),
        Some("the first of the two pools to serve again takes the users of both")
    );
    plight.lose(&["med-seoul", "med-busan"]);
    let found = told(&plight);
    assert_eq!(found.len(), 2, "sites without more to say: {found:?}");
    let manual = problems(&plight.status()).remove(1).next.unwrap();
    assert!(
        manual.starts_with("waits for a pool to serve again; then `twinpool failover`"),
        "{manual}"
    );
}

#[test]
fn the_pool_that_serves_its_twins_users_is_lost_for_both() {
    let mut plight = Plight::new();
    plight.order("fe-seoul", Destination::Twin);
    plight.lose(&["fe-busan"]);
    let affected = whom(&plight, "LOST");
    assert!(
        affected.starts_with("all users of fe-busan, and of fe-seoul, which it serves: "),
        "{affected}"
    );
    assert!(next(&plight, "LOST").starts_with("its users go to fe-seoul in "));
    plight.run(12_000);
    assert_eq!(the(&plight, "AWAY").about, ["fe-busan"]);
}

#[test]
fn a_pair_that_failed_over_too_often_alarms() {
    let mut plight = Plight::new();
    for _ in 0..3 {
        plight.lose(&["fe-seoul"]);
        plight.run(12_000);
        plight.set("fe-seoul", false);
        plight.run(620_000);
    }
    let alarm = the(&plight, "ALARM");
    assert_eq!(
        alarm.what,
        "pair korea: automation has ended: it failed over and back too often"
    );
    assert!(alarm.next.unwrap().ends_with("then `twinpool resume`"));
    assert!(alarm.since.is_some());
    assert!(
        next(&plight, "AWAY").starts_with(
            "automation has ended with an alarm: waits for `twinpool failback fe-seoul`"
        )
    );
}

#[test]
fn a_pause_is_told_with_who_and_why_and_is_no_fault() {
    let mut plight = Plight::new();
    let reason = Some("network work".to_owned());
    let now = plight.now;
    plight.decider.handle_pause("bob".to_owned(), reason, now);
    let paused = the(&plight, "PAUSED");
    assert_eq!(paused.what, "all automation of pairs, by bob: network work");
    assert_eq!(
        paused.next.as_deref(),
        Some("stays so until `twinpool resume`")
    );
    assert!(!paused.severity.is_fault());
}

#[test]
fn a_damaged_record_is_told_until_somebody_resumes() {
    let mut plight = Plight::with(vec![(Record::home(4, sample::NOW), true)]);
    plight.record_problem = Some("korea.json: checksum differs".to_owned());
    let damaged = the(&plight, "RECORD");
    assert_eq!(damaged.severity, Severity::Halted);
    assert_eq!(
        damaged.what,
        "pair korea: automation waits: korea.json: checksum differs"
    );
    let now = plight.now;
    plight
        .decider
        .handle_resume("bob".to_owned(), now)
        .expect("nothing is being written");
    plight.run(10);
    let previous = the(&plight, "RECORD");
    assert_eq!(previous.severity, Severity::Own, "automation goes on");
    plight.record_problem = None;
    assert_eq!(told(&plight), Vec::<String>::new());
}

#[test]
fn records_that_cannot_be_written_are_one_problem_while_their_reason_is_one() {
    let mut plight = Plight::new();
    plight.disk = Some("no space left on device (os error 28)".to_owned());
    plight.order("fe-seoul", Destination::Twin);
    assert_eq!(
        the(&plight, "STORE").what,
        "pair korea: its record cannot be written: no space left on device (os error 28)"
    );
    plight.order("med-seoul", Destination::Twin);
    assert_eq!(
        the(&plight, "STORE").what,
        "pairs korea, media: their records cannot be written: no space left on device (os error \
         28)"
    );
    assert!(next(&plight, "STORE").contains("free space there"));
    assert_eq!(plight.status().pairs[0].generation, 0, "not in force");
}

#[test]
fn a_pool_that_spills_is_told_unless_it_is_lost() {
    let mut plight = Plight::new();
    plight.spilling = vec![plight.pool("fe-seoul")];
    let id = plight.pool("fe-seoul");
    plight.workers[1].home(id).spilled.add(1_500);
    assert_eq!(
        the(&plight, "SPILLING").what,
        "fe-seoul: sessions that no member took went to fe-busan one by one"
    );
    assert!(whom(&plight, "SPILLING").starts_with("1,500 of them since the start"));
    plight.lose(&["fe-seoul"]);
    assert!(!told(&plight).iter().any(|line| line.starts_with("SPILL")));
}

#[test]
fn what_ran_out_is_told_with_what_to_raise() {
    let found = problems(&sample::exhausted());
    let the = |label: &str, part: &str| {
        let mut of = found
            .iter()
            .filter(|problem| problem.label == label && problem.what.contains(part));
        let problem = of.next().unwrap_or_else(|| panic!("{label}: {found:?}"));
        (problem.severity, problem.next.clone().unwrap_or_default())
    };
    for (label, part, severity, next) in [
        ("FULL", "1,504 connections", Severity::Short, "max_sessions"),
        ("FULL", "9 datagrams", Severity::Short, "max_flows"),
        (
            "QUEUE",
            "320 connections",
            Severity::Short,
            "max_connections",
        ),
        ("DESCRIPTORS", "12 times", Severity::Short, "LimitNOFILE="),
        ("PORTS", "once", Severity::Short, "ip_local_port_range"),
        ("FLOWS", "50,000 flows", Severity::Own, "max_flows"),
        ("UNSENT", "33 datagrams", Severity::Own, "link"),
    ] {
        let (severe, told) = the(label, part);
        assert_eq!(severe, severity, "{label}");
        assert!(told.contains(next), "{label}: {told}");
    }
    let unasked: Vec<_> = found.iter().filter(|p| p.label == "NOT ASKED").collect();
    assert_eq!(unasked.len(), 1, "one fault is one problem: {unasked:?}");
    assert_eq!(unasked[0].about, ["fe-seoul/fe1", "med/m1"]);
    assert!(
        found
            .iter()
            .all(|p| p.label == "NOT ASKED" || p.since.is_some())
    );
}

#[test]
fn a_full_instance_is_told_what_limits_it_before_anybody_is_turned_away() {
    let next = |status: &Status| {
        let found = problems(status);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, Severity::Own);
        (found[0].what.clone(), found[0].next.clone().unwrap())
    };
    let mut status = sample::well();
    status.sessions.open = status.sessions.limit;
    let (what, raise) = next(&status);
    assert!(
        what.ends_with("this instance holds 20,000 of 20,000 sessions"),
        "{what}"
    );
    assert_eq!(raise, "raise max_sessions in [instance]");
    let mut status = sample::well();
    status.sessions.limited_by = crate::observe::LimitedBy::Descriptors;
    status.by_worker[1].sessions.open = 10_000;
    let (what, raise) = next(&status);
    assert!(
        what.ends_with("worker 1 holds 10,000 of 10,000 sessions, all workers 1,204 of 20,000"),
        "{what}"
    );
    assert!(raise.contains("65,536 now: LimitNOFILE="), "{raise}");
}

#[test]
fn troubles_of_pairs_are_told_with_when_they_began() {
    let mut plight = Plight::new();
    plight.disk = Some("no space left on device".to_owned());
    plight.spilling = vec![plight.pool("fe-busan")];
    plight.order("fe-seoul", Destination::Twin);
    plight.run(10);
    let began = plight.status().now;
    plight.run(60_000);
    for label in ["STORE", "SPILLING"] {
        let since = the(&plight, label).since.expect("it began while we looked");
        assert!(
            began.since(since) < std::time::Duration::from_secs(1),
            "{label}"
        );
    }
    let mut plight = Plight::with(vec![(Record::home(4, sample::NOW), true)]);
    plight.record_problem = Some("korea.json: checksum differs".to_owned());
    assert_eq!(the(&plight, "RECORD").since, None, "it was so at the start");
}

#[test]
fn a_lost_service_is_told_with_when_its_last_member_went() {
    let mut status = sample::drained();
    sample::take_down(&mut status, 0);
    sample::take_down(&mut status, 2);
    let pool = &mut status.pools[0];
    pool.condition = crate::pairing::Condition::Degraded;
    pool.services[1].usable = 0;
    pool.services[1].lost = true;
    let found = problems(&status);
    let lost = found.iter().find(|p| p.severity == Severity::ServiceLost);
    assert_eq!(lost.unwrap().since, Some(sample::ago(60)));
}
