//! Durations as arguments.

use std::time::Duration;

/// The shortest interval: a shorter one keeps the servers busy.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Parses a duration: a number of seconds, or a number with the unit `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        unit => return Err(format!("`{unit}` is no unit of time; write ms, s, m, h or d")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{text}` is no duration; write for example 90s or 2h"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| format!("`{text}`: {error}"))
}

/// Parses an interval: a duration of at least a tenth of a second.
pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < INTERVAL_MIN { Err(format!("`{text}` is too short; the least is 100ms")) } else { Ok(interval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [("90", 90_000), ("1.5s", 1_500), ("20ms", 20), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "2w", "1e400s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_interval_keeps_no_server_busy() {
        assert_eq!(parse_interval("100ms"), Ok(Duration::from_millis(100)));
        assert!(parse_interval("0").is_err() && parse_interval("99ms").is_err());
    }
}
