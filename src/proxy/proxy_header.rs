//! PROXY protocol version 2: who the client is, told from one proxy to the next.
//!
//! After "The PROXY protocol, versions 1 & 2" (W. Tarreau, HAProxy's `doc/proxy-protocol.txt`),
//! section 2.2. Version 1 is refused: it cannot be told from a client's own bytes by length.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// How long a source that must send a header may take.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Addresses and extensions that are read, in bytes; the largest standard ones fit many times.
const MOST: usize = 2048;

const VERSION: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;
const TCP_OVER_V4: u8 = 0x11;
const TCP_OVER_V6: u8 = 0x21;
const V4_LENGTH: usize = 12;
const V6_LENGTH: usize = 36;

/// What is wrong with a header.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// It did not come in time.
    Late,
    /// The connection failed or ended before it was whole.
    Cut(io::Error),
    /// Something else came.
    Malformed(&'static str),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Late => f.write_str("did not come in time"),
            HeaderError::Cut(error) => write!(f, "was cut: {error}"),
            HeaderError::Malformed(what) => f.write_str(what),
        }
    }
}

/// Reads exactly one header: source and destination, or none where the sender speaks for itself
/// (`LOCAL`) or does not know (`UNSPEC`).
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(SocketAddr, SocketAddr)>, HeaderError> {
    let mut fixed = [0; FIXED];
    stream
        .read_exact(&mut fixed)
        .await
        .map_err(HeaderError::Cut)?;
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if fixed[..12] != SIGNATURE {
        return Err(HeaderError::Malformed("no PROXY v2 signature"));
    }
    if fixed[12] & 0xf0 != VERSION {
        return Err(HeaderError::Malformed("not version 2"));
    }
    if length > MOST {
        return Err(HeaderError::Malformed("longer than any sender's"));
    }
    let mut rest = vec![0; length];
    stream
        .read_exact(&mut rest)
        .await
        .map_err(HeaderError::Cut)?;
    match fixed[12] & 0x0f {
        LOCAL => Ok(None),
        PROXY => addresses(fixed[13], &rest),
        _ => Err(HeaderError::Malformed("unknown command")),
    }
}

fn addresses(family: u8, rest: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, HeaderError> {
    let short = HeaderError::Malformed("shorter than its addresses");
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match family {
        TCP_OVER_V4 if rest.len() < V4_LENGTH => Err(short),
        TCP_OVER_V6 if rest.len() < V6_LENGTH => Err(short),
        TCP_OVER_V4 => {
            let ip = |at: usize| {
                IpAddr::V4(Ipv4Addr::new(
                    rest[at],
                    rest[at + 1],
                    rest[at + 2],
                    rest[at + 3],
                ))
            };
            Ok(Some((
                SocketAddr::new(ip(0), port(8)),
                SocketAddr::new(ip(4), port(10)),
            )))
        }
        TCP_OVER_V6 => {
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&rest[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            Ok(Some((
                SocketAddr::new(ip(0), port(32)),
                SocketAddr::new(ip(16), port(34)),
            )))
        }
        _ => Ok(None),
    }
}

/// The header for a connection from `source` to `destination`. Addresses of two families are both
/// written as IPv6.
pub(super) fn encode(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIXED + V6_LENGTH);
    header.extend(SIGNATURE);
    header.push(VERSION | PROXY);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.push(TCP_OVER_V4);
            header.extend((V4_LENGTH as u16).to_be_bytes());
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            header.push(TCP_OVER_V6);
            header.extend((V6_LENGTH as u16).to_be_bytes());
            header.extend(v6(from).octets());
            header.extend(v6(to).octets());
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parse(mut bytes: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, HeaderError> {
        read(&mut bytes).await
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_nothing_behind_it() {
        for (from, to) in [
            ("192.0.2.1:50000", "198.51.100.2:443"),
            ("[2001:db8::1]:50000", "[2001:db8::2]:443"),
        ] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let mut bytes = encode(from, to);
            bytes.extend(b"GET /");
            let mut rest = &bytes[..];
            assert_eq!(read(&mut rest).await.unwrap(), Some((from, to)));
            assert_eq!(rest, b"GET /");
        }
    }

    #[tokio::test]
    async fn mixed_families_travel_as_mapped_addresses() {
        let header = encode(
            "192.0.2.1:1".parse().unwrap(),
            "[2001:db8::2]:443".parse().unwrap(),
        );
        let (from, _) = parse(&header).await.unwrap().unwrap();
        assert_eq!(from.ip().to_canonical(), IpAddr::from([192, 0, 2, 1]));
    }

    #[tokio::test]
    async fn local_and_unknown_families_leave_the_address_alone() {
        let mut header = encode(
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.2:2".parse().unwrap(),
        );
        header[12] = VERSION | LOCAL;
        assert_eq!(parse(&header).await.unwrap(), None);
        header[12] = VERSION | PROXY;
        header[13] = 0;
        assert_eq!(parse(&header).await.unwrap(), None);
    }

    #[tokio::test]
    async fn extensions_are_skipped() {
        let from = "192.0.2.1:1".parse().unwrap();
        let to = "192.0.2.2:2".parse().unwrap();
        let mut header = encode(from, to);
        header[15] += 5;
        header.extend([0x04, 0, 2, 0, 0]);
        assert_eq!(parse(&header).await.unwrap(), Some((from, to)));
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let good = encode(
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.2:2".parse().unwrap(),
        );
        for cut in 0..good.len() {
            assert!(
                matches!(parse(&good[..cut]).await, Err(HeaderError::Cut(_))),
                "{cut}"
            );
        }
        let spoilt = |at: usize, byte: u8| {
            let mut header = good.clone();
            header[at] = byte;
            header
        };
        for header in [
            spoilt(0, b'G'),
            spoilt(12, 0x11),
            spoilt(12, 0x2f),
            spoilt(14, 0xff),
            spoilt(15, 4),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
        ] {
            let result = parse(&header).await;
            assert!(
                matches!(result, Err(HeaderError::Malformed(_))),
                "{header:?}"
            );
        }
    }
}
