use super::status_line::{MAX_HEAD, Progress};
use super::transcript::MAX_TRANSCRIPT;
use super::*;
use crate::health::{Answer, Failure, OwnFault};
use crate::topology::HttpCheck;
use proptest::prelude::*;

fn http(status: std::ops::RangeInclusive<u16>) -> CheckKind {
    CheckKind::Http(HttpCheck {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: None,
        status,
    })
}

#[test]
fn every_finding_has_its_judgement() {
    use Finding::*;
    let bad = Answer::Bad;
    let any_kind = [
        (ConnectFailed(bad(Failure::Refused)), bad(Failure::Refused)),
        (
            ConnectFailed(bad(Failure::Unreachable)),
            bad(Failure::Unreachable),
        ),
        (
            ConnectFailed(Answer::OwnFault(OwnFault::SourcePorts)),
            Answer::OwnFault(OwnFault::SourcePorts),
        ),
        (ConnectTimedOut, bad(Failure::ConnectTimeout)),
        (Silence, bad(Failure::NoAnswer)),
        (NeverHeard, bad(Failure::Silent)),
        (Closed, bad(Failure::Closed)),
        (Garbled, bad(Failure::Garbled)),
        (Untrusted, bad(Failure::Certificate)),
        (Own(OwnFault::Memory), Answer::OwnFault(OwnFault::Memory)),
        (Life, Answer::Good),
    ];
    for kind in [
        CheckKind::Tcp,
        CheckKind::Tls,
        http(200..=399),
        CheckKind::Sip,
        CheckKind::Stun,
    ] {
        for (finding, answer) in any_kind {
            assert_eq!(judge(&kind, &finding), answer, "{kind:?} {finding:?}");
        }
    }
    let statuses = [
        (http(200..=399), 200, Answer::Good),
        (http(200..=399), 399, Answer::Good),
        (http(200..=399), 400, bad(Failure::Status(400))),
        (http(200..=399), 502, bad(Failure::Status(502))),
        (http(200..=399), 503, bad(Failure::Unavailable)),
        (http(204..=204), 200, bad(Failure::Status(200))),
        (http(500..=599), 503, Answer::Good),
        (CheckKind::Sip, 200, Answer::Good),
        (CheckKind::Sip, 483, Answer::Good),
        (CheckKind::Sip, 503, bad(Failure::Unavailable)),
        (CheckKind::Sip, 504, Answer::Good),
    ];
    for (kind, status, answer) in statuses {
        assert_eq!(judge(&kind, &Status(status)), answer, "{kind:?} {status}");
    }
}

#[test]
fn errors_of_a_connection_that_stood_are_sorted() {
    use rustix::io::Errno;
    let table = [
        (Errno::CONNRESET, Finding::Closed),
        (Errno::PIPE, Finding::Closed),
        (Errno::TIMEDOUT, Finding::Silence),
        (Errno::HOSTUNREACH, Finding::Silence),
        (Errno::NETUNREACH, Finding::Silence),
        (Errno::NOMEM, Finding::Own(OwnFault::Memory)),
        (Errno::NOBUFS, Finding::Own(OwnFault::Memory)),
    ];
    for (errno, finding) in table {
        assert_eq!(finding::broken(&errno.into()), finding, "{errno}");
    }
}

#[test]
fn a_host_header_names_the_port_unless_it_goes_without_saying() {
    let check = |host: Option<&str>| HttpCheck {
        method: "HEAD".to_owned(),
        path: "/x".to_owned(),
        host: host.map(str::to_owned),
        status: 200..=200,
    };
    let table = [
        (None, "10.0.0.1", 80, false, "10.0.0.1"),
        (None, "10.0.0.1", 443, true, "10.0.0.1"),
        (None, "10.0.0.1", 443, false, "10.0.0.1:443"),
        (None, "[2001:db8::1]", 8080, false, "[2001:db8::1]:8080"),
        (Some("web.example"), "10.0.0.1", 8080, false, "web.example"),
    ];
    for (host, member, port, secure, expected) in table {
        let request = http::request(&check(host), member, port, secure);
        let expected = format!("HEAD /x HTTP/1.1\r\nHost: {expected}\r\n");
        assert!(request.starts_with(&expected), "{request}");
    }
}

