//! The `sip` check: an OPTIONS request (RFC 3261 section 11) over TCP or TLS.
//!
//! Any final answer but 503 is a sign of life: a server that says 403, 404 or 405 to a stranger
//! has read the request and thought about it. `Max-Forwards` is 0, so that the member answers
//! itself and never asks another (RFC 3261 section 16.3).

use std::net::SocketAddr;

/// What makes a request unlike any other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tags {
    branch: u64,
    from: u32,
    call: u64,
}

impl Tags {
    pub(super) fn random() -> Tags {
        Tags {
            branch: rand::random(),
            from: rand::random(),
            call: rand::random(),
        }
    }
}

/// The request to `host` at `peer` from `local`.
pub(super) fn options(
    host: &str,
    peer: SocketAddr,
    local: SocketAddr,
    secure: bool,
    tags: Tags,
) -> String {
    let (transport, parameter) = match secure {
        true => ("TLS", "tls"),
        false => ("TCP", "tcp"),
    };
    let port = peer.port();
    // The scope of a link-local address means nothing to the peer.
    let local_ip = match local.ip() {
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    let local_port = local.port();
    let Tags { branch, from, call } = tags;
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "OPTIONS sip:{host}:{port};transport={parameter} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} {local_ip}:{local_port};branch=z9hG4bK{branch:016x}\r\n\
         Max-Forwards: 0\r\n\
         From: <sip:twinpool@{local_ip}>;tag={from:08x}\r\n\
         To: <sip:{host}:{port}>\r\n\
         Call-ID: {call:016x}@{local_ip}\r\n\
         CSeq: 1 OPTIONS\r\n\
         Contact: <sip:twinpool@{local_ip}:{local_port};transport={parameter}>\r\n\
         Accept: application/sdp\r\n\
         User-Agent: twinpool/{version}\r\n\
         Content-Length: 0\r\n\
         \r\n"
    )
}
