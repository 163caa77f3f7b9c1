use super::*;
use std::future::Future;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

fn locally(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime")
        .block_on(async { timeout(SOON, test).await.expect("in time") });
}

async fn ask(stream: &mut TcpStream, number: u64) -> io::Result<Option<Rc<str>>> {
    stream.write_all(&wire::request(number, true)).await?;
    answered(stream).await
}

async fn answered(stream: &mut TcpStream) -> io::Result<Option<Rc<str>>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(member) = wire::take_answer(&mut bytes).expect("an answer") {
            return Ok(Some(member));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

#[test]
fn a_member_answers_request_after_request() {
    locally(async {
        let member = Member::start("web1").expect("started");
        let mut stream = TcpStream::connect(member.address()).await.expect("open");
        for number in [7, 8] {
            let by = ask(&mut stream, number).await.expect("asked");
            assert_eq!(by.as_deref(), Some("web1"));
            assert!(member.heard(number));
        }
        assert!(!member.heard(9));
    });
}

#[test]
fn a_dead_member_resets_what_it_held_and_refuses_what_comes() {
    locally(async {
        let member = Member::start("web1").expect("started");
        let mut stream = TcpStream::connect(member.address()).await.expect("open");
        ask(&mut stream, 1).await.expect("asked");
        member.kill().await;
        let end = stream.read(&mut [0; 16]).await.expect_err("a reset");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        let refused = TcpStream::connect(member.address()).await;
        assert_eq!(
            refused.expect_err("refused").kind(),
            ErrorKind::ConnectionRefused
        );
    });
}

#[test]
fn a_connection_that_the_kernel_accepted_for_a_hung_member_dies_with_it() {
    locally(async {
        let member = Member::start("web1").expect("started");
        member.hang();
        tokio::task::yield_now().await;
        let mut waiting = TcpStream::connect(member.address()).await.expect("open");
        waiting
            .write_all(&wire::request(5, true))
            .await
            .expect("sent");
        let silent = TcpStream::connect(member.address()).await.expect("open");
        member.kill().await;
        let end = waiting.read(&mut [0; 16]).await.expect_err("a reset");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        assert!(member.heard(5), "it was in its hands");
        assert_eq!(member.unheard(), 1);
        drop(silent);
    });
}

#[test]
fn a_member_returns_on_its_port() {
    locally(async {
        let member = Member::start("web1").expect("started");
        let address = member.address();
        member.kill().await;
        member.heal().await.expect("healed");
        assert_eq!(member.address(), address);
        let mut stream = TcpStream::connect(address).await.expect("open");
        assert!(ask(&mut stream, 1).await.expect("asked").is_some());
    });
}

#[test]
fn a_hung_member_answers_what_it_was_sent_when_it_goes_on() {
    locally(async {
        let member = Member::start("web1").expect("started");
        let mut stream = TcpStream::connect(member.address()).await.expect("open");
        ask(&mut stream, 1).await.expect("asked");
        member.hang();
        tokio::task::yield_now().await;
        stream
            .write_all(&wire::request(2, true))
            .await
            .expect("sent");
        let quiet = timeout(Duration::from_millis(50), stream.read(&mut [0; 16])).await;
        assert!(quiet.is_err(), "a hung member says nothing");
        assert!(!member.heard(2));
        member.heal().await.expect("healed");
        let by = answered(&mut stream).await.expect("an answer");
        assert_eq!(by.as_deref(), Some("web1"));
        assert!(member.heard(2));
    });
}

#[test]
fn a_hung_member_learns_of_requests_whose_connection_is_already_reset() {
    locally(async {
        let member = Member::start("web1").expect("started");
        member.hang();
        tokio::task::yield_now().await;
        let mut stream = TcpStream::connect(member.address()).await.expect("open");
        stream
            .write_all(&wire::request(3, true))
            .await
            .expect("sent");
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .expect("linger");
        drop(stream);
        member.heal().await.expect("healed");
        while !member.heard(3) {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn only_the_last_requests_are_remembered() {
    let mut heard = Heard::default();
    for number in 0..MOST_REMEMBERED as u64 + 2 {
        heard.note(number);
    }
    assert_eq!(heard.numbers.len(), MOST_REMEMBERED);
    assert!(!heard.numbers.contains(&1) && heard.numbers.contains(&2));
}

#[test]
fn one_that_is_cut_off_is_silent_to_what_it_had_and_to_what_comes() {
    locally(async {
        let member = Member::start("web1").expect("started");
        let mut stream = TcpStream::connect(member.address()).await.expect("open");
        ask(&mut stream, 1).await.expect("asked");
        member.cut().expect("cut off");
        let connect = TcpStream::connect(member.address());
        let come = timeout(Duration::from_millis(100), connect).await;
        assert!(come.is_err(), "a connect is met with silence");
        stream
            .write_all(&wire::request(2, true))
            .await
            .expect("sent");
        let said = timeout(Duration::from_millis(50), stream.read(&mut [0; 16])).await;
        assert!(said.is_err(), "what it had says nothing any more");
        assert!(!member.heard(2));
    });
}

#[test]
fn one_that_was_cut_off_returns_without_what_it_had() {
    locally(async {
        let member = Member::start("web1").expect("started");
        let mut stream = TcpStream::connect(member.address()).await.expect("open");
        ask(&mut stream, 1).await.expect("asked");
        member.cut().expect("cut off");
        stream
            .write_all(&wire::request(2, true))
            .await
            .expect("sent");
        member.heal().await.expect("healed");
        let end = stream.read(&mut [0; 16]).await.expect_err("a reset");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        assert!(member.heard(2), "it was in its hands");
        assert_eq!(member.unheard(), 0, "the demo's own plugs are no clients");
        let mut stream = TcpStream::connect(member.address()).await.expect("open");
        assert!(ask(&mut stream, 3).await.expect("asked").is_some());
    });
}
