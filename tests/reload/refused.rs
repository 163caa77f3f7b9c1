//! Files that must not be put in force.

use twinpool::observe::status::HomePhase;

use crate::harness::*;
use crate::{reload, write};

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why_everywhere() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let good = Setup::of(&Pool::of([&a]));
    let daemon = Daemon::start(good.clone()).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    let bad = Pool::of([&b]).key("quorun = 3");
    write(&daemon, &Setup::of(&bad));
    let refused = daemon.command(&["reload"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("quorun"), "{refused:?}");
    assert!(
        refused.stderr.contains("quorum"),
        "it says what to write: {refused:?}"
    );
    assert!(daemon.log().contains("quorun"), "{}", daemon.log());
    let status = daemon.done(&["status"]).await;
    assert!(status.contains("RELOAD"), "{status}");
    assert_eq!(client.member().await, "a");
    assert_eq!(served_by(address).await, "a");
    // It is told no longer once a file is in force.
    reload(&daemon, &good).await;
    let status = daemon.done(&["status"]).await;
    assert!(!status.contains("RELOAD"), "{status}");
}

#[tokio::test]
async fn an_address_that_somebody_has_is_refused_with_all_else() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let address = daemon.address().await;
    let taken = Pool::of([&b]).listen(&format!("[\"127.0.0.1:0\", \"{}\"]", a.address()));
    write(&daemon, &Setup::of(&taken));
    let refused = daemon.command(&["reload"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains(&a.address().to_string()),
        "{refused:?}"
    );
    assert_eq!(served_by(address).await, "a");
}

#[tokio::test]
async fn what_only_another_process_can_change_is_refused_with_the_way_to_do_it() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]);
    let daemon = Daemon::start(Setup::of(&pool)).await;
    write(&daemon, &Setup::of(&pool).workers(2));
    let refused = daemon.command(&["reload"]).await;
    assert!(
        refused.stderr.contains("workers in [instance]"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("`twinpool upgrade`"), "{refused:?}");
}

#[tokio::test]
async fn users_who_are_away_keep_their_pair_until_they_are_home() {
    let [s, b] = [Member::start("s").await, Member::start("b").await];
    let pool = |name: &str, site: &str, member: &Member| {
        let pool = Pool::of([member]).named(name);
        pool.key(&format!("site = \"{site}\""))
    };
    let unpaired = Setup::new()
        .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"")
        .pool(&pool("fe-seoul", "seoul", &s))
        .pool(&pool("fe-busan", "busan", &b));
    let pair = "[pairs.korea]\npools = [\"fe-seoul\", \"fe-busan\"]\nramp = \"100ms\"";
    let daemon = Daemon::start(unpaired.clone().text(pair)).await;
    let address = daemon.address_of("fe-seoul", "line").await;
    daemon.done(&["failover", "fe-seoul", "--now"]).await;
    assert_eq!(served_by(address).await, "b");
    write(&daemon, &unpaired);
    let refused = daemon.command(&["reload"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let command = "`twinpool failback fe-seoul --now`";
    assert!(refused.stderr.contains(command), "{refused:?}");
    let path = daemon.config();
    let foretold = daemon
        .command(&["validate", "--diff", path.to_str().expect("a path")])
        .await;
    assert!(foretold.stderr.contains(command), "{foretold:?}");
    // They stay where they are through any other reload.
    reload(
        &daemon,
        &unpaired.clone().text(&format!("{pair}\nafter = \"20s\"")),
    )
    .await;
    assert_eq!(served_by(address).await, "b");
    daemon.done(&["failback", "fe-seoul", "--now"]).await;
    eventually("home", async || {
        let status = daemon.status().await;
        let home = status.pairs[0]
            .pools
            .iter()
            .all(|home| home.phase == HomePhase::Home);
        home.then_some(())
    })
    .await;
    reload(&daemon, &unpaired).await;
    assert_eq!(served_by(address).await, "s");
    assert!(daemon.status().await.pairs.is_empty());
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_neither_traffic_nor_what_is_ordered_next() {
    let a = Member::start("a").await;
    let good = Setup::of(&Pool::of([&a]));
    let daemon = Daemon::start(good.clone()).await;
    let address = daemon.address().await;
    std::fs::remove_file(daemon.config()).expect("removed");
    let made = std::process::Command::new("mkfifo")
        .arg(daemon.config())
        .status();
    assert!(made.expect("mkfifo").success());
    let (refused, served) = tokio::join!(daemon.command(&["reload"]), served_by(address));
    assert_eq!(served, "a");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("look at the disk"), "{refused:?}");
    daemon.done(&["drain", "p/a"]).await;
    std::fs::remove_file(daemon.config()).expect("removed");
    reload(&daemon, &good).await;
}

#[tokio::test]
async fn all_that_is_wrong_is_in_the_log_and_the_first_of_it_in_the_status() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let bad = Pool::of([&a]).key("one = 1\ntwo = 2\nthree = 3");
    write(&daemon, &Setup::of(&bad));
    daemon.signal(rustix::process::Signal::HUP);
    eventually("a refusal", async || {
        let status = daemon.done(&["status"]).await;
        (status.contains("`one`") && status.contains("twinpool.toml:")).then_some(())
    })
    .await;
    let status = daemon.done(&["status"]).await;
    assert!(status.contains("and 2 more"), "{status}");
    let log = daemon.log();
    for told in ["`one`", "`two`", "`three`", "3 errors", "help:"] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_does_not_hold_up_the_control_thread() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let ca = daemon.file("ca.pem");
    let made = std::process::Command::new("mkfifo").arg(&ca).status();
    assert!(made.expect("mkfifo").success());
    let check = format!("{{ kind = \"tls\", verify = \"{}\" }}", ca.display());
    write(&daemon, &Setup::of(&Pool::of([&a]).check(&check)));
    let answered = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        daemon.done(&["status"]).await
    };
    let (refused, status) = tokio::join!(daemon.command(&["reload"]), answered);
    assert!(
        !status.contains("RELOAD"),
        "it was asked meanwhile: {status}"
    );
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("look at the disk"), "{refused:?}");
}

#[tokio::test]
async fn an_address_that_takes_in_one_of_ours_is_refused_with_the_way_to_do_it() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let port = daemon.address().await.port();
    let all = Pool::of([&a]).listen(&format!("\"0.0.0.0:{port}\""));
    write(&daemon, &Setup::of(&all));
    let refused = daemon.command(&["reload"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("only a restart"), "{refused:?}");
    assert_eq!(served_by(daemon.address().await).await, "a");
}

#[tokio::test]
async fn that_an_address_takes_in_one_of_ours_is_foretold_and_holds_for_an_upgrade_too() {
    let a = Member::start("a").await;
    let address = free_address();
    let at = |address: String| Setup::of(&Pool::of([&a]).listen(&format!("\"{address}\"")));
    let daemon = Daemon::start(at(address.to_string())).await;
    write(&daemon, &at(format!("0.0.0.0:{}", address.port())));
    let path = daemon.config();
    let path = path.to_str().expect("a path");
    for command in [&["validate", "--diff", path][..], &["upgrade"]] {
        let refused = daemon.command(command).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("only a restart"), "{refused:?}");
    }
    assert_eq!(served_by(address).await, "a");
}
