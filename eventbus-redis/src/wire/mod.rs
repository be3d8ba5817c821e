//! Between an event and an entry of the stream, byte for byte as the Python library writes it.
//!
//! Keep: the seven fields stay in their order, and no key is added to the payload: newer releases of that library
//! refuse payloads with keys they do not know. What is ours goes into fields after the seventh.

mod decode;
mod encode;
pub(crate) mod timestamp;

pub(crate) use decode::{decode, flat_field};
pub(crate) use encode::{EntryFields, encode, require_readable_by_python};
pub use encode::{Unencodable, wire_payload};

#[cfg(test)]
mod tests;
