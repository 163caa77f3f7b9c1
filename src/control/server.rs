//! What the control socket answers: the read-only endpoints, `/v1/why/NAME`, and the commands.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::caller::Names;
use super::order::parse_span;
use super::record::{Quota, Record};
use super::redirect::{AutomationBody, PoolBody, SiteBody};
use super::socket::ControlSocket;
use crate::health::readiness::Mode;
use crate::log::Level;
use crate::observe::desk::{Command, Desk, Redirect, Redirection, Refused, SetLevel};
use crate::observe::http::{Pages, json, not_found, text, unescaped, wrong_method};
use crate::observe::serve::{BodyError, Gate, Request, Response, ServerCounters, serve};

/// The largest body of a command, in bytes.
pub const LARGEST_BODY: usize = 64 * 1024;
/// The longest reason that is kept, in characters.
pub const LONGEST_REASON: usize = 500;
/// Commands under way at once, each perhaps waiting to be stored; more are told to come again.
pub const MOST_COMMANDS: usize = 16;

const ENDPOINTS: &str = "the read-only endpoints, /v1/why/POOL, /v1/why/POOL/MEMBER, /v1/why/PAIR, /v1/config, and POST \
                         /v1/commands/drain, /v1/commands/maintenance, /v1/commands/ready, \
                         /v1/commands/failover, /v1/commands/failback, /v1/commands/evacuate, \
                         /v1/commands/restore, /v1/commands/pause, /v1/commands/resume, \
                         /v1/commands/reload, /v1/commands/upgrade, /v1/commands/log-level (GET \
                         tells it)";

/// The body of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandBody {
    /// `POOL/MEMBER`.
    pub member: String,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For how long, with a unit.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<String>,
    /// Even where it loses the pool.
    #[serde(default)]
    pub force: bool,
}

/// The body of `reload` and of `upgrade`: nothing goes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadBody {}

/// The body of `log-level`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelBody {
    /// As [`Level::parse`] reads it.
    pub level: String,
    /// For how long, with a unit.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<String>,
}

/// What a command is answered with, carried out or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandAnswer {
    /// Whether it was carried out.
    pub done: bool,
    /// What was done, or why not and what to do instead.
    pub text: String,
}

/// Serves until dropped. Runs inside a local runtime or a `LocalSet`.
pub async fn run(
    socket: ControlSocket,
    desk: Rc<dyn Desk>,
    counters: Rc<ServerCounters>,
    gate: Gate,
) {
    let pages = Pages::new(desk.clone(), Duration::ZERO);
    let commands = Commands {
        desk: desk.clone(),
        under_way: Rc::new(Cell::new(0)),
        names: Names::default(),
        quota: Rc::new(Quota::default()),
    };
    let accept = async || {
        let (stream, _) = socket.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, uid))
    };
    let accept = async || gate.let_in(&accept).await;
    let answer = async move |uid, request: Request| match request.method() {
        &Method::GET | &Method::HEAD => read(&*desk, &pages, &request),
        &Method::POST => commands.take(uid, request).await,
        _ => wrong_method("GET, HEAD, POST"),
    };
    serve(counters, LARGEST_BODY, accept, answer).await;
}

fn read(desk: &dyn Desk, pages: &Pages, request: &Request) -> Response {
    let path = request.uri().path();
    if let Some(name) = path.strip_prefix("/v1/why/") {
        return match desk.why(&unescaped(name)) {
            Ok(why) => json(StatusCode::OK, &why),
            Err(missing) => text(StatusCode::NOT_FOUND, format!("{missing}\n")),
        };
    }
    if path == "/v1/config" {
        return match desk.configuration() {
            Some(configuration) => text(StatusCode::OK, configuration.to_string()),
            None => text(
                StatusCode::NOT_FOUND,
                "this instance was not started from a file\n".to_owned(),
            ),
        };
    }
    if let Some(Kind::LogLevel) = kind_of(path) {
        return match desk.log_level() {
            Ok(text) => json(StatusCode::OK, &CommandAnswer { done: true, text }),
            Err(refused) => {
                let text = refused.to_string();
                json(code_of(&refused), &CommandAnswer { done: false, text })
            }
        };
    }
    if kind_of(path).is_some() {
        return wrong_method("POST");
    }
    pages
        .get(path, request.uri().query().unwrap_or(""))
        .unwrap_or_else(|| not_found(ENDPOINTS))
}

