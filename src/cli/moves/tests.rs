use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::*;
use crate::cli::client::AskError;
use crate::cli::{Ask, CommandLine, Task, answered};

/// A socket of its own that goes with the test.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// A daemon that is asked once and answers with these bytes, or hangs up where there are none.
fn daemon(answer: Option<String>) -> (Socket, JoinHandle<(String, Value)>) {
    let mut path = std::env::temp_dir();
    path.push(format!("twinpool-{:016x}.sock", rand::random::<u64>()));
    let listener = UnixListener::bind(&path).unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read(&mut stream).await;
        let answer = answer.unwrap_or_default();
        stream.write_all(answer.as_bytes()).await.unwrap();
        request
    });
    (Socket(path), asked)
}

/// The request line and the body.
async fn read(stream: &mut UnixStream) -> (String, Value) {
    let mut text = String::new();
    loop {
        let mut part = [0; 4_096];
        let n = stream.read(&mut part).await.unwrap();
        assert!(n > 0, "an end after {text:?}");
        text += std::str::from_utf8(&part[..n]).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            let line = head.lines().next().unwrap().to_owned();
            return (line, body);
        }
    }
}

fn ask(line: &str) -> Ask {
    let line = CommandLine::try_parse_from(words(line)).unwrap();
    let Task::Ask(ask) = line.task else {
        panic!("not a question to the daemon")
    };
    ask
}

/// Split at blanks, but for what stands in quotes.
fn words(line: &str) -> Vec<String> {
    let quoted = |(i, part): (usize, &str)| match i % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    };
    line.split('"').enumerate().flat_map(quoted).collect()
}

async fn printed(socket: &Socket, line: &str) -> Result<String, AskError> {
    let mut out = Vec::new();
    match answered(&Client::new(&socket.0), ask(line), &mut out).await {
        Ok(()) => Ok(String::from_utf8(out).unwrap()),
        Err(Failed::Ask(error)) => Err(error),
        Err(Failed::Print(error)) => panic!("{error}"),
    }
}

fn done() -> Option<String> {
    let text = "fe-seoul: away\nmed: away";
    Some(answer("200 OK", &json!({"done": true, "text": text})))
}

fn refused() -> Option<String> {
    let text = "fe-seoul is away already";
    Some(answer(
        "409 Conflict",
        &json!({"done": false, "text": text}),
    ))
}

