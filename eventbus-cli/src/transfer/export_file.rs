//! A file of exported events: JSON lines, in frames of zstd if its name ends with `.zst`.
//!
//! ```text
//! {"export":1,"store":"6e1b…"}                                     the header
//! {"event_id":…,"aggregate_type":"Order",…,"fields":{…}}          up to 1,000 events
//! {"position":"1000","events":1000,"xxh3":"…"}                    the position after them, and a checksum of all events
//! …
//! {"end":true,"events":4711,"xxh3":"…"}                           the end
//! ```
//!
//! Invariant: the header, each chunk with the line after it, and the end are each a frame, written by one call. A later
//! run cuts the file off after the last whole frame.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use eventbus::{
    Position, Uuid,
    store::{EventStore, FeedFilter},
};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;
use xxhash_rust::xxh3::Xxh3;

use super::{checksum::Checksum, chunk::Chunk, event_line::EventLine};
use crate::{error::CommandError, output::Progress};

/// The version of the format.
const FORMAT: u32 = 1;

/// The level of compression: a higher one takes longer than reading the store.
const LEVEL: i32 = 3;

/// The most bytes of the first frame, decompressed; it holds only the header.
const FIRST_FRAME_BYTES_MAX: u64 = 4_096;

/// The most bytes of the end of a file.
const END_BYTES_MAX: u64 = 512;

/// The bytes with which a frame of zstd begins.
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    export: u32,
    store: Uuid,
}

/// The line after a chunk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChunkEnd {
    position: String,
    events: u64,
    xxh3: String,
}

/// The last line of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEnd {
    end: bool,
    events: u64,
    xxh3: String,
}

/// The whole chunks of a file, up to a certain one.
#[derive(Clone)]
struct WholeChunks {
    /// The length of the file up to their end.
    bytes: u64,
    events: u64,
    hash: Xxh3,
    position: Position,
}

/// One frame of a file.
enum Frame {
    Header(Header),
    Chunk(Chunk),
    End,
}

/// Reads a file, and checks each frame before it returns what it holds.
pub(crate) struct ExportReader {
    file: BufReader<File>,
    is_compressed: bool,
    path: String,
    store: Uuid,
    /// The part that was read, without the end, which later events replace.
    whole: WholeChunks,
    has_ended: bool,
}

impl std::fmt::Debug for ExportReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExportReader({})", self.path)
    }
}

