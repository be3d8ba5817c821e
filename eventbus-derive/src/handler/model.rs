//! The model of a handler: the parsed attribute and function.

use syn::{Ident, Path, ReturnType, Visibility};

use crate::parameters::Parameters;

/// A function with `#[handler]`.
pub(super) struct Model {
    pub(super) twin: Twin,
    pub(super) name: String,
    pub(super) group: Option<String>,
    pub(super) retries: Option<u32>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) concurrency: Option<u32>,
    /// `oldest` or `now`.
    pub(super) start: Option<&'static str>,
    pub(super) shards: Option<u16>,
    pub(super) max_waiting: Option<u32>,
    /// Set by `when_dead = "hold"`.
    pub(super) holds_dead: bool,
    pub(super) stream: Option<String>,
    pub(super) manual: bool,
    pub(super) parameters: Parameters,
    pub(super) output: ReturnType,
}

/// The type that stands for the function.
pub(super) struct Twin {
    pub(super) krate: Path,
    pub(super) vis: Visibility,
    pub(super) ident: Ident,
}