struct Commands {
    desk: Rc<dyn Desk>,
    under_way: Rc<Cell<usize>>,
    names: Names,
    quota: Rc<Quota>,
}

impl Commands {
    async fn take(&self, uid: u32, request: Request) -> Response {
        let path = request.uri().path();
        let Some(kind) = kind_of(path) else {
            return match path.strip_prefix("/v1/commands/") {
                Some(_) => not_found(ENDPOINTS),
                None => wrong_method("GET, HEAD"),
            };
        };
        match self.carry_out(kind, uid, request).await {
            Ok(text) => json(StatusCode::OK, &CommandAnswer { done: true, text }),
            Err((code, text)) => json(code, &CommandAnswer { done: false, text }),
        }
    }

    async fn carry_out(
        &self,
        kind: Kind,
        uid: u32,
        request: Request,
    ) -> Result<String, (StatusCode, String)> {
        let body = request.into_body().map_err(|error| match error {
            BodyError::TooLong => {
                let told = format!("a command has {LARGEST_BODY} bytes at most");
                (StatusCode::PAYLOAD_TOO_LARGE, told)
            }
            BodyError::Broken(error) => {
                let told = format!("the command could not be read: {error}");
                (StatusCode::BAD_REQUEST, told)
            }
        })?;
        let by = self.names.of(uid).await;
        let order = parse(kind, &by, &body).map_err(|told| (StatusCode::BAD_REQUEST, told))?;
        if self.under_way.get() >= MOST_COMMANDS {
            let told = "too many commands are under way; try again".to_owned();
            return Err((StatusCode::SERVICE_UNAVAILABLE, told));
        }
        // On a task of its own: a caller that hangs up does not leave a command half done.
        let under_way = UnderWay::count(self.under_way.clone());
        let (desk, quota) = (self.desk.clone(), self.quota.clone());
        let carried_out = tokio::task::spawn_local(async move {
            let _under_way = under_way;
            let record = Record::of(&order, by);
            let outcome = match order {
                Ordered::Member(command) => desk.command(command).await,
                Ordered::Pairs(redirection) => desk.redirect(redirection).await,
                Ordered::Reload { by } => desk.reload(by).await,
                Ordered::Upgrade { by } => desk.upgrade(by).await,
                Ordered::LogLevel(order) => desk.set_log_level(order),
            };
            record.keep(&*desk, &quota, &outcome);
            outcome
        });
        match carried_out.await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(refused)) => Err((code_of(&refused), refused.to_string())),
            Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        }
    }
}

/// What can be ordered here.
#[derive(Clone, Copy)]
enum Kind {
    Member(Mode),
    /// Of a pool's users.
    Pool(fn(String) -> Redirect),
    /// Of the users of a site's pools.
    Site(fn(String) -> Redirect),
    Automation(fn() -> Redirect),
    Reload,
    Upgrade,
    LogLevel,
}

/// What is ordered.
pub(super) enum Ordered {
    Member(Command),
    Pairs(Redirection),
    Reload { by: String },
    Upgrade { by: String },
    LogLevel(SetLevel),
}

fn kind_of(path: &str) -> Option<Kind> {
    match path.strip_prefix("/v1/commands/")? {
        "drain" => Some(Kind::Member(Mode::Drain)),
        "maintenance" => Some(Kind::Member(Mode::Maintenance)),
        "ready" => Some(Kind::Member(Mode::Ready)),
        "failover" => Some(Kind::Pool(Redirect::Failover)),
        "failback" => Some(Kind::Pool(Redirect::Failback)),
        "evacuate" => Some(Kind::Site(Redirect::Evacuate)),
        "restore" => Some(Kind::Site(Redirect::Restore)),
        "pause" => Some(Kind::Automation(|| Redirect::Pause)),
        "log-level" => Some(Kind::LogLevel),
        "resume" => Some(Kind::Automation(|| Redirect::Resume)),
        "reload" => Some(Kind::Reload),
        "upgrade" => Some(Kind::Upgrade),
        _ => None,
    }
}

