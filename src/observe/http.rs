//! The read-only HTTP listener: health, metrics and status, for anyone who can reach it.
//!
//! Answers come from the [`Desk`]; what is dear to make is made at most once in [`FRESH_FOR`], and
//! where it takes long, once in [`REST`] times as long, so that nobody can keep the control thread
//! busy by asking. Nothing here changes anything: other
//! methods than `GET` and `HEAD` are refused.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::desk::Desk;
use super::events::{MOST_TOLD, Query};
use super::metrics;
use super::names::NoSuch;
use super::problems::problems;
use super::serve::{Gate, Request, Response, ServerCounters, serve};
use super::status::{PairStatus, RedirectRow, Scope, Status};
use super::view::RunState;
use crate::config::duration;

/// How old a status, or a page made of one, may be on the read-only listener.
pub const FRESH_FOR: Duration = Duration::from_millis(100);
/// What took a while to make is fresh for so many times that while, at least.
const REST: u32 = 10;

/// What there is to ask for, as a 404 tells it.
const ENDPOINTS: &str = "/healthz, /readyz, /health/POOL, /metrics, /v1/status, /v1/pools, \
                         /v1/pools/POOL, /v1/pairs, /v1/redirects, /v1/events";

/// Serves the read-only endpoints until dropped. Runs inside a local runtime or a `LocalSet`.
pub async fn run(
    listener: TcpListener,
    desk: Rc<dyn Desk>,
    counters: Rc<ServerCounters>,
    gate: Gate,
) {
    let pages = Pages::new(desk, FRESH_FOR);
    let accept = async || {
        listener
            .accept()
            .await
            .map(|(stream, peer)| (stream, peer.ip()))
    };
    let accept = async || gate.let_in(&accept).await;
    serve(counters, 0, accept, async move |_, request| {
        read_only(&pages, &request)
    })
    .await;
}

/// The endpoints that only read, with the dear ones kept for a moment.
pub(crate) struct Pages {
    desk: Rc<dyn Desk>,
    fresh_for: Duration,
    status: Shelf<Arc<Status>>,
    metrics: Shelf<Bytes>,
    json: Shelf<Bytes>,
    pools: Shelf<Bytes>,
    pairs: Shelf<Bytes>,
    /// What is wrong, a line each.
    problems: Shelf<String>,
}

/// Something that was made, and until when it is fresh.
type Shelf<T> = RefCell<Option<(Instant, T)>>;

