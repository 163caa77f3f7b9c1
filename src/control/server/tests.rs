use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::cli::client::{AskError, Client};
use crate::cli::{CommandLine, Failed, Task, answered};
use crate::config::Control;
use crate::control::socket::BindError;
use crate::observe::events as event;
use crate::observe::sample::{self, FakeDesk};

/// A directory of its own that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let mut name = std::env::temp_dir();
        name.push(format!("twinpool-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&name).unwrap();
        Scratch(name)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

struct Served {
    scratch: Scratch,
    desk: Rc<FakeDesk>,
}

async fn served() -> Served {
    let scratch = Scratch::new();
    let socket = ControlSocket::bind(&Control::at(scratch.socket()))
        .await
        .unwrap();
    let desk = Rc::new(FakeDesk::new(sample::one_member_down()));
    spawn_local(run(
        socket,
        desk.clone(),
        Rc::new(ServerCounters::default()),
        Gate::default(),
    ));
    Served { scratch, desk }
}

impl Served {
    /// Sends these bytes and returns everything that comes back until the end.
    async fn sent(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.scratch.socket()).await.unwrap();
        // The server may answer and close before it has read everything.
        if let Err(error) = stream.write_all(bytes).await {
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        }
        let mut all = Vec::new();
        let mut part = [0; 4_096];
        while let Ok(n @ 1..) = stream.read(&mut part).await {
            all.extend_from_slice(&part[..n]);
        }
        String::from_utf8(all).unwrap()
    }

    async fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n");
        self.sent(format!("{head}{body}").as_bytes()).await
    }

    /// What the command line prints, or why not.
    async fn typed(&self, line: &str) -> Result<String, Failed> {
        let line = CommandLine::try_parse_from(line.split(' ')).unwrap();
        let Task::Ask(ask) = line.task else {
            panic!("not a question to the daemon")
        };
        let mut out = Vec::new();
        answered(&Client::new(&self.scratch.socket()), ask, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    }
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn me() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap();
    user.unwrap().name
}

#[test]
fn a_command_reaches_the_desk_with_who_gave_it() {
    local(async {
        let served = served().await;
        let told = served
            .typed("twinpool drain fe-seoul/fe2 --reason kernel --for 2h")
            .await
            .unwrap();
        assert_eq!(
            told,
            "fe-seoul/fe2: drain; no new sessions, those it has end in 10 min; lapses in 2 h\n"
        );
        let expected = Command {
            mode: Mode::Drain,
            member: "fe-seoul/fe2".to_owned(),
            by: me(),
            reason: Some("kernel".to_owned()),
            lasting: Some(Duration::from_secs(7_200)),
            force: false,
        };
        assert_eq!(*served.desk.commands.borrow(), [expected]);
        let told = served.typed("twinpool ready fe-seoul/fe2").await.unwrap();
        assert_eq!(told, "fe-seoul/fe2 is ready\n");
    });
}

#[test]
fn a_refusal_says_what_to_do_instead_and_exits_with_1() {
    local(async {
        let served = served().await;
        let refused = served.typed("twinpool maintenance fe-seoul/fe1").await;
        let Err(Failed::Ask(error)) = refused else {
            panic!("carried out: {refused:?}")
        };
        assert_eq!(error.exit_code(), 1);
        assert_eq!(
            error.to_string(),
            "maintenance of fe-seoul/fe1 would lose fe-seoul: 1 would remain present, 2 are \
             needed. Bring another member back first, drain fe-seoul/fe1 instead, or repeat with \
             --force"
        );
        let told = served
            .typed("twinpool maintenance fe-seoul/fe1 --force")
            .await
            .unwrap();
        assert!(told.starts_with("fe-seoul/fe1: maintenance;"), "{told}");
    });
}

#[test]
fn a_misspelt_member_or_name_is_told_the_nearest() {
    local(async {
        let served = served().await;
        for line in ["twinpool drain fe-seuol/fe2", "twinpool why fe-seoul/fe22"] {
            let Err(Failed::Ask(error)) = served.typed(line).await else {
                panic!("{line} was carried out")
            };
            assert_eq!(error.exit_code(), 1);
            let told = error.to_string();
            assert!(told.ends_with("did you mean \"fe-seoul/fe2\"?"), "{told}");
        }
    });
}

#[test]
fn the_pages_come_over_the_socket() {
    local(async {
        let served = served().await;
        let status = served.typed("twinpool status").await.unwrap();
        assert!(
            status.starts_with("twinpool seoul-1: 1 member down"),
            "{status}"
        );
        let json = served.typed("twinpool status --json").await.unwrap();
        assert!(json.contains("\"instance\": \"seoul-1\""), "{json}");
        let why = served.typed("twinpool why fe-seoul/fe1").await.unwrap();
        assert!(
            why.starts_with("fe-seoul/fe1 takes no new sessions"),
            "{why}"
        );
        let why = served.typed("twinpool why fe-seoul").await.unwrap();
        assert!(why.starts_with("fe-seoul is degraded since"), "{why}");
        let events = served.typed("twinpool events").await.unwrap();
        assert!(events.contains("fe-seoul/fe1 sip: up → down"), "{events}");
        assert!(
            served
                .sent(b"GET /metrics HTTP/1.1\r\n\r\n")
                .await
                .ends_with("# EOF\n")
        );
    });
}

#[test]
fn a_command_that_is_not_one_is_refused() {
    local(async {
        let served = served().await;
        let long = format!(
            "{{\"member\": \"fe-seoul/fe1\", \"reason\": \"{}\"}}",
            "x".repeat(LONGEST_REASON + 1)
        );
        for (body, told) in [
            ("", "not a command"),
            (
                "{\"member\": \"fe-seoul/fe1\", \"forze\": true}",
                "unknown field `forze`",
            ),
            (
                "{\"member\": \"fe-seoul/fe1\", \"for\": \"2\"}",
                "write it like 90s, 30m, 2h",
            ),
            (
                "{\"member\": \"fe-seoul/fe1\", \"reason\": \"a\\u001b[2J\"}",
                "without control characters",
            ),
            (&long, "longer than 500 characters"),
        ] {
            let answer = served.post("/v1/commands/drain", body).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(
                answer.contains("\"done\":false") && answer.contains(told),
                "{answer}"
            );
        }
        let huge = format!("{{\"member\": \"{}\"}}", "x".repeat(LARGEST_BODY));
        let answer = served.post("/v1/commands/drain", &huge).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        let ready = "{\"member\": \"fe-seoul/fe1\", \"for\": \"2h\"}";
        let answer = served.post("/v1/commands/ready", ready).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("no duration"),
            "{answer}"
        );
        let answer = served.post("/v1/commands/reboot", "{}").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let answer = served.post("/v1/status", "{}").await;
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET"),
            "{answer}"
        );
        let answer = served
            .sent(b"GET /v1/commands/drain HTTP/1.1\r\n\r\n")
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: POST"),
            "{answer}"
        );
        let answer = served.sent(b"DELETE /v1/status HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(
            served
                .sent(b"\x00\x01\x02\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 400 ")
        );
        let reached: Vec<Mode> = served
            .desk
            .commands
            .borrow()
            .iter()
            .map(|c| c.mode)
            .collect();
        assert_eq!(
            reached,
            [Mode::Ready],
            "only what is a command reaches the desk"
        );
    });
}

