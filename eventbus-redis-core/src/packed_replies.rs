//! A connection that passes a reply with entries of one stream to the client as a single text.
//!
//! By default the client makes a value of each name and each text in a reply: sixteen for an event. The task of the
//! connection allocates them and the reader frees them, so the two wait for each other in the allocator.
//! [`PackedEntries`] finds the parts in the text.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::reply::FieldRefs;

/// The most bytes that one read takes from the server.
const CHUNK_BYTES: usize = 64 * 1024;
/// The first bytes of a reply of `XREAD` or `XREADGROUP` with entries of one stream: a list of one pair, whose first
/// part is a text. A reply without entries is nil, which is no list.
const ENTRIES_BEGIN: &[u8] = b"*1\r\n*2\r\n$";

/// A stream to the server that [packs](self) replies with entries, and passes everything else on unchanged.
pub(crate) struct PackedReplies<S> {
    stream: S,
    chunk: Box<[u8]>,
    /// The beginning of the next reply.
    received: Vec<u8>,
    scanner: ReplyScanner,
    /// The bytes that the client gets next, from `passed` on.
    ready: Vec<u8>,
    passed: usize,
    /// Set once the bytes were no reply: the client then reads the rest unchanged, and reports the fault.
    is_transparent: bool,
}

impl<S> PackedReplies<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            chunk: vec![0; CHUNK_BYTES].into(),
            received: Vec::new(),
            scanner: ReplyScanner::default(),
            ready: Vec::new(),
            passed: 0,
            is_transparent: false,
        }
    }

    /// Passes the first reply of `received` on, if it is complete; otherwise returns `false`.
    fn take_reply(&mut self) -> bool {
        let end = match self.scanner.find_end(&self.received) {
            Ok(Some(end)) => end,
            Ok(None) => return false,
            Err(NoReply) => {
                self.is_transparent = true;
                self.ready.append(&mut self.received);
                return !self.ready.is_empty();
            }
        };
        let reply = self.received.drain(..end);
        if reply.as_slice().starts_with(ENTRIES_BEGIN) {
            self.ready.extend_from_slice(format!("${end}\r\n").as_bytes());
            self.ready.extend(reply);
            self.ready.extend_from_slice(b"\r\n");
        } else {
            self.ready.extend(reply);
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PackedReplies<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let waiting = &this.ready[this.passed..];
            if !waiting.is_empty() {
                let count = waiting.len().min(buffer.remaining());
                buffer.put_slice(&waiting[..count]);
                this.passed += count;
                if this.passed == this.ready.len() {
                    // neither buffer stays as large as the largest reply
                    (this.ready, this.passed) = (Vec::new(), 0);
                    this.received.shrink_to(CHUNK_BYTES);
                }
                return Poll::Ready(Ok(()));
            }
            if this.is_transparent {
                return Pin::new(&mut this.stream).poll_read(cx, buffer);
            }
            if this.take_reply() {
                continue;
            }
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // the end, perhaps within a reply
                this.is_transparent = true;
                this.ready.append(&mut this.received);
            } else {
                this.received.extend_from_slice(chunk.filled());
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PackedReplies<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The bytes are no reply of a Redis server.
#[derive(Debug)]
struct NoReply;

/// Finds the end of a reply that arrives in parts, without reading a part twice.
#[derive(Debug)]
struct ReplyScanner {
    /// Where the next value begins.
    at: usize,
    /// The number of values still to come, including those in lists.
    missing: usize,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self { at: 0, missing: 1 }
    }
}

impl ReplyScanner {
    /// Returns the length of the first reply in `bytes`; `None` if more bytes belong to it.
    fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, NoReply> {
        while self.missing > 0 {
            let Some(line) = read_line(bytes, self.at)? else {
                return Ok(None);
            };
            let (end, values) = match line.kind {
                b'$' | b'=' | b'!' => match line.text_end(bytes)? {
                    Some(end) => (end, 0),
                    None => return Ok(None),
                },
                b'*' | b'~' | b'>' => (line.end, line.number()?.max(0)),
                b'%' => (line.end, line.number()?.max(0).saturating_mul(2)),
                // attributes of the value that follows them
                b'|' => (line.end, line.number()?.max(0).saturating_mul(2).saturating_add(1)),
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => (line.end, 0),
                _ => return Err(NoReply),
            };
            let values = usize::try_from(values).map_err(|_| NoReply)?;
            self.missing = (self.missing - 1).checked_add(values).ok_or(NoReply)?;
            self.at = end;
        }
        let end = self.at;
        *self = Self::default();
        Ok(Some(end))
    }
}

/// The first line of a value.
struct Line<'a> {
    kind: u8,
    rest: &'a [u8],
    /// Where the bytes after it begin.
    end: usize,
}

