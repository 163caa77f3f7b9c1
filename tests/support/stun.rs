//! As much of RFC 8489 as a server needs that answers Binding requests.

use std::net::{IpAddr, SocketAddr};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// The transaction of a Binding request.
pub(crate) fn binding(bytes: &[u8]) -> Option<[u8; 12]> {
    let length = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    let whole = bytes.len() == 20 + usize::from(length) && length % 4 == 0;
    let request = bytes.starts_with(&[0, 1]) && bytes.get(4..8)? == COOKIE;
    let transaction = bytes.get(8..20)?.try_into().ok()?;
    (whole && request).then_some(transaction)
}

/// What tells the client where it comes from.
pub(crate) fn success(transaction: [u8; 12], peer: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = peer.ip() else {
        panic!("{peer} is not of IPv4");
    };
    let port = peer.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    let ip: Vec<u8> = std::iter::zip(ip.octets(), COOKIE)
        .map(|(a, b)| a ^ b)
        .collect();
    let value = [&[0, 1], &port.to_be_bytes()[..], &ip].concat();
    message([1, 1], transaction, [0x00, 0x20], &value)
}

/// 401: whoever asks has to say who it is.
pub(crate) fn refusal(transaction: [u8; 12]) -> Vec<u8> {
    message([1, 0x11], transaction, [0x00, 0x09], &[0, 0, 4, 1])
}

fn message(kind: [u8; 2], transaction: [u8; 12], attribute: [u8; 2], value: &[u8]) -> Vec<u8> {
    let length = |n: usize| (n as u16).to_be_bytes();
    let mut bytes = kind.to_vec();
    bytes.extend(length(4 + value.len()));
    bytes.extend(COOKIE);
    bytes.extend(transaction);
    bytes.extend(attribute);
    bytes.extend(length(value.len()));
    bytes.extend(value);
    bytes
}
