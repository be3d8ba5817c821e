//! A repository made by `git fast-import`, with the expected output of its import.
//!
//! Invariant: the generator counts by the files that it made, and shares no rule with the example's renames.

use std::collections::BTreeSet;

use crate::program::Repo;

/// Paths that are hard to parse, each with its displayed form.
const ODD_PATHS: [(&[u8], &str); 9] = [
    (b"with space", "with space"),
    ("naïve/文件".as_bytes(), "naïve/文件"),
    (b":100644 colon", ":100644 colon"),
    (b"back\\slash", "back\\slash"),
    (b"tab\there", r#""tab\there""#),
    (b"new\nline", r#""new\nline""#),
    (b"\"quoted\"", r#""\"quoted\"""#),
    (b"caf\xe9.txt", r#""caf\351.txt""#),
    (b"\x1b[31mred", r#""\033[31mred""#),
];

/// The authors: name, mail address, and displayed name.
const AUTHORS: [(&[u8], &str, &str); 4] = [
    (b"Ada", "ada@example.org", "Ada"),
    (b"Jos\xe9", "jose@example.org", "Jos\u{fffd}"),
    ("Łukasz".as_bytes(), "lukasz@example.org", "Łukasz"),
    (b"Eve \x1b[31m", "eve@example.org", "Eve \u{fffd}[31m"),
];

#[derive(Debug, Default, Clone)]
struct File {
    path: Vec<u8>,
    shown: String,
    was: Option<String>,
    lines: Vec<String>,
    changes: u64,
    renames: u64,
    executable: bool,
    deleted: bool,
    /// The time of deletion, in commits.
    deleted_at: u64,
    /// Set if a second file has taken its name since it was deleted.
    replaced: bool,
}

#[derive(Debug, Default, Clone)]
struct Author {
    commits: u64,
    files: BTreeSet<usize>,
    first: i64,
    last: i64,
}

/// Writes commits and counts them.
#[derive(Debug)]
pub struct Generator {
    stream: Vec<u8>,
    random: u64,
    mark: u64,
    now: i64,
    head: Option<u64>,
    files: Vec<File>,
    /// Names that renames have left, and when.
    left: Vec<(String, u64)>,
    authors: Vec<Author>,
    pub commits: u64,
    pub file_events: u64,
}

impl Generator {
    pub fn new() -> Self {
        Self {
            stream: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15,
            mark: 0,
            now: 1_600_000_000,
            head: None,
            files: Vec::new(),
            left: Vec::new(),
            authors: vec![Author::default(); AUTHORS.len()],
            commits: 0,
            file_events: 0,
        }
    }

    /// Commits until the number is reached: odd commits first, then random ones.
    pub fn commit_until(&mut self, commits: u64) -> &mut Self {
        if self.commits == 0 {
            self.odd_paths();
            self.kinds_of_files();
            self.unmerged_branch();
        }
        while self.commits < commits {
            match self.commits % 50 {
                49 if self.commits + 4 <= commits => self.merge(),
                25 => _ = self.begin("main", self.head, None),
                _ => self.ordinary(),
            }
        }
        self
    }

    /// Sends the commits written since the last call to git.
    pub fn send(&mut self, repo: &Repo) -> &mut Self {
        let stream = std::mem::take(&mut self.stream);
        let marks = ["--import-marks-if-exists=.git/marks", "--export-marks=.git/marks"];
        repo.git_with(&["fast-import", "--quiet", marks[0], marks[1]], &stream);
        self
    }

    /// The lines of both tables, sorted, blanks collapsed.
    pub fn expected(&self) -> Vec<String> {
        let files = self.files.iter().map(|file| {
            let was = file.was.iter().map(|was| format!(" (was {was})"));
            let deleted = if file.deleted { " (deleted)" } else { "" };
            let path: String = std::iter::once(file.shown.clone()).chain(was).collect();
            format!("{} {} {path}{deleted}", file.changes, file.renames)
        });
        let day = |seconds| {
            let date = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            date.date().to_string()
        };
        let authors = self.authors.iter().zip(AUTHORS);
        let authors = authors.filter(|(author, _)| author.commits > 0);
        let authors = authors.map(|(author, (_, email, name))| {
            let (first, last) = (day(author.first), day(author.last));
            let files = author.files.len();
            format!("{} {files} {first} {last} {name} <{email}>", author.commits)
        });
        let mut lines: Vec<_> = files.chain(authors).collect();
        lines.sort();
        lines
    }

    /// Begins a commit on a branch; returns its mark.
    fn begin(&mut self, branch: &str, parent: Option<u64>, merged: Option<u64>) -> u64 {
        self.mark += 1;
        self.now += 3_600;
        let author = self.author();
        let (name, email, _) = AUTHORS[author];
        let account = &mut self.authors[author];
        account.commits += 1;
        account.last = self.now;
        if account.first == 0 {
            account.first = self.now;
        }
        self.commits += 1;
        let message: &[u8] = match self.commits % 7 {
            0 => b"",
            1 => b"caf\xe9 \x1b[2J\n\nwith a body\n:100644 100644 not a change\n",
            _ => b"Do something\n",
        };
        self.write(format!("commit refs/heads/{branch}\nmark :{}\n", self.mark));
        for role in ["author", "committer"] {
            self.write(format!("{role} "));
            self.write(name);
            self.write(format!(" <{email}> {} +0200\n", self.now));
        }
        self.write(format!("data {}\n", message.len()));
        self.write(message);
        self.write("\n");
        for (word, commit) in [("from", parent), ("merge", merged)] {
            if let Some(commit) = commit {
                self.write(format!("{word} :{commit}\n"));
            }
        }
        if branch == "main" {
            self.head = Some(self.mark);
        }
        self.mark
    }

    fn odd_paths(&mut self) {
        self.begin("main", None, None);
        let long = format!("{}end", "long/".repeat(60));
        let odd = ODD_PATHS.map(|(path, shown)| (path.to_vec(), shown.to_owned()));
        for (path, shown) in odd.into_iter().chain([(long.clone().into_bytes(), long)]) {
            self.add(path, shown);
        }
        self.begin("main", self.head, None);
        for file in 0..self.files.len() {
            self.edit(file);
        }
    }

    /// A binary file, a link, an executable and a submodule; then a changed mode, a changed type, a changed commit.
    fn kinds_of_files(&mut self) {
        self.begin("main", self.head, None);
        let submodule = "0123456789012345678901234567890123456789";
        let kinds = [
            ("binary", "100644 inline", &b"\0\xff\0binary"[..]),
            ("link", "120000 inline", b"with space"),
            ("script", "100755 inline", b"#!/bin/sh\n"),
        ];
        for (path, mode, content) in kinds {
            self.account_new(path.into(), path.into());
            self.write(format!("M {mode} {path}\ndata {}\n", content.len()));
            self.write(content);
            self.write("\n");
        }
        self.account_new("sub".into(), "sub".into());
        self.write(format!("M 160000 {submodule} sub\n"));

        self.begin("main", self.head, None);
        let last = self.files.len();
        for file in last - 4..last {
            self.account(file);
        }
        self.write(b"M 100755 inline binary\ndata 9\n\0\xff\0binary\n");
        self.write("M 100644 inline link\ndata 10\nno link :)\n");
        self.write("M 100644 inline script\ndata 10\n#!/bin/sh\n\n");
        self.write(format!("M 160000 {} sub\n", submodule.replace('0', "a")));
    }

    /// Commits that HEAD does not contain, so that no count may include them.
    fn unmerged_branch(&mut self) {
        let before = (self.files.clone(), self.authors.clone(), self.commits, self.file_events);
        self.begin("unmerged", self.head, None);
        self.add(b"unmerged".to_vec(), "unmerged".into());
        (self.files, self.authors, self.commits, self.file_events) = before;
    }

    fn ordinary(&mut self) {
        self.begin("main", self.head, None);
        let mut untouched: Vec<usize> = self.alive();
        for _ in 0..=self.chance(3) {
            let pick = self.chance(untouched.len().max(1));
            let file = (untouched.len() > 20).then(|| untouched.swap_remove(pick));
            match (self.chance(100), file) {
                (0..60, Some(file)) => self.edit(file),
                (60..70, Some(file)) => self.rename(file),
                (70..78, Some(file)) => self.delete(file),
                (78..82, Some(file)) => self.executable(file),
                (82..86, Some(_)) => self.add_again(),
                (86..88, Some(_)) if self.left.first().is_some_and(|left| left.1 < self.commits) => {
                    let (name, _) = self.left.remove(0);
                    self.add(name.clone().into_bytes(), name);
                }
                _ => {
                    let name = self.new_name();
                    self.add(name.clone().into_bytes(), name);
                }
            }
        }
    }

    /// A side branch with files of its own and a file that both sides edit, merged by a third version of it.
    fn merge(&mut self) {
        let fork = self.head;
        let both = self.alive()[0];
        let side = self.begin("side", fork, None);
        let name = self.new_name();
        self.add(name.clone().into_bytes(), name);
        let added = self.files.len() - 1;
        self.edit(both);
        let side = self.begin("side", Some(side), None);
        self.edit(added);
        self.begin("main", fork, None);
        self.edit(both);
        self.begin("main", self.head, Some(side));
        self.edit(both);
        // it came with the side branch: it is in the merge's tree, and no change of the merge
        self.write_file(added);
    }

    fn alive(&self) -> Vec<usize> {
        let files = self.files.iter().enumerate();
        let alive = files.filter(|(_, file)| !file.deleted && !file.lines.is_empty());
        alive.map(|(number, _)| number).collect()
    }

    fn add(&mut self, path: Vec<u8>, shown: String) {
        let file = self.account_new(path, shown);
        self.files[file].lines = self.new_lines();
        self.write_file(file);
    }

    /// A file that was deleted before this commit, and whose name is free.
    fn gone(&self) -> Option<usize> {
        let now = self.commits;
        let gone = |file: &File| file.deleted && file.deleted_at < now && !file.replaced;
        self.files.iter().position(gone)
    }

    fn add_again(&mut self) {
        let Some(file) = self.gone() else {
            return;
        };
        self.files[file].deleted = false;
        self.files[file].lines = self.new_lines();
        self.account(file);
        self.write_file(file);
    }

    fn edit(&mut self, file: usize) {
        let line = self.chance(10);
        self.files[file].lines[line] = self.new_line();
        self.account(file);
        self.write_file(file);
    }

    fn executable(&mut self, file: usize) {
        self.files[file].executable ^= true;
        self.account(file);
        self.write_file(file);
    }

    fn delete(&mut self, file: usize) {
        self.files[file].deleted = true;
        self.files[file].deleted_at = self.commits;
        self.account(file);
        let path = quoted(&self.files[file].path);
        self.write(format!("D {path}\n"));
    }

    /// To a new name, or now and then to the name of a file that was deleted; every other time with an edit.
    fn rename(&mut self, file: usize) {
        let gone = self.gone().filter(|_| self.chance(4) == 0);
        let (path, shown) = match gone {
            Some(other) => {
                self.files[other].replaced = true;
                (self.files[other].path.clone(), self.files[other].shown.clone())
            }
            None => {
                let name = self.new_name();
                (name.clone().into_bytes(), name)
            }
        };
        if self.chance(2) == 0 {
            let line = self.chance(10);
            self.files[file].lines[line] = self.new_line();
        }
        let old = quoted(&self.files[file].path);
        self.write(format!("D {old}\n"));
        let entry = &mut self.files[file];
        entry.renames += 1;
        entry.path = path;
        let was = std::mem::replace(&mut entry.shown, shown);
        if !was.starts_with('"') && !was.starts_with(':') {
            self.left.push((was.clone(), self.commits));
        }
        self.files[file].was = Some(was);
        self.account(file);
        self.write_file(file);
    }

    fn account_new(&mut self, path: Vec<u8>, shown: String) -> usize {
        self.files.push(File { path, shown, ..File::default() });
        self.account(self.files.len() - 1);
        self.files.len() - 1
    }

    fn account(&mut self, file: usize) {
        let author = self.author();
        self.authors[author].files.insert(file);
        self.files[file].changes += 1;
        self.file_events += 1;
    }

    fn author(&self) -> usize {
        usize::try_from(self.mark % 11).unwrap() % AUTHORS.len()
    }

    fn write_file(&mut self, file: usize) {
        let File { path, lines, executable, .. } = &self.files[file];
        let mode = if *executable { "100755" } else { "100644" };
        let (path, content) = (quoted(path), lines.concat());
        self.write(format!("M {mode} inline {path}\ndata {}\n{content}\n", content.len()));
    }

    fn write(&mut self, text: impl AsRef<[u8]>) {
        self.stream.extend_from_slice(text.as_ref());
    }

    fn new_name(&mut self) -> String {
        let (folder, number) = (self.chance(20), self.next_random());
        format!("folder-{folder}/{number:016x}.txt")
    }

    fn new_lines(&mut self) -> Vec<String> {
        (0..10).map(|_| self.new_line()).collect()
    }

    /// No two are alike, so that git sees a rename where there is one and nowhere else.
    fn new_line(&mut self) -> String {
        format!("{:016x}{:016x}\n", self.next_random(), self.next_random())
    }

    fn chance(&mut self, of: usize) -> usize {
        usize::try_from(self.next_random() >> 33).unwrap() % of
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// A path as fast-import reads it.
fn quoted(path: &[u8]) -> String {
    let bytes = path.iter().map(|byte| format!("\\{byte:03o}"));
    format!("\"{}\"", bytes.collect::<String>())
}
