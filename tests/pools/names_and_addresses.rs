//! Members by name, listeners by address.

use std::net::{IpAddr, Ipv4Addr};

use crate::harness::*;

#[tokio::test]
async fn a_member_may_be_given_by_name() {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let a = Member::start_at("a", localhost, Speaks::Lines).await;
    let pool = Pool::of([]).member_at(&a, "localhost", "");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    // The name may stand for ::1 too, where nobody is.
    eventually("the right address", async || {
        let target = daemon.member("a").await.services.remove(0);
        (target.verdict == twinpool::health::Verdict::Up).then_some(())
    })
    .await;
    assert_eq!(served_by(address).await, "a");
    let target = daemon.member("a").await.services.remove(0);
    assert_eq!(target.address, Some(a.address()));
    assert_eq!(target.endpoint, format!("localhost:{}", a.address().port()));
}

#[tokio::test]
async fn a_member_whose_name_means_nothing_does_not_keep_the_others_from_serving() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a]).member_at(&b, "no-such-host.invalid", "");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    for _ in 0..10 {
        assert_eq!(served_by(daemon.address().await).await, "a");
    }
}

#[tokio::test]
async fn a_service_may_listen_on_several_addresses_of_both_families() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).listen(r#"["127.0.0.1:0", "[::1]:0"]"#);
    let daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let status = daemon.status().await;
    let listen = status.pool("p").expect("the pool").services[0]
        .listen
        .clone();
    assert_eq!(listen.len(), 2, "{listen:?}");
    assert!(listen[0].is_ipv4() && listen[1].is_ipv6(), "{listen:?}");
    for address in listen {
        assert_eq!(served_by(address).await, "a");
    }
}

#[tokio::test]
async fn a_member_may_be_reached_over_ipv6() {
    let localhost = "::1".parse().expect("an address");
    let a = Member::start_at("a", localhost, Speaks::Lines).await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    assert_eq!(served_by(daemon.address().await).await, "a");
}

#[tokio::test]
async fn a_listener_may_stand_on_an_address_that_is_not_here_yet() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).listen(r#"["127.0.0.1:0", "192.0.2.1:5061", "[2001:db8::1]:5061"]"#);
    let daemon = Daemon::start(Setup::of(&pool)).await;
    assert_eq!(served_by(daemon.address().await).await, "a");
}