#[test]
fn orders_about_pairs_reach_the_desk_with_who_gave_them() {
    local(async {
        let served = served().await;
        let pool = |name: &str| format!("fe-{name}");
        let orders = [
            (
                "failover",
                r#"{"pool":"fe-seoul","reason":"power work","now":true}"#,
                Redirect::Failover(pool("seoul")),
                (true, false, false),
            ),
            (
                "failback",
                r#"{"pool":"fe-busan","force":true}"#,
                Redirect::Failback(pool("busan")),
                (false, true, false),
            ),
            (
                "evacuate",
                r#"{"site":"seoul","dry_run":true,"reason":" "}"#,
                Redirect::Evacuate("seoul".to_owned()),
                (false, false, true),
            ),
            (
                "restore",
                r#"{"site":"seoul"}"#,
                Redirect::Restore("seoul".to_owned()),
                (false, false, false),
            ),
            (
                "pause",
                r#"{"reason":"power work"}"#,
                Redirect::Pause,
                (false, false, false),
            ),
            ("resume", "{}", Redirect::Resume, (false, false, false)),
        ];
        for (name, body, what, (now, force, dry_run)) in orders {
            let path = format!("/v1/commands/{name}");
            let answer = served.post(&path, body).await;
            assert!(answer.contains("\"done\":true"), "{answer}");
            let given = served.desk.redirections.borrow_mut().pop();
            let expected = Redirection {
                what,
                by: me(),
                reason: body.contains("power").then(|| "power work".to_owned()),
                now,
                force,
                dry_run,
            };
            assert_eq!(given, Some(expected));
            let answer = served
                .sent(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
                .await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        }
    });
}

#[test]
fn an_order_about_pairs_that_is_not_one_is_refused() {
    local(async {
        let served = served().await;
        let long = format!("{{\"reason\":\"{}\"}}", "x".repeat(LONGEST_REASON + 1));
        for (name, body, told) in [
            ("failover", "{}", "missing field `pool`"),
            (
                "failover",
                r#"{"pool":"p","site":"s"}"#,
                "unknown field `site`",
            ),
            (
                "failback",
                r#"{"pool":"p","dryrun":true}"#,
                "unknown field `dryrun`",
            ),
            ("evacuate", r#"{"pool":"p"}"#, "unknown field `pool`"),
            ("restore", r#"{"site":7}"#, "invalid type"),
            ("pause", r#"{"force":true}"#, "unknown field `force`"),
            (
                "resume",
                r#"{"reason":"a\nb"}"#,
                "without control characters",
            ),
            ("pause", &long, "longer than 500 characters"),
        ] {
            let answer = served.post(&format!("/v1/commands/{name}"), body).await;
            assert!(
                answer.starts_with("HTTP/1.1 400 "),
                "{name} {body}: {answer}"
            );
            assert!(answer.contains(told), "{name} {body}: {answer}");
        }
        assert!(served.desk.redirections.borrow().is_empty());
    });
}

#[test]
fn a_live_socket_is_never_taken_and_a_dead_one_is_replaced() {
    local(async {
        let scratch = Scratch::new();
        let path = scratch.socket();
        let first = ControlSocket::bind(&Control::at(&path)).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE_WANTED);
        let error = ControlSocket::bind(&Control::at(&path)).await.unwrap_err();
        assert!(matches!(error, BindError::InUse(_)));
        assert!(
            error
                .to_string()
                .starts_with("another twinpool answers on "),
            "{error}"
        );
        // As after a kill: the file stays, nobody listens.
        let leftover = scratch.0.join("leftover.sock");
        std::fs::rename(&path, &leftover).unwrap();
        drop(first);
        std::fs::rename(&leftover, &path).unwrap();
        let second = ControlSocket::bind(&Control::at(&path)).await.unwrap();
        assert_eq!(second.path(), path);
        drop(second);
        assert!(!path.exists(), "it is removed when it is over");
    });
}

const MODE_WANTED: u32 = 0o660;

#[test]
fn a_socket_that_cannot_be_made_says_what_to_do() {
    local(async {
        let scratch = Scratch::new();
        let missing = scratch.0.join("missing/control.sock");
        let error = ControlSocket::bind(&Control::at(&missing))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("does not exist: create it"), "{error}");
        let file = scratch.0.join("file");
        std::fs::write(&file, "precious").unwrap();
        let error = ControlSocket::bind(&Control::at(&file))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("is not a socket: remove it"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    });
}

#[test]
fn without_a_daemon_the_message_says_how_to_start_one() {
    local(async {
        for path in ["/nonexistent/control.sock", "/etc/passwd"] {
            let error = Client::new(Path::new(path)).status().await.unwrap_err();
            assert!(matches!(error, AskError::NoDaemon { .. }), "{error:?}");
            assert_eq!(error.exit_code(), 69);
            let told = error.to_string();
            assert!(
                told.starts_with(&format!("no twinpool answers on {path} ("))
                    && told.ends_with(
                        "is it running? Start it with `twinpool run`, or name its socket with \
                         --socket"
                    ),
                "{told}"
            );
        }
    });
}

#[test]
fn each_command_is_kept_with_who_gave_it_and_what_came_of_it() {
    local(async {
        let served = served().await;
        let told = |served: &Served| {
            let events = served.desk.log.borrow().since(0);
            let commands = events
                .into_iter()
                .filter(|event| event.kind == event::Kind::Command);
            commands.collect::<Vec<_>>()
        };
        let me = me();
        // Whoever the caller says that they are: there is no such field.
        let forged = r#"{"member":"fe-seoul/fe2","by":"alice"}"#;
        let answer = served.post("/v1/commands/drain", forged).await;
        assert!(answer.contains("unknown field `by`"), "{answer}");
        assert!(told(&served).is_empty());

        for (path, body) in [
            (
                "drain",
                r#"{"member":"fe-seoul/fe2","reason":"kernel update","for":"2h"}"#,
            ),
            ("maintenance", r#"{"member":"fe-seoul/fe1"}"#),
            (
                "failover",
                r#"{"pool":"fe-seoul","now":true,"reason":"power work"}"#,
            ),
            ("evacuate", r#"{"site":"seoul","dry_run":true}"#),
            ("pause", r#"{"reason":"network work"}"#),
            ("drain", r#"{"member":"fe-seoul/nobody"}"#),
        ] {
            served.post(&format!("/v1/commands/{path}"), body).await;
        }
        let kept = told(&served);
        let texts: Vec<&str> = kept.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                format!(
                    "{me}: drain fe-seoul/fe2 for 2 h (kernel update): done: fe-seoul/fe2: drain; \
                     no new sessions, those it has end in 10 min; lapses in 2 h"
                ),
                format!(
                    "{me}: maintenance fe-seoul/fe1: refused: maintenance of fe-seoul/fe1 would \
                     lose fe-seoul: 1 would remain present, 2 are needed. Bring another member \
                     back first, drain fe-seoul/fe1 instead, or repeat with --force"
                ),
                format!("{me}: failover fe-seoul --now (power work): done: done"),
                format!("{me}: pause (network work): done: done"),
                format!(
                    "{me}: drain fe-seoul/nobody: refused: no member is named \
                     \"fe-seoul/nobody\"; did you mean \"fe-seoul/fe3\"?"
                ),
            ]
        );
        assert_eq!(kept[0].member.as_deref(), Some("fe2"));
        assert_eq!(kept[2].pool.as_deref(), Some("fe-seoul"));
    });
}

#[test]
fn commands_that_are_refused_again_and_again_do_not_flood_the_log() {
    local(async {
        let served = served().await;
        for _ in 0..100 {
            served
                .post("/v1/commands/drain", r#"{"member":"fe-seoul/nobody"}"#)
                .await;
        }
        let events = served.desk.log.borrow().since(0).into_iter();
        let commands = events.filter(|event| event.kind == event::Kind::Command);
        assert_eq!(commands.count(), 20);
    });
}

#[test]
fn a_socket_has_the_group_and_the_permissions_that_are_wanted() {
    local(async {
        let scratch = Scratch::new();
        let own = nix::unistd::Group::from_gid(nix::unistd::getgid());
        let own = own.unwrap().unwrap();
        let control = Control {
            mode: 0o600,
            group: Some(own.name),
            ..Control::at(scratch.socket())
        };
        let socket = ControlSocket::bind(&control).await.unwrap();
        let found = std::fs::metadata(scratch.socket()).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        assert_eq!(found.gid(), own.gid.as_raw());
        drop(socket);
        let control = Control {
            group: Some("nobody-has-this-group".to_owned()),
            ..Control::at(scratch.socket())
        };
        let error = ControlSocket::bind(&control).await.unwrap_err().to_string();
        assert!(error.contains("groupadd nobody-has-this-group"), "{error}");
        let left: Vec<_> = std::fs::read_dir(&scratch.0).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}
