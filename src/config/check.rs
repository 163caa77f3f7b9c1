//! A `check`: the table, or a kind alone.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::diagnostic::Diagnostic;
use super::presets;
use super::reader::{Table, Value, unknown};
use crate::topology::{Check, CheckKind, HttpCheck, Verify};

const KINDS: [&str; 5] = ["tcp", "tls", "http", "sip", "stun"];

/// Reads a check that overrides `base`.
pub(super) fn read<'a>(parent: &Table<'a>, value: &Value<'a>, base: &Check) -> Check {
    if let Some(kind) = value.raw.as_str() {
        return match kind_named(parent, kind, value) {
            Some(kind) => presets::check(kind),
            None => base.clone(),
        };
    }
    let table = parent.as_table(value, "check");
    let mut check = base.clone();
    if let Some(kind) = table.get("kind") {
        let named = table.as_string(&kind);
        match named.and_then(|name| kind_named(&table, &name, &kind)) {
            Some(kind) => change_kind(&mut check, kind),
            None => {
                table.ignore();
                return check;
            }
        }
    }
    read_tls(&table, &mut check);
    read_http(&table, &mut check);
    if let Some(port) = table.integer("port", 1..=65_535) {
        check.port = u16::try_from(port).ok();
    }
    times(&table, &mut check);
    let count = |key| table.integer(key, 1..=100).and_then(NonZeroU32::new);
    check.fall = count("fall").unwrap_or(check.fall);
    check.rise = count("rise").unwrap_or(check.rise);
    check.flap = count("flap").unwrap_or(check.flap);
    check
}

/// Whether a check says what is asked, rightly or not, rather than leaves that to its base.
pub(super) fn names_kind(value: &Value<'_>) -> bool {
    let table = value.raw.as_table();
    table.is_none_or(|table| table.iter().any(|(key, _)| key.get_ref() == "kind"))
}

/// The same kind keeps what the role says of it; another knows nothing of that.
fn change_kind(check: &mut Check, kind: CheckKind) {
    if std::mem::discriminant(&kind) != std::mem::discriminant(&check.kind) {
        check.kind = kind;
        check.tls = false;
        check.verify = Verify::No;
        check.server_name = None;
    }
}

/// How often, and how long. What is slower than it looks is allowed, with a warning.
fn times(table: &Table<'_>, check: &mut Check) {
    check.interval = table.duration("interval").unwrap_or(check.interval);
    let in_doubt = table.duration("in_doubt");
    check.in_doubt = in_doubt.unwrap_or(check.in_doubt.min(check.interval));
    check.timeout = table.duration("timeout").unwrap_or(check.timeout);
    check.jitter = percent(table).unwrap_or(check.jitter);
    let warn = |key, message: &str, help: &str| {
        if let Some(value) = table.get(key) {
            table.note(Diagnostic::new(message, value.span).help(help).warning());
        }
    };
    if in_doubt.is_some() && check.in_doubt > check.interval {
        let message = "a member in doubt is asked less often than one that is well";
        warn("in_doubt", message, "write an `in_doubt` below `interval`");
    }
    if check.timeout > check.interval {
        let message = "the timeout is longer than the interval";
        let help = "a probe waits for the one before it, so a silent member is asked once a \
                    timeout; write a `timeout` below `interval`";
        warn("timeout", message, help);
    }
}

fn kind_named<'a>(table: &Table<'a>, name: &str, value: &Value<'a>) -> Option<CheckKind> {
    match name {
        "tcp" => Some(CheckKind::Tcp),
        "tls" => Some(CheckKind::Tls),
        "sip" => Some(CheckKind::Sip),
        "stun" => Some(CheckKind::Stun),
        "http" => Some(CheckKind::Http(HttpCheck {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            status: 200..=399,
        })),
        "udp" => {
            let message = "there is no `udp` check: what is asked must be known to be answered";
            let help = "write `stun` where the members answer STUN, or a kind that asks over TCP";
            table.note(Diagnostic::new(message, value.span.clone()).help(help));
            None
        }
        _ => {
            let known = KINDS.into_iter();
            table.note(unknown("check kind", name, value.span.clone(), known));
            None
        }
    }
}

