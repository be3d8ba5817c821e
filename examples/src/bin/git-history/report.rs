//! The final report.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use time::OffsetDateTime;

use crate::{
    domain::{Authors, HotFiles},
    log::Oddity,
};

/// Prints the authors with the most commits.
pub fn authors(authors: &Authors, top: usize) {
    let mut sorted: Vec<_> = authors.0.iter().collect();
    sorted.sort_by_key(|(email, author)| (Reverse(author.commits), *email));
    let rows = sorted.iter().take(top).map(|(email, author)| {
        [
            author.commits.to_string(),
            author.files.len().to_string(),
            day(author.first),
            day(author.last),
            shown(&format!("{} <{email}>", author.name)),
        ]
    });
    println!("\nAuthors ({} in all)", authors.0.len());
    table(["commits", "files", "first", "last", "author"], rows);
}

/// Prints the files with the most changes.
pub fn hot_files(files: &HotFiles, top: usize) {
    let mut sorted: Vec<_> = files.0.iter().collect();
    sorted.sort_by_key(|(id, file)| (Reverse(file.changes), *id));
    let rows = sorted.iter().take(top).map(|(_, file)| {
        let renames = match file.former_paths.as_slice() {
            [] => String::new(),
            [.., last] => format!(" (was {last})"),
        };
        let deleted = if file.deleted { " (deleted)" } else { "" };
        [
            file.changes.to_string(),
            file.former_paths.len().to_string(),
            shown(&format!("{}{renames}{deleted}", file.path)),
        ]
    });
    let there = files.0.values().filter(|file| !file.deleted).count();
    println!("\nFiles ({} in all, {there} still there)", files.0.len());
    table(["changes", "renames", "path"], rows);
}

/// Prints the values that the import had to change.
pub fn oddities(oddities: &BTreeSet<Oddity>) {
    let say = |what: &str, pick: fn(&Oddity) -> Option<&String>| {
        let mut found = oddities.iter().filter_map(pick);
        if let Some(first) = found.next() {
            let first: String = shown(first).chars().take(60).collect();
            println!("note: {} {what}, for example {first}", 1 + found.count());
        }
    };
    say("path(s) are kept quoted as git does, since they are not UTF-8 or hold control characters", |oddity| {
        match oddity {
            Oddity::QuotedPath(path) => Some(path),
            _ => None,
        }
    });
    say("path(s) are longer than an aggregate id may be: their events are under the path's end and a hash", |oddity| {
        match oddity {
            Oddity::LongPath(path) => Some(path),
            _ => None,
        }
    });
    say("commit(s) have an author or message that is not UTF-8: kept with � for what is not", |oddity| match oddity {
        Oddity::NotUtf8(commit) => Some(commit),
        _ => None,
    });
    say("commit(s) have no date that exists: kept as 1970-01-01", |oddity| match oddity {
        Oddity::NoDate(commit) => Some(commit),
        _ => None,
    });
}

/// Returns a rate in whole numbers.
pub fn per_second(count: u64, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown in whole numbers")]
    let rate = count as f64 / took.as_secs_f64().max(f64::EPSILON);
    format!("{rate:.0}")
}

fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let rows: Vec<_> = std::iter::once(head.map(Into::into)).chain(rows).collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row: &[String; N]| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let (last, cells) = match row.split_last() {
            Some(split) => split,
            None => return,
        };
        for (cell, width) in cells.iter().zip(widths) {
            print!("{cell:>width$}  ");
        }
        println!("{last}");
    }
}

fn day(date: Option<OffsetDateTime>) -> String {
    date.map(|date| date.date().to_string()).unwrap_or_default()
}

/// Replaces control characters: names and messages come from strangers and could control the terminal.
fn shown(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
