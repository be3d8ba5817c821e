//! The values that a pass offers for a text, a number and a value of any kind.

/// The texts that a type may accept, with their kind in the shape; `number` makes them differ from field to field.
pub(super) fn text(number: u64, attempt: usize) -> Option<(&'static str, String)> {
    let two_digits = number % 60;
    let (kind, text) = match attempt {
        0 => ("string", format!("text {number}")),
        1 => ("uuid", format!("00000000-0000-4000-8000-{number:012}")),
        2 => ("time", format!("2020-01-02T03:04:{two_digits:02}Z")),
        3 => ("time", format!("2020-01-02 03:04:{two_digits:02}.0 +00:00:00")),
        4 => ("time", format!("2020-01-02T03:04:{two_digits:02}")),
        5 => ("date", format!("2020-01-{:02}", 1 + number % 28)),
        6 => ("time of day", format!("03:04:{two_digits:02}")),
        7 => ("time of day", format!("03:04:{two_digits:02}.0")),
        8 => ("decimal", format!("{number}.5")),
        9 => ("digits", number.to_string()),
        10 => ("mail address", format!("user{number}@example.org")),
        11 => ("url", format!("https://example.org/{number}")),
        12 => ("ip address", format!("10.0.0.{}", number % 256)),
        13 => ("ip address", format!("::{number:x}")),
        14 => ("word", format!("word{number}")),
        15 => ("code", "EUR".into()),
        16 => ("code", "DE".into()),
        17 => ("code", "de".into()),
        18 => ("letter", "a".into()),
        19 => ("duration", "P1D".into()),
        20 => ("base64", "AAAA".into()),
        21 => ("empty", String::new()),
        _ => return None,
    };
    Some((kind, text))
}

/// A value for a type that asks for one of any kind.
pub(super) enum Any {
    Text(String),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
    Null,
}

/// The values for a type that asks for one of any kind and may refuse some.
pub(super) fn any(number: u64, attempt: usize) -> Option<Any> {
    Some(match attempt {
        0 => Any::Text(format!("text {number}")),
        1 => Any::Text(format!("{number}.5")),
        2 => Any::Unsigned(number),
        3 => Any::Float(0.5),
        4 => Any::Bool(true),
        5 => Any::Null,
        _ => return None,
    })
}
