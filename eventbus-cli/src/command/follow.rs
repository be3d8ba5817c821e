//! `follow`: the events of the feed as they are stored.

use std::time::Duration;

use clap::Args;
use eventbus::{Name, Position, store::FeedFilter};
use futures_util::TryStreamExt as _;

use super::streams::{EventDocument, event_text};
use crate::{
    error::{CommandError, ExitStatus},
    output::Progress,
    query::EventView,
    session::Session,
};

/// Pause before the command looks for further events.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Show the events of the feed as they are stored, from now on or after a position
///
/// Ctrl-C ends it. It goes on where it was with `--after` and the last position that it showed.
#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    /// Only events of these types
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events of aggregates of these types
    #[arg(long, value_name = "TYPE")]
    aggregate: Vec<String>,
    /// Begin after this position, 0 for the first event; without it with the next event that is stored
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// End at this position, or with `head` at the last event that is stored now
    #[arg(long, value_name = "POSITION", value_parser = parse_end)]
    until: Option<FollowEnd>,
}

/// The end of following.
#[derive(Debug, Clone, Copy)]
enum FollowEnd {
    /// The last event that is stored when the command begins.
    Head,
    At(Position),
}

fn parse_end(text: &str) -> Result<FollowEnd, String> {
    match text {
        "head" => Ok(FollowEnd::Head),
        text => text
            .parse()
            .map(|position| FollowEnd::At(Position::new(position)))
            .map_err(|_| "write a position or `head`".into()),
    }
}

impl FollowArgs {
    fn filter(&self) -> Result<FeedFilter, CommandError> {
        let names = |what, texts: &[String]| {
            let names: Result<Vec<_>, _> = texts.iter().map(|text| Name::new(what, text)).collect();
            names.map_err(|error| CommandError::Usage(error.to_string()))
        };
        let mut filter = FeedFilter::all();
        if !self.types.is_empty() {
            filter = filter.event_types(names("event type", &self.types)?);
        }
        if !self.aggregate.is_empty() {
            filter = filter.aggregate_types(names("aggregate type", &self.aggregate)?);
        }
        Ok(filter)
    }

    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let filter = self.filter()?;
        let store = session.store().await?;
        let head = store.head().await?;
        let mut after = self.after.map_or(head, Position::new);
        let until = self.until.map(|end| match end {
            FollowEnd::Head => head,
            FollowEnd::At(position) => position,
        });
        let line = Progress::beside_output("following")?;
        let mut last_head = head;
        loop {
            let head = store.head().await?;
            if head < last_head {
                let text = format!(
                    "{} ends at position {head}, and ended at {last_head} before: it was restored from a backup, or a \
                     server that lacks the last events took over. Events after position {head} are not the ones that were \
                     shown: follow again `--after {head}`",
                    store.describe()
                );
                return Err(CommandError::fault(text));
            }
            last_head = head;
            let through = until.map_or(head, |until| until.min(head));
            let mut events = store.read_feed(after, through, &filter);
            while let Some(event) = events.try_next().await? {
                let document = EventDocument::from(EventView::from(&event));
                line.hide_while(|| session.printer_now().show(&document, |_| event_text(&EventView::from(&event))))?;
            }
            after = after.max(through);
            line.set_subject(format!("after {after}"));
            if until.is_some_and(|until| after >= until) {
                return Ok(ExitStatus::Done);
            }
            session.clock().sleep(POLL_INTERVAL).await;
        }
    }
}
