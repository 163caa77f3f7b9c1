//! [`Level`]: what is told, as a person writes it.

use std::fmt;

use tracing_subscriber::filter::{LevelFilter, Targets};

/// The words for how much, from nothing to everything.
const WORDS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];
/// The longest list that is taken, in bytes: some dozens of targets.
const LONGEST: usize = 1_024;

/// A level, or a list of levels for targets: `info`, `info,twinpool::proxy=debug`. As
/// `tracing_subscriber::EnvFilter` reads it, but for spans, of which there are none, and for words
/// that are neither: they are mistakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    text: String,
    targets: Targets,
}

impl Eq for Level {}

/// A text that is not a [`Level`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotALevel {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl fmt::Display for NotALevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NotALevel {}

impl Default for Level {
    /// State changes, and what is worse.
    fn default() -> Level {
        Level {
            text: "info".to_owned(),
            targets: Targets::new().with_default(LevelFilter::INFO),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Level {
    /// Reads a level, or a list of `TARGET=LEVEL` with at most one level alone.
    ///
    /// # Errors
    /// When a part of it is neither.
    pub fn parse(text: &str) -> Result<Level, NotALevel> {
        if text.len() > LONGEST {
            return Err(NotALevel {
                message: "a list of levels too long to mean something".to_owned(),
                help: format!("write at most {LONGEST} bytes"),
            });
        }
        let mut targets = Targets::new();
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None => targets = targets.with_default(word(part)?),
                Some((target, level)) if is_target(target) => {
                    targets = targets.with_target(target, word(level)?);
                }
                Some((target, _)) => {
                    return Err(NotALevel {
                        message: format!("`{}` is not a target", shown(target)),
                        help: "write where in the program, `twinpool::proxy=debug`".to_owned(),
                    });
                }
            }
            parts.push(part.to_ascii_lowercase());
        }
        Ok(Level {
            text: parts.join(","),
            targets,
        })
    }

    pub(super) fn targets(&self) -> Targets {
        self.targets.clone()
    }
}

fn is_target(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-:".contains(c);
    !text.is_empty() && text.chars().all(plain)
}

fn word(text: &str) -> Result<LevelFilter, NotALevel> {
    let lower = text.to_ascii_lowercase();
    if let Some((_, level)) = WORDS.iter().find(|(word, _)| *word == lower) {
        return Ok(*level);
    }
    let words = || WORDS.iter().map(|(word, _)| *word);
    let near = words()
        .map(|word| (strsim::damerau_levenshtein(word, &lower), word))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let all = words().collect::<Vec<_>>().join(", ");
    Err(NotALevel {
        message: format!("`{}` is not a level", shown(text)),
        help: match near {
            Some((_, word)) => format!("write `{word}`"),
            None => format!("write one of {all}, or for a part of it `twinpool::proxy=debug`"),
        },
    })
}

/// The beginning of it, harmless.
fn shown(text: &str) -> String {
    let begin: String = text.chars().take(40).collect();
    begin.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enables(level: &str, target: &str, at: tracing::Level) -> bool {
        let level = Level::parse(level).unwrap();
        level.targets().would_enable(target, &at)
    }

    #[test]
    fn a_level_is_a_word_or_a_list_for_targets() {
        use tracing::Level as L;
        assert!(enables("info", "twinpool::daemon", L::INFO));
        assert!(!enables("info", "twinpool::daemon", L::DEBUG));
        let mixed = "WARN, twinpool::proxy=debug";
        assert!(enables(mixed, "twinpool::proxy::session", L::DEBUG));
        assert!(!enables(mixed, "twinpool::daemon", L::INFO));
        assert!(!enables("off", "twinpool", L::ERROR));
        assert!(!enables("twinpool=trace", "hyper", L::ERROR));
        let told = Level::parse(mixed).unwrap().to_string();
        assert_eq!(told, "warn,twinpool::proxy=debug");
    }

    #[test]
    fn the_default_is_what_info_means() {
        assert_eq!(Level::default(), Level::parse("info").unwrap());
    }

    #[test]
    fn what_is_no_level_is_told_what_to_write() {
        let help = |text: &str| Level::parse(text).unwrap_err().help;
        assert_eq!(help("debgu"), "write `debug`");
        assert_eq!(
            help("info,twinpool=warning"),
            "write one of off, error, warn, info, debug, trace, or for a part of it `twinpool::proxy=debug`"
        );
        assert_eq!(help("warnn"), "write `warn`");
        for text in [
            "",
            ",",
            "info,",
            "=debug",
            "a[b]=debug",
            "a=",
            "a=b=c",
            "twinpool::proxy",
            "5",
        ] {
            assert!(Level::parse(text).is_err(), "{text}");
        }
        assert!(Level::parse(&"a=info,".repeat(1_000)).is_err());
    }
}
