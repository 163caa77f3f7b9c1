//! `twinpool events`: what happened, and what happens from now on.
//!
//! Followed events are asked for again and again by the number of the last one. A daemon that does
//! not answer is waited for. As its numbers go on rising over a restart nothing is missed; where
//! they do not, because it keeps no log or another one, that is noticed: the event that was told
//! last is asked for too, and is not the same.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::client::{AskError, Client};
use super::paint::harmless;
use super::{Failed, WATCH};
use crate::config::duration;
use crate::observe::events::{Event, Kind, MOST_TOLD, Query};
use crate::observe::stamp::span;

/// Which events, and how.
#[derive(Debug, Args)]
pub struct EventsAsked {
    /// Of a POOL, POOL/MEMBER, PAIR or SITE alone
    pub name: Option<String>,
    /// Of one kind alone: verdict, condition, redirect, operator, command, …
    #[arg(long)]
    pub kind: Option<Kind>,
    /// Of the last so long, as 90s, 30m or 2h
    #[arg(long, value_name = "SPAN", value_parser = duration::parse)]
    pub since: Option<Duration>,
    /// So many at most
    #[arg(long, value_name = "N", default_value_t = MOST_TOLD as u64,
          value_parser = clap::value_parser!(u64).range(1..=MOST_TOLD as u64))]
    pub last: u64,
    /// Go on telling until interrupted, also over restarts of the daemon
    #[arg(long)]
    pub follow: bool,
    /// Each event as a line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints events to `out`; `notes` is where it says what stands in the way.
pub(super) async fn events(
    client: &Client,
    asked: EventsAsked,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), Failed> {
    let query = Query {
        after: None,
        name: asked.name,
        kind: asked.kind,
        lasting: asked.since,
        most: usize::try_from(asked.last).ok(),
    };
    let newest = match asked.follow {
        true => newest(client).await?,
        false => 0,
    };
    let first = client.events(&query).await?;
    tell(&first, asked.json, out)?;
    if !asked.follow {
        return Ok(());
    }
    let mut following = Following {
        last: first.last().cloned(),
        newest,
        // What comes from now on is told however old it is when it can be asked for.
        query: Query {
            lasting: None,
            most: None,
            ..query
        },
    };
    let mut gone: Option<Instant> = None;
    loop {
        sleep(WATCH).await;
        match following.more(client, notes).await {
            Ok(events) => {
                if let Some(since) = gone.take() {
                    let told = following.place();
                    let away = span(since.elapsed());
                    writeln!(notes, "twinpool: it answers again after {away}; {told}")?;
                }
                tell(&events, asked.json, out)?;
            }
            Err(Failed::Ask(error)) if is_passing(&error) => {
                if gone.is_none() {
                    gone = Some(Instant::now());
                    let error = harmless(&error.to_string());
                    writeln!(notes, "twinpool: {error}; waiting for it")?;
                }
            }
            Err(error) => return Err(error),
        }
        notes.flush()?;
    }
}

struct Following {
    /// The one that was told last.
    last: Option<Event>,
    /// The number to go on after while none was told.
    newest: u64,
    query: Query,
}

impl Following {
    /// What came since.
    async fn more(
        &mut self,
        client: &Client,
        notes: &mut impl Write,
    ) -> Result<Vec<Event>, Failed> {
        let mut all = Vec::new();
        loop {
            // The one that was told last comes first, if it is still the same log.
            let last = self.last.as_ref();
            let after = last.map_or(self.newest, |last| last.seq.saturating_sub(1));
            let query = Query {
                after: Some(after),
                ..self.query.clone()
            };
            let mut part = client.events(&query).await?;
            let is_full = part.len() >= MOST_TOLD;
            let known = self.last.as_ref();
            if part.first().is_some_and(|first| Some(first) == known) {
                part.remove(0);
            } else if let (Some(first), Some(known)) = (part.first(), known)
                && first.seq <= known.seq
            {
                part = self.anew(client, known.clone(), notes).await?;
            }
            if let Some(last) = part.last() {
                self.last = Some(last.clone());
            }
            all.append(&mut part);
            if !is_full {
                return Ok(all);
            }
        }
    }

    /// The first events of another log that are younger than the one that was told last.
    async fn anew(
        &self,
        client: &Client,
        known: Event,
        notes: &mut impl Write,
    ) -> Result<Vec<Event>, Failed> {
        writeln!(
            notes,
            "twinpool: its event log is another one now; going on with what is younger than {}",
            known.at.in_full()
        )?;
        let query = Query {
            after: Some(0),
            ..self.query.clone()
        };
        let mut events = client.events(&query).await?;
        events.retain(|event| event.at > known.at);
        Ok(events)
    }

    fn place(&self) -> String {
        match &self.last {
            Some(last) => format!("going on after event {}", last.seq),
            None => "going on".to_owned(),
        }
    }
}

/// The number of the last event of all.
async fn newest(client: &Client) -> Result<u64, AskError> {
    let one = Query {
        most: Some(1),
        ..Query::default()
    };
    Ok(client
        .events(&one)
        .await?
        .last()
        .map_or(0, |event| event.seq))
}

/// Whether a daemon that restarts may be the reason.
fn is_passing(error: &AskError) -> bool {
    matches!(error, AskError::NoDaemon { .. } | AskError::Broken(_))
}

fn tell(events: &[Event], json: bool, out: &mut impl Write) -> Result<(), Failed> {
    for event in events {
        match json {
            true => {
                let line = serde_json::to_string(event)
                    .map_err(|error| AskError::Strange(format!("cannot write JSON: {error}")))?;
                writeln!(out, "{line}")?;
            }
            false => writeln!(out, "{}  {}", event.at.in_full(), harmless(&event.text))?,
        }
    }
    out.flush()?;
    Ok(())
}