impl ExportReader {
    /// Opens a file, and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        let mut reader = Self {
            file: BufReader::new(open_regular(path, "to compare its checksums")?),
            is_compressed: is_compressed(path),
            path: path.display().to_string(),
            store: Uuid::nil(),
            whole: WholeChunks::none(),
            has_ended: false,
        };
        if reader.is_compressed && !reader.begins_with_short_frame()? {
            return Err(reader.fault("it was compressed anew: decompress it by `zstd -d`, and give the result"));
        }
        match reader.next_frame()? {
            Some(Frame::Header(header)) if header.export == FORMAT => reader.store = header.store,
            Some(Frame::Header(header)) => {
                return Err(reader.fault(format!("it has format {}, this release knows {FORMAT}", header.export)));
            }
            _ => return Err(reader.fault("it is no export of events")),
        }
        Ok(reader)
    }

    /// The store from which the events are.
    pub(crate) const fn store(&self) -> Uuid {
        self.store
    }

    /// The number of events that were read.
    pub(crate) const fn events(&self) -> u64 {
        self.whole.events
    }

    /// The checksum of the events that were read.
    pub(crate) fn checksum(&self) -> Checksum {
        Checksum { events: self.whole.events, xxh3: self.whole.hash.digest128() }
    }

    /// The number of bytes that were read, and the size of the file.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.whole.bytes, self.file.get_ref().metadata().map_or(0, |file| file.len()))
    }

    /// Reads the next chunk; `None` at the end of the file.
    ///
    /// # Errors
    /// [`CommandError::Fault`] if the file is damaged, or has no end.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Chunk>, CommandError> {
        match self.next_frame()? {
            Some(Frame::Chunk(chunk)) => Ok(Some(chunk)),
            Some(Frame::End) => Ok(None),
            Some(Frame::Header(_)) => Err(self.fault("a second export begins within it")),
            None => Err(self.fault("it has no end: the export was interrupted; go on with `export --resume`")),
        }
    }

    /// Reads the next frame; `None` at the end of the file.
    fn next_frame(&mut self) -> Result<Option<Frame>, CommandError> {
        let text = match self.is_compressed {
            true => self.read_compressed(),
            false => self.read_plain(),
        };
        let text = text.map_err(|error| self.fault(format!("a part of it is damaged or missing: {error}")))?;
        let Some(text) = text else { return Ok(None) };
        if self.has_ended {
            return Err(self.fault("it goes on after its end"));
        }
        let (lines, last) = match text.trim_end_matches('\n').rsplit_once('\n') {
            Some((lines, last)) => (format!("{lines}\n"), last),
            None => (String::new(), text.trim_end_matches('\n')),
        };
        if let (true, Ok(end)) = (lines.is_empty(), serde_json::from_str::<FileEnd>(last)) {
            self.check(&self.whole, end.events, &end.xxh3)?;
            self.has_ended = true;
            return Ok(Some(Frame::End));
        }
        let frame = if let Ok(end) = serde_json::from_str::<ChunkEnd>(last) {
            let position = end.position.parse().map(Position::new).map_err(|_| self.fault("it names no position"))?;
            let chunk = Chunk { events: lines.lines().count() as u64, lines, position };
            let mut whole = self.whole.clone();
            whole.add(&chunk);
            self.check(&whole, end.events, &end.xxh3)?;
            self.whole = whole;
            Frame::Chunk(chunk)
        } else if let Ok(header) = serde_json::from_str::<Header>(last) {
            Frame::Header(header)
        } else {
            return Err(self.fault("it holds a line that is none of an export"));
        };
        self.whole.bytes = self.file.stream_position()?;
        Ok(Some(frame))
    }

    fn check(&self, whole: &WholeChunks, events: u64, xxh3: &str) -> Result<(), CommandError> {
        match events == whole.events && xxh3 == whole.digest() {
            true => Ok(()),
            false => Err(self.fault(format!("its checksum after {events} events does not match: it was changed"))),
        }
    }

    /// Fails unless the store has the last event of `last`, which is the last one of the file, at the same position. A
    /// store that was restored from a backup has the same id, but may have different events at the same positions.
    async fn check_history(&self, last: &Chunk, store: &dyn EventStore) -> Result<(), CommandError> {
        let Some(last_event) = last.parse()?.last().map(EventLine::event_id) else { return Ok(()) };
        let position = last.position;
        let before = Position::new(position.get().saturating_sub(1));
        let stored = store.read_feed(before, position, &FeedFilter::all()).try_next().await?;
        if stored.is_some_and(|stored| stored.metadata().event_id() == last_event) {
            return Ok(());
        }
        Err(self.fault(format!(
            "its last event {last_event} is not at position {position} of {}, which was restored from a backup, perhaps, or \
             lost the event: export to a new file",
            store.describe()
        )))
    }

    /// Returns `false` if the first frame of zstd is too long for an export. A file that was compressed again may be
    /// one frame of any length, which must not be read into memory.
    fn begins_with_short_frame(&mut self) -> Result<bool, CommandError> {
        let mut begin = Vec::new();
        let read = zstd::Decoder::with_buffer(&mut self.file)
            .and_then(|frame| frame.single_frame().take(FIRST_FRAME_BYTES_MAX + 1).read_to_end(&mut begin));
        read.map_err(|error| self.fault(format!("its beginning is damaged or missing: {error}")))?;
        self.file.rewind()?;
        Ok(begin.len() as u64 <= FIRST_FRAME_BYTES_MAX)
    }

    /// Reads the lines of a frame of zstd.
    fn read_compressed(&mut self) -> io::Result<Option<String>> {
        if self.file.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut text = String::new();
        zstd::Decoder::with_buffer(&mut self.file)?.single_frame().read_to_string(&mut text)?;
        Ok(Some(text))
    }

    /// Reads lines up to the first one that is no event.
    fn read_plain(&mut self) -> io::Result<Option<String>> {
        let mut text = String::new();
        loop {
            let begin = text.len();
            if self.file.read_line(&mut text)? == 0 {
                let is_whole = text.is_empty();
                return if is_whole { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            if !text.ends_with('\n') {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !text[begin..].starts_with("{\"event_id\"") {
                return Ok(Some(text));
            }
        }
    }

    /// Returns `true` if all bytes of the file were read.
    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.file.fill_buf()?.is_empty())
    }

    fn fault(&self, reason: impl std::fmt::Display) -> CommandError {
        CommandError::fault(format!("`{}`: {reason}", self.path))
    }
}

impl WholeChunks {
    fn none() -> Self {
        Self { bytes: 0, events: 0, hash: Xxh3::new(), position: Position::START }
    }

    /// Adds a chunk, except its bytes.
    fn add(&mut self, chunk: &Chunk) {
        self.hash.update(chunk.lines.as_bytes());
        self.events += chunk.events;
        self.position = chunk.position;
    }

    fn digest(&self) -> String {
        format!("{:032x}", self.hash.digest128())
    }
}

