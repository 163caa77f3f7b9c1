use super::*;
use crate::config;
use crate::pairing::{Decider, Standing};

const FILE: &str = r#"
[pools.one]
role = "mediation"
members.a = "192.0.2.1"
members.b = "192.0.2.2"
services.sip = { listen = "127.0.0.1:5061" }
"#;
const NOW: Time = Time::ZERO;

/// A leader, what it knows, and the other end of the only process that it leads.
fn led() -> (Led, Decider, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let topology = Arc::new(config::parse(FILE, "f").unwrap().config.topology);
    let process = Process::of(FILE, &topology);
    let (led, handles) = (Led::default(), Handles::new(&topology));
    led.lead(&topology, &handles, vec![(process, ours)], NOW);
    let decider = Decider::new(topology, Standing::default(), Vec::new(), 7, NOW);
    (led, decider, theirs)
}

fn heard(theirs: &UnixStream) -> News {
    wire::receive(theirs, Duration::from_secs(30)).unwrap().0
}

fn is_silent(theirs: &UnixStream) -> bool {
    wire::receive::<News>(theirs, Duration::from_millis(50)).is_err()
}

#[test]
fn nobody_is_ended_before_it_is_known_how_things_stand() {
    let (led, decider, theirs) = led();
    let [a, b] = [0, 1].map(|nth| (PoolId(0).member(nth), None));
    let tell = |endings: &[_], after: u64| {
        let now = NOW + Duration::from_millis(after);
        led.tell(!endings.is_empty(), endings, false, now, || {
            decider.legacy()
        });
    };
    tell(&[a], 0);
    assert!(matches!(heard(&theirs), News::Stands(_)));
    assert!(matches!(heard(&theirs), News::End { member, .. } if member == a.0));
    // So soon after that it is told only a little later, and so is who is ended.
    tell(&[b], 10);
    assert!(is_silent(&theirs));
    let due = led.due().unwrap();
    assert_eq!(due, NOW + PAUSE);
    tell(&[], 100);
    assert!(matches!(heard(&theirs), News::Stands(_)));
    assert!(matches!(heard(&theirs), News::End { member, .. } if member == b.0));
    assert_eq!(led.due(), None);
}

#[test]
fn what_found_no_room_is_told_once_there_is() {
    let (led, decider, theirs) = led();
    let tell = |at: usize, endings: &[_]| {
        let now = NOW + PAUSE * at as u32;
        led.tell(true, endings, false, now, || decider.legacy());
    };
    // More than its inbox and the socket hold.
    let a = (PoolId(0).member(0), None);
    for at in 0..WAITING * 20 {
        tell(at, &[a]);
    }
    led.clear(PoolId(0), None, NOW);
    led.stop();
    let reading = std::thread::spawn(move || {
        let (mut stands, mut ends) = (0, 0);
        loop {
            match heard(&theirs) {
                News::Stands(_) => stands += 1,
                News::End { .. } | News::EndDown => ends += 1,
                News::Clear { .. } => {}
                News::Stop => return (stands, ends),
            }
        }
    });
    let mut at = WAITING * 20;
    while !reading.is_finished() {
        at += 1;
        tell(at, &[]);
        std::thread::sleep(Duration::from_millis(5));
    }
    let (stands, ends) = reading.join().unwrap();
    assert!(stands > 0 && ends > 0, "{stands} {ends}");
}

#[tokio::test]
async fn one_that_does_not_read_is_named_and_one_that_does_is_waited_for() {
    let (led, decider, theirs) = led();
    led.tell(true, &[], false, NOW, || decider.legacy());
    assert_eq!(led.flushed().await, Ok(()));
    let pid = led.draining()[0].0;
    for _ in 0..WAITING * 20 {
        led.stop();
    }
    assert_eq!(led.flushed().await, Err(pid));
    drop(theirs);
}

#[tokio::test]
async fn it_is_the_main_process_once_the_one_before_says_so_or_is_gone() {
    use std::io::Write;
    let (led, _, mut theirs) = led();
    let soon = Duration::from_millis(50);
    assert!(timeout(soon, led.is_main()).await.is_err());
    theirs.write_all(&Record::Main.bytes()).unwrap();
    timeout(Duration::from_secs(30), led.is_main())
        .await
        .unwrap();
    let (led, _, theirs) = self::led();
    drop(theirs);
    timeout(Duration::from_secs(30), led.is_main())
        .await
        .unwrap();
    Led::default().is_main().await;
}