fn read_only(pages: &Pages, request: &Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return wrong_method("GET, HEAD");
    }
    if request.body().is_err() {
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
            status: Shelf::default(),
            metrics: Shelf::default(),
            json: Shelf::default(),
            pools: Shelf::default(),
            pairs: Shelf::default(),
            problems: Shelf::default(),
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
            "/v1/pools" => self.kept_json(&self.pools, |status| json_bytes(&status.pools)),
            "/v1/pairs" => self.kept_json(&self.pairs, |status| json_bytes(&status.pairs)),
            "/v1/redirects" => self.redirects(),
            "/v1/events" => self.events(query),
            _ => {
                if let Some(pool) = named("/health/") {
                    self.health(&unescaped(pool), query)
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
        let problems = self.fresh(&self.problems, |status| {
            let each = problems(&status).into_iter();
            each.map(|problem| format!("{}: {}\n", problem.label, problem.what))
                .collect()
        });
        text(code, format!("{word}\n{problems}"))
    }

    fn health(&self, pool: &str, query: &str) -> Response {
        let scope = match value_of(query, "scope") {
            None => Scope::HomeOrTwin,
            Some("home") => Scope::Home,
            Some(_) => {
                return text(
                    StatusCode::BAD_REQUEST,
                    "scope can be home: write /health/POOL?scope=home for the home pool alone, or \
                     /health/POOL for whoever may serve its users\n",
                );
            }
        };
        match self.desk.pool_health(pool, scope) {
            Some(health) if health.ok => json(StatusCode::OK, &health),
            Some(health) => json(StatusCode::SERVICE_UNAVAILABLE, &health),
            None => self.no_pool(pool),
        }
    }

    fn redirects(&self) -> Response {
        let status = self.status();
        let rows: Vec<RedirectRow> = status.pairs.iter().flat_map(PairStatus::rows).collect();
        json(StatusCode::OK, &rows)
    }

    fn pool(&self, name: &str) -> Response {
        match self.status().pool(name) {
            Some(pool) => json(StatusCode::OK, pool),
            None => self.no_pool(name),
        }
    }

    fn events(&self, query: &str) -> Response {
        let query = match events_asked(query) {
            Ok(query) => query,
            Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        };
        match self.desk.events(&query) {
            Ok(events) => json(StatusCode::OK, &events),
            Err(missing) => text(StatusCode::NOT_FOUND, format!("{missing}\n")),
        }
    }

    fn metrics(&self) -> Response {
        let body = self.fresh(&self.metrics, |status| {
            metrics::text(status, self.desk.measures()).into()
        });
        of_type(StatusCode::OK, metrics::CONTENT_TYPE, body)
    }

    fn status_json(&self) -> Response {
        self.kept_json(&self.json, json_bytes)
    }

    fn kept_json(&self, shelf: &Shelf<Bytes>, make: impl FnOnce(&Status) -> Bytes) -> Response {
        let body = self.fresh(shelf, |status| make(&status));
        of_type(StatusCode::OK, "application/json", body)
    }

    fn status(&self) -> Arc<Status> {
        kept(&self.status, self.fresh_for, || {
            Arc::new(self.desk.status())
        })
    }

    fn fresh<T: Clone>(&self, shelf: &Shelf<T>, make: impl FnOnce(Arc<Status>) -> T) -> T {
        kept(shelf, self.fresh_for, || make(self.status()))
    }

    fn no_pool(&self, name: &str) -> Response {
        let status = self.status();
        let known = status.pools.iter().map(|pool| pool.name.as_str());
        let missing = NoSuch::new("pool", name, known);
        text(StatusCode::NOT_FOUND, format!("{missing}\n"))
    }
}

/// What is on the shelf, made anew when it is no longer fresh. With no time at all it never is.
fn kept<T: Clone>(shelf: &Shelf<T>, fresh_for: Duration, make: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    if let Some((until, page)) = &*shelf.borrow()
        && begun < *until
    {
        return page.clone();
    }
    let page = make();
    if !fresh_for.is_zero() {
        let made = Instant::now();
        let until = made + fresh_for.max((made - begun) * REST);
        shelf.replace(Some((until, page.clone())));
    }
    page
}

/// What a query gives for a key; nothing where it names the key alone.
fn value_of<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split('&').find_map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (name == key).then_some(value)
    })
}

