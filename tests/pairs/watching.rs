//! What is told of pairs: health, the table, explanations, events.

use serde_json::Value;
use twinpool::observe::status::HomePhase;

use crate::harness::*;
use crate::korea::*;

#[tokio::test]
async fn health_is_of_home_or_twin_and_of_home_alone_where_that_is_asked() {
    let mut korea = Plan::automatic().observe().start().await;
    let server = korea.observe.expect("an address");
    let health = async |path: &str| http(server, path).await.0;
    assert_eq!(health("/health/fe-seoul").await, 200);
    assert_eq!(health("/health/fe-seoul?scope=home").await, 200);
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    assert_eq!(health("/health/fe-seoul").await, 200);
    assert_eq!(health("/health/fe-seoul?scope=home").await, 503);
    assert_eq!(health("/health/fe-busan?scope=home").await, 200);
    korea.lose(BUSAN).await;
    for path in ["/health/fe-seoul", "/health/fe-busan"] {
        assert_eq!(health(path).await, 503, "{path}");
    }
    assert_eq!(health("/health/fe-seoul?scope=moon").await, 400);
    assert_eq!(health("/health/fe-jeju").await, 404);
}

#[tokio::test]
async fn the_table_says_where_users_are_and_why() {
    let korea = Plan::manual().start().await;
    let page = korea.daemon.done(&["redirects"]).await;
    assert!(page.contains("all users are home"), "{page}");
    korea
        .daemon
        .done(&["failover", SEOUL, "--reason", "power work"])
        .await;
    let page = korea.daemon.done(&["redirects"]).await;
    let row = page.lines().find(|line| line.starts_with(SEOUL));
    let row = row.unwrap_or_else(|| panic!("{page}"));
    for word in ["away", BUSAN, "power work"] {
        assert!(row.contains(word), "{word}: {page}");
    }
    assert!(
        page.lines().all(|line| line.chars().count() <= 100),
        "{page}"
    );
    assert!(!page.contains('\x1b'), "{page}");
    let rows: Value =
        serde_json::from_str(&korea.daemon.done(&["redirects", "--json"]).await).expect("JSON");
    assert_eq!(rows[0]["pool"], SEOUL);
    assert_eq!(rows[0]["phase"], "away");
    assert_eq!(rows[0]["serving"], Value::from(vec![BUSAN]));
    assert_eq!(rows[1]["phase"], "home");
    let page = korea.daemon.done(&["status"]).await;
    assert!(page.contains("its users are on fe-busan"), "{page}");
}

#[tokio::test]
async fn why_tells_the_rules_of_a_pair_and_what_comes_next() {
    let mut korea = Plan::automatic().rule("hold", "\"60s\"").start().await;
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    korea.revive(SEOUL).await;
    korea
        .condition(SEOUL, twinpool::pairing::Condition::Serving)
        .await;
    let page = korea.daemon.done(&["why", PAIR]).await;
    for word in [SEOUL, BUSAN, "automatic", "home pool was lost", "1 min"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    let page = korea.daemon.done(&["why", SEOUL]).await;
    assert!(page.contains(BUSAN) && page.contains("away"), "{page}");
    let unknown = korea.refused(&["why", "ef"]).await;
    assert!(unknown.contains("ef"), "{unknown}");
}

#[tokio::test]
async fn events_tell_the_whole_story_with_its_reasons() {
    let mut korea = Plan::automatic().start().await;
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    korea.revive(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Home).await;
    korea
        .daemon
        .done(&["failover", SEOUL, "--reason", "power work"])
        .await;
    korea
        .daemon
        .done(&["pause", "--reason", "enough for today"])
        .await;
    korea.daemon.done(&["resume"]).await;
    let page = korea.daemon.done(&["events"]).await;
    let mut rest = page.as_str();
    for part in [
        "fe-seoul: serving → degraded",
        "fe-seoul: degraded → lost",
        "fe-seoul: home → away (to fe-busan): the home pool was lost",
        "fe-seoul: away → returning",
        "the home pool was well for",
        "→ home (from fe-busan): all are home again",
        "fe-seoul: home → away (to fe-busan): ordered by",
        "power work",
        "enough for today",
        "automation of pairs goes on",
    ] {
        let at = rest.find(part);
        rest = &rest[at.unwrap_or_else(|| panic!("{part}: {page}"))..];
    }
}