impl Line<'_> {
    fn number(&self) -> Result<i64, NoReply> {
        std::str::from_utf8(self.rest).ok().and_then(|number| number.parse().ok()).ok_or(NoReply)
    }

    /// Returns where the bytes after a text of this length begin; `None` if the text is not complete.
    fn text_end(&self, bytes: &[u8]) -> Result<Option<usize>, NoReply> {
        let Ok(length) = usize::try_from(self.number()?) else {
            return Ok(Some(self.end)); // no text
        };
        let end = self.end.checked_add(length).and_then(|end| end.checked_add(2)).ok_or(NoReply)?;
        Ok((end <= bytes.len()).then_some(end))
    }
}

/// Reads the line that begins at `at`; `None` if it is not complete.
fn read_line(bytes: &[u8], at: usize) -> Result<Option<Line<'_>>, NoReply> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    match &rest[..length] {
        [kind, rest @ .., b'\r'] => Ok(Some(Line { kind: *kind, rest, end: at + length + 1 })),
        _ => Err(NoReply),
    }
}

/// An entry in the bytes of a reply.
#[derive(Debug)]
struct PackedEntry {
    id: Range<usize>,
    /// Its names and values among the texts, alternating; `None` if it was deleted.
    fields: Option<Range<usize>>,
}

/// The entries in the bytes of a reply that was [packed](self).
#[derive(Debug)]
pub struct PackedEntries {
    reply: Vec<u8>,
    entries: Vec<PackedEntry>,
    texts: Vec<Range<usize>>,
}

impl PackedEntries {
    /// Finds the entries in the bytes of a reply; `None` if they have a different form.
    pub fn parse(reply: Vec<u8>) -> Option<Self> {
        let mut parts = ReplyParts { reply: &reply, at: 0 };
        if parts.list()? != 1 || parts.list()? != 2 {
            return None;
        }
        parts.text()?;
        let count = parts.list()?;
        // no capacity for `count`: only the bytes prove that so many entries are there
        let (mut entries, mut texts) = (Vec::new(), Vec::new());
        for _ in 0..count {
            if parts.list()? != 2 {
                return None;
            }
            let id = parts.text()?;
            let fields = match parts.optional_list()? {
                None => None,
                Some(count) => {
                    let first = texts.len();
                    for _ in 0..count {
                        texts.push(parts.text()?);
                    }
                    Some(first..texts.len())
                }
            };
            entries.push(PackedEntry { id, fields });
        }
        (parts.at == reply.len()).then_some(Self { reply, entries, texts })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the id of each entry and its fields; `None` for those of a deleted one.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<FieldRefs<'_>>)> {
        let text = |range: &Range<usize>| &self.reply[range.clone()];
        self.entries.iter().map(move |entry| {
            let fields = entry.fields.clone().map(|fields| {
                self.texts[fields].chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
            });
            (text(&entry.id), fields)
        })
    }
}

/// The values of a reply, one after the other.
struct ReplyParts<'r> {
    reply: &'r [u8],
    at: usize,
}

