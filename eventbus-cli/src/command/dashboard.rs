//! `dashboard`: pages for a browser.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::json;
use tokio::net::TcpListener;

use super::{
    doctor::{examine, new_doctor},
    parse_duration,
};
use crate::{
    dashboard::{DashboardConfig, DashboardInner, DashboardSource, DashboardToken, Examine, routes},
    doctor::DoctorConfig,
    error::{CommandError, ExitStatus},
    session::Session,
};

/// Serve pages that show the store and the bus to a browser
///
/// The pages are read-only. `--allow-changes` lets operators who log in with the token replay and discard dead letters. On an
/// address that other machines can reach, all pages need the token; put a server with TLS before it. Ctrl-C ends it.
#[derive(derive_more::Debug, Args)]
pub(crate) struct DashboardArgs {
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Let operators who log in replay and discard dead letters
    #[arg(long)]
    allow_changes: bool,
    /// The token to log in with, of at least 16 characters; without it a token is made and shown, if one is needed
    // refused if empty, as without it pages on an address of this machine alone would need no login
    #[arg(long, value_name = "TOKEN", env = "EVENTBUS_DASHBOARD_TOKEN", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    #[debug(skip)]
    token: Option<String>,
    /// A name of this server that browsers may use, beside its addresses and `localhost`
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Show fields with this name without their values; `actor` is the actor of events, too
    // refused if empty, as no field has that name, and all would be shown
    #[arg(long = "hide", value_name = "FIELD", value_parser = NonEmptyStringValueParser::new())]
    hidden_fields: Vec<String>,
    /// Show the values of fields with this name only, and of what is below them; `actor` is the actor of events, too
    #[arg(long = "show", value_name = "FIELD")]
    shown_fields: Vec<String>,
    /// The interval of the samples of throughput and lag; by default 5 seconds
    #[arg(long, value_name = "INTERVAL", value_parser = parse_duration)]
    sample_every: Option<Duration>,
}

impl DashboardArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let (config, made) = self.config()?;
        let bus = session.bus().await?.clone();
        let source = DashboardSource::new(session.optional_store().await?, bus);
        let source = match session.settings().names_a_server() {
            true => source.with_doctor(doctor_of(session)),
            false => source,
        };
        let listener = TcpListener::bind(self.listen).await;
        let cannot = |error| CommandError::fault(format!("cannot listen on {}: {error}", self.listen));
        let listener = listener.map_err(cannot)?;
        let url = format!("http://{}/", listener.local_addr()?);
        let token = made.map(|token| token.as_str().to_owned());
        let body = match &token {
            Some(token) => json!({ "url": url, "token": token }),
            None => json!({ "url": url }),
        };
        session.printer().show(&body, |_| {
            let token = token.map(|token| format!("token      {token}\n")).unwrap_or_default();
            format!("dashboard  {url}\n{token}")
        })?;
        let inner = DashboardInner::new(source, config);
        if self.names_no_field() && inner.fields().await.is_ok_and(|fields| !fields.hides_personal()) {
            let text = "the pages show all fields of events, personal data too: hide some with `--hide FIELD`, or show only \
                        some with `--show FIELD`";
            session.printer().note(text);
        }
        axum::serve(listener, routes(inner)).await?;
        Ok(ExitStatus::Done)
    }

    /// Returns `true` if no option says which fields are shown.
    const fn names_no_field(&self) -> bool {
        self.hidden_fields.is_empty() && self.shown_fields.is_empty()
    }

    /// Returns the configuration, and the token if it was made.
    fn config(&self) -> Result<(DashboardConfig, Option<DashboardToken>), CommandError> {
        // a host of its own is that of a server before it, which lets other machines in
        let is_public = !self.listen.ip().is_loopback() || !self.hosts.is_empty();
        let given = self.token.as_deref().map(DashboardToken::new).transpose()?;
        let made = match given {
            None if is_public || self.allow_changes => Some(DashboardToken::generate()?),
            _ => None,
        };
        let config = DashboardConfig {
            login_to_read: is_public || given.is_some(),
            token: given.or_else(|| made.clone()),
            allow_changes: self.allow_changes,
            hosts: Some(self.hosts.clone()),
            hidden_fields: self.hidden_fields.clone(),
            shown_fields: Some(self.shown_fields.clone()).filter(|fields| !fields.is_empty()),
            sample_interval: self.sample_every,
        };
        Ok((config, made))
    }
}

fn doctor_of(session: &Session) -> Examine {
    let (settings, doctor) = (session.settings().clone(), new_doctor(session, DoctorConfig::default()));
    Box::new(move || {
        let (settings, doctor) = (settings.clone(), doctor.clone());
        Box::pin(async move { examine(&settings, doctor, |_| ()).await })
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        args: DashboardArgs,
    }

    fn config(arguments: &[&str]) -> (DashboardConfig, Option<DashboardToken>) {
        Parsed::parse_from([&["dashboard"], arguments].concat()).args.config().unwrap()
    }

    #[test]
    fn a_token_is_made_where_one_is_needed() {
        let (config_of_loopback, made) = config(&[]);
        assert!(made.is_none() && config_of_loopback.token.is_none() && !config_of_loopback.login_to_read);
        let cases: [(&[&str], bool); 3] = [
            (&["--allow-changes"], false),
            (&["--listen", "0.0.0.0:1"], true),
            (&["--host", "ops.example.org", "--allow-changes"], true),
        ];
        for (arguments, login_to_read) in cases {
            let (config, made) = config(arguments);
            assert!(made.is_some() && config.token.is_some(), "{arguments:?}");
            assert_eq!(config.login_to_read, login_to_read, "{arguments:?}");
        }
        for allow_changes in [false, true] {
            let flag = allow_changes.then_some("--allow-changes");
            let given: Vec<_> = ["--token", "0123456789abcdef"].into_iter().chain(flag).collect();
            let (config_of_given, made) = config(&given);
            assert!(made.is_none() && config_of_given.login_to_read && config_of_given.allow_changes == allow_changes);
        }
    }
}
