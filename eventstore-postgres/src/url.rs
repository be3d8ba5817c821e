//! The parameters of a database URL.
//!
//! Invariant: the driver sees no parameter that it does not know. It would log the parameter with its value, which may
//! be a password, and ignore it, so that `?ssl_mode=verify-full` would connect without TLS.

use crate::error::PgConnectError;

/// The parameters that the driver knows, the usual spelling of each first.
const KNOWN_PARAMETERS: [&[&str]; 12] = [
    &["sslmode", "ssl-mode"],
    &["sslrootcert", "ssl-root-cert", "ssl-ca"],
    &["sslcert", "ssl-cert"],
    &["sslkey", "ssl-key"],
    &["statement-cache-capacity"],
    &["host"],
    &["hostaddr"],
    &["port"],
    &["dbname"],
    &["user"],
    &["password"],
    &["application_name"],
];

/// Parameters of PostgreSQL's own programs that are fields of the configuration here.
const CONFIG_FIELDS: [(&str, &str); 2] =
    [("connect_timeout", "connect_timeout"), ("statement_timeout", "statement_timeout")];

/// The most letters by which a misspelled parameter differs from a known one.
const TYPO_DISTANCE_MAX: usize = 3;

/// Refuses parameters that the driver does not know.
///
/// # Errors
/// [`PgConnectError::UnknownParameter`] with the first of them.
pub(crate) fn check_parameters(url: &str) -> Result<(), PgConnectError> {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    let Some((_, parameters)) = url.split_once('?') else {
        return Ok(());
    };
    let names = parameters.split('&').map(|one| one.split_once('=').map_or(one, |(name, _)| name));
    match names.filter(|name| !name.is_empty()).find(|name| !is_known(name)) {
        None => Ok(()),
        Some(_) if parameters.contains('@') => Err(PgConnectError::UnknownParameter {
            parameter: "…".into(),
            hint: "it is not shown, for what follows the `?` may be a part of a password: percent-encode that".into(),
        }),
        Some(name) => {
            let parameter = name.chars().take(40).flat_map(char::escape_debug).collect();
            Err(PgConnectError::UnknownParameter { parameter, hint: hint(name) })
        }
    }
}

fn is_known(name: &str) -> bool {
    let is_option = name == "options" || (name.starts_with("options[") && name.ends_with(']'));
    is_option || KNOWN_PARAMETERS.iter().any(|spellings| spellings.contains(&name))
}

/// Returns the correction for an unknown parameter.
fn hint(name: &str) -> String {
    let plain = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
    let wanted = plain(name);
    if let Some((_, field)) = CONFIG_FIELDS.iter().find(|(parameter, _)| plain(parameter) == wanted) {
        return format!("set `PgEventStoreConfig::{field}`");
    }
    let known =
        KNOWN_PARAMETERS.iter().flat_map(|spellings| spellings.iter().map(|spelling| (*spelling, spellings[0])));
    let distance = |spelling: &str| strsim::damerau_levenshtein(&plain(spelling), &wanted);
    match known.min_by_key(|(spelling, _)| distance(spelling)) {
        Some((spelling, usual)) if distance(spelling) <= TYPO_DISTANCE_MAX => format!("write `{usual}`"),
        _ => {
            let usual: Vec<_> = KNOWN_PARAMETERS.iter().map(|spellings| format!("`{}`", spellings[0])).collect();
            format!("known are {} and `options[…]`", usual.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_text(parameters: &str) -> String {
        check_parameters(&format!("postgres://app@db/orders?{parameters}")).unwrap_err().to_string()
    }

    #[test]
    fn what_the_driver_knows_is_let_through() {
        for url in [
            "postgres://db/orders",
            "postgres://db/orders?",
            "postgres://db/orders?sslmode=verify-full&sslrootcert=/etc/ca.pem&ssl-cert=a&ssl-key=b",
            "postgres:///orders?host=/run/postgresql&user=app&password=a%26b&options=-c%20x%3D1&options[y]=2#part?z=1",
        ] {
            check_parameters(url).unwrap();
        }
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_the_right_spelling_and_without_its_value() {
        for (parameters, parameter, hint) in [
            ("ssl_mode=verify-full", "ssl_mode", "write `sslmode`"),
            ("host=x&SSLMode=secret", "SSLMode", "write `sslmode`"),
            ("ssl_root_cert=secret", "ssl_root_cert", "write `sslrootcert`"),
            ("pasword=secret", "pasword", "write `password`"),
            ("connect_timeout=5", "connect_timeout", "set `PgEventStoreConfig::connect_timeout`"),
            ("keepalives", "keepalives", "known are `sslmode`"),
        ] {
            let text = error_text(parameters);
            let begin = format!("the database URL has a parameter `{parameter}` that is not known; {hint}");
            assert!(text.starts_with(&begin) && !text.contains("secret"), "{text}");
        }
        // a password that was not encoded
        let error = check_parameters("postgres://app:my?se&cret@db/orders").unwrap_err().to_string();
        assert!(!error.contains("se&") && !error.contains("cret"), "{error}");
    }
}
