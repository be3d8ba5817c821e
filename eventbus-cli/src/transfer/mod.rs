//! Moving events between stores: files of events, and appending them to a store as they were.
//!
//! Events keep their ids, versions, times and fields, and their order. Moved are events alone: checkpoints, floors,
//! deliveries, dead letters, snapshots, and the indexes of tags and unique values stay behind.
//!
//! Invariant: a move that ended anywhere goes on after its last whole chunk. A file holds each chunk with the position after
//! it; a store saves that position after it has appended the chunk, and what it holds of the next one is not appended again.

mod checksum;
mod chunk;
mod event_line;
mod export_file;
mod importer;

pub(crate) use self::{
    checksum::{checksum, compare},
    chunk::read_chunk,
    export_file::{ExportReader, ExportWriter, check_new},
    importer::{Importer, MOVE_PREFIX},
};
