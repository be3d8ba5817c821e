//! Points in time as the wire spells them.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// Writes a time in UTC without a fraction, or with one of six digits. The caller appends the spelling of UTC: the two
/// times in an entry differ in it.
pub(crate) fn write(at: OffsetDateTime) -> String {
    const LONGEST: &str = "2026-11-20T06:57:24.243021+00:00";
    let at = at.to_offset(UtcOffset::UTC);
    let ((year, month, day), (hour, minute, second, micros)) = (at.to_calendar_date(), at.to_hms_micro());
    let mut text = String::with_capacity(LONGEST.len());
    if year < 0 {
        text.push('-');
    }
    push(&mut text, year.unsigned_abs(), 4);
    for (before, number) in [('-', u8::from(month)), ('-', day), ('T', hour), (':', minute), (':', second)] {
        text.push(before);
        push(&mut text, number.into(), 2);
    }
    if micros != 0 {
        text.push('.');
        push(&mut text, micros, 6);
    }
    text
}

/// Appends a number with `digits` digits.
fn push(text: &mut String, number: u32, digits: u32) {
    let digit = |place| char::from_digit(number / 10_u32.pow(place) % 10, 10);
    text.extend((0..digits).rev().filter_map(digit));
}

/// Reads a time as tolerantly as the Python library: any number of fraction digits, of which six count; `Z`, an offset,
/// or none, which means UTC; a date alone means its midnight, a number alone counts from 1970.
pub(super) fn parse(text: &str) -> Option<OffsetDateTime> {
    let bytes = text.as_bytes();
    let date = match bytes.get(..10).and_then(parse_date) {
        Some(date) => date,
        None => return from_epoch(text.trim().parse().ok()?),
    };
    if bytes.len() == 10 {
        return Some(date.midnight().assume_utc());
    }
    matches!(bytes.get(10)?, b'T' | b't' | b' ' | b'_').then_some(())?;
    let (hour, minute) = (number(bytes.get(11..13)?)?, number(bytes.get(14..16)?)?);
    (bytes.get(13)? == &b':').then_some(())?;
    let mut rest = bytes.get(16..)?;
    let (mut second, mut micros) = (0, 0);
    if let [b':', tens, ones, more @ ..] = rest {
        second = number(&[*tens, *ones])?;
        (micros, rest) = fraction(more)?;
    }
    let time = Time::from_hms_micro(u8(hour)?, u8(minute)?, u8(second)?, micros).ok()?;
    let local = PrimitiveDateTime::new(date, time);
    let utc = local.assume_utc().checked_sub(offset(rest)?)?;
    Some(utc)
}

/// The zone that a time names: UTC, an offset, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    Utc,
    Offset,
    None,
}

/// Returns the zone of a time that [`parse`] reads.
pub(crate) fn zone(text: &str) -> Zone {
    let text = text.trim();
    if text.parse::<f64>().is_ok() || text.ends_with(['Z', 'z']) {
        return Zone::Utc;
    }
    match text.get(10..).and_then(|time| time.rfind(['+', '-']).and_then(|at| time.get(at + 1..))) {
        Some(offset) if offset.chars().all(|c| matches!(c, '0' | ':')) => Zone::Utc,
        Some(_) => Zone::Offset,
        None => Zone::None,
    }
}

/// Reads seconds since 1970, or milliseconds if there are too many for seconds, as the Python library does.
pub(super) fn from_epoch(number: f64) -> Option<OffsetDateTime> {
    const MILLISECONDS_FROM: f64 = 2e10;
    let seconds = if number.abs() > MILLISECONDS_FROM { number / 1_000.0 } else { number };
    // a time has whole microseconds; a float holds them exactly for the next 280 years
    let micros = (seconds * 1e6).round();
    if !micros.is_finite() || micros.abs() > 1e18 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "checked above")]
    OffsetDateTime::from_unix_timestamp_nanos(micros as i128 * 1_000).ok()
}

fn parse_date(text: &[u8]) -> Option<Date> {
    let [year @ .., b'-', m1, m2, b'-', d1, d2] = text else {
        return None;
    };
    let month = Month::try_from(u8(number(&[*m1, *m2])?)?).ok()?;
    let year = i32::try_from(number(year)?).ok()?;
    Date::from_calendar_date(year, month, u8(number(&[*d1, *d2])?)?).ok()
}

/// Returns the microseconds after a decimal point, if there is one, and the rest of the text; further digits are
/// ignored.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let [b'.' | b',', digits @ ..] = text else {
        return Some((0, text));
    };
    let count = digits.iter().take_while(|c| c.is_ascii_digit()).count();
    let (digits, rest) = digits.split_at(count);
    let mut micros = number(digits.get(..count.min(6))?)?;
    for _ in count..6 {
        micros *= 10;
    }
    Some((micros, rest))
}

/// Returns the offset of a time from UTC.
fn offset(text: &[u8]) -> Option<time::Duration> {
    let (sign, digits) = match text {
        [] | [b'Z' | b'z'] => return Some(time::Duration::ZERO),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits {
        [h1, h2, m1, m2] | [h1, h2, b':', m1, m2] => (number(&[*h1, *h2])?, number(&[*m1, *m2])?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(())?;
    Some(time::Duration::minutes(sign * i64::from(hours * 60 + minutes)))
}

fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn u8(number: u32) -> Option<u8> {
    u8::try_from(number).ok()
}
