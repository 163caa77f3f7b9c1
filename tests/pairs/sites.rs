//! Whole sites: evacuated and restored in order, and lost at once.

use twinpool::observe::events::Kind;
use twinpool::observe::status::HomePhase;

use crate::harness::*;
use crate::korea::*;

/// Front ends go after mediation, which goes after the directors; in the file they stand the other
/// way round.
fn three_kinds() -> Plan {
    Plan::manual()
        .key_of_seoul("after_pool = [\"med-seoul\"]")
        .kind("med", "", "after_pool = [\"dir-seoul\"]")
        .kind("dir", "", "")
}

const IN_ORDER: [&str; 3] = ["dir-seoul", "med-seoul", "fe-seoul"];

/// Where each is told of first; all must be, in this order.
fn assert_in_order(told: &str) {
    let places = IN_ORDER.map(|pool| told.find(pool).unwrap_or_else(|| panic!("{pool}: {told}")));
    assert!(places.is_sorted(), "{told}");
}

async fn phases(korea: &Korea) -> [HomePhase; 3] {
    let mut phases = [HomePhase::Home; 3];
    for (phase, pool) in phases.iter_mut().zip(IN_ORDER) {
        *phase = korea.home(pool).await.phase;
    }
    phases
}

#[tokio::test]
async fn a_site_is_evacuated_and_restored_in_order() {
    let korea = three_kinds().start().await;
    let told = korea.daemon.done(&["evacuate", "seoul", "--dry-run"]).await;
    assert_in_order(&told);
    assert_eq!(phases(&korea).await, [HomePhase::Home; 3]);
    let told = korea
        .daemon
        .done(&["evacuate", "seoul", "--reason", "fire"])
        .await;
    assert_in_order(&told);
    assert_eq!(phases(&korea).await, [HomePhase::Away; 3]);
    for pool in IN_ORDER {
        assert_eq!(site_at(korea.address(pool).await).await, "busan");
        assert_eq!(korea.home(pool).await.reason.as_deref(), Some("fire"));
    }
    let moved: Vec<String> = redirects(&korea).await;
    assert_eq!(moved, IN_ORDER);
    // Nobody's home was in Busan but those whose home it is.
    for pool in ["dir-busan", "med-busan", "fe-busan"] {
        assert_eq!(korea.home(pool).await.phase, HomePhase::Home);
    }
    let told = korea.daemon.done(&["restore", "seoul", "--now"]).await;
    for pool in IN_ORDER {
        assert!(told.contains(pool), "{told}");
        assert_eq!(korea.home(pool).await.phase, HomePhase::Home);
        assert_eq!(site_at(korea.address(pool).await).await, "seoul");
    }
}

#[tokio::test]
async fn an_evacuation_stops_at_the_first_pool_that_fails_and_can_go_on() {
    let mut korea = three_kinds().start().await;
    korea.lose("med-busan").await;
    let told = korea.refused(&["evacuate", "seoul"]).await;
    for word in ["dir-seoul", "med-busan", "lost"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert_eq!(
        phases(&korea).await,
        [HomePhase::Away, HomePhase::Home, HomePhase::Home]
    );
    assert_eq!(site_at(korea.address(SEOUL).await).await, "seoul");
    korea.revive("med-busan").await;
    korea
        .condition("med-busan", twinpool::pairing::Condition::Serving)
        .await;
    // Those that are away already do not stop it.
    korea.daemon.done(&["evacuate", "seoul"]).await;
    assert_eq!(phases(&korea).await, [HomePhase::Away; 3]);
}

#[tokio::test]
async fn a_site_whose_pools_are_all_lost_is_one_event() {
    let mut korea = Plan::automatic().kind("med", "", "").start().await;
    korea.lose("fe-seoul").await;
    let lost = async |korea: &Korea| {
        let status = korea.daemon.status().await;
        let site = status.sites.iter().find(|site| site.name == "seoul");
        site.expect("the site").lost
    };
    assert!(!lost(&korea).await);
    korea.lose("med-seoul").await;
    assert!(lost(&korea).await);
    let of_site = events(&korea).await;
    let of_site = of_site.iter().filter(|event| event.kind == Kind::Site);
    assert_eq!(of_site.count(), 1);
    korea.phase("fe-seoul", HomePhase::Away).await;
    korea.phase("med-seoul", HomePhase::Away).await;
    let page = korea.daemon.done(&["status"]).await;
    assert!(page.contains("site seoul"), "{page}");
    korea.revive("med-seoul").await;
    eventually("the site to be back", async || {
        (!lost(&korea).await).then_some(())
    })
    .await;
}

async fn events(korea: &Korea) -> Vec<twinpool::observe::events::Event> {
    let told = korea.daemon.get("/v1/events").await.expect("events");
    serde_json::from_str(&told).expect("events in JSON")
}

/// The pools whose users were sent elsewhere, in the order in which that was told.
async fn redirects(korea: &Korea) -> Vec<String> {
    let events = events(korea).await.into_iter();
    let redirects = events.filter(|event| event.kind == Kind::Redirect);
    redirects.map(|event| event.pool.expect("a pool")).collect()
}
