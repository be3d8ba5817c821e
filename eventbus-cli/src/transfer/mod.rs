//! Moving events between stores: files of events, and appending them to a store as they were.
//!
//! Events keep their ids, versions, times and fields, and their order. Moved are events alone: checkpoints, floors,
//! deliveries, dead letters, snapshots, and the indexes of tags and unique values stay behind.
//!
//! Invariant: a chunk of events is written as a whole with the position after it, so a move that ended anywhere goes on
//! after its last whole chunk.

mod checksum;
mod chunk;
mod event_line;
mod export_file;
mod importer;

pub(crate) use self::{
    checksum::{checksum, compare},
    chunk::read_chunk,
    export_file::{ExportReader, ExportWriter},
    importer::Importer,
};
