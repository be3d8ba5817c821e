//! The options of an attribute: `key = value`, `key(list)`, `key`.

mod parsed;
mod split;
mod suggest;
#[cfg(test)]
mod tests;

pub(crate) use parsed::{Known, Options};
