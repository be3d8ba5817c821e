//! What a child process does: a variable of its environment says it.

use std::env;

use serde::{Serialize, de::DeserializeOwned};

use super::{
    HarnessError, commands, consumer_crashes, decisions, kills, metered, processes, reactions, releases,
    stuck_handlers, unique_values,
};

/// The work of a child process, and what it needs to know for it.
pub(super) trait Role: Serialize + DeserializeOwned {
    /// The environment variable that gives a process the role, as JSON.
    const VARIABLE: &'static str;

    /// Plays the role to its end, or until the process is killed.
    async fn play(self) -> Result<(), HarnessError>;
}

/// Plays the role that the environment gives to this process; returns `false` at once if it gives none.
///
/// # Errors
/// If the process itself fails, or a server fails for longer than the faults last.
pub async fn play() -> Result<bool, HarnessError> {
    Ok(play_if_given::<kills::process_role::ProcessConfig>().await?
        || play_if_given::<reactions::Member>().await?
        || play_if_given::<unique_values::Member>().await?
        || play_if_given::<decisions::Member>().await?
        || play_if_given::<commands::Server>().await?
        || play_if_given::<consumer_crashes::Consumer>().await?
        || play_if_given::<stuck_handlers::Consumer>().await?
        || play_if_given::<metered::Member>().await?
        || play_if_given::<processes::Process>().await?
        || play_if_given::<releases::Process>().await?)
}

async fn play_if_given<R: Role>() -> Result<bool, HarnessError> {
    let Ok(role) = env::var(R::VARIABLE) else {
        return Ok(false);
    };
    serde_json::from_str::<R>(&role)?.play().await?;
    Ok(true)
}
