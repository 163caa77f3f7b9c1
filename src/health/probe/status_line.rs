//! Finds the status of an HTTP/1 or SIP answer in what a peer sends, byte by byte if it must.
//!
//! Provisional answers (1xx) are skipped with their headers and, for SIP, their bodies. Everything
//! is bounded by [`MAX_HEAD`]: whoever needs more before a final status does not speak the protocol.

/// The most that is read before a final status, in bytes: a status line, after a few provisional
/// answers at most.
pub(super) const MAX_HEAD: usize = 4096;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Sip,
}

/// What is known after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It may still become an answer.
    More,
    /// A final status, 200 to 999.
    Final(u16),
    /// It is not the protocol.
    Garbled,
}

/// A status line that is coming in.
#[derive(Debug)]
pub(super) struct StatusLine {
    protocol: Protocol,
    /// All that has come, at most [`MAX_HEAD`].
    head: Vec<u8>,
    /// Where the answer at hand begins, after provisional ones.
    start: usize,
}

impl StatusLine {
    pub(super) fn new(protocol: Protocol) -> StatusLine {
        StatusLine {
            protocol,
            head: Vec::new(),
            start: 0,
        }
    }

    /// Takes more bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Progress {
        let room = MAX_HEAD - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        loop {
            self.skip_blank_lines();
            let line = self.line();
            let progress = match self.protocol.status(line, self.line_is_whole()) {
                Some(Ok(100..=199)) => match self.end_of_message() {
                    Some(end) => {
                        self.start = end;
                        continue;
                    }
                    None => Progress::More,
                },
                Some(Ok(status)) => Progress::Final(status),
                Some(Err(NotTheProtocol)) => Progress::Garbled,
                None => Progress::More,
            };
            return match progress {
                Progress::More if self.head.len() == MAX_HEAD => Progress::Garbled,
                progress => progress,
            };
        }
    }

    /// The status line at hand as far as it has come, without its line end.
    pub(super) fn line(&self) -> &[u8] {
        let rest = &self.head[self.start..];
        let end = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        let line = &rest[..end];
        line.strip_suffix(b"\r").unwrap_or(line)
    }

    fn line_is_whole(&self) -> bool {
        self.head[self.start..].contains(&b'\n')
    }

    /// Both protocols tolerate empty lines before a start line (RFC 3261 section 7.5, RFC 9112
    /// section 2.2).
    fn skip_blank_lines(&mut self) {
        let rest = &self.head[self.start..];
        self.start += rest
            .iter()
            .take_while(|b| matches!(b, b'\r' | b'\n'))
            .count();
    }

    /// Where the message at hand ends, once its headers and body are in.
    fn end_of_message(&self) -> Option<usize> {
        let rest = &self.head[self.start..];
        let headers = rest.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let body = match self.protocol {
            Protocol::Http => 0,
            Protocol::Sip => content_length(&rest[..headers]),
        };
        let end = self.start + headers + body;
        (end <= self.head.len()).then_some(end)
    }
}

struct NotTheProtocol;

impl Protocol {
    /// The status in `line`, as soon as it can be told.
    fn status(self, line: &[u8], whole: bool) -> Option<Result<u16, NotTheProtocol>> {
        let versions: &[&[u8]] = match self {
            Protocol::Http => &[b"HTTP/1.1 ", b"HTTP/1.0 "],
            Protocol::Sip => &[b"SIP/2.0 "],
        };
        let fits = |version: &&&[u8]| {
            let known = line.len().min(version.len());
            line[..known].eq_ignore_ascii_case(&version[..known])
        };
        let Some(version) = versions.iter().find(fits) else {
            return Some(Err(NotTheProtocol));
        };
        if !whole {
            return None;
        }
        let code = line.get(version.len()..version.len() + 3);
        let after = line.get(version.len() + 3);
        let status = match (code, after) {
            (Some(code @ [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']), None | Some(b' ')) => Ok(code
                .iter()
                .fold(0, |n, digit| n * 10 + u16::from(digit - b'0'))),
            _ => Err(NotTheProtocol),
        };
        Some(status)
    }
}

/// The body's length in `headers`; zero without one. A length beyond all bounds is never reached.
fn content_length(headers: &[u8]) -> usize {
    let lines = headers.split(|&b| b == b'\n');
    let value = lines.filter_map(|line| {
        let colon = line.iter().position(|&b| b == b':')?;
        let name = line[..colon].trim_ascii();
        let known = name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"l");
        known.then(|| line[colon + 1..].trim_ascii())
    });
    let parse = |value: &[u8]| std::str::from_utf8(value).ok()?.parse().ok();
    value.filter_map(parse).next().unwrap_or(0).min(MAX_HEAD)
}
