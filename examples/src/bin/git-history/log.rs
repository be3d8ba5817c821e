//! Parses the output of `git log` into commits with their file events.

use std::io::BufRead;

use time::OffsetDateTime;

use crate::{
    change::Change,
    domain::{Commit, FileEvent},
    git::{GitError, LogProcess},
    identity,
};

/// A commit as it is read: one after the other, never all of them.
#[derive(Debug, Clone)]
pub struct ReadCommit {
    pub commit: Commit,
    pub parents: Vec<String>,
    pub date: OffsetDateTime,
    pub files: Vec<FileEvent>,
    pub oddities: Vec<Oddity>,
}

/// A value that the import had to change, by its subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    QuotedPath(String),
    LongPath(String),
    NotUtf8(String),
    NoDate(String),
}

/// Passes the commits that `git log` prints to `take` until it returns `false`.
///
/// A commit is complete only when the next one begins or git exits with success: if git is killed, half a commit looks
/// whole.
pub fn read(mut process: LogProcess, take: impl FnMut(ReadCommit) -> bool) -> Result<(), GitError> {
    let Some(stdout) = process.stdout() else {
        return Ok(());
    };
    let mut take = take;
    let mut parser = Parser::new(stdout);
    let mut last = None;
    while let Some(commit) = parser.next_commit()? {
        if let Some(whole) = last.replace(commit)
            && !take(whole)
        {
            return Ok(());
        }
    }
    process.finish()?;
    if let Some(commit) = last {
        take(commit);
    }
    Ok(())
}

/// Tokens end in NUL. The number of paths after a change is known before they are read, so no path is misread.
pub struct Parser<R> {
    input: R,
    /// The hash of the next commit, if already read.
    next: Option<Vec<u8>>,
}

impl<R: BufRead> Parser<R> {
    pub fn new(input: R) -> Self {
        Self { input, next: None }
    }

    pub fn next_commit(&mut self) -> Result<Option<ReadCommit>, GitError> {
        let hash = match self.next.take() {
            Some(hash) => hash,
            None => match self.significant_token()? {
                Some(hash) => hash,
                None => return Ok(None),
            },
        };
        let mut read = self.header(&hash)?;
        while let Some(token) = self.significant_token()? {
            if !token.starts_with(b":") {
                self.next = Some(token);
                break;
            }
            self.change(&token, &mut read)?;
        }
        Ok(Some(read))
    }

    fn header(&mut self, hash: &[u8]) -> Result<ReadCommit, GitError> {
        if hash.len() < 40 || !hash.iter().all(u8::is_ascii_hexdigit) {
            return Err(unreadable(hash));
        }
        let hash = String::from_utf8_lossy(hash).into_owned();
        let mut fields = [const { Vec::new() }; 5];
        for field in &mut fields {
            *field = self.token()?.ok_or_else(cut_off)?;
        }
        let [parents, author, email, date, summary] = fields;
        let mut oddities = Vec::new();
        let texts = [&author, &email, &summary];
        if texts.iter().any(|text| std::str::from_utf8(text).is_err()) {
            oddities.push(Oddity::NotUtf8(hash.clone()));
        }
        let seconds = lossy(&date).parse().ok();
        let date = seconds.and_then(|date| OffsetDateTime::from_unix_timestamp(date).ok());
        let date = date.filter(|date| (0..=9999).contains(&date.year()));
        if date.is_none() {
            oddities.push(Oddity::NoDate(hash.clone()));
        }
        let parents = lossy(&parents);
        Ok(ReadCommit {
            parents: parents.split_whitespace().map(Into::into).collect(),
            date: date.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            files: Vec::new(),
            oddities,
            commit: Commit { hash, author: lossy(&author), email: lossy(&email), summary: lossy(&summary) },
        })
    }

    /// `:modes ids status`, with one colon, mode and id more per parent of a merge; then the paths.
    fn change(&mut self, line: &[u8], read: &mut ReadCommit) -> Result<(), GitError> {
        let line = lossy(line);
        let parents = line.bytes().take_while(|&byte| byte == b':').count();
        let fields: Vec<&str> = line[parents..].split(' ').collect();
        let &[.., status] = fields.as_slice() else {
            return Err(unreadable(line.as_bytes()));
        };
        if fields.len() != 2 * (parents + 1) + 1 || status.is_empty() {
            return Err(unreadable(line.as_bytes()));
        }
        let (modes, ids) = fields.split_at(parents + 1);
        let change = Change {
            old_mode: modes[0],
            new_mode: modes[parents],
            same_content: ids[..parents].contains(&ids[parents]),
            status,
            is_merge: parents > 1,
        };
        let commit = read.commit.clone();
        let event = if change.is_merge {
            let mut paths = Vec::with_capacity(parents + 1);
            for _ in 0..=parents {
                paths.push(self.path(&mut read.oddities)?);
            }
            change.merged(paths, commit)
        } else if matches!(status.as_bytes()[0], b'R' | b'C') {
            let from = self.path(&mut read.oddities)?;
            change.event(from, self.path(&mut read.oddities)?, commit)
        } else {
            let path = self.path(&mut read.oddities)?;
            change.event(path.clone(), path, commit)
        };
        read.files.push(event);
        Ok(())
    }

    fn path(&mut self, oddities: &mut Vec<Oddity>) -> Result<String, GitError> {
        let bytes = self.token()?.ok_or_else(cut_off)?;
        let path = identity::path_text(&bytes);
        if path.as_bytes() != bytes {
            oddities.push(Oddity::QuotedPath(path.clone()));
        }
        if identity::is_too_long(&path) {
            oddities.push(Oddity::LongPath(path.clone()));
        }
        Ok(path)
    }

    /// Returns the next non-empty token, without the line end that git prints before the first change of a commit.
    fn significant_token(&mut self) -> Result<Option<Vec<u8>>, GitError> {
        while let Some(mut token) = self.token()? {
            if token.first() == Some(&b'\n') {
                token.remove(0);
            }
            if !token.is_empty() {
                return Ok(Some(token));
            }
        }
        Ok(None)
    }

    fn token(&mut self) -> Result<Option<Vec<u8>>, GitError> {
        let mut token = Vec::new();
        if self.input.read_until(0, &mut token)? == 0 {
            return Ok(None);
        }
        match token.pop() {
            Some(0) => Ok(Some(token)),
            _ => Err(cut_off()),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn unreadable(token: &[u8]) -> GitError {
    GitError::Unreadable { command: "log".into(), said: lossy(token).chars().take(200).collect() }
}

fn cut_off() -> GitError {
    unreadable(b"the output ends in the middle of a commit")
}
