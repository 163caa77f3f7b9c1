//! What is done by itself: failover, failback, relapse, and the first of two lost pools to return.

use std::time::{Duration, Instant};

use twinpool::observe::status::HomePhase;
use twinpool::pairing::Condition;
use twinpool::pairing::pair::Halt;
use twinpool::pairing::record::Cause;

use crate::harness::*;
use crate::korea::*;

#[tokio::test]
async fn the_users_of_a_lost_pool_are_on_its_twin() {
    let mut korea = Plan::automatic().start().await;
    let (seoul, busan) = (korea.address(SEOUL).await, korea.address(BUSAN).await);
    assert_eq!(site_at(seoul).await, "seoul");
    assert_eq!(site_at(busan).await, "busan");
    let mut open = sessions(seoul, 4, "seoul").await;
    let before = korea.generation().await;
    korea.kill(SEOUL).await;
    let home = korea.phase(SEOUL, HomePhase::Away).await;
    assert_eq!((home.cause, home.ordered), (Cause::Lost, false));
    assert_eq!(home.serving, [BUSAN]);
    assert!(korea.generation().await > before);
    for client in &mut open {
        assert_eq!(client.ended().await, Ended::Reset);
    }
    for _ in 0..10 {
        assert_eq!(site_at(seoul).await, "busan");
        assert_eq!(site_at(busan).await, "busan");
    }
    assert_eq!(korea.home(BUSAN).await.phase, HomePhase::Home);
}

#[tokio::test]
async fn sessions_that_still_stand_on_a_lost_pool_are_ended() {
    let mut korea = Plan::automatic().start().await;
    let mut open = sessions(korea.address(SEOUL).await, 4, "seoul").await;
    // The listeners are gone; the connections stand.
    for member in korea.members_of(SEOUL) {
        member.stop_listening().await;
    }
    korea.phase(SEOUL, HomePhase::Away).await;
    for client in &mut open {
        assert_eq!(client.ended().await, Ended::Reset);
    }
}

#[tokio::test]
async fn they_come_home_when_it_has_been_well_for_the_hold_and_by_the_ramp() {
    let mut korea = Plan::automatic().rule("ramp", "\"800ms\"").start().await;
    let address = korea.address(SEOUL).await;
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    korea.revive(SEOUL).await;
    let revived = Instant::now();
    let returning = korea.phase(SEOUL, HomePhase::Returning).await;
    assert!(revived.elapsed() >= Duration::from_millis(500));
    assert_eq!(returning.cause, Cause::Held);
    let mut last = returning.share;
    let home = korea
        .until(SEOUL, "at home", |home| {
            assert_ne!(home.phase, HomePhase::Away);
            assert!(home.share >= last, "{} after {last}", home.share);
            last = home.share;
            home.phase == HomePhase::Home
        })
        .await;
    assert!(revived.elapsed() >= Duration::from_millis(500 + 800));
    assert_eq!(home.cause, Cause::Returned);
    assert_eq!(site_at(address).await, "seoul");
}

#[tokio::test]
async fn what_is_left_on_the_twin_after_a_failback_is_ended_at_a_bounded_rate() {
    let mut korea = Plan::automatic()
        .rule("failback", "\"manual\"")
        .rule("move_rate", "10")
        .start()
        .await;
    let address = korea.address(SEOUL).await;
    let mut of_busan = sessions(korea.address(BUSAN).await, 2, "busan").await;
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    let open = sessions(address, 12, "busan").await;
    korea.revive(SEOUL).await;
    korea.condition(SEOUL, Condition::Serving).await;
    korea.daemon.done(&["failback", SEOUL]).await;
    korea.phase(SEOUL, HomePhase::Home).await;
    let ends = open.into_iter().map(async |mut client| {
        let ended = client.ended().await;
        (ended, Instant::now())
    });
    let mut at = Vec::new();
    for (ended, when) in join_all(ends).await {
        assert_eq!(ended, Ended::Reset);
        at.push(when);
    }
    at.sort_unstable();
    // Twelve at ten a second: a second and more from the first to the last.
    let (first, last) = (at[0], at[at.len() - 1]);
    assert!(
        last - first >= Duration::from_millis(900),
        "{:?}",
        last - first
    );
    // Any ten within a second: the eleventh comes no sooner.
    for window in at.windows(11) {
        let span = window[10] - window[0];
        assert!(span >= Duration::from_millis(800), "{span:?}");
    }
    let home = korea.until(SEOUL, "moved", |home| home.to_move == 0).await;
    assert_eq!(home.moved, 12, "{home:?}");
    // The twin's own users stay.
    for client in &mut of_busan {
        assert_eq!(site_of(&client.member().await), "busan");
    }
}

