//! Conversion between events and entries of the stream, byte for byte as the Python library writes them.
//!
//! Invariant: the seven fields stay in their order, and the payload has no additional key: newer releases of that
//! library refuse payloads with keys they do not know. Fields of this crate follow after the seventh.

mod decode;
mod encode;
pub(crate) mod timestamp;

pub(crate) use decode::{decode, flat_field};
pub(crate) use encode::{EntryFields, encode, require_readable_by_python};
pub use encode::{Unencodable, wire_payload};

#[cfg(test)]
mod tests;
