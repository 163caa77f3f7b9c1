//! The read-only HTTP listener: health, metrics and status, for anyone who can reach it.
//!
//! Answers come from the [`Desk`]; what is dear to make is made at most once in [`FRESH_FOR`], so
//! that nobody can keep the control thread busy by asking. Nothing here changes anything: other
//! methods than `GET` and `HEAD` are refused.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::desk::Desk;
use super::metrics;
use super::names::NoSuch;
use super::problems::problems;
use super::serve::{Request, Response, ServerCounters, serve};
use super::status::Status;
use super::view::RunState;

/// How old a status, or a page made of one, may be on the read-only listener.
pub const FRESH_FOR: Duration = Duration::from_millis(100);

/// What there is to ask for, as a 404 tells it.
const ENDPOINTS: &str = "/healthz, /readyz, /health/POOL, /metrics, /v1/status, /v1/pools, \
                         /v1/pools/POOL, /v1/pairs, /v1/redirects, /v1/events";

/// Serves the read-only endpoints until dropped. Runs inside a local runtime or a `LocalSet`.
pub async fn run(listener: TcpListener, desk: Rc<dyn Desk>, counters: Rc<ServerCounters>) {
    let pages = Pages::new(desk, FRESH_FOR);
    let accept = async || {
        listener
            .accept()
            .await
            .map(|(stream, peer)| (stream, peer.ip()))
    };
    serve(counters, accept, async move |_, request| {
        read_only(&pages, &request)
    })
    .await;
}

/// The endpoints that only read, with the dear ones kept for a moment.
pub(crate) struct Pages {
    desk: Rc<dyn Desk>,
    fresh_for: Duration,
    status: RefCell<Option<(Instant, Arc<Status>)>>,
    metrics: RefCell<Option<(Instant, Bytes)>>,
    json: RefCell<Option<(Instant, Bytes)>>,
}

fn read_only(pages: &Pages, request: &Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return wrong_method("GET, HEAD");
    }
    if request.body().size_hint().upper() != Some(0) {
        return text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "a request here has no body\n",
        );
    }
    let uri = request.uri();
    pages
        .get(uri.path(), uri.query().unwrap_or(""))
        .unwrap_or_else(|| not_found(ENDPOINTS))
}

impl Pages {
    pub(crate) fn new(desk: Rc<dyn Desk>, fresh_for: Duration) -> Pages {
        Pages {
            desk,
            fresh_for,
            status: RefCell::new(None),
            metrics: RefCell::new(None),
            json: RefCell::new(None),
        }
    }

    /// The answer to a `GET`, or none when there is no such endpoint.
    pub(crate) fn get(&self, path: &str, query: &str) -> Option<Response> {
        let named = |prefix| path.strip_prefix(prefix).filter(|name| !name.is_empty());
        Some(match path {
            "/healthz" => text(StatusCode::OK, "alive\n"),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            "/v1/status" => self.status_json(),
            "/v1/pools" => json(StatusCode::OK, &self.status().pools),
            "/v1/pairs" | "/v1/redirects" => json::<[(); 0]>(StatusCode::OK, &[]),
            "/v1/events" => self.events(query),
            _ => {
                if let Some(pool) = named("/health/") {
                    self.health(&unescaped(pool))
                } else if let Some(pool) = named("/v1/pools/") {
                    self.pool(&unescaped(pool))
                } else {
                    return None;
                }
            }
        })
    }

    fn readiness(&self) -> Response {
        let (code, word) = match self.desk.state() {
            RunState::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            RunState::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            RunState::Serving => (StatusCode::OK, "serving"),
        };
        let mut body = format!("{word}\n");
        for problem in problems(&self.status()) {
            body += &format!("{}: {}\n", problem.label, problem.what);
        }
        text(code, body)
    }

    fn health(&self, pool: &str) -> Response {
        match self.desk.pool_health(pool) {
            Some(health) if health.ok => json(StatusCode::OK, &health),
            Some(health) => json(StatusCode::SERVICE_UNAVAILABLE, &health),
            None => self.no_pool(pool),
        }
    }

    fn pool(&self, name: &str) -> Response {
        match self.status().pool(name) {
            Some(pool) => json(StatusCode::OK, pool),
            None => self.no_pool(name),
        }
    }

    fn events(&self, query: &str) -> Response {
        let since = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("since="))
            .unwrap_or("0");
        match since.parse() {
            Ok(since) => json(StatusCode::OK, &self.desk.events(since)),
            Err(_) => text(
                StatusCode::BAD_REQUEST,
                "since wants the sequence number of an event, as in /v1/events?since=120\n",
            ),
        }
    }

    fn metrics(&self) -> Response {
        let body = self.fresh(&self.metrics, |status| metrics::text(status).into());
        of_type(StatusCode::OK, metrics::CONTENT_TYPE, body)
    }

    fn status_json(&self) -> Response {
        let body = self.fresh(&self.json, |status| json_bytes(&*status));
        of_type(StatusCode::OK, "application/json", body)
    }

    fn status(&self) -> Arc<Status> {
        kept(&self.status, self.fresh_for, || {
            Arc::new(self.desk.status())
        })
    }

    fn fresh(
        &self,
        shelf: &RefCell<Option<(Instant, Bytes)>>,
        make: impl FnOnce(Arc<Status>) -> Bytes,
    ) -> Bytes {
        kept(shelf, self.fresh_for, || make(self.status()))
    }

    fn no_pool(&self, name: &str) -> Response {
        let status = self.status();
        let known = status.pools.iter().map(|pool| pool.name.as_str());
        let missing = NoSuch::new("pool", name, known);
        text(StatusCode::NOT_FOUND, format!("{missing}\n"))
    }
}

/// What is on the shelf, made anew when it is older than `fresh_for`.
fn kept<T: Clone>(
    shelf: &RefCell<Option<(Instant, T)>>,
    fresh_for: Duration,
    make: impl FnOnce() -> T,
) -> T {
    let now = Instant::now();
    if let Some((made, page)) = &*shelf.borrow()
        && now.duration_since(*made) < fresh_for
    {
        return page.clone();
    }
    let page = make();
    shelf.replace(Some((now, page.clone())));
    page
}

/// A path's part with `%XX` undone; what is not UTF-8 then names nothing anyway.
pub(crate) fn unescaped(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)).map(|(h, l)| h * 16 + l),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

pub(crate) fn not_found(endpoints: &str) -> Response {
    text(
        StatusCode::NOT_FOUND,
        format!("there is no such page; there are: {endpoints}\n"),
    )
}

pub(crate) fn wrong_method(allowed: &'static str) -> Response {
    let told = format!("only {allowed} may be used here\n");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, told);
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response {
    of_type(code, "text/plain; charset=utf-8", body.into())
}

pub(crate) fn json<T: Serialize + ?Sized>(code: StatusCode, body: &T) -> Response {
    of_type(code, "application/json", json_bytes(body))
}

fn json_bytes<T: Serialize + ?Sized>(body: &T) -> Bytes {
    let mut bytes = serde_json::to_vec(body).expect("plain data with string keys is JSON");
    bytes.push(b'\n');
    bytes.into()
}

fn of_type(code: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
