//! Detection of what a type implements, for generated code.

use std::marker::PhantomData;

/// Detects what a type implements, such as the default of a projection, by the order of method lookup: rustc takes the impl
/// for `Probe<P>` before the one for `&Probe<P>`, if its bound holds.
#[doc(hidden)]
#[derive(derive_more::Debug)]
#[debug("Probe")]
pub struct Probe<P>(PhantomData<P>);

impl<P> Probe<P> {
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<P> Default for Probe<P> {
    fn default() -> Self {
        Self::new()
    }
}

#[doc(hidden)]
pub trait WithDefault<P> {
    fn factory(&self) -> Option<fn() -> P>;
}

impl<P: Default> WithDefault<P> for Probe<P> {
    fn factory(&self) -> Option<fn() -> P> {
        Some(P::default)
    }
}

#[doc(hidden)]
pub trait WithoutDefault<P> {
    fn factory(&self) -> Option<fn() -> P>;
}

impl<P> WithoutDefault<P> for &Probe<P> {
    fn factory(&self) -> Option<fn() -> P> {
        None
    }
}
