//! Reading environment variables into fields of a configuration.

use std::{collections::BTreeSet, env, str::FromStr, sync::Once, time::Duration};

use crate::error::{ConfigMistake, InvalidConfig};

/// The prefix of our variables.
const VARIABLE_PREFIX: &str = "EVENTBUS_";
/// A wrong name of the server's variable.
const MISNAMED_URL_VARIABLE: &str = "EVENTBUS_REDIS_URL";

/// The variables that the configuration of a bus knows. It refuses `EVENTBUS_REDIS_URL`, a wrong name of `REDIS_URL`.
pub const BUS_VARIABLES: &str = "
    REDIS_URL EVENTBUS_REDIS_URL EVENTBUS_STREAM_PREFIX EVENTBUS_CONSUMER_GROUP EVENTBUS_CONSUMER_NAME
    EVENTBUS_BATCH_SIZE EVENTBUS_BLOCK_MS EVENTBUS_RETRY_FOR_SECONDS EVENTBUS_MAX_RETRIES
    EVENTBUS_PENDING_IDLE_MS EVENTBUS_ENABLE_DLQ EVENTBUS_DLQ_STREAM_SUFFIX EVENTBUS_SOCKET_TIMEOUT
    EVENTBUS_SOCKET_CONNECT_TIMEOUT EVENTBUS_ENABLE_TRACING EVENTBUS_RETRY_KEY_PREFIX
    EVENTBUS_RETRY_KEY_EXPIRY_SECONDS EVENTBUS_SINGLE_CONNECTION_CLIENT EVENTBUS_CONCURRENCY
    EVENTBUS_MAX_IN_FLIGHT EVENTBUS_RETRY_DELAY_MS
    EVENTBUS_RETRY_MAX_DELAY_MS
    EVENTBUS_TRIM_MAX_LENGTH EVENTBUS_TRIM_MAX_AGE_SECONDS EVENTBUS_TLS_CA_FILE EVENTBUS_TLS_CERT_FILE
    EVENTBUS_TLS_KEY_FILE EVENTBUS_READABLE_BY_PYTHON";
/// The variables that the configuration of a store knows. Both lists are in this crate, so that a process with a bus
/// alone does not warn of the variables of a store.
pub const STORE_VARIABLES: &str = "
    REDIS_URL EVENTBUS_REDIS_URL EVENTBUS_KEY_PREFIX EVENTBUS_SOCKET_TIMEOUT EVENTBUS_SOCKET_CONNECT_TIMEOUT
    EVENTBUS_CHECK_DURABILITY EVENTBUS_TLS_CA_FILE EVENTBUS_TLS_CERT_FILE EVENTBUS_TLS_KEY_FILE";
/// The variables that only the command `eventbus` reads: an application that an operator starts in a shell may have
/// them too.
const COMMAND_VARIABLES: &str =
    "EVENTBUS_STORE EVENTBUS_SCHEMA EVENTBUS_BUS EVENTBUS_TO EVENTBUS_TIMEOUT EVENTBUS_DASHBOARD_TOKEN";

/// Returns a variable of this process.
pub fn process_variable(name: &str) -> Option<Result<String, NotUtf8>> {
    env::var_os(name).map(|value| value.into_string().map_err(|_| NotUtf8))
}

/// A variable whose value is not UTF-8.
#[derive(Debug)]
pub struct NotUtf8;

/// Logs, once in a process, a warning for each variable that begins like ours and that no configuration reads.
pub fn warn_unknown_variables() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        let set: Vec<_> = env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        for (variable, nearest) in find_unknown_variables(set.iter().map(String::as_str)) {
            tracing::warn!(variable, "no configuration reads this variable; did you mean `{nearest}`?");
        }
    });
}

/// Returns the variables that begin like ours and that neither a configuration nor the command reads, each with the
/// nearest name that a configuration reads.
fn find_unknown_variables<'a>(set: impl Iterator<Item = &'a str>) -> Vec<(&'a str, &'static str)> {
    let known: BTreeSet<_> = BUS_VARIABLES.split_whitespace().chain(STORE_VARIABLES.split_whitespace()).collect();
    let is_of_command = |name: &str| COMMAND_VARIABLES.split_whitespace().any(|known| known == name);
    let ours = set.filter(|name| name.starts_with(VARIABLE_PREFIX) && !known.contains(name) && !is_of_command(name));
    let with_nearest = |name| {
        let distance = |known: &&&str| strsim::damerau_levenshtein(name, known);
        let nearest = *known.iter().min_by_key(distance)?;
        Some((name, if nearest == MISNAMED_URL_VARIABLE { "REDIS_URL" } else { nearest }))
    };
    ours.filter_map(with_nearest).collect()
}

