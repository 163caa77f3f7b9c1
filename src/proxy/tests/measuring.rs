//! What a worker measures of its sessions.

use super::*;
use crate::observe::histogram::{ConnectTimes, Distribution, LagTimes, SessionTimes};
use crate::topology::MemberId;

impl Bench {
    fn waits(&self) -> Distribution {
        ConnectTimes::total([&self.service().waits].into_iter())
    }

    fn connects(&self, member: MemberId) -> Distribution {
        ConnectTimes::total([&self.counters.member(member).connects].into_iter())
    }

    fn lasted(&self, member: MemberId) -> [Distribution; 2] {
        let of_service = SessionTimes::total([&self.service().lasted].into_iter());
        let member = &self.counters.member(member).lasted;
        [of_service, SessionTimes::total([member].into_iter())]
    }
}

#[tokio::test]
async fn a_session_is_measured_from_its_wait_to_its_end_for_service_and_member() {
    let home = Member::named("home").await;
    let twin = Member::named("twin").await;
    let bench = Bench::new(&[&home], &[&twin], Phase::Home);
    let member = HOME.member(0);
    let before = std::time::Instant::now();
    let (mut client, _) = bench.served().await;
    assert_eq!(
        (bench.waits().count(), bench.connects(member).count()),
        (1, 1)
    );
    assert!(bench.waits().sum >= bench.connects(member).sum);
    assert!(bench.connects(member).sum > 0.0);
    assert!(lives(&mut client).await);
    for lasted in bench.lasted(member) {
        assert_eq!(lasted.count(), 0, "it is not over");
    }
    sleep(Duration::from_millis(20)).await;
    drop(client);
    bench.counted(|b| &b.service().ended, 1).await;
    let took = before.elapsed().as_secs_f64();
    for lasted in bench.lasted(member) {
        assert_eq!(lasted.count(), 1);
        assert!((0.02..=took).contains(&lasted.sum), "{lasted:?} of {took}");
    }
    let (service, of_member) = (bench.service(), bench.counters.member(member));
    assert_eq!(service.bytes_in.get(), "echo".len() as u64);
    assert_eq!(of_member.bytes_in.get(), service.bytes_in.get());
    assert_eq!(service.bytes_out.get(), "homeecho".len() as u64);
    assert_eq!(of_member.bytes_out.get(), service.bytes_out.get());
}

#[tokio::test]
async fn what_a_silent_member_cost_a_client_is_its_wait_and_not_another_members_connect() {
    let (silent, _held) = Member::silent().await;
    let (home, twin) = (Member::named("home").await, Member::named("twin").await);
    let bench = Bench::with(&[&silent, &home], &[&twin], Phase::Home, |topology| {
        quick(topology);
        topology.pools[HOME.index()].services[0].balance = Policy::RoundRobin;
    });
    for _ in 0..2 {
        // One of the two begins with the silent one.
        assert_eq!(bench.served().await.1, "home");
    }
    assert!(bench.waits().sum >= 0.05, "{:?}", bench.waits());
    assert_eq!(bench.connects(HOME.member(0)).count(), 0);
    let quick = bench.connects(HOME.member(1));
    assert_eq!(quick.count(), 2);
    assert!(quick.sum <= bench.waits().sum - 0.05, "{quick:?}");
}

#[tokio::test]
async fn a_client_that_is_refused_is_in_no_histogram() {
    let (home, twin) = (Member::refusing(), Member::refusing());
    let bench = Bench::new(&[&home], &[&twin], Phase::Home);
    assert!(bench.turns_away().await);
    bench.counted(|b| &b.service().ended, 1).await;
    assert_eq!(bench.waits().count(), 0);
    let [of_service, of_member] = bench.lasted(HOME.member(0));
    assert_eq!((of_service.count(), of_member.count()), (0, 0));
}

#[tokio::test]
async fn every_tick_of_a_worker_is_in_the_histogram_of_its_lag() {
    let home = Member::named("home").await;
    let twin = Member::named("twin").await;
    let bench = Bench::new(&[&home], &[&twin], Phase::Home);
    let ticks = || LagTimes::total([&**bench.counters.lag].into_iter()).count();
    let ticked = async {
        while ticks() < 3 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ticked).await.expect("in time");
}
