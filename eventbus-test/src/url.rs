//! The one change that tests make to a server's URL: the database.

use crate::error::Error;

/// Returns `url` with its path replaced by `database`; user, host and options stay.
///
/// The option `dbname` is removed, because clients prefer it to the path.
pub(crate) fn with_database(url: &str, database: &str) -> Result<String, Error> {
    let (scheme, rest) = url.split_once("://").ok_or(Error::NotAUrl { variable: "DATABASE_URL" })?;
    let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, _path) = before.split_once('/').unwrap_or((before, ""));
    let options: Vec<_> = query.split('&').filter(|o| !o.is_empty() && !o.starts_with("dbname=")).collect();
    let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
    Ok(format!("{scheme}://{authority}/{}{query}", encoded(database)))
}

fn encoded(name: &str) -> String {
    name.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: &str) {
        assert_eq!(with_database(url, "t1").unwrap(), expected);
    }

    #[test]
    fn only_the_path_changes() {
        check("postgres://postgres@127.0.0.1:5432/postgres", "postgres://postgres@127.0.0.1:5432/t1");
        check("postgresql://u:p%2Fw@[::1]:5432/postgres?sslmode=off", "postgresql://u:p%2Fw@[::1]:5432/t1?sslmode=off");
    }

    #[test]
    fn a_missing_path_is_added() {
        check("postgres://host", "postgres://host/t1");
        check("postgres://host?options=-c%20a/b", "postgres://host/t1?options=-c%20a/b");
        check("postgres:///old?host=/run/postgresql", "postgres:///t1?host=/run/postgresql");
    }

    #[test]
    fn a_database_among_the_options_goes() {
        check("postgres://host/a?dbname=b&sslmode=off", "postgres://host/t1?sslmode=off");
        check("postgres://host/a?dbname=b", "postgres://host/t1");
    }

    #[test]
    fn the_name_is_encoded() {
        assert_eq!(with_database("postgres://h/a", "ä b?").unwrap(), "postgres://h/%C3%A4%20b%3F");
    }

    #[test]
    fn what_is_not_a_url_is_refused() {
        let error = with_database("host=localhost dbname=a", "t1").unwrap_err();
        assert_eq!(error.to_string(), "DATABASE_URL is not a URL (expected scheme://host/…)");
    }
}
