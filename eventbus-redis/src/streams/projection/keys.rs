//! The names of a projection's keys.

use crate::keys;

/// The keys that a step writes.
pub(super) enum ProjectionTarget<'p> {
    /// The live keys.
    Live,
    /// The copies of the rebuild with this token.
    Rebuild(&'p str),
}

/// The names of the keys of one projection over one stream.
#[derive(Clone)]
pub(super) struct ProjectionKeys {
    prefix: String,
    name: String,
    stream: String,
}

impl ProjectionKeys {
    pub(super) fn new(prefix: &str, name: &str, stream: &str) -> Self {
        Self { prefix: prefix.into(), name: name.into(), stream: stream.into() }
    }

    /// The name of the projection.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The key of the stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// The hash of the stream with a note of each projection over it.
    pub(super) fn notes(&self) -> String {
        keys::projections(&self.stream)
    }

    pub(super) fn own_key(&self, what: &str) -> String {
        keys::projection_key(&self.prefix, &self.stream, &self.name, what)
    }

    /// The token of the rebuild that fills the copies.
    pub(super) fn rebuild_token(&self) -> String {
        self.own_key("rebuilding")
    }

    /// Returns the key of the checkpoint, and the key of the set of written keys.
    pub(super) fn progress_keys(&self, target: &ProjectionTarget<'_>) -> (String, String) {
        match target {
            ProjectionTarget::Live => (self.own_key("checkpoint"), self.own_key("keys")),
            ProjectionTarget::Rebuild(_) => (self.own_key("rebuilding:checkpoint"), self.own_key("rebuilding:keys")),
        }
    }

    /// Returns the key to write for a key that a handler names.
    pub(super) fn target_key(&self, target: &ProjectionTarget<'_>, key: &str) -> String {
        match target {
            ProjectionTarget::Live => key.to_owned(),
            ProjectionTarget::Rebuild(_) => self.own_key(&format!("copy:{key}")),
        }
    }

    /// Returns the name of the projection among those of the stream.
    pub(super) fn progress_field(&self) -> String {
        keys::projection_field(&self.prefix, &self.name)
    }

    /// Returns the name of a rebuild among the projections of the stream.
    pub(super) fn rebuild_progress_field(&self) -> String {
        format!("{}:rebuild", self.progress_field())
    }

    /// Returns the name of the target among the projections of the stream.
    pub(super) fn progress_name(&self, target: &ProjectionTarget<'_>) -> String {
        match target {
            ProjectionTarget::Live => self.progress_field(),
            ProjectionTarget::Rebuild(_) => self.rebuild_progress_field(),
        }
    }
}