#[tokio::test]
async fn a_pool_that_is_lost_again_while_its_users_come_home_sends_them_back_at_once() {
    let mut korea = Plan::automatic()
        .rule("ramp", "\"60s\"")
        .rule("after", "\"60s\"")
        .start()
        .await;
    let address = korea.address(SEOUL).await;
    korea.daemon.done(&["failover", SEOUL]).await;
    korea.daemon.done(&["failback", SEOUL]).await;
    korea.phase(SEOUL, HomePhase::Returning).await;
    korea.lose(SEOUL).await;
    let home = korea.phase(SEOUL, HomePhase::Away).await;
    assert_eq!(home.cause, Cause::Relapsed);
    for _ in 0..5 {
        assert_eq!(site_at(address).await, "busan");
    }
}

#[tokio::test]
async fn both_lost_are_refused_promptly_and_the_first_to_return_serves_all() {
    // Neither `after` nor `hold` would have it so within this test.
    let mut korea = Plan::automatic()
        .rule("after", "\"60s\"")
        .rule("hold", "\"60s\"")
        .start()
        .await;
    let (seoul, busan) = (korea.address(SEOUL).await, korea.address(BUSAN).await);
    korea.lose(SEOUL).await;
    korea.lose(BUSAN).await;
    for service in [seoul, busan] {
        let began = Instant::now();
        turned_away(service).await;
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    }
    korea.revive(BUSAN).await;
    let home = korea.phase(SEOUL, HomePhase::Away).await;
    assert_eq!(home.cause, Cause::FirstToReturn);
    assert_eq!(site_at(seoul).await, "busan");
    assert_eq!(site_at(busan).await, "busan");
    assert_eq!(korea.home(BUSAN).await.phase, HomePhase::Home);
}

#[tokio::test]
async fn the_first_to_return_may_be_the_one_whose_users_were_away() {
    let mut korea = Plan::automatic()
        .rule("hold", "\"60s\"")
        .rule("failback", "\"manual\"")
        .start()
        .await;
    let (seoul, busan) = (korea.address(SEOUL).await, korea.address(BUSAN).await);
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    korea.lose(BUSAN).await;
    turned_away(seoul).await;
    korea.revive(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Home).await;
    let busans = korea.phase(BUSAN, HomePhase::Away).await;
    assert_eq!(busans.cause, Cause::FirstToReturn);
    assert_eq!(site_at(seoul).await, "seoul");
    assert_eq!(site_at(busan).await, "seoul");
}

#[tokio::test]
async fn automation_that_goes_to_and_fro_ends_with_an_alarm_and_a_person_resumes_it() {
    let mut korea = Plan::automatic()
        .rule("hold", "\"200ms\"")
        .rule("longest_hold", "\"200ms\"")
        .rule("ramp", "\"60s\"")
        .start()
        .await;
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    korea.revive(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Returning).await;
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    assert_eq!(korea.pair().await.halt, Some(Halt::Alarm));
    korea.revive(SEOUL).await;
    korea.condition(SEOUL, Condition::Serving).await;
    korea.stays(SEOUL, HomePhase::Away).await;
    assert_eq!(site_at(korea.address(SEOUL).await).await, "busan");
    for page in ["status", "redirects"] {
        let page = korea.daemon.done(&[page]).await;
        assert!(page.contains("twinpool resume"), "{page}");
    }
    korea.daemon.done(&["resume"]).await;
    korea.phase(SEOUL, HomePhase::Returning).await;
}

#[tokio::test]
async fn a_manual_pair_waits_for_an_order() {
    let mut korea = Plan::manual().start().await;
    let address = korea.address(SEOUL).await;
    korea.lose(SEOUL).await;
    korea.stays(SEOUL, HomePhase::Home).await;
    assert_eq!(turned_away(address).await, Ended::Reset);
    let told = korea.daemon.done(&["failover", SEOUL]).await;
    assert!(told.contains(SEOUL) && told.contains(BUSAN), "{told}");
    // Answered means in force.
    let home = korea.home(SEOUL).await;
    assert_eq!(home.phase, HomePhase::Away);
    assert_eq!((home.cause, home.ordered), (Cause::Ordered, true));
    assert_eq!(site_at(address).await, "busan");
    korea.revive(SEOUL).await;
    korea.condition(SEOUL, Condition::Serving).await;
    korea.stays(SEOUL, HomePhase::Away).await;
    korea.daemon.done(&["failback", SEOUL]).await;
    korea.phase(SEOUL, HomePhase::Home).await;
    assert_eq!(site_at(address).await, "seoul");
}

/// All of them, at once.
async fn join_all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(move |context| {
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        match waiting.is_empty() {
            true => std::task::Poll::Ready(std::mem::take(&mut done)),
            false => std::task::Poll::Pending,
        }
    })
    .await
}
