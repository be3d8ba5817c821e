//! The handlers of a projection.

use std::{collections::HashMap, sync::Arc};

use eventbus::BoxError;

use super::{Effects, StreamProjectionError};
use crate::{
    program::Effect,
    streams::{EntryError, StreamEntry},
};

/// Prefix of the projections' own keys.
const RESERVED_KEY_PREFIX: &str = "projection:";

type SkipPredicate = Arc<dyn Fn(&StreamEntry) -> bool + Send + Sync>;
type EventHandlerFn = Arc<dyn Fn(&StreamEntry, &mut Effects) -> Result<(), ApplyFailure> + Send + Sync>;

/// Reason why a handler wrote no effects.
pub(super) enum ApplyFailure {
    Entry(EntryError),
    Handler(BoxError),
}

/// An entry and its effects.
pub(super) struct PreparedEntry<'e> {
    pub(super) entry: &'e StreamEntry,
    pub(super) effects: Vec<Effect>,
    pub(super) unknown: Option<&'e str>,
    pub(super) is_skipped: bool,
}

/// The handlers by type of event, and the predicates that skip entries.
#[derive(Clone, Default)]
pub(super) struct EventHandlers {
    handlers: HashMap<String, EventHandlerFn>,
    skip_predicates: Vec<SkipPredicate>,
}

impl EventHandlers {
    /// Sets the handler of a type, and replaces an earlier one.
    pub(super) fn set<F>(&mut self, event_type: &str, handler: F)
    where
        F: Fn(&StreamEntry, &mut Effects) -> Result<(), ApplyFailure> + Send + Sync + 'static,
    {
        self.handlers.insert(event_type.into(), Arc::new(handler));
    }

    pub(super) fn skip_if(&mut self, is_skipped: impl Fn(&StreamEntry) -> bool + Send + Sync + 'static) {
        self.skip_predicates.push(Arc::new(is_skipped));
    }

    /// Returns the effects of an entry, unless its handler fails or writes a key that it may not.
    pub(super) fn prepare_entry<'e>(
        &self,
        (name, stream): (&str, &str),
        entry: &'e StreamEntry,
    ) -> Result<PreparedEntry<'e>, StreamProjectionError> {
        let no_effects = PreparedEntry { entry, effects: Vec::new(), unknown: None, is_skipped: false };
        if self.skip_predicates.iter().any(|is_skipped| is_skipped(entry)) {
            tracing::info!(projection = name, stream, entry = %entry.id, "skipping an entry");
            return Ok(PreparedEntry { is_skipped: true, ..no_effects });
        }
        let (projection, of_stream) = (|| name.to_owned(), || stream.to_owned());
        let of_entry = |source| StreamProjectionError::Entry { projection: projection(), stream: of_stream(), source };
        let event_type = entry.event_type().map_err(of_entry)?;
        let Some(handle) = self.handlers.get(event_type) else {
            return Ok(PreparedEntry { unknown: Some(event_type), ..no_effects });
        };
        let mut effects = Effects::default();
        handle(entry, &mut effects).map_err(|failure| match failure {
            ApplyFailure::Entry(error) => of_entry(error),
            ApplyFailure::Handler(source) => StreamProjectionError::Handler {
                projection: projection(),
                stream: of_stream(),
                entry: entry.id.clone(),
                event_type: event_type.into(),
                source,
            },
        })?;
        let effects = effects.into_list();
        match effects.iter().find(|effect| effect.key.is_empty() || effect.key.starts_with(RESERVED_KEY_PREFIX)) {
            None => Ok(PreparedEntry { effects, ..no_effects }),
            Some(effect) => Err(StreamProjectionError::effect(
                name,
                entry,
                &effect.key,
                &effect.command,
                "a projection cannot write this key",
            )),
        }
    }
}