fn code_of(refused: &Refused) -> StatusCode {
    match refused {
        Refused::NoSuch(_) => StatusCode::NOT_FOUND,
        Refused::Malformed(_) => StatusCode::BAD_REQUEST,
        Refused::Harmful(_) => StatusCode::CONFLICT,
        Refused::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn parse(kind: Kind, by: &str, body: &[u8]) -> Result<Ordered, String> {
    let by = || by.to_owned();
    Ok(match kind {
        Kind::Member(mode) => {
            let example =
                r#"{"member": "POOL/MEMBER", "reason": "why", "for": "2h", "force": false}"#;
            let body: CommandBody = body_of(body, example)?;
            Ordered::Member(Command {
                mode,
                member: body.member,
                by: by(),
                reason: checked(body.reason)?,
                lasting: body.lasting.as_deref().map(parse_span).transpose()?,
                force: body.force,
            })
        }
        Kind::LogLevel => {
            let body: LevelBody = body_of(body, r#"{"level": "debug", "for": "10m"}"#)?;
            let level = Level::parse(&body.level);
            Ordered::LogLevel(SetLevel {
                level: level.map_err(|wrong| format!("{wrong}; {}", wrong.help))?,
                lasting: body.lasting.as_deref().map(parse_span).transpose()?,
                by: by(),
            })
        }
        Kind::Pool(what) => {
            let example = r#"{"pool": "POOL", "reason": "why", "now": false, "force": false, "dry_run": false}"#;
            let body: PoolBody = body_of(body, example)?;
            Ordered::Pairs(Redirection {
                what: what(body.pool),
                by: by(),
                reason: checked(body.reason)?,
                now: body.now,
                force: body.force,
                dry_run: body.dry_run,
            })
        }
        Kind::Site(what) => {
            let example = r#"{"site": "SITE", "reason": "why", "now": false, "force": false, "dry_run": false}"#;
            let body: SiteBody = body_of(body, example)?;
            Ordered::Pairs(Redirection {
                what: what(body.site),
                by: by(),
                reason: checked(body.reason)?,
                now: body.now,
                force: body.force,
                dry_run: body.dry_run,
            })
        }
        Kind::Reload => {
            let ReloadBody {} = body_of(body, "{}")?;
            Ordered::Reload { by: by() }
        }
        Kind::Upgrade => {
            let ReloadBody {} = body_of(body, "{}")?;
            Ordered::Upgrade { by: by() }
        }
        Kind::Automation(what) => {
            let body: AutomationBody = body_of(body, r#"{"reason": "why"}"#)?;
            Ordered::Pairs(Redirection {
                what: what(),
                by: by(),
                reason: checked(body.reason)?,
                now: false,
                force: false,
                dry_run: false,
            })
        }
    })
}

fn body_of<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("not a command: {error}; write {example}"))
}

/// A reason that is kept and shown: bounded, one line, or none at all.
fn checked(reason: Option<String>) -> Result<Option<String>, String> {
    if let Some(reason) = &reason
        && reason.chars().count() > LONGEST_REASON
    {
        return Err(format!(
            "the reason is longer than {LONGEST_REASON} characters"
        ));
    }
    if let Some(reason) = &reason
        && reason.chars().any(char::is_control)
    {
        return Err("the reason is to be one line, without control characters".to_owned());
    }
    Ok(reason.filter(|reason| !reason.trim().is_empty()))
}

/// Counts a command as under way while it lives.
struct UnderWay(Rc<Cell<usize>>);

impl UnderWay {
    fn count(under_way: Rc<Cell<usize>>) -> UnderWay {
        under_way.set(under_way.get() + 1);
        UnderWay(under_way)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests;