/// Reads variables, and collects the mistakes in them.
#[derive(Debug)]
pub struct EnvVars<G> {
    get: G,
    mistakes: Vec<ConfigMistake>,
}

impl<G: Fn(&str) -> Option<Result<String, NotUtf8>>> EnvVars<G> {
    pub fn new(get: G) -> Self {
        Self { get, mistakes: Vec::new() }
    }

    /// Returns the configuration, unless a variable has a mistake.
    pub fn finish<C>(self, of: &'static str, config: C) -> Result<C, InvalidConfig> {
        InvalidConfig::unless(of, self.mistakes, config)
    }

    /// Reads the server's URL, whose variable is the same in every configuration.
    pub fn redis_url(&mut self, field: &mut String) {
        self.text("REDIS_URL", field);
        if self.value(MISNAMED_URL_VARIABLE).is_some() {
            self.mistakes.push(ConfigMistake::new(MISNAMED_URL_VARIABLE, "is set; the server is named by `REDIS_URL`"));
        }
    }

    /// Returns a variable; `None` if it is unset or empty.
    pub fn value(&mut self, name: &'static str) -> Option<String> {
        match (self.get)(name)? {
            Ok(value) => Some(value).filter(|value| !value.is_empty()),
            Err(NotUtf8) => {
                self.mistakes.push(ConfigMistake::new(name, "is not valid UTF-8"));
                None
            }
        }
    }

    pub fn text(&mut self, name: &'static str, field: &mut String) {
        if let Some(value) = self.value(name) {
            *field = value;
        }
    }

    pub fn flag(&mut self, name: &'static str, field: &mut bool) {
        if let Some(flag) = self.read(name, "`true` or `false`", |text| text.parse().ok()) {
            *field = flag;
        }
    }

    pub fn number<T: FromStr>(&mut self, name: &'static str, field: &mut T) {
        if let Some(number) = self.read(name, "a whole number", |text| text.parse().ok()) {
            *field = number;
        }
    }

    /// Reads a number into an optional field.
    pub fn optional_number<T: FromStr>(&mut self, name: &'static str, field: &mut Option<T>) {
        if let Some(number) = self.read(name, "a whole number", |text| text.parse().ok()) {
            *field = Some(number);
        }
    }

    pub fn seconds(&mut self, name: &'static str, field: &mut Duration) {
        let parse = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
        if let Some(duration) = self.read(name, "a number of seconds", parse) {
            *field = duration;
        }
    }

    /// Returns a value; `None` if the variable is not set, or has a mistake.
    fn read<T>(&mut self, name: &'static str, kind: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.value(name)?;
        let parsed = parse(value.trim());
        if parsed.is_none() {
            let shown: String = value.chars().take(40).flat_map(char::escape_debug).collect();
            self.mistakes.push(ConfigMistake::new(name, format!("is `{shown}`, which is not {kind}")));
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds each mistyped variable, and the nearest known name.
    #[test]
    fn a_mistyped_variable_is_named_with_the_nearest_one() {
        let set = [
            "PATH",
            "REDIS_URL",
            "EVENTBUS_BATCH_SIZE",
            "EVENTBUS_KEY_PREFIX",
            "EVENTBUS_STORE",
            "EVENTBUS_BATCHSIZE",
            "EVENTBUS_STREAM_PERFIX",
            "EVENTBUS_RETRIES",
            "EVENTBUS_REDIS_URI",
            "EVENTBUS_",
        ];
        let expected = [
            ("EVENTBUS_BATCHSIZE", "EVENTBUS_BATCH_SIZE"),
            ("EVENTBUS_STREAM_PERFIX", "EVENTBUS_STREAM_PREFIX"),
            ("EVENTBUS_RETRIES", "EVENTBUS_MAX_RETRIES"),
            ("EVENTBUS_REDIS_URI", "REDIS_URL"),
        ];
        let found = find_unknown_variables(set.into_iter());
        assert_eq!(found[..4], expected);
        assert_eq!((found.len(), found[4].0), (5, "EVENTBUS_"));
    }
}
