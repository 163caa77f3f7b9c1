//! Starting, stopping, and what is said when that is not possible.

use std::net::TcpListener;

use rustix::process::Signal;
use twinpool::observe::RunState;

use crate::harness::*;

#[tokio::test]
async fn told_to_stop_it_keeps_its_sessions_and_exits_when_they_end() {
    let a = Member::start("a").await;
    let mut daemon = Daemon::start(Setup::of(&Pool::of([&a])).workers(2)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    daemon.signal(Signal::TERM);
    eventually("the listeners to close", async || {
        Client::try_connect(address).await.is_err().then_some(())
    })
    .await;
    assert_eq!(daemon.status().await.state, RunState::Draining);
    assert_eq!(client.member().await, "a");
    assert_eq!(client.ask("end").await, "bye");
    assert_eq!(client.ended().await, Ended::Orderly);
    drop(client);
    assert_eq!(daemon.exited().await.code(), Some(0), "{}", daemon.log());
    assert!(!daemon.socket().exists());
}

#[tokio::test]
async fn told_twice_to_stop_it_does_not_wait_for_sessions() {
    let a = Member::start("a").await;
    let mut daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    daemon.signal(Signal::TERM);
    eventually("the listeners to close", async || {
        Client::try_connect(address).await.is_err().then_some(())
    })
    .await;
    daemon.signal(Signal::TERM);
    assert_eq!(client.ended().await, Ended::Reset);
    assert_eq!(daemon.exited().await.code(), Some(0));
}

#[tokio::test]
async fn told_to_stop_it_resets_what_is_left_at_the_deadline() {
    let a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).instance("stop_deadline = \"300ms\"");
    let mut daemon = Daemon::start(setup).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    daemon.signal(Signal::TERM);
    assert_eq!(client.ended().await, Ended::Reset);
    assert_eq!(daemon.exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_wrong_configuration_is_told_whole_and_exits_78() {
    let dir = Scratch::new();
    let config = dir.write(
        "twinpool.toml",
        r#"
[instance]
state_dri = "/tmp"
[pools.p]
role = "front-ned"
[pools.p.members]
a = "127.0.0.1"
[pools.p.services.sip]
listen = "127.0.0.1:0"
[pools.q]
role = "mediation"
members.a = "127.0.0.1"
[pools.q.services.sip]
listen = "127.0.0.1:0"
idle_timeout = "30"
"#,
    );
    let config = config.to_str().expect("a path in UTF-8");
    for task in ["run", "validate"] {
        let finished = twinpool(&[task, config]).await;
        assert_eq!(finished.code, Some(78), "{task}: {finished:?}");
        let told = &finished.stderr;
        for place in ["toml:3:", "toml:5:", "toml:15:"] {
            assert!(told.contains(place), "{task}: {place}: {told}");
        }
        for word in ["`state_dir`", "`front-end`", "30s", "3 errors"] {
            assert!(told.contains(word), "{task}: {word}: {told}");
        }
    }
    let missing = dir.path().join("none.toml");
    let missing = missing.to_str().expect("a path in UTF-8");
    for task in ["run", "validate"] {
        let finished = twinpool(&[task, missing]).await;
        assert_eq!(finished.code, Some(78), "{task}: {finished:?}");
        assert!(finished.stderr.contains(missing), "{task}: {finished:?}");
    }
}

#[tokio::test]
async fn a_good_configuration_is_validated_with_its_worst_case() {
    let a = Member::start("a").await;
    let dir = Scratch::new();
    let setup = Setup::of(&Pool::of([&a]));
    let config = dir.write("twinpool.toml", &setup.toml(dir.path()));
    let finished = twinpool(&["validate", config.to_str().expect("a path in UTF-8")]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains('p'), "{finished:?}");
}

#[tokio::test]
async fn commands_without_a_daemon_exit_69_and_wrong_usage_2() {
    let dir = Scratch::new();
    let socket = dir.path().join("control.sock");
    let socket = socket.to_str().expect("a path in UTF-8");
    for task in [&["status"][..], &["why", "p"], &["drain", "p/a"]] {
        let finished = twinpool(&[task, &["--socket", socket]].concat()).await;
        assert_eq!(finished.code, Some(69), "{finished:?}");
        assert!(finished.stderr.contains(socket), "{finished:?}");
    }
    let finished = twinpool(&["stauts"]).await;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("status"), "{finished:?}");
}

#[tokio::test]
async fn a_second_daemon_on_the_same_socket_is_refused() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let config = daemon.config();
    let second = twinpool(&["run", config.to_str().expect("a path in UTF-8")]).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("another twinpool"), "{second:?}");
    let socket = daemon.socket();
    assert!(
        second
            .stderr
            .contains(socket.to_str().expect("a path in UTF-8"))
    );
    assert_eq!(served_by(daemon.address().await).await, "a");
    assert_eq!(daemon.status().await.state, RunState::Serving);
}

#[tokio::test]
async fn ports_in_use_are_refused_each_by_name() {
    let a = Member::start("a").await;
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [one, other] = taken
        .each_ref()
        .map(|listener| listener.local_addr().expect("its number"));
    let pool = Pool::of([&a]).listen(&format!("[\"{one}\", \"{other}\"]"));
    let dir = Scratch::new();
    let config = dir.write("twinpool.toml", &Setup::of(&pool).toml(dir.path()));
    let finished = twinpool(&["run", config.to_str().expect("a path in UTF-8")]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    for told in [one.to_string(), other.to_string(), "p/line".to_owned()] {
        assert!(finished.stderr.contains(&told), "{told}: {finished:?}");
    }
}

#[tokio::test]
async fn a_port_of_another_daemon_is_not_shared_with_it() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let address = daemon.address().await;
    let pool = Pool::of([&b]).listen(&format!("\"{address}\""));
    let dir = Scratch::new();
    let config = dir.write("twinpool.toml", &Setup::of(&pool).toml(dir.path()));
    let second = twinpool(&["run", config.to_str().expect("a path in UTF-8")]).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains(&address.to_string()), "{second:?}");
    for _ in 0..10 {
        assert_eq!(served_by(address).await, "a");
    }
}

#[tokio::test]
async fn a_restart_on_the_same_port_is_not_hindered_by_old_sessions() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).listen(&format!("\"{}\"", free_address()));
    let mut daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.ask("end").await, "bye");
    let mut open = Client::connect(address).await;
    assert_eq!(open.member().await, "a");
    daemon.kill().await;
    daemon.start_again().await;
    assert_eq!(daemon.address().await, address);
    assert_eq!(served_by(address).await, "a");
}