fn read_tls(table: &Table<'_>, check: &mut Check) {
    if check.kind == CheckKind::Stun {
        for key in ["tls", "verify", "server_name"] {
            if let Some(value) = table.get(key) {
                let message = format!("`{key}` means nothing to a stun check, which asks over UDP");
                let help = format!("leave `{key}` out, or write a `kind` that asks over TCP");
                table.note(Diagnostic::new(message, value.span).help(help));
            }
        }
        return;
    }
    let place = table.get("tls").map(|value| value.span);
    match (table.bool("tls"), &check.kind, place) {
        (Some(false), CheckKind::Tls, Some(place)) => {
            let message = "a `tls` check is always over TLS";
            let help = "leave `tls` out, or choose another `kind`";
            table.note(Diagnostic::new(message, place).help(help));
        }
        (Some(tls), kind, _) => check.tls = tls && !matches!(kind, CheckKind::Tls),
        (None, ..) => {}
    }
    let over_tls = check.tls || matches!(check.kind, CheckKind::Tls);
    let needs_tls = |key: &str, place| {
        let message = format!("`{key}` means nothing without TLS");
        let help = format!("write `tls = true` beside it, or leave `{key}` out");
        table.note(Diagnostic::new(message, place).help(help));
    };
    if let Some(value) = table.get("verify") {
        match (value.raw.as_bool(), value.raw.as_str()) {
            (Some(false), _) => check.verify = Verify::No,
            (_, Some(_)) if !over_tls => needs_tls("verify", value.span),
            (_, Some(path)) => check.verify = Verify::Authorities(PathBuf::from(path)),
            _ => {
                let message = "`verify` must be false or a file of certificate authorities";
                let help = "write `verify = \"/etc/ssl/certs/ca-certificates.crt\"`";
                table.note(Diagnostic::new(message, value.span).help(help));
            }
        }
    }
    if let Some((name, place)) = table.string("server_name") {
        if !super::members::is_host_name(&name) && name.parse::<IpAddr>().is_err() {
            let message = "`server_name` is not a host name";
            let help = "write the name that the certificate carries, \"fe1.example.net\"";
            table.note(Diagnostic::new(message, place).help(help));
        } else if over_tls {
            check.server_name = Some(name);
        } else {
            needs_tls("server_name", place);
        }
    }
}

fn read_http(table: &Table<'_>, check: &mut Check) {
    let CheckKind::Http(http) = &mut check.kind else {
        for key in ["method", "path", "host", "status"] {
            if let Some(value) = table.get(key) {
                let message = format!("`{key}` belongs to an http check");
                let help = format!("write `kind = \"http\"`, or leave `{key}` out");
                table.note(Diagnostic::new(message, value.span).help(help));
            }
        }
        return;
    };
    let token = |key, what: &str, example: &str, good: &dyn Fn(&str) -> bool| {
        let (text, place) = table.string(key)?;
        if good(&text) && text.chars().all(|c| c.is_ascii_graphic()) {
            return Some(text);
        }
        let message = format!("`{key}` is not {what}");
        let help = format!("write `{key} = \"{example}\"`, without spaces");
        table.note(Diagnostic::new(message, place).help(help));
        None
    };
    let method = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase());
    if let Some(method) = token("method", "a method in upper case", "GET", &method) {
        http.method = method;
    }
    if let Some(path) = token(
        "path",
        "a path that begins with a slash",
        "/health",
        &|text| text.starts_with('/'),
    ) {
        http.path = path;
    }
    if let Some(host) = token("host", "a host name", "www.example.net", &|text| {
        !text.is_empty()
    }) {
        http.host = Some(host);
    }
    if let Some(status) = status(table) {
        http.status = status;
    }
}

/// `200`, or `"200-399"`.
fn status(table: &Table<'_>) -> Option<RangeInclusive<u16>> {
    let value = table.get("status")?;
    if value.raw.as_integer().is_some() {
        let code = u16::try_from(table.as_integer(&value, 100..=599)?).ok()?;
        return Some(code..=code);
    }
    let range = value.raw.as_str().and_then(|text| {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high): (u16, u16) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        (100 <= low && low <= high && high <= 599).then_some(low..=high)
    });
    if range.is_none() {
        let message = "`status` is not a range of status codes";
        let help = "write `status = \"200-399\"`, or one code, `status = 200`";
        table.note(Diagnostic::new(message, value.span).help(help));
    }
    range
}

/// `"10%"`, as a part of one.
fn percent(table: &Table<'_>) -> Option<f64> {
    const MOST: u8 = 50;
    let value = table.get("jitter")?;
    let number = value.raw.as_str().and_then(|text| {
        let number: u8 = text.strip_suffix('%')?.trim().parse().ok()?;
        (number <= MOST).then_some(number)
    });
    if number.is_none() {
        let message = "`jitter` is not a percentage from 0% to 50%";
        let help = "write `jitter = \"10%\"`";
        table.note(Diagnostic::new(message, value.span).help(help));
    }
    Some(f64::from(number?) / 100.0)
}
