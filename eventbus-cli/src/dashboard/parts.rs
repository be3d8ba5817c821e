//! Parts that several pages have: times, numbers, tables, forms.

use maud::{Markup, html};
use time::OffsetDateTime;

use crate::output::{columns, time_text};

/// A time, in UTC.
pub(super) fn time(time: Option<OffsetDateTime>) -> Markup {
    html! {
        @if let Some(time) = time {
            @let text = time_text(time);
            @let (date, clock) = text.split_once('T').unwrap_or((&text, ""));
            @let clock = clock.split(['.', 'Z']).next().unwrap_or_default();
            time datetime=(text) title=(text) { (date) " " (clock) " UTC" }
        } @else { "–" }
    }
}

/// A number, with a comma between thousands.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A position, which is a text of digits.
pub(super) fn position(text: Option<&str>) -> String {
    text.map_or_else(|| "–".into(), |text| text.parse().map_or_else(|_| text.to_owned(), number))
}

/// Seconds, in a readable unit.
pub(super) fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "–".into(),
        Some(seconds) if seconds < 100.0 => format!("{seconds:.1} s"),
        Some(seconds) if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        Some(seconds) if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        Some(seconds) => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// A value that may be unknown.
pub(super) fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".into(), |value| value.to_string())
}

/// A table, which scrolls sideways on a narrow screen, also with the keyboard. A column with `>` holds numbers.
pub(super) fn table(caption: &str, column_names: &'static str, rows: &Markup) -> Markup {
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead {
                    tr {
                        @for (name, is_number) in columns(column_names) {
                            th scope="col" class=[is_number.then_some("number")] { (name) }
                        }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}

/// The table of the fields of a payload or a state, whose values wrap.
pub(super) fn field_table(caption: &str, rows: &Markup) -> Markup {
    html! {
        table.fields {
            caption { (caption) }
            thead { tr { th scope="col" { "Field" } th scope="col" { "Value" } } }
            tbody { (rows) }
        }
    }
}

/// A field of a form that searches.
pub(super) fn search_field(name: &str, label: &str, value: &str) -> Markup {
    let id = format!("search-{name}");
    html! {
        p.field { label for=(id) { (label) } input id=(id) name=(name) value=(value) autocomplete="off" spellcheck="false"; }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_are_short() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([position(Some("41200")), position(None)], ["41,200", "–"]);
        let shown = [0.0, 99.0, 600.0, 7_200.0, 172_800.0].map(|time| seconds(Some(time)));
        assert_eq!(shown, ["0.0 s", "99.0 s", "10 min", "2 h", "2 d"]);
    }
}