fn answer(code: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {code}\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn each_command_goes_out_as_it_was_typed_and_nothing_else_with_it() {
    let whole = |on: (&str, &str), reason: Option<&str>, [now, force, dry_run]: [bool; 3]| {
        let mut body = json!({"now": now, "force": force, "dry_run": dry_run});
        body[on.0] = on.1.into();
        if let Some(reason) = reason {
            body["reason"] = reason.into();
        }
        body
    };
    let (seoul, pool) = (("site", "seoul"), ("pool", "fe-seoul"));
    for (line, path, body) in [
        (
            "twinpool failover fe-seoul",
            "failover",
            whole(pool, None, [false; 3]),
        ),
        (
            "twinpool failover fe-seoul --now --reason \"power work\"",
            "failover",
            whole(pool, Some("power work"), [true, false, false]),
        ),
        (
            "twinpool failback fe-seoul --force --dry-run",
            "failback",
            whole(pool, None, [false, true, true]),
        ),
        (
            "twinpool evacuate seoul --reason fire",
            "evacuate",
            whole(seoul, Some("fire"), [false; 3]),
        ),
        (
            "twinpool restore seoul --dry-run --now --force",
            "restore",
            whole(seoul, None, [true; 3]),
        ),
        (
            "twinpool pause --reason \"network work\"",
            "pause",
            json!({"reason": "network work"}),
        ),
        ("twinpool resume", "resume", json!({})),
    ] {
        let (socket, asked) = daemon(done());
        printed(&socket, line).await.unwrap();
        let (request, sent) = asked.await.unwrap();
        assert_eq!(request, format!("POST /v1/commands/{path} HTTP/1.1"));
        assert_eq!(sent, body, "{line}");
    }
}

#[tokio::test]
async fn an_answer_of_several_lines_is_printed_as_such_and_a_dry_run_is_seen_to_be_one() {
    let (socket, _asked) = daemon(done());
    let told = printed(&socket, "twinpool evacuate seoul").await.unwrap();
    assert_eq!(told, "fe-seoul: away\nmed: away\n");
    let (socket, _asked) = daemon(done());
    let told = printed(&socket, "twinpool evacuate seoul --dry-run").await;
    assert_eq!(
        told.unwrap(),
        "dry run: nothing is changed\nfe-seoul: away\nmed: away\n"
    );
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason_and_exits_1() {
    let (socket, _asked) = daemon(refused());
    let error = printed(&socket, "twinpool failover fe-seoul").await;
    let error = error.unwrap_err();
    assert!(matches!(error, AskError::Refused(_)), "{error:?}");
    assert_eq!(error.to_string(), "fe-seoul is away already");
    assert_eq!(error.exit_code(), 1);
}

#[tokio::test]
async fn a_command_whose_answer_never_came_may_have_been_carried_out() {
    let (socket, asked) = daemon(None);
    let error = printed(&socket, "twinpool failover fe-seoul").await;
    asked.await.unwrap();
    let told = error.unwrap_err().to_string();
    assert!(told.starts_with("the connection broke"), "{told}");
    assert!(told.contains("see `twinpool redirects`"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_command_has_a_minute_for_its_steps_and_says_where_to_look_after_that() {
    let mut path = std::env::temp_dir();
    path.push(format!("twinpool-{:016x}.sock", rand::random::<u64>()));
    // Accepted by the kernel, and by nobody else.
    let _silent = UnixListener::bind(&path).unwrap();
    let socket = Socket(path);
    let began = tokio::time::Instant::now();
    let error = printed(&socket, "twinpool restore seoul").await;
    assert_eq!(began.elapsed().as_secs(), 60);
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no answer within 60 s; the command may still be under way, or done: see `twinpool \
         redirects`"
    );
    assert_eq!(error.exit_code(), 1);
    let began = tokio::time::Instant::now();
    let error = printed(&socket, "twinpool drain fe-seoul/fe1").await;
    assert!(began.elapsed() < Duration::from_secs(11));
    let told = error.unwrap_err().to_string();
    assert!(told.contains("see `twinpool status`"), "{told}");
}

#[tokio::test]
async fn without_a_daemon_the_exit_code_is_69() {
    let nowhere = Client::new(std::path::Path::new("/nonexistent/control.sock"));
    let mut out = Vec::new();
    let ask = ask("twinpool pause");
    let Err(Failed::Ask(error)) = answered(&nowhere, ask, &mut out).await else {
        panic!("nobody is there")
    };
    assert_eq!(error.exit_code(), 69);
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    for line in [
        "twinpool failover",
        "twinpool failback fe-seoul med",
        "twinpool evacuate",
        "twinpool restore seoul --for 2h",
        "twinpool pause --now",
        "twinpool resume fe-seoul",
        "twinpool failover fe-seoul --reason",
    ] {
        let wrong = CommandLine::try_parse_from(words(line)).unwrap_err();
        assert_eq!(wrong.exit_code(), 2, "{line}");
    }
    let wrong = CommandLine::try_parse_from(words("twinpool failovr fe-seoul")).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidSubcommand);
    assert!(wrong.to_string().contains("'failover'"), "{wrong}");
}

#[test]
fn help_says_what_each_flag_does() {
    for (command, words) in [
        ("failover", ["drain", "--dry-run", "--force"]),
        ("failback", ["ramp", "--now", "--reason <TEXT>"]),
        ("evacuate", ["in order", "after_pool", "--dry-run"]),
        ("restore", ["in order", "after_pool", "--now"]),
        ("pause", ["`resume`", "commands still work", "--reason"]),
        ("resume", ["alarms", "damaged record", "--reason"]),
    ] {
        let help = CommandLine::try_parse_from(["twinpool", command, "--help"]).unwrap_err();
        let help = help.to_string();
        for word in words {
            assert!(help.contains(word), "{word}: {help}");
        }
    }
}
