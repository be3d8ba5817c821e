//! Moving events between stores: writing them to files, and appending them unchanged to a store.
//!
//! Events keep their ids, versions, times and fields, and their order. Only events are moved: checkpoints,
//! deliveries, dead letters, snapshots, and the indexes of tags and unique values stay behind.
//!
//! Invariant: an interrupted move goes on after its last whole chunk. A file holds each chunk with the position after
//! it. A store saves that position after the chunk is appended; events of the next chunk that it already holds are not
//! appended again.
//!
//! The events of another program are the exception: a [file of lines](foreign_file) has neither a header nor positions.

mod checksum;
mod chunk;
mod event_line;
mod export_file;
mod foreign_file;
mod importer;

pub(crate) use self::{
    checksum::{checksum, compare},
    chunk::read_chunk,
    export_file::{ExportReader, ExportWriter, check_new},
    foreign_file::{EarlyEvents, ForeignReader},
    importer::{Importer, MOVE_PREFIX},
};
