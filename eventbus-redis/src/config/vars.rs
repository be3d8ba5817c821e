//! Reading variables of the environment into fields of a configuration.

use std::{env, str::FromStr, time::Duration};

use crate::error::ConfigMistake;

/// A variable of this process.
pub(crate) fn of_process(name: &str) -> Option<Result<String, NotText>> {
    env::var_os(name).map(|value| value.into_string().map_err(|_| NotText))
}

/// A variable that holds something else than text.
pub(crate) struct NotText;

/// Reads variables, and gathers the mistakes in them.
pub(crate) struct Vars<G> {
    get: G,
    pub(crate) mistakes: Vec<ConfigMistake>,
}

impl<G: Fn(&str) -> Option<Result<String, NotText>>> Vars<G> {
    pub(crate) fn new(get: G) -> Self {
        Self { get, mistakes: Vec::new() }
    }

    /// The server, which has one name wherever it is asked for.
    pub(crate) fn redis_url(&mut self, field: &mut String) {
        self.text("REDIS_URL", field);
        if self.value("EVENTBUS_REDIS_URL").is_some() {
            self.mistakes.push(ConfigMistake::new("EVENTBUS_REDIS_URL", "is set; the server is named by `REDIS_URL`"));
        }
    }

    pub(crate) fn value(&mut self, name: &str) -> Option<String> {
        match (self.get)(name)? {
            Ok(value) => Some(value).filter(|value| !value.is_empty()),
            Err(NotText) => {
                self.mistakes.push(ConfigMistake::new(name, "is not valid UTF-8"));
                None
            }
        }
    }

    pub(crate) fn text(&mut self, name: &str, field: &mut String) {
        if let Some(value) = self.value(name) {
            *field = value;
        }
    }

    pub(crate) fn parsed<T: FromStr>(&mut self, name: &str, field: &mut T) {
        let Some(value) = self.value(name) else {
            return;
        };
        match value.trim().parse() {
            Ok(parsed) => *field = parsed,
            Err(_) => {
                let kind = match std::any::type_name::<T>() {
                    "bool" => "`true` or `false`",
                    _ => "a whole number",
                };
                self.refuse(name, &value, kind);
            }
        }
    }

    pub(crate) fn number<T: FromStr>(&mut self, name: &str, field: &mut Option<T>) {
        let Some(value) = self.value(name) else {
            return;
        };
        match value.trim().parse() {
            Ok(parsed) => *field = Some(parsed),
            Err(_) => self.refuse(name, &value, "a whole number"),
        }
    }

    pub(crate) fn seconds(&mut self, name: &str, field: &mut Duration) {
        let Some(value) = self.value(name) else {
            return;
        };
        let seconds = value.trim().parse().ok();
        match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
            Some(duration) => *field = duration,
            None => self.refuse(name, &value, "a number of seconds"),
        }
    }

    fn refuse(&mut self, name: &str, value: &str, kind: &str) {
        let shown: String = value.chars().take(40).flat_map(char::escape_debug).collect();
        let problem = format!("is `{shown}`, which is not {kind}");
        self.mistakes.push(ConfigMistake::new(name, problem));
    }
}
