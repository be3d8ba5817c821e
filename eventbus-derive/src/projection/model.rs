//! The model of a projection: the parsed attribute and `impl` block.

use proc_macro2::Span;
use syn::{Attribute, Expr, Ident, Path, ReturnType, Type};

use crate::parameters::Parameters;

/// An `impl` block with `#[projection]`.
pub(super) struct Model {
    pub(super) krate: Path,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) manual: bool,
    /// The tables that a rebuild replaces; only for rows in the store's transaction, like `key`, `set_up` and
    /// `version`.
    pub(super) tables: Vec<String>,
    pub(super) key: Option<String>,
    /// The SQL that creates the tables.
    pub(super) set_up: Option<Expr>,
    pub(super) version: Option<u32>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) self_ty: Type,
    /// The span of the type's name.
    pub(super) span: Span,
    /// Set if the type has a field that stays in one thread, which is a mistake.
    pub(super) has_rc: bool,
    pub(super) methods: Vec<Method>,
}

impl Model {
    /// The methods that take slices of events.
    pub(super) fn batch_methods(&self) -> impl Iterator<Item = &Method> {
        self.methods.iter().filter(|method| method.parameters.event.is_batch())
    }
}

/// The place of the rows; follows from the methods.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    InMemory,
    Transactional,
    AtLeastOnce,
}

/// A method that takes an event.
pub(super) struct Method {
    pub(super) ident: Ident,
    /// Its `#[cfg(..)]` attributes: the code that describes the method gets them too.
    pub(super) cfgs: Vec<Attribute>,
    pub(super) is_async: bool,
    pub(super) takes_mut_self: bool,
    pub(super) parameters: Parameters,
    pub(super) output: ReturnType,
}