/// Writes a file, only whole frames. A lock keeps other exports from writing it meanwhile.
pub(crate) struct ExportWriter {
    file: File,
    path: String,
    is_compressed: bool,
    whole: WholeChunks,
    /// Set until the first frame is written: before that, the rest of the file after its last whole chunk is cut off.
    rest: Option<Rest>,
}

/// The rest of a file after its last whole chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// The end of a complete export.
    End,
    /// The incomplete rest of an interrupted export.
    Interrupted,
    /// A part of the header, which is written again for this store.
    Header(Uuid),
}

impl std::fmt::Debug for ExportWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExportWriter({} events)", self.whole.events)
    }
}

impl ExportWriter {
    /// Creates a file, which must not exist, with its header.
    pub(crate) fn create(path: &Path, store: Uuid) -> Result<Self, CommandError> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => cannot_write(&path.display().to_string(), &error),
        })?;
        lock(&file, path)?;
        let mut writer = Self {
            file,
            path: path.display().to_string(),
            is_compressed: is_compressed(path),
            whole: WholeChunks::none(),
            rest: None,
        };
        writer.write(&header_line(store)?)?;
        Ok(writer)
    }

    /// Opens the file of an earlier export of `store`. The file is not changed before there are events to add.
    pub(crate) async fn resume(path: &Path, store: &dyn EventStore) -> Result<Self, CommandError> {
        let unreachable = |error| CommandError::unreachable(&format!("the file `{}`", path.display()), error);
        let file = OpenOptions::new().write(true).open(path).map_err(unreachable)?;
        lock(&file, path)?;
        let id = store.store_id().await?;
        if has_torn_header(path, id)? {
            let (path, is_compressed) = (path.display().to_string(), is_compressed(path));
            return Ok(Self { file, path, is_compressed, whole: WholeChunks::none(), rest: Some(Rest::Header(id)) });
        }
        let mut reader = ExportReader::open(path)?;
        if reader.store != id {
            return Err(reader.fault(format!("it is an export of store {}, not of {id}", reader.store)));
        }
        let (progress, mut last) = (Progress::new("reading the file", "bytes")?, None);
        loop {
            match reader.next_frame() {
                Ok(Some(Frame::Header(_))) => {}
                Ok(Some(Frame::Chunk(chunk))) => last = Some(chunk),
                Ok(Some(Frame::End) | None) => break,
                // the last frame was not written to its end, so no end of an export follows it
                Err(_) if reader.is_at_end()? && !has_end(path)? => break,
                // damage before the end: only this file may have the events after it
                Err(error) => return Err(error),
            }
            let (done, of) = reader.progress();
            progress.set(done, of);
            // so that Ctrl-C ends it
            yield_now().await;
        }
        if let Some(last) = last {
            reader.check_history(&last, store).await?;
        }
        let rest = if reader.has_ended { Rest::End } else { Rest::Interrupted };
        let ExportReader { path, is_compressed, whole, .. } = reader;
        Ok(Self { file, path, is_compressed, whole, rest: Some(rest) })
    }

    /// The position after which the export goes on.
    pub(crate) const fn position(&self) -> Position {
        self.whole.position
    }

    /// Writes a chunk.
    pub(crate) fn add(&mut self, chunk: &Chunk) -> Result<(), CommandError> {
        self.whole.add(chunk);
        let WholeChunks { events, .. } = self.whole;
        let end = ChunkEnd { position: chunk.position.to_string(), events, xxh3: self.whole.digest() };
        self.write(&format!("{}{}\n", chunk.lines, to_json(&end)?))
    }

    /// Writes the end, unless the file has it, and waits until the disk has the whole file.
    pub(crate) fn finish(mut self) -> Result<(), CommandError> {
        if self.rest != Some(Rest::End) {
            let end = FileEnd { end: true, events: self.whole.events, xxh3: self.whole.digest() };
            self.write(&format!("{}\n", to_json(&end)?))?;
        }
        self.file.sync_all().map_err(|error| cannot_write(&self.path, &error))
    }

    fn write(&mut self, frame: &str) -> Result<(), CommandError> {
        if let Some(Rest::Header(store)) = self.rest {
            self.rest = Some(Rest::Interrupted);
            self.write(&header_line(store)?)?;
        }
        self.cut_and_write(frame).map_err(|error| cannot_write(&self.path, &error))
    }

    fn cut_and_write(&mut self, frame: &str) -> io::Result<()> {
        let frame = encode(frame, self.is_compressed)?;
        if self.rest.take().is_some() {
            self.file.set_len(self.whole.bytes)?;
            self.file.seek(SeekFrom::End(0))?;
        }
        self.file.write_all(&frame)
    }
}

