//! Durations as people write them: a number and a unit, never a bare number.

use std::time::Duration;

/// The longest that any setting may be.
pub const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Reads `250ms`, `5s`, `30m`, `2h`, `7d`, or several in a row, as `1h30m`.
///
/// # Errors
/// What to write instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("write a number and a unit, like \"5s\"".to_owned());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let Ok(number) = number.parse::<u32>() else {
            return Err("write a whole number and a unit, like \"5s\" or \"250ms\"".to_owned());
        };
        let one = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" | "min" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            "d" => Duration::from_secs(86_400),
            "" => {
                return Err(format!(
                    "a duration carries a unit; write \"{number}s\" for seconds, or \"{number}ms\", \"{number}m\", \"{number}h\""
                ));
            }
            _ => {
                return Err(match short_unit(unit) {
                    Some(short) => {
                        format!("the units are ms, s, m, h and d; write \"{number}{short}\"")
                    }
                    None => "the units are ms, s, m, h and d; write it like \"5s\"".to_owned(),
                });
            }
        };
        total = one
            .checked_mul(number)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= LONGEST)
            .ok_or("that is longer than a year; write a shorter one")?;
        rest = tail.trim_start();
    }
    Ok(total)
}

/// The unit that a longer word means.
fn short_unit(word: &str) -> Option<&'static str> {
    Some(match word {
        "msec" | "millis" | "millisecond" | "milliseconds" => "ms",
        "sec" | "secs" | "second" | "seconds" => "s",
        "mins" | "minute" | "minutes" => "m",
        "hr" | "hrs" | "hour" | "hours" => "h",
        "day" | "days" => "d",
        _ => return None,
    })
}

/// The same, written.
pub fn write(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    for (size, unit) in units {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("30m", 1_800_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            (" 1s 500ms ", 1_500),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_told_which_units_there_are() {
        assert!(parse("5").unwrap_err().contains("\"5s\""));
    }

    #[test]
    fn a_unit_written_out_is_told_its_short_form_and_not_another() {
        assert!(parse("10 minutes").unwrap_err().contains("\"10m\""));
        assert!(parse("250millis").unwrap_err().contains("\"250ms\""));
        assert_eq!(parse("10 m"), parse("10m"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "s",
            "-1s",
            "1.5s",
            "1 fortnight",
            "5sek",
            "99999999999s",
            "4000000000d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for millis in [1, 250, 1_000, 1_500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(&write(duration)), Ok(duration));
        }
    }
}