#[test]
fn the_head_of_an_answer_is_bounded() {
    let mut line = StatusLine::new(Protocol::Http);
    assert_eq!(line.feed(b"HTTP/1.1 200 "), Progress::More);
    let rest = MAX_HEAD - b"HTTP/1.1 200 ".len();
    assert_eq!(line.feed(&vec![b'x'; rest - 1]), Progress::More);
    assert_eq!(line.feed(b"x"), Progress::Garbled);
}

#[test]
fn a_huge_body_of_a_provisional_answer_is_never_waited_for() {
    let mut line = StatusLine::new(Protocol::Sip);
    let start = b"SIP/2.0 100 Trying\r\nContent-Length: 99999999999999999999\r\n\r\n";
    // A length that is no number counts as none: what follows is the next answer.
    assert_eq!(line.feed(start), Progress::More);
    assert_eq!(line.feed(b"SIP/2.0 200 OK\r\n"), Progress::Final(200));
    let mut line = StatusLine::new(Protocol::Sip);
    let start = b"SIP/2.0 100 Trying\r\nContent-Length: 999999999\r\n\r\n";
    assert_eq!(line.feed(start), Progress::More);
    assert_eq!(line.feed(&[b'x'; MAX_HEAD]), Progress::Garbled);
}

#[test]
fn a_transcript_is_bounded_and_shows_no_control_characters() {
    let mut transcript = Transcript::new(Instant::now());
    for _ in 0..100 {
        transcript.say(format_args!("né\x1b[31m\u{9b}\r\n"));
    }
    transcript.hears(&[0xff; 1000]);
    transcript.heard_all(false);
    let text = transcript.finish();
    assert!(
        text.len() <= MAX_TRANSCRIPT && text.ends_with('…'),
        "{text}"
    );
    assert!(!text.contains(char::is_control));
}

#[test]
fn a_long_answer_is_quoted_in_part() {
    let mut transcript = Transcript::new(Instant::now());
    transcript.hears(&[b'x'; 1000]);
    transcript.heard_all(false);
    let expected = format!("; got \"{}…\" after ", "x".repeat(80));
    let text = transcript.finish();
    assert!(text.starts_with(&expected), "{text}");
}

proptest! {
    /// However an answer is cut into pieces, it means the same; and nothing makes it panic or grow.
    #[test]
    fn pieces_do_not_change_what_an_answer_means(
        rest in proptest::collection::vec(any::<u8>(), 0..200),
        start in prop_oneof![
            Just(&b""[..]),
            Just(&b"HTTP/1.1 200 OK\r\n"[..]),
            Just(&b"HTTP/1.1 100 \r\na: b\r\n\r\nHTTP/1.0 503 No\r\n"[..]),
            Just(&b"SIP/2.0 100 Trying\r\nl: 5\r\n\r\nHello"[..]),
            Just(&b"SIP/2.0 180\r\nContent-Length : 0\r\n\r\nSIP/2.0 404 No\r\n"[..]),
        ],
        pieces in proptest::collection::vec(1_usize..20, 1..20),
        sip in any::<bool>(),
    ) {
        let protocol = if sip { Protocol::Sip } else { Protocol::Http };
        let bytes = [start, &rest].concat();
        let whole = StatusLine::new(protocol).feed(&bytes);
        let mut line = StatusLine::new(protocol);
        let mut left = &bytes[..];
        let mut sizes = pieces.iter().cycle();
        let mut last = Progress::More;
        while let (false, Progress::More) = (left.is_empty(), last) {
            let n = left.len().min(*sizes.next().expect("it cycles"));
            last = line.feed(&left[..n]);
            left = &left[n..];
        }
        prop_assert_eq!(last, if bytes.is_empty() { Progress::More } else { whole });
        if let Progress::Final(status) = last {
            prop_assert!((200..=999).contains(&status));
        }
    }
}
