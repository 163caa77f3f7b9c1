//! [`Collapse`]: the layer that holds back what a storm repeats, and says how much it was.
//!
//! The source of an event is the place in the code that it comes from, whatever its fields say.
//! What was held back is told as one more event of the same place, so with its target and level.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Value, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::EVENTS;
use super::storm::{Fate, Storms, Summary};
use crate::clock;
use crate::time::Time;

/// Events of one place that are told in a period: enough to see what it is about.
const LIMIT: u32 = 10;
/// The same for transitions of one kind: a site with a few pools may go down whole.
const TRANSITIONS: u32 = 100;
/// The same at debug and trace, where somebody asked for every single one. More than this keeps
/// workers from their work, and a journal does not take it by default.
const ASKED_FOR: u32 = 1_000;
/// What is kept of one event as an example, in bytes.
const LONGEST_EXAMPLE: usize = 300;

thread_local! {
    /// Whether this thread tells a summary, which is never held back.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// What is held back.
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Shared>);

#[derive(Default)]
struct Shared {
    storms: Mutex<Storms<Source>>,
    owing: AtomicBool,
}

/// The layer.
pub(super) struct Collapse {
    held: Held,
}

/// A place in the code that logs.
#[derive(Clone)]
struct Source(&'static Metadata<'static>);

impl PartialEq for Source {
    fn eq(&self, other: &Source) -> bool {
        self.0.callsite() == other.0.callsite()
    }
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.callsite().hash(state);
    }
}

impl Source {
    fn limit(&self) -> u32 {
        match *self.0.level() {
            Level::DEBUG | Level::TRACE => ASKED_FOR,
            _ if self.0.target() == EVENTS => TRANSITIONS,
            _ => LIMIT,
        }
    }
}

impl Collapse {
    pub(super) fn new(held: Held) -> Collapse {
        Collapse { held }
    }
}

impl<S: Subscriber> Layer<S> for Collapse {
    fn event_enabled(&self, event: &Event<'_>, _ctx: Context<'_, S>) -> bool {
        TELLING.get() || self.held.is_told(event, clock::now())
    }
}

impl Held {
    fn is_told(&self, event: &Event<'_>, now: Time) -> bool {
        let source = Source(event.metadata());
        let storms = || self.0.storms.lock().unwrap_or_else(PoisonError::into_inner);
        let fate = storms().handle_event(&source, source.limit(), now);
        if fate == Fate::HeldFirst {
            // Said without the lock: what writes it may log.
            let example = Example::of(event);
            storms().handle_example(&source, example);
        }
        if fate != Fate::Told {
            self.0.owing.store(true, Ordering::Relaxed);
        }
        fate == Fate::Told
    }

    /// Tells what was held back in periods that are over, or in all.
    pub(super) fn tell(&self, now: Time, last: bool) {
        if !self.0.owing.load(Ordering::Relaxed) {
            return;
        }
        let summaries = {
            let mut storms = self.0.storms.lock().unwrap_or_else(PoisonError::into_inner);
            let summaries = storms.poll_summaries(now, last);
            self.0.owing.store(storms.is_owing(), Ordering::Relaxed);
            summaries
        };
        TELLING.set(true);
        summaries.iter().for_each(say);
        TELLING.set(false);
    }
}

fn say(summary: &Summary<Source>) {
    let metadata = summary.source.0;
    let fields = metadata.fields();
    let Some(message) = fields.field("message") else {
        return;
    };
    let text = sentence(summary.count, summary.span.as_secs(), &summary.example);
    let value = &format_args!("{text}") as &dyn Value;
    Event::dispatch(metadata, &fields.value_set(&[(&message, Some(value))]));
}

/// `1,234 more like this in 10 s: cannot accept; trying again in 1s`.
fn sentence(count: u64, seconds: u64, example: &str) -> String {
    let mut digits = count.to_string();
    let mut at = digits.len();
    while at > 3 {
        at -= 3;
        digits.insert(at, ',');
    }
    format!("{digits} more like this in {} s: {example}", seconds.max(1))
}

/// What an event says, with its fields, to a bound.
#[derive(Default)]
struct Example {
    message: String,
    fields: String,
}

impl Example {
    fn of(event: &Event<'_>) -> String {
        let mut example = Example::default();
        event.record(&mut example);
        let Example {
            mut message,
            fields,
        } = example;
        if event.metadata().target() != EVENTS {
            message += &fields;
        }
        let mut end = message.len().min(LONGEST_EXAMPLE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message
    }
}

impl Visit for Example {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("writing to a string does not fail");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt;

    /// Keeps level, target and text of what reaches it.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Told {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let metadata = event.metadata();
            let text = Example::of(event);
            let line = format!("{} {} {text}", metadata.level(), metadata.target());
            self.0.lock().unwrap().push(line);
        }
    }

    fn told(log: impl FnOnce(&Held)) -> Vec<String> {
        let (held, told) = (Held::default(), Told::default());
        let layers = tracing_subscriber::registry()
            .with(Collapse::new(held.clone()))
            .with(told.clone());
        with_default(layers, || log(&held));
        let lines = told.0.lock().unwrap();
        lines.clone()
    }

    #[test]
    fn a_storm_is_told_by_its_beginning_and_a_count_with_the_same_level_and_target() {
        let lines = told(|held| {
            for port in 0..1_244 {
                tracing::warn!(target: "here", port, "it blows");
            }
            tracing::error!(target: "there", "something else");
            held.tell(clock::now(), true);
        });
        assert_eq!(lines.len(), 10 + 1 + 1, "{lines:?}");
        assert_eq!(lines[0], "WARN here it blows port=0");
        assert_eq!(lines[10], "ERROR there something else");
        assert_eq!(
            lines[11],
            "WARN here 1,234 more like this in 1 s: it blows port=10"
        );
    }

    #[test]
    fn nothing_is_said_of_a_storm_that_was_none() {
        let lines = told(|held| {
            for _ in 0..LIMIT {
                tracing::info!("calm");
            }
            held.tell(clock::now(), true);
        });
        assert_eq!(lines.len(), LIMIT as usize);
    }

    #[test]
    fn what_somebody_asked_for_is_told_a_thousand_times() {
        let lines = told(|_| {
            for _ in 0..2_000 {
                tracing::debug!("one of many");
            }
        });
        assert_eq!(lines.len(), ASKED_FOR as usize);
    }

    #[test]
    fn an_example_is_bounded_wherever_a_character_ends() {
        let lines = told(|held| {
            for _ in 0..=LIMIT {
                tracing::info!("{}", "é".repeat(1_000));
            }
            held.tell(clock::now(), true);
        });
        let summary = lines.last().unwrap();
        assert!(summary.contains("1 more like this"), "{summary}");
        assert!(summary.len() < LONGEST_EXAMPLE + 100);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(sentence(7, 10, "x"), "7 more like this in 10 s: x");
        assert!(sentence(1_234_567, 10, "x").starts_with("1,234,567 more"));
    }
}