impl<'r> ReplyParts<'r> {
    fn line(&mut self, kind: u8) -> Option<Line<'r>> {
        let line = read_line(self.reply, self.at).ok()??;
        if line.kind != kind {
            return None;
        }
        self.at = line.end;
        Some(line)
    }

    /// Reads the length of a list; the inner `None` means nil.
    fn optional_list(&mut self) -> Option<Option<usize>> {
        Some(usize::try_from(self.line(b'*')?.number().ok()?).ok())
    }

    fn list(&mut self) -> Option<usize> {
        self.optional_list()?
    }

    /// Reads a text.
    fn text(&mut self) -> Option<Range<usize>> {
        let line = self.line(b'$')?;
        let (begin, end) = (line.end, line.text_end(self.reply).ok()??);
        self.at = end;
        begin.checked_add(2).filter(|least| *least <= end)?;
        Some(begin..end - 2)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// A server that sends these parts, one for each read.
    struct ServerParts(VecDeque<Vec<u8>>);

    impl ServerParts {
        fn new(bytes: &[u8], length: usize) -> Self {
            Self(bytes.chunks(length).map(<[u8]>::to_vec).collect())
        }
    }

    impl AsyncRead for ServerParts {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if let Some(part) = self.0.pop_front() {
                buffer.put_slice(&part);
            }
            Poll::Ready(Ok(()))
        }
    }

    async fn passed_on(bytes: &[u8], length: usize) -> Vec<u8> {
        let mut passed = Vec::new();
        PackedReplies::new(ServerParts::new(bytes, length)).read_to_end(&mut passed).await.unwrap();
        passed
    }

    /// The reply of `XREADGROUP`: an event, one without fields, and a deleted one. A value holds a line break.
    const ENTRIES: &[u8] =
        b"*1\r\n*2\r\n$4\r\nbank\r\n*3\r\n*2\r\n$3\r\n1-0\r\n*4\r\n$1\r\na\r\n$3\r\nx\r\n\r\n$0\r\n\r\n$1\r\nz\r\n\
        *2\r\n$3\r\n2-0\r\n*0\r\n*2\r\n$3\r\n3-0\r\n*-1\r\n";

    fn packed(reply: &[u8]) -> Vec<u8> {
        [format!("${}\r\n", reply.len()).as_bytes(), reply, b"\r\n"].concat()
    }

    #[tokio::test]
    async fn entries_are_one_text_and_all_else_passes_unchanged_however_it_is_cut() {
        let others: [&[u8]; 8] = [
            b"+OK\r\n",
            b"-NOGROUP No such key '*1\r\n",
            b":7\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*2\r\n$3\r\none\r\n*1\r\n:1\r\n",
            b"%1\r\n$4\r\nbank\r\n*0\r\n",
            b"|1\r\n+ttl\r\n:3\r\n#t\r\n",
        ];
        let sent: Vec<_> = others.iter().flat_map(|other| [*other, ENTRIES]).collect::<Vec<_>>().concat();
        let expected: Vec<_> = others.iter().flat_map(|other| [other.to_vec(), packed(ENTRIES)]).flatten().collect();
        for length in 1..=sent.len() {
            assert_eq!(passed_on(&sent, length).await, expected, "in parts of {length}");
        }
    }

    #[tokio::test]
    async fn what_is_no_reply_passes_unchanged() {
        let http: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        let bare_line: &[u8] = b"+OK\n";
        let no_number: &[u8] = b"*many\r\n";
        let too_long: &[u8] = b"$18446744073709551615\r\n";
        for fault in [http, bare_line, no_number, too_long, b"$9223372036854775807\r\n"] {
            for bytes in [fault.to_vec(), [b":1\r\n", fault, ENTRIES].concat()] {
                for length in [1, 7, bytes.len()] {
                    assert_eq!(passed_on(&bytes, length).await, bytes, "{}", String::from_utf8_lossy(&bytes));
                }
            }
        }
    }

    #[tokio::test]
    async fn the_beginning_of_a_reply_passes_when_the_connection_ends() {
        for end in 0..ENTRIES.len() {
            assert_eq!(passed_on(&ENTRIES[..end], 5).await, &ENTRIES[..end]);
        }
    }

    #[test]
    fn the_parts_of_a_reply_are_found() {
        let entries = PackedEntries::parse(ENTRIES.to_vec()).unwrap();
        let found: Vec<_> = entries.iter().collect();
        let event: FieldRefs<'_> = vec![(b"a", b"x\r\n"), (b"", b"z")];
        let expected: [(&[u8], _); 3] = [(b"1-0", Some(event)), (b"2-0", Some(Vec::new())), (b"3-0", None)];
        assert_eq!((entries.len(), found.as_slice()), (3, expected.as_slice()));
    }

    #[test]
    fn a_reply_of_a_different_form_has_no_entries() {
        let pair: &[u8] = b"*1\r\n*2\r\n$4\r\nbank\r\n*1\r\n*2\r\n";
        let several: &[u8] = b"*2\r\n*2\r\n$1\r\na\r\n*0\r\n*2\r\n$1\r\nb\r\n*0\r\n";
        for (parts, why) in [
            ([several, b""], "two streams"),
            ([ENTRIES, b":1\r\n"], "more behind it"),
            ([pair, b":1\r\n*0\r\n"], "an id that is a number"),
            ([pair, b"$3\r\n1-0\r\n:1\r\n"], "fields that are a number"),
            ([pair, b"$3\r\n1-0\r\n*2\r\n$1\r\na\r\n*0\r\n"], "a value that is a list"),
            ([pair, b"$-1\r\n*0\r\n"], "no id"),
            ([b"*1\r\n*2\r\n$1\r\na\r\n", b"*9223372036854775807\r\n"], "more entries than there are bytes"),
        ] {
            assert!(PackedEntries::parse(parts.concat()).is_none(), "{why}");
        }
        for end in 0..ENTRIES.len() {
            assert!(PackedEntries::parse(ENTRIES[..end].to_vec()).is_none(), "the first {end} bytes");
        }
    }
}
