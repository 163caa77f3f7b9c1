//! Many flows that end together.

use tokio::runtime::LocalOptions;
use tokio::task::{spawn_local, yield_now};

use super::super::super::Which;
use super::super::super::worker::{Inbox, Worker};
use super::super::ENDS;
use super::super::flow::END_AT_ONCE;
use super::*;

const MANY: usize = 600;

/// Lets the worker take its turns until it is so. The clock stands still meanwhile.
async fn so(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        yield_now().await;
    }
}

#[test]
fn many_flows_end_a_few_at_a_time_and_who_sends_meanwhile_is_with_another_member() {
    let descriptors = crate::proxy::raise_descriptor_limit();
    if descriptors < 3 * MANY as u64 {
        eprintln!("skipped: the hard limit on descriptors is {descriptors} (`ulimit -Hn`)");
        return;
    }
    let (dying, living) = (Party::new(), Party::new());
    let (rig, plan) = Rig::planned(&[&dying, &living], &[], 1_000, |topology| {
        topology.pools[HOME.index()].services[0].balance = Policy::First;
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(async {
        let (messages, inbox) = mpsc::channel(8);
        let running = spawn_local(Worker::run(plan, inbox));
        let (service, udp) = (rig.service(), rig.udp());
        let mut clients = Vec::new();
        for n in 0..MANY {
            let client = rig.client();
            client.send(b"first");
            so("a question", || udp.datagrams_in.get() == n as u64 + 1).await;
            let flow = dying.hears(b"first");
            // The last but one waits for an answer that never comes.
            if n != MANY - 2 {
                let before = udp.datagrams_out.get();
                dying.answer(b"here", flow);
                so("an answer", || udp.datagrams_out.get() > before).await;
                client.hears(b"here");
            }
            clients.push(client);
        }

        let began = tokio::time::Instant::now();
        let down = Arc::new(rig.snapshot(Phase::Home, &[HOME.member(0)]));
        for message in [ToWorker::Publish(down), ToWorker::End(Which::Down)] {
            messages.send(Inbox::News(message)).await.expect("a worker");
        }
        so("the first ends", || service.ended.get() > 0).await;
        let mut ended = service.ended.get() as usize;
        assert!(ended <= END_AT_ONCE + ENDS, "{ended} at once");
        // Its end is the last that is due.
        clients[MANY - 1].send(b"second");
        let mut answered = false;
        while service.ended.get() < MANY as u64 - 1 {
            yield_now().await;
            let more = service.ended.get() as usize - ended;
            assert!(more <= 2 * ENDS + 1, "{more} in one go");
            ended += more;
            if !answered && udp.datagrams_in.get() > MANY as u64 {
                living.hears(b"second");
                assert!(ended < MANY - 1, "it waited for none of the others");
                answered = true;
            }
        }
        assert!(answered);
        // Who waited for the dead one is with the other one, with what it sent.
        living.hears(b"first");
        for client in &clients[..MANY - 2] {
            let before = udp.datagrams_in.get();
            client.send(b"third");
            so("the next", || udp.datagrams_in.get() > before).await;
            living.hears(b"third");
        }
        assert_eq!(udp.moved.get(), MANY as u64 - 1);
        assert_eq!(service.ended_by_us.get(), MANY as u64 - 1);
        assert_eq!(rig.handles.member(HOME.member(0)).load(), 0);
        assert_eq!(rig.handles.member(HOME.member(1)).load(), MANY as u32);
        assert_eq!(began.elapsed(), Duration::ZERO, "no tick was waited for");
        drop(messages);
        running.await.expect("no panic");
    });
}
