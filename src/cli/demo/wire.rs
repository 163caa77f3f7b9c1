//! The little HTTP/1.1 that the demo's clients and members speak, and nothing more.
//!
//! A request carries its number, so that members can say afterwards which requests were in their
//! hands; an answer carries the name of the member that gave it.

use std::rc::Rc;

/// No message is longer; whoever sends more is not one of ours.
pub(super) const LONGEST: usize = 8 * 1024;

/// A request as a member reads it. Checks carry no number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) number: Option<u64>,
    pub(super) keep_alive: bool,
}

/// What came was not an answer of the demo's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strange;

/// The bytes of request `number`.
pub(super) fn request(number: u64, keep_alive: bool) -> Vec<u8> {
    let connection = connection(keep_alive);
    format!(
        "GET /work HTTP/1.1\r\nHost: demo\r\nRequest: {number}\r\nConnection: {connection}\r\n\r\n"
    )
    .into_bytes()
}

/// The bytes of an answer by `member`.
pub(super) fn answer(member: &str, keep_alive: bool) -> Vec<u8> {
    let connection = connection(keep_alive);
    let body = format!("{member} is well\n");
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nMember: {member}\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn connection(keep_alive: bool) -> &'static str {
    if keep_alive { "keep-alive" } else { "close" }
}

/// Takes the first whole request out of `bytes`; none while it is not whole.
pub(super) fn take_request(bytes: &mut Vec<u8>) -> Option<Request> {
    let end = end_of_head(bytes)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    bytes.drain(..end);
    Some(Request {
        number: field(&head, "request").and_then(|number| number.parse().ok()),
        keep_alive: !field(&head, "connection").is_some_and(|c| c.eq_ignore_ascii_case("close")),
    })
}

/// Takes the first whole answer out of `bytes`, and tells which member gave it; none while it is
/// not whole.
pub(super) fn take_answer(bytes: &mut Vec<u8>) -> Result<Option<Rc<str>>, Strange> {
    let Some(end) = end_of_head(bytes) else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(Strange);
    }
    let length = field(&head, "content-length").and_then(|length| length.parse::<usize>().ok());
    let (Some(member), Some(length)) = (field(&head, "member"), length) else {
        return Err(Strange);
    };
    if length > LONGEST {
        return Err(Strange);
    }
    if bytes.len() < end + length {
        return Ok(None);
    }
    bytes.drain(..end + length);
    Ok(Some(member.into()))
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written_and_only_once() {
        let mut bytes = request(42, true);
        bytes.extend(request(43, false));
        let first = take_request(&mut bytes);
        let second = take_request(&mut bytes);
        assert_eq!(
            (first, second),
            (
                Some(Request {
                    number: Some(42),
                    keep_alive: true
                }),
                Some(Request {
                    number: Some(43),
                    keep_alive: false
                })
            )
        );
        assert_eq!(take_request(&mut bytes), None);
    }

    #[test]
    fn a_check_carries_no_number() {
        let mut bytes = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
        let read = take_request(&mut bytes).expect("it is whole");
        assert_eq!(read.number, None);
        assert!(read.keep_alive);
    }

    #[test]
    fn an_answer_counts_only_when_it_is_whole() {
        let whole = answer("web1", true);
        for cut in 0..whole.len() {
            let mut part = whole[..cut].to_vec();
            assert_eq!(take_answer(&mut part), Ok(None), "cut at {cut}");
        }
        let mut bytes = whole;
        assert_eq!(take_answer(&mut bytes), Ok(Some("web1".into())));
        assert!(bytes.is_empty());
    }

    #[test]
    fn what_no_member_of_ours_says_is_strange() {
        for text in [
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nMember: web1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nMember: web1\r\nContent-Length: 99999999\r\n\r\n",
        ] {
            assert_eq!(take_answer(&mut text.as_bytes().to_vec()), Err(Strange));
        }
    }
}