/// Returns `true` if the last bytes of a file are the end of an export.
fn has_end(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END_BYTES_MAX)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let is_end = |text: &[u8]| serde_json::from_slice::<FileEnd>(text).is_ok();
    Ok(match is_compressed(path) {
        true => {
            let frames = tail.windows(ZSTD_MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == ZSTD_MAGIC);
            frames.filter_map(|(at, _)| zstd::decode_all(&tail[at..]).ok()).any(|text| is_end(&text))
        }
        false => {
            tail.strip_suffix(b"\n").and_then(|tail| tail.rsplit(|byte| *byte == b'\n').next()).is_some_and(is_end)
        }
    })
}

/// Returns the bytes of a frame.
fn encode(frame: &str, is_compressed: bool) -> io::Result<Cow<'_, [u8]>> {
    Ok(match is_compressed {
        true => Cow::Owned(zstd::bulk::compress(frame.as_bytes(), LEVEL)?),
        false => Cow::Borrowed(frame.as_bytes()),
    })
}

fn header_line(store: Uuid) -> Result<String, CommandError> {
    Ok(format!("{}\n", to_json(&Header { export: FORMAT, store })?))
}

/// Returns `true` if a file is empty, or holds only a part of the header of an export of `store`.
fn has_torn_header(path: &Path, store: Uuid) -> Result<bool, CommandError> {
    let line = header_line(store)?;
    let mut begin = Vec::new();
    let read = encode(&line, is_compressed(path)).and_then(|header| {
        File::open(path)?.take(header.len() as u64).read_to_end(&mut begin)?;
        Ok(header)
    });
    let header = read.map_err(|error| CommandError::unreachable(&format!("the file `{}`", path.display()), error))?;
    Ok(begin.len() < header.len() && header.starts_with(&begin))
}

/// Fails if the file of a new export exists.
pub(crate) fn check_new(path: &Path) -> Result<(), CommandError> {
    if path.exists() { Err(exists(path)) } else { Ok(()) }
}

fn exists(path: &Path) -> CommandError {
    CommandError::Usage(format!(
        "`{}` exists; add the events that it does not hold by `--resume`, or write a different file",
        path.display()
    ))
}

fn cannot_write(path: &str, error: &io::Error) -> CommandError {
    CommandError::fault(format!("`{path}` cannot be written: {error}"))
}

/// Locks a file against other exports, until it is closed.
fn lock(file: &File, path: &Path) -> Result<(), CommandError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(CommandError::Usage(format!("another export writes `{}` now", path.display())))
        }
        // a file system without locks
        Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Opens a file that is read twice, first for this reason.
pub(super) fn open_regular(path: &Path, first: &str) -> Result<File, CommandError> {
    let shown = path.display();
    let unreachable = |error| CommandError::unreachable(&format!("the file `{shown}`"), error);
    if !path.metadata().map_err(unreachable)?.is_file() {
        return Err(CommandError::Usage(format!("`{shown}` is no regular file: it is read twice, first {first}")));
    }
    File::open(path).map_err(unreachable)
}

pub(super) fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

fn to_json<T: Serialize>(value: &T) -> Result<String, CommandError> {
    serde_json::to_string(value).map_err(CommandError::fault)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use eventbus::{
        ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId, port::AppendEvents as _, store::ReadFeed as _,
    };

    use super::*;
    use crate::transfer::read_chunk;

    async fn write_all(store: &InMemoryEventStore, mut writer: ExportWriter) {
        let head = store.head().await.unwrap();
        let mut feed = store.read_feed(writer.position(), head, &FeedFilter::all());
        while let Some(chunk) = read_chunk(&mut feed).await.unwrap() {
            writer.add(&chunk).unwrap();
        }
        writer.finish().unwrap();
    }

    /// An export that is interrupted before it has something to add leaves a complete file as it is.
    #[tokio::test]
    async fn a_complete_file_is_changed_only_to_add_events() {
        let (folder, store) = (tempfile::tempdir().unwrap(), InMemoryEventStore::new());
        let path = folder.path().join("events.jsonl.zst");
        let append = async || {
            let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
            store.append(&StreamId::parse("Order", "1").unwrap(), ExpectedVersion::Any, vec![event]).await.unwrap();
        };
        append().await;
        write_all(&store, ExportWriter::create(&path, store.store_id().await.unwrap()).unwrap()).await;
        let complete = fs::read(&path).unwrap();
        append().await;
        drop(ExportWriter::resume(&path, &store).await.unwrap());
        assert!(fs::read(&path).unwrap() == complete, "interrupted");
        write_all(&store, ExportWriter::resume(&path, &store).await.unwrap()).await;
        let longer = fs::read(&path).unwrap();
        assert!(longer.len() > complete.len());
        write_all(&store, ExportWriter::resume(&path, &store).await.unwrap()).await;
        assert!(fs::read(&path).unwrap() == longer, "without new events");
    }
}
