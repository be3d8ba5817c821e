//! A strict reader of the text format of Prometheus.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a sample.
pub(crate) type Labels = BTreeMap<String, String>;

/// A metric as a page shows it.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// Name and labels of each sample, with its value.
    pub(crate) samples: Vec<(String, Labels, f64)>,
}

/// Reads a page.
///
/// # Panics
/// At each violation of the format.
pub(crate) fn parse(page: &str) -> BTreeMap<String, Family> {
    assert!(page.ends_with('\n') && !page.contains('\r'), "the last line ends with a line feed");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!families.contains_key(name), "`{name}` is there twice");
            assert_unescaped(help, &['\\', 'n']);
            name.clone_into(&mut current);
            families.insert(current.clone(), Family { help: help.into(), ..Family::default() });
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current, "the type follows the help");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            let family = families.get_mut(name).unwrap();
            assert!(family.kind.is_empty() && family.samples.is_empty(), "`{name}` has its type before its samples");
            kind.clone_into(&mut family.kind);
        } else {
            let sample = parse_sample(line);
            let family = families.get_mut(&current).unwrap();
            let suffix = sample.0.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line} below {current}"));
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert_eq!(suffix == "_bucket", sample.1.contains_key("le"), "{line}");
            family.samples.push(sample);
        }
    }
    for (name, family) in &families {
        let series: BTreeSet<_> = family.samples.iter().map(|(name, labels, _)| (name, labels)).collect();
        assert_eq!(series.len(), family.samples.len(), "`{name}` has a series twice");
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
        if family.kind == "counter" {
            assert!(family.samples.iter().all(|(_, _, value)| *value >= 0.0 && value.fract() == 0.0), "{name}");
        }
    }
    families
}

fn parse_sample(line: &str) -> (String, Labels, f64) {
    let name_end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(name_end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inner.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label) && !label.contains(':'), "{line}");
            let end = end_of_quoted(after).unwrap_or_else(|| panic!("no quote: {line}"));
            assert_unescaped(&after[..end], &['\\', '"', 'n']);
            assert!(labels.insert(label.into(), after[..end].into()).is_none(), "a label twice: {line}");
            inner = &after[end + 1..];
            match inner.strip_prefix(',') {
                Some(more) => inner = more,
                None => break,
            }
        }
        rest = inner.strip_prefix('}').unwrap_or_else(|| panic!("no brace: {line}"));
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space: {line}"));
    assert!(!value.contains(' '), "no time: {line}");
    (name.into(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':';
    name.bytes().next().is_some_and(is_letter) && name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

/// Returns the place of the first quote that is not escaped.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(place, char)| {
        let is_end = char == '"' && !is_escaped;
        is_escaped = char == '\\' && !is_escaped;
        is_end.then_some(place)
    })
}

/// Checks that a backslash stands before one of `escaped` only.
fn assert_unescaped(text: &str, escaped: &[char]) {
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\\' {
            let next = chars.next();
            assert!(next.is_some_and(|next| escaped.contains(&next)), "{text}");
        }
    }
}

fn check_histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for (sample, labels, value) in &family.samples {
        if sample.ends_with("_bucket") {
            let mut labels = labels.clone();
            let bound: f64 = labels.remove("le").unwrap().parse().unwrap();
            series.entry(labels).or_default().push((bound, *value));
        }
    }
    for (labels, buckets) in &series {
        assert!(buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{name} {labels:?}: {buckets:?}");
        let find = |suffix: &str| {
            let name = format!("{name}{suffix}");
            family.samples.iter().find(|(sample, of, _)| *sample == name && of == labels).unwrap().2
        };
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, find("_count")), "{name} {labels:?}");
        assert!(find("_sum") >= 0.0);
    }
    let counts = family.samples.iter().filter(|(sample, ..)| sample.ends_with("_count")).count();
    assert_eq!(counts, series.len(), "{name}");
}

#[cfg(test)]
mod tests {
    use super::parse;

    const GOOD: &str = "# HELP a b\n# TYPE a gauge\na{x=\"1\\\"\\\\\\n\",y=\"\"} 1\na 2.5\n";

    #[test]
    fn a_page_is_read() {
        let families = parse(GOOD);
        assert_eq!(families["a"].samples.len(), 2);
        assert_eq!(families["a"].samples[0].1["x"], "1\\\"\\\\\\n");
    }

    #[test]
    fn each_violation_is_found() {
        let histogram = "# HELP a b\n# TYPE a histogram\n";
        let bad = [
            "a 1\n".to_owned(),
            GOOD.trim_end().to_owned(),
            format!("{GOOD}{GOOD}"),
            format!("{GOOD}a 3\n"),
            format!("{GOOD}b 3\n"),
            GOOD.replace("gauge", "level"),
            GOOD.replace("2.5", "2.5 7"),
            GOOD.replace("2.5", "x"),
            GOOD.replace(",y=\"\"", ",y=\"\\x\""),
            GOOD.replace(",y=\"\"", ",x=\"\""),
            GOOD.replace(",y", ";y"),
            format!("{histogram}a_bucket{{le=\"+Inf\"}} 2\na_sum 1\na_count 3\n"),
            format!("{histogram}a_bucket{{le=\"1\"}} 3\na_bucket{{le=\"+Inf\"}} 2\na_sum 1\na_count 2\n"),
            format!("{histogram}a_bucket{{le=\"1\"}} 2\na_sum 1\na_count 2\n"),
            format!("{histogram}a_sum 1\na_count 2\n"),
        ];
        for page in bad {
            let parsed = std::panic::catch_unwind(|| parse(&page));
            assert!(parsed.is_err(), "{page}");
        }
    }
}
