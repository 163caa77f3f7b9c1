//! The `http` check: one HTTP/1.1 request (RFC 9112), of whose answer only the status counts.

use crate::topology::HttpCheck;

/// The request. `host` is the member's, for want of one in the check.
pub(super) fn request(check: &HttpCheck, host: &str, port: u16, secure: bool) -> String {
    let default_port = if secure { 443 } else { 80 };
    let host = match &check.host {
        Some(host) => host.clone(),
        None if port == default_port => host.to_owned(),
        None => format!("{host}:{port}"),
    };
    format!(
        "{} {} HTTP/1.1\r\n\
         Host: {host}\r\n\
         User-Agent: twinpool/{}\r\n\
         Accept: */*\r\n\
         Connection: close\r\n\
         \r\n",
        check.method,
        check.path,
        env!("CARGO_PKG_VERSION")
    )
}
