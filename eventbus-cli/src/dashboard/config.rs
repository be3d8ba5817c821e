//! The configuration of a dashboard.

use std::time::Duration;

use subtle::ConstantTimeEq as _;

use crate::error::CommandError;

/// The fewest characters of a token that an operator chooses.
const TOKEN_MIN: usize = 16;
/// The most characters, because the token is in a cookie.
const TOKEN_MAX: usize = 512;

/// The configuration of a dashboard: what it shows and allows. The default is read-only.
#[derive(Debug, Clone, Default)]
pub struct DashboardConfig {
    /// The token by which operators log in.
    pub token: Option<DashboardToken>,
    /// Set if operators who have logged in may replay and discard dead letters, and rebuild projections of the app.
    /// Without a token there is no login, and so no change.
    pub allow_changes: bool,
    /// Set if all pages need a login. Without a token, no page is then shown.
    pub login_to_read: bool,
    /// The names of this server that a browser may use, such as `ops.example.org`; `None` allows all.
    ///
    /// A list keeps pages of other sites from reading the dashboard through a domain of theirs that resolves to this
    /// server (DNS rebinding). Addresses and `localhost` are always allowed, because no other site can have them.
    pub hosts: Option<Vec<String>>,
    /// Fields of payloads and attributes with one of these names are shown without their values, at any depth; case,
    /// `_` and `-` do not matter. The same holds for personal fields that an event of the program declares, as in
    /// `#[event(personal(email))]`, or that applications have noted in the store. `actor` also names the actor of
    /// events.
    pub hidden_fields: Vec<String>,
    /// If set, only fields of payloads and attributes with one of these names, and all fields below them, are shown
    /// with their values. A nested object without one of these fields is shown without its keys. `actor` also names the
    /// actor of events.
    pub shown_fields: Option<Vec<String>>,
    /// The interval of the samples of throughput and lag, from 100 ms to a day; memory holds 720 samples. `None`, the
    /// default, means 5 s.
    pub sample_interval: Option<Duration>,
}

/// The token of a dashboard: a secret that operators enter to log in. `Debug` does not show it.
#[derive(Clone, derive_more::Debug)]
#[debug("DashboardToken")]
pub struct DashboardToken(String);

impl DashboardToken {
    /// Makes a token of a text.
    ///
    /// # Errors
    /// [`CommandError::Usage`] if it has less than 16 or more than 512 characters, or others than letters, digits and
    /// `-._~`.
    pub fn new(token: impl Into<String>) -> Result<Self, CommandError> {
        let token = token.into();
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if !(TOKEN_MIN..=TOKEN_MAX).contains(&token.len()) || !token.chars().all(is_allowed) {
            let text = format!("a token has {TOKEN_MIN} to {TOKEN_MAX} letters, digits and `-._~`");
            return Err(CommandError::Usage(text));
        }
        Ok(Self(token))
    }

    /// Makes a token of 32 random bytes.
    ///
    /// # Errors
    /// [`CommandError::Fault`] if the operating system gives no random bytes.
    pub fn generate() -> Result<Self, CommandError> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| CommandError::fault(format!("no random bytes: {error}")))?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Returns the token, to show it to the operator who started the dashboard.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Compares the token with `given`, in a time that does not depend on where they differ.
    pub(super) fn matches(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_fits_into_a_cookie_and_is_not_shown() {
        for wrong in ["short", "with space 1234567", "semi;colon1234567", "ümlaut-1234567890", &"x".repeat(513)] {
            assert!(matches!(DashboardToken::new(wrong), Err(CommandError::Usage(_))), "{wrong}");
        }
        let token = DashboardToken::new("0123456789abcdef").unwrap();
        assert!(token.matches("0123456789abcdef") && !token.matches("0123456789abcdeF") && !token.matches(""));
        assert_eq!(format!("{token:?}"), "DashboardToken");
        let (one, two) = (DashboardToken::generate().unwrap(), DashboardToken::generate().unwrap());
        assert_eq!((one.as_str().len(), DashboardToken::new(one.as_str()).is_ok()), (64, true));
        assert!(!one.matches(two.as_str()));
    }
}
