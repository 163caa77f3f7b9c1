//! Failover and failback by command: drained, now, refused, dry; pause and resume.

use std::time::{Duration, Instant};

use twinpool::observe::status::HomePhase;
use twinpool::pairing::Condition;
use twinpool::pairing::pair::Halt;

use crate::harness::*;
use crate::korea::*;

#[tokio::test]
async fn failover_of_a_pool_that_serves_keeps_its_sessions_to_the_drain_deadline() {
    let korea = Plan::manual()
        .key("drain_deadline = \"1500ms\"")
        .start()
        .await;
    let address = korea.address(SEOUL).await;
    let mut open = sessions(address, 4, "seoul").await;
    let ordered = Instant::now();
    korea
        .daemon
        .done(&["failover", SEOUL, "--reason", "power work"])
        .await;
    let answered = Instant::now();
    for _ in 0..5 {
        assert_eq!(site_at(address).await, "busan");
    }
    let home = korea.home(SEOUL).await;
    assert_eq!(home.reason.as_deref(), Some("power work"));
    while answered.elapsed() < Duration::from_millis(1_000) {
        for client in &mut open {
            assert_eq!(site_of(&client.member().await), "seoul");
        }
    }
    for client in &mut open {
        assert_eq!(client.ended().await, Ended::Reset);
    }
    assert!(ordered.elapsed() >= Duration::from_millis(1_500));
    // And nothing else does: Seoul's members are as well as before.
    assert_eq!(korea.home(SEOUL).await.moved, 4);
}

#[tokio::test]
async fn failover_now_ends_what_is_there_at_the_pairs_rate() {
    let korea = Plan::manual().rule("move_rate", "10").start().await;
    let address = korea.address(SEOUL).await;
    let mut open = sessions(address, 12, "seoul").await;
    let mut of_busan = sessions(korea.address(BUSAN).await, 2, "busan").await;
    let ordered = Instant::now();
    korea.daemon.done(&["failover", SEOUL, "--now"]).await;
    assert_eq!(site_at(address).await, "busan");
    let to_move = korea.home(SEOUL).await.to_move;
    assert!(to_move <= 12, "{to_move}");
    for client in &mut open {
        assert_eq!(client.ended().await, Ended::Reset);
    }
    assert!(ordered.elapsed() >= Duration::from_millis(900));
    let home = korea.until(SEOUL, "moved", |home| home.to_move == 0).await;
    assert_eq!(home.moved, 12);
    for client in &mut of_busan {
        assert_eq!(site_of(&client.member().await), "busan");
    }
}

#[tokio::test]
async fn a_drain_under_way_is_cut_by_now_and_by_nothing_less() {
    let korea = Plan::manual().start().await;
    let address = korea.address(SEOUL).await;
    let mut open = sessions(address, 3, "seoul").await;
    korea.daemon.done(&["failover", SEOUL]).await;
    let told = korea.refused(&["failover", SEOUL]).await;
    assert!(told.contains("--now ends at once"), "{told}");
    let home = korea.home(SEOUL).await;
    assert!(home.to_move == 3 && home.drains_until.is_some(), "{home:?}");
    for client in &mut open {
        assert_eq!(site_of(&client.member().await), "seoul");
    }
    let told = korea.daemon.done(&["failover", SEOUL, "--now"]).await;
    assert!(
        told.contains("away already, and drained no longer"),
        "{told}"
    );
    for client in &mut open {
        assert_eq!(client.ended().await, Ended::Reset);
    }
    assert_eq!(site_at(address).await, "busan");
}

#[tokio::test]
async fn failback_now_brings_all_home_without_a_ramp() {
    let korea = Plan::manual().rule("ramp", "\"60s\"").start().await;
    let address = korea.address(SEOUL).await;
    korea.daemon.done(&["failover", SEOUL]).await;
    let mut on_busan = sessions(address, 3, "busan").await;
    korea.daemon.done(&["failback", SEOUL, "--now"]).await;
    assert_eq!(korea.home(SEOUL).await.phase, HomePhase::Home);
    assert_eq!(site_at(address).await, "seoul");
    for client in &mut on_busan {
        assert_eq!(client.ended().await, Ended::Reset);
    }
}