/// What `/v1/events?after=120&name=fe-seoul&kind=verdict&since=2h&limit=50` asks for.
fn events_asked(query: &str) -> Result<Query, String> {
    let mut asked = Query::default();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = unescaped(value);
        match key {
            "after" => {
                let after = value.parse();
                asked.after = Some(after.map_err(|_| {
                    "after wants the number of an event: write after=120".to_owned()
                })?);
            }
            "limit" => {
                let most = value
                    .parse()
                    .ok()
                    .filter(|most| (1..=MOST_TOLD).contains(most));
                asked.most = Some(
                    most.ok_or_else(|| format!("limit wants a number from 1 to {MOST_TOLD}"))?,
                );
            }
            "name" => asked.name = Some(value),
            "kind" => asked.kind = Some(value.parse()?),
            "since" => {
                let lasting = duration::parse(&value);
                asked.lasting = Some(lasting.map_err(|_| {
                    "since wants a span: write since=2h; for an event's number write after=120"
                        .to_owned()
                })?);
            }
            _ => {
                let key: String = key.chars().take(40).collect();
                return Err(format!(
                    "there is no {:?} here; there are after, name, kind, since and limit",
                    key
                ));
            }
        }
    }
    Ok(asked)
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::observe::sample::{self, FakeDesk, Plight};
    use crate::observe::serve::{EXCHANGE_TIMEOUT, HEAD_TIMEOUT, MOST_CONNECTIONS};
    use crate::observe::status::HomePhase;
    use crate::pairing::pair::Destination;
    use crate::pairing::record::Cause;

    /// A real server on a port of its own, in front of a desk with nobody behind it.
    struct Served {
        desk: Rc<FakeDesk>,
        counters: Rc<ServerCounters>,
        address: SocketAddr,
    }

    async fn served(status: Status) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Rc::new(FakeDesk::new(status));
        let counters = Rc::new(ServerCounters::default());
        spawn_local(run(
            listener,
            desk.clone(),
            counters.clone(),
            Gate::default(),
        ));
        Served {
            desk,
            counters,
            address,
        }
    }

    impl Served {
        /// Sends these bytes and returns everything that comes back until the end.
        async fn sent(&self, bytes: &[u8]) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            rest_of(&mut stream).await
        }

        async fn get(&self, path: &str) -> String {
            self.sent(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes())
                .await
        }
    }

    /// Until the end or a reset.
    async fn rest_of(stream: &mut TcpStream) -> String {
        let mut all = Vec::new();
        let mut part = [0; 4_096];
        while let Ok(n @ 1..) = stream.read(&mut part).await {
            all.extend_from_slice(&part[..n]);
        }
        String::from_utf8(all).unwrap()
    }

    fn code(response: &str) -> u16 {
        let code = response
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        code.unwrap_or_else(|| panic!("no answer: {response:?}"))
            .parse()
            .unwrap()
    }

    fn body(response: &str) -> &str {
        response.split_once("\r\n\r\n").unwrap().1
    }

    fn local(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    /// With time that passes when nothing else happens.
    fn local_paused(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn every_endpoint_answers() {
        local(async {
            let served = served(sample::one_member_down()).await;
            for (path, content) in [
                ("/healthz", "alive"),
                ("/readyz", "DOWN: fe-seoul/fe1 sip: connection refused (L4)"),
                ("/health/fe-seoul", "\"ok\":true"),
                ("/health/fe-seoul?scope=home", "\"ok\":true"),
                ("/health/fe%2Dseoul", "\"ok\":true"),
                ("/metrics", "\n# EOF\n"),
                ("/v1/status", "\"instance\":\"seoul-1\""),
                ("/v1/pools", "\"name\":\"med\""),
                ("/v1/pools/med", "\"name\":\"med\""),
                ("/v1/pairs", "[]"),
                ("/v1/redirects", "[]"),
                ("/v1/events", "\"seq\":1"),
            ] {
                let response = served.get(path).await;
                assert_eq!(code(&response), 200, "{path}: {response}");
                assert!(body(&response).contains(content), "{path}: {response}");
            }
            let later = served.get("/v1/events?after=1").await;
            assert!(
                !later.contains("\"seq\":1,") && later.contains("\"seq\":2,"),
                "{later}"
            );
            for (query, wrong) in [
                ("after=x", "after=120"),
                ("since=120", "since=2h"),
                ("kind=verdit", "verdict"),
                ("limit=0", "1 to 1000"),
                ("sinse=2h", "there are after, name"),
            ] {
                let answer = served.get(&format!("/v1/events?{query}")).await;
                assert_eq!(code(&answer), 400, "{query}");
                assert!(answer.contains(wrong), "{query}: {answer}");
            }
            let missing = served.get("/v1/events?name=fe-seuol").await;
            assert_eq!(code(&missing), 404);
            assert!(missing.contains("fe-seoul"), "{missing}");
            let metrics = served.get("/metrics").await;
            assert!(metrics.contains(metrics::CONTENT_TYPE), "{metrics}");
        });
    }

    #[test]
    fn a_pool_that_cannot_be_served_is_503_and_says_why() {
        local(async {
            let served = served(sample::pool_lost()).await;
            let response = served.get("/health/fe-seoul").await;
            assert_eq!(code(&response), 503);
            assert!(
                response.contains("no member takes new sessions"),
                "{response}"
            );
            assert_eq!(code(&served.get("/health/med").await), 200);
            assert_eq!(code(&served.get("/readyz").await), 200, "degraded is ready");
        });
    }

    #[test]
    fn it_is_not_ready_while_starting_or_draining() {
        local(async {
            let served = served(sample::starting()).await;
            let response = served.get("/readyz").await;
            assert_eq!((code(&response), body(&response)), (503, "starting\n"));
            served.desk.status.borrow_mut().state = RunState::Draining;
            let response = served.get("/readyz").await;
            assert_eq!((code(&response), body(&response)), (503, "draining\n"));
            assert_eq!(code(&served.get("/healthz").await), 200);
        });
    }

    #[test]
    fn pairs_and_redirects_are_served() {
        local(async {
            let mut plight = Plight::new();
            plight.order("fe-seoul", Destination::Twin);
            let served = served(plight.status()).await;
            let pairs = served.get("/v1/pairs").await;
            let pairs: Vec<PairStatus> = serde_json::from_str(body(&pairs)).unwrap();
            assert_eq!(pairs, plight.status().pairs);
            let rows = served.get("/v1/redirects").await;
            let rows: Vec<RedirectRow> = serde_json::from_str(body(&rows)).unwrap();
            assert_eq!(rows.len(), 4);
            let seoul = &rows[0];
            assert_eq!((seoul.pool.as_str(), seoul.generation), ("fe-seoul", 1));
            assert_eq!((seoul.phase, seoul.share), (HomePhase::Away, 0));
            assert_eq!(seoul.serving, ["fe-busan"]);
            assert_eq!((seoul.cause, seoul.by.as_str()), (Cause::Ordered, "alice"));
            assert_eq!(seoul.reason.as_deref(), Some("kernel update"));
            assert_eq!(
                (rows[1].share, &rows[1].serving),
                (100, &vec!["fe-busan".to_owned()])
            );
        });
    }

    #[test]
    fn health_is_asked_of_the_home_pool_alone_where_that_is_wanted() {
        local(async {
            let served = served(sample::well()).await;
            let either = served.get("/health/fe-seoul").await;
            assert!(!body(&either).contains("at home: "), "{either}");
            for query in ["scope=home", "x=1&scope=home"] {
                let home = served.get(&format!("/health/fe-seoul?{query}")).await;
                assert_eq!(code(&home), 200);
                assert!(body(&home).contains("at home: "), "{home}");
            }
            for query in ["scope=twin", "scope=", "scope", "scope=home%20"] {
                let wrong = served.get(&format!("/health/fe-seoul?{query}")).await;
                assert_eq!(code(&wrong), 400, "{query}");
                assert!(
                    body(&wrong).contains("write /health/POOL?scope=home"),
                    "{wrong}"
                );
            }
            let unknown = served.get("/health/fe-soul?scope=home").await;
            assert_eq!(code(&unknown), 404);
        });
    }

    #[test]
    fn an_unknown_page_or_pool_is_told_what_there_is() {
        local(async {
            let served = served(sample::well()).await;
            let response = served.get("/nothing").await;
            assert_eq!(code(&response), 404);
            assert!(response.contains("/health/POOL"), "{response}");
            for path in ["/health/fe-seuol", "/v1/pools/fe-seuol"] {
                let response = served.get(path).await;
                assert_eq!(code(&response), 404);
                assert!(
                    response.contains("did you mean \"fe-seoul\"?"),
                    "{response}"
                );
            }
            assert_eq!(code(&served.get("/health/").await), 404);
            assert_eq!(
                code(&served.get("/v1/why/med").await),
                404,
                "only on the socket"
            );
        });
    }

    #[test]
    fn head_is_answered_without_a_body_and_other_methods_are_not() {
        local(async {
            let served = served(sample::well()).await;
            let head = served
                .sent(b"HEAD /healthz HTTP/1.1\r\nHost: t\r\n\r\n")
                .await;
            assert_eq!((code(&head), body(&head)), (200, ""));
            assert!(head.contains("content-length: 6"), "{head}");
            for method in ["POST", "DELETE", "BREW"] {
                let request = format!("{method} /v1/commands/drain HTTP/1.1\r\nHost: t\r\n\r\n");
                let response = served.sent(request.as_bytes()).await;
                assert_eq!(code(&response), 405);
                assert!(response.contains("allow: GET, HEAD"), "{response}");
            }
            assert!(served.desk.commands.borrow().is_empty());
        });
    }

    #[test]
    fn a_body_a_large_head_and_garbage_are_refused() {
        local(async {
            let served = served(sample::well()).await;
            let with_body = b"GET /healthz HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc";
            assert_eq!(code(&served.sent(with_body).await), 413);
            let chunked = b"GET /healthz HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
            assert_eq!(code(&served.sent(chunked).await), 413);
            let large = format!(
                "GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n",
                "x".repeat(100_000)
            );
            let response = served.sent(large.as_bytes()).await;
            assert!(response.is_empty() || code(&response) == 431, "{response}");
            let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
            assert_eq!(code(&served.sent(many.as_bytes()).await), 431);
            let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\xff\r\n\r\n";
            let response = served.sent(tls).await;
            assert!(response.is_empty() || code(&response) == 400, "{response}");
            assert!(served.counters.broken.get() >= 2, "{:?}", served.counters);
            assert_eq!(code(&served.get("/healthz").await), 200, "it serves on");
        });
    }

    #[test]
    fn a_client_that_sends_its_head_too_slowly_is_dropped() {
        local_paused(async {
            let served = served(sample::well()).await;
            let begun = Instant::now();
            let mut silent = TcpStream::connect(served.address).await.unwrap();
            silent.write_all(b"GET /healthz HT").await.unwrap();
            rest_of(&mut silent).await;
            let took = begun.elapsed();
            assert!(took >= HEAD_TIMEOUT && took <= EXCHANGE_TIMEOUT, "{took:?}");
            assert_eq!(served.counters.too_slow.get(), 1);
            assert_eq!(served.counters.open.get(), 0);
        });
    }

    #[test]
    fn a_client_that_does_not_read_its_answer_is_dropped() {
        local_paused(async {
            let mut status = sample::well();
            // More than the kernel's buffers on both sides hold.
            status.instance = "x".repeat(24 * 1024 * 1024);
            let served = served(status).await;
            let mut deaf = TcpStream::connect(served.address).await.unwrap();
            deaf.write_all(b"GET /v1/status HTTP/1.1\r\nHost: t\r\n\r\n")
                .await
                .unwrap();
            let begun = Instant::now();
            while served.counters.too_slow.get() == 0 {
                assert!(
                    begun.elapsed() <= EXCHANGE_TIMEOUT * 2,
                    "it is still served"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(served.counters.open.get(), 0);
        });
    }

    #[test]
    fn beyond_the_bound_the_oldest_that_does_not_ask_gives_way_and_is_counted() {
        local(async {
            let served = served(sample::well()).await;
            let mut held = Vec::new();
            for _ in 0..MOST_CONNECTIONS {
                held.push(TcpStream::connect(served.address).await.unwrap());
            }
            let begun = Instant::now();
            while served.counters.open.get() < MOST_CONNECTIONS as u64 {
                assert!(begun.elapsed() < HEAD_TIMEOUT, "they are not taken");
                tokio::task::yield_now().await;
            }
            // One that asks is answered, at the cost of the oldest that does not.
            assert_eq!(code(&served.get("/healthz").await), 200);
            assert_eq!(rest_of(&mut held.remove(0)).await, "");
            assert_eq!(served.counters.too_slow.get(), 1);
            assert_eq!(served.counters.refused.get(), 0);
            held.clear();
            let deadline = Instant::now() + Duration::from_secs(10);
            while served.counters.open.get() > 0 {
                assert!(Instant::now() < deadline, "connections are not given back");
                tokio::task::yield_now().await;
            }
            assert_eq!(code(&served.get("/healthz").await), 200);
        });
    }

    #[test]
    fn asking_often_does_not_make_the_status_often() {
        local_paused(async {
            let desk = Rc::new(FakeDesk::new(sample::well()));
            let pages = Pages::new(desk.clone(), FRESH_FOR);
            for _ in 0..20 {
                for path in ["/metrics", "/v1/status", "/v1/pools", "/readyz"] {
                    assert!(pages.get(path, "").is_some());
                }
            }
            assert_eq!(desk.asked.get(), 1);
            tokio::time::advance(FRESH_FOR).await;
            assert!(pages.get("/v1/status", "").is_some());
            assert_eq!(desk.asked.get(), 2, "what is old is made anew");
        });
    }

    #[test]
    fn an_error_of_accepting_is_waited_out_and_counted() {
        local_paused(async {
            let counters = Rc::new(ServerCounters::default());
            let accept = async || Err::<(TcpStream, ()), _>(std::io::Error::from_raw_os_error(24));
            let answer = async |(), _| text(StatusCode::OK, "");
            spawn_local(serve(counters.clone(), 0, accept, answer));
            tokio::time::sleep(Duration::from_secs(60)).await;
            let errors = counters.accept_errors.get();
            assert!((50..=70).contains(&errors), "{errors} in a minute");
        });
    }
}