#[tokio::test]
async fn a_failback_under_way_can_be_hastened_and_turned_round() {
    let korea = Plan::manual().rule("ramp", "\"60s\"").start().await;
    let address = korea.address(SEOUL).await;
    korea.daemon.done(&["failover", SEOUL]).await;
    korea.daemon.done(&["failback", SEOUL]).await;
    assert_eq!(korea.home(SEOUL).await.phase, HomePhase::Returning);
    korea.daemon.done(&["failover", SEOUL]).await;
    assert_eq!(korea.home(SEOUL).await.phase, HomePhase::Away);
    assert_eq!(site_at(address).await, "busan");
    korea.daemon.done(&["failback", SEOUL]).await;
    korea.daemon.done(&["failback", SEOUL, "--now"]).await;
    assert_eq!(korea.home(SEOUL).await.phase, HomePhase::Home);
    assert_eq!(site_at(address).await, "seoul");
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_its_reason_and_changes_nothing() {
    let mut korea = Plan::manual().kind("med", "", "").start().await;
    korea.daemon.done(&["failover", SEOUL]).await;
    let before = korea.generation().await;
    let already = korea.refused(&["failover", SEOUL]).await;
    assert!(
        already.contains(SEOUL) && already.contains("already"),
        "{already}"
    );
    let already = korea.refused(&["failback", "med-seoul"]).await;
    assert!(
        already.contains("med-seoul") && already.contains("already"),
        "{already}"
    );
    // Its twin's users are here: that would be a chain.
    let chain = korea.refused(&["failover", BUSAN]).await;
    assert!(
        chain.contains(SEOUL) && chain.contains("--force"),
        "{chain}"
    );
    let nobody = korea.refused(&["failover", "fe-seuol"]).await;
    assert!(nobody.contains("fe-seoul"), "{nobody}");
    let nowhere = korea.refused(&["evacuate", "seuol"]).await;
    assert!(nowhere.contains("seoul"), "{nowhere}");
    korea.lose("med-busan").await;
    for flags in [&[][..], &["--force"], &["--now", "--force"]] {
        let lost = korea
            .refused(&[&["failover", "med-seoul"], flags].concat())
            .await;
        assert!(
            lost.contains("med-busan") && lost.contains("lost"),
            "{lost}"
        );
    }
    assert_eq!(korea.generation().await, before);
    assert_eq!(korea.home(SEOUL).await.phase, HomePhase::Away);
    assert_eq!(korea.home("med-seoul").await.phase, HomePhase::Home);
    assert_eq!(site_at(korea.address("med-seoul").await).await, "seoul");
}

#[tokio::test]
async fn a_pool_too_weak_to_start_takes_its_users_back_only_by_force() {
    // Three start a pool of three, two keep it.
    let mut korea = Plan::automatic()
        .members(3)
        .quorum("\"front-end\"")
        .start()
        .await;
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    let lost = korea.refused(&["failback", SEOUL, "--force"]).await;
    assert!(lost.contains("lost"), "{lost}");
    for member in &mut korea.members_of(SEOUL)[..2] {
        member.resume().await;
    }
    korea.condition(SEOUL, Condition::Degraded).await;
    let weak = korea.refused(&["failback", SEOUL]).await;
    assert!(weak.contains(SEOUL) && weak.contains("--force"), "{weak}");
    korea.stays(SEOUL, HomePhase::Away).await;
    korea
        .daemon
        .done(&["failback", SEOUL, "--now", "--force"])
        .await;
    assert_eq!(site_at(korea.address(SEOUL).await).await, "seoul");
}

#[tokio::test]
async fn an_order_about_a_pool_without_a_twin_is_refused() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    for command in ["failover", "failback"] {
        let refused = daemon.command(&[command, "p"]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("twin"), "{refused:?}");
    }
    let table = daemon.done(&["redirects"]).await;
    assert!(table.contains("No pool here has a twin"), "{table}");
}

#[tokio::test]
async fn a_dry_run_tells_what_would_happen_and_changes_nothing() {
    let mut korea = Plan::manual().start().await;
    let address = korea.address(SEOUL).await;
    let mut open = sessions(address, 3, "seoul").await;
    let before = korea.generation().await;
    let told = korea.daemon.done(&["failover", SEOUL, "--dry-run"]).await;
    assert!(told.starts_with("dry run"), "{told}");
    for word in [SEOUL, BUSAN, "3 sessions"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let told = korea.daemon.done(&["evacuate", "seoul", "--dry-run"]).await;
    assert!(
        told.starts_with("dry run") && told.contains(SEOUL),
        "{told}"
    );
    let refused = korea.refused(&["failback", SEOUL, "--dry-run"]).await;
    assert!(refused.contains("already"), "{refused}");
    assert_eq!(korea.generation().await, before);
    assert_eq!(korea.home(SEOUL).await.phase, HomePhase::Home);
    assert_eq!(site_at(address).await, "seoul");
    for client in &mut open {
        assert_eq!(site_of(&client.member().await), "seoul");
    }
    korea.lose(BUSAN).await;
    let refused = korea.refused(&["failover", SEOUL, "--dry-run"]).await;
    assert!(refused.contains("lost"), "{refused}");
}

#[tokio::test]
async fn automation_does_not_bring_home_whom_a_person_sent_away() {
    let korea = Plan::automatic().rule("hold", "\"100ms\"").start().await;
    korea.daemon.done(&["failover", SEOUL]).await;
    korea.stays(SEOUL, HomePhase::Away).await;
    assert_eq!(site_at(korea.address(SEOUL).await).await, "busan");
}

#[tokio::test]
async fn nothing_is_automatic_while_paused_and_resume_lets_it_go_on() {
    let mut korea = Plan::automatic().start().await;
    let address = korea.address(SEOUL).await;
    korea
        .daemon
        .done(&["pause", "--reason", "network work"])
        .await;
    let pause = korea.daemon.status().await.pause.expect("a pause");
    assert_eq!(pause.reason.as_deref(), Some("network work"));
    assert_eq!(korea.pair().await.halt, Some(Halt::Paused));
    korea.lose(SEOUL).await;
    korea.stays(SEOUL, HomePhase::Home).await;
    let page = korea.daemon.done(&["redirects"]).await;
    assert!(
        page.contains("paused") && page.contains("network work"),
        "{page}"
    );
    korea.daemon.done(&["resume"]).await;
    assert!(korea.daemon.status().await.pause.is_none());
    korea.phase(SEOUL, HomePhase::Away).await;
    assert_eq!(site_at(address).await, "busan");
}

#[tokio::test]
async fn commands_work_while_paused_and_the_pause_outlives_a_restart() {
    let mut korea = Plan::automatic().start().await;
    korea
        .daemon
        .done(&["pause", "--reason", "network work"])
        .await;
    korea.daemon.done(&["failover", SEOUL]).await;
    assert_eq!(site_at(korea.address(SEOUL).await).await, "busan");
    korea.daemon.kill().await;
    korea.daemon.start_again().await;
    let pause = korea.daemon.status().await.pause.expect("a pause");
    assert_eq!(pause.reason.as_deref(), Some("network work"));
    korea.daemon.done(&["failback", SEOUL, "--now"]).await;
    korea.lose(SEOUL).await;
    korea.stays(SEOUL, HomePhase::Home).await;
}
