//! Files that appear whole or not at all.
//!
//! Invariant: a writer first writes content to a file in `tmp/`, and syncs that file. Then it gives the content its own
//! name: by a hard link, which fails if the name exists, or by a rename over an older version. So a reader never sees a
//! part of a file. A reader opens only regular files of bounded size: a pipe cannot block it, and a link cannot lead it
//! elsewhere.
//!
//! Real time, not the given clock: the file system's times, and names that no other worker has.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use eventbus::{EventId, support::from_json};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::{FIND_FOLDER, FileQueueError, Result},
    event, names,
};

/// Maximum size of a file in bytes; a larger file is neither written nor read.
pub(crate) const FILE_BYTES_MAX: u64 = 128 << 20;
/// Maximum size of an event in bytes as uncompressed JSON. Less than [`FILE_BYTES_MAX`], because a dead letter is one
/// file with the event and the errors of all handlers.
const EVENT_BYTES_MAX: u64 = 96 << 20;

/// Folder of files that have no name of their own yet.
pub(crate) const TMP_FOLDER: &str = "tmp";
/// Suffix of the names in it.
pub(crate) const TMP_SUFFIX: &str = ".tmp";
/// Age after which a file there belongs to a process that died.
const TMP_FILE_AGE_MAX: Duration = Duration::from_secs(3_600);

/// Number of files that are synced at once: the file system then commits them together.
const SYNC_THREADS: usize = 16;

#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    sync: bool,
    folders: &'static [&'static str],
}

/// The format of the files that this release writes.
const FORMAT: u32 = 1;
/// The lowest format that a release must know to work in a folder that this release wrote: that of the last change that
/// was no mere addition.
const MIN_READER: u32 = 1;

/// Identity of the queue in the folder: a folder that was removed and made anew holds a new queue.
#[derive(Debug, Serialize, Deserialize)]
struct QueueIdentity {
    queue_id: Uuid,
    /// The format of the files: the newest that a release has written here.
    format: u32,
    /// The lowest format that a release must know to work here.
    min_reader: u32,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

/// Content on disk that has no name of its own yet, or only just got it; dropping it removes the name in `tmp/`.
#[derive(Debug)]
pub(crate) struct StagedFile {
    pub(crate) path: PathBuf,
}

impl StagedFile {
    /// Returns `true` if it certainly never got a name of its own.
    pub(crate) fn has_no_name(&self) -> bool {
        content(&self.path).is_some_and(|(_, names)| names == 1)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // a file that remains is removed when a worker opens the queue
        let _ = fs::remove_file(&self.path);
    }
}

impl Disk {
    /// Makes the folders of a queue, and removes the files of dead processes in `tmp/`.
    ///
    /// It makes a folder for its owner alone; in a folder that existed, new files and folders get the mode of that
    /// folder. It resolves a relative path now, because the process may change its working directory later.
    pub(crate) fn open(root: PathBuf, sync: bool, folders: &'static [&'static str]) -> Result<Self> {
        let root = std::path::absolute(&root).map_err(FileQueueError::io("resolve", root))?;
        let disk = Self { root, sync, folders };
        if !disk.root.is_dir() {
            let above = folders_with_new_name(&disk.root);
            modes::private(DirBuilder::new().recursive(true))
                .create(&disk.root)
                .map_err(FileQueueError::io("create folder", &disk.root))?;
            // otherwise a power failure may take the whole folder away, with synced events in it
            above.into_iter().try_for_each(|folder| disk.sync_folder(folder))?;
        }
        // before the first change: a newer release may not have these folders
        disk.load_identity()?;
        disk.make_folders()?;
        // a worker without the right to write fails here, not at its first event
        drop(disk.stage(&[])?);
        disk.load_queue_id()?;
        disk.remove_stale_tmp_files();
        Ok(disk)
    }

    fn make_folders(&self) -> Result<()> {
        for folder in self.folders.iter().chain(&[TMP_FOLDER]) {
            self.make_folder(&self.root.join(folder))?;
        }
        self.sync_folder(&self.root)
    }

    /// Returns the id of the queue in the folder, unless a newer release has written it in a format that this one does
    /// not know. A folder that was removed and exists again, empty, becomes a new queue.
    pub(crate) fn load_queue_id(&self) -> Result<Uuid> {
        let path = self.root.join(names::QUEUE_FILE);
        loop {
            if let Some(queue_id) = self.load_identity()? {
                return Ok(queue_id);
            }
            // the root folder is never made here: it may be on a disk that is not mounted now
            fs::metadata(&self.root).map_err(FileQueueError::io(FIND_FOLDER, &self.root))?;
            self.make_folders()?;
            let (queue_id, created_at) = (Uuid::now_v7(), event::now());
            let identity = QueueIdentity { queue_id, format: FORMAT, min_reader: MIN_READER, created_at };
            self.create(&path, &event::to_pretty_json("the queue", &identity)?)?;
        }
    }

    /// Returns the id of the queue in the folder, if there is one of a known format.
    pub(crate) fn load_identity(&self) -> Result<Option<Uuid>> {
        let path = self.root.join(names::QUEUE_FILE);
        match read_json::<QueueIdentity>(&path, "queue")? {
            Some(QueueIdentity { format, min_reader, .. }) if min_reader > FORMAT => {
                Err(FileQueueError::FormatTooNew { path, format, min_reader, known: FORMAT })
            }
            identity => Ok(identity.map(|identity| identity.queue_id)),
        }
    }

    /// Returns an error if the folder is missing, or its record of the identity is torn or of an unknown format; makes no
    /// file.
    pub(crate) fn check_identity(&self) -> Result<()> {
        fs::metadata(&self.root).map_err(FileQueueError::io(FIND_FOLDER, &self.root))?;
        self.load_identity().map(drop)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes the files of dead processes in `tmp/`.
    pub(crate) fn remove_stale_tmp_files(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(TMP_FOLDER)) else {
            return;
        };
        for entry in entries.flatten() {
            let is_ours = entry.file_name().to_string_lossy().ends_with(TMP_SUFFIX);
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if is_ours && age.is_some_and(|age| age > TMP_FILE_AGE_MAX) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Writes content to disk, without a name of its own.
    pub(crate) fn stage(&self, content: &[u8]) -> Result<StagedFile> {
        check_size(content.len() as u64, None)?;
        let folder = self.root.join(TMP_FOLDER);
        let staged = StagedFile { path: folder.join(format!("{}{TMP_SUFFIX}", Uuid::now_v7())) };
        let mut created = modes::create(&staged.path, &self.root);
        if created.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) && self.root.is_dir() {
            self.make_folders()?;
            created = modes::create(&staged.path, &self.root);
        }
        let mut file = created.map_err(FileQueueError::io("create a file in", folder))?;
        file.write_all(content).map_err(FileQueueError::io("write", &staged.path))?;
        if self.sync {
            file.sync_all().map_err(FileQueueError::io("sync", &staged.path))?;
        }
        Ok(staged)
    }

    /// Writes several contents to disk, synced at the same time; returns them in order.
    pub(crate) fn stage_all(&self, contents: &[Vec<u8>]) -> Result<Vec<StagedFile>> {
        self.stage_on_threads(contents, thread::Builder::new)
    }

    /// Writes contents on the threads of these builders; if one cannot start, the caller's thread writes its part.
    fn stage_on_threads(
        &self,
        contents: &[Vec<u8>],
        new_thread: impl Fn() -> thread::Builder,
    ) -> Result<Vec<StagedFile>> {
        let each = contents.len().div_ceil(SYNC_THREADS).max(1);
        let parts = thread::scope(|scope| {
            let stage = |part: &[Vec<u8>]| part.iter().map(|content| self.stage(content)).collect::<Result<Vec<_>>>();
            let mut parts = contents.chunks(each);
            let first = parts.next();
            let threads: Vec<_> =
                parts.map(|part| (part, new_thread().spawn_scoped(scope, move || stage(part)))).collect();
            let first = first.map_or_else(|| Ok(Vec::new()), stage);
            let rest = threads.into_iter().map(|(part, started)| match started {
                Ok(thread) => thread.join().unwrap_or(Err(FileQueueError::RuntimeEnded)),
                Err(_) => stage(part),
            });
            std::iter::once(first).chain(rest).collect::<Result<Vec<_>>>()
        });
        Ok(parts?.into_iter().flatten().collect())
    }

    /// Gives staged content a name. Returns `false` if different content has the name.
    ///
    /// Makes the folder if it is missing; does not sync it.
    pub(crate) fn link(&self, staged: &StagedFile, path: &Path) -> Result<bool> {
        self.refuse_symlink_parent(path)?;
        match self.give_name(path, || fs::hard_link(&staged.path, path))? {
            Ok(()) => Ok(true),
            // a file server may have made the link and lost the answer: then both names have the same content
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let content = content_id(&staged.path);
                Ok(content.is_some() && content_id(path) == content)
            }
            Err(source) => Err(FileQueueError::Io { what: "create", path: path.into(), source }),
        }
    }

    /// Gives a file the name `path`; makes the folder first if it is missing, as after an operator removed it. Returns the
    /// outcome of `name`.
    fn give_name(&self, path: &Path, name: impl Fn() -> io::Result<()>) -> Result<io::Result<()>> {
        match (name(), path.parent()) {
            (Err(error), Some(folder)) if error.kind() == ErrorKind::NotFound => {
                self.make_folder(folder)?;
                Ok(name())
            }
            (named, _) => Ok(named),
        }
    }

    /// Makes a folder of the queue, and those above it up to the queue's own, which must exist.
    fn make_folder(&self, folder: &Path) -> Result<()> {
        let failed = |error| FileQueueError::io("create folder", folder)(error);
        match modes::create_folder(folder, &self.root) {
            Ok(()) => folder.parent().map_or(Ok(()), |parent| self.sync_folder(parent)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match is_symlink(folder) {
                false => Ok(()),
                true => Err(failed(io::Error::other(SYMLINK_REFUSED))),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => match folder.parent() {
                Some(parent) if parent != self.root && parent.starts_with(&self.root) => {
                    self.make_folder(parent)?;
                    modes::create_folder(folder, &self.root).or_else(ok_if_exists).map_err(failed)?;
                    self.sync_folder(parent)
                }
                _ => Err(failed(error)),
            },
            Err(error) => Err(failed(error)),
        }
    }

    /// Refuses a path in a folder that is a symbolic link; the queue's own folder may be one.
    fn refuse_symlink_parent(&self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(folder) if folder != self.root => refuse_symlink(folder),
            _ => Ok(()),
        }
    }

    /// Makes a new file. Returns `false` if it exists already.
    pub(crate) fn create(&self, path: &Path, content: &[u8]) -> Result<bool> {
        let staged = self.stage(content)?;
        let created = self.link(&staged, path)?;
        if created && let Some(folder) = path.parent() {
            self.sync_folder(folder)?;
        }
        Ok(created)
    }

    /// Makes a file, or replaces it. After a power failure it may be the old version again, never a mixture.
    pub(crate) fn replace(&self, path: &Path, content: &[u8]) -> Result<()> {
        let staged = self.stage(content)?;
        self.give_name(path, || fs::rename(&staged.path, path))?.map_err(FileQueueError::io("replace", path))
    }

    /// Returns `true` if content is still staged: its writer has not finished, or died within the last hour.
    pub(crate) fn is_staged(&self, path: &Path) -> Result<bool> {
        let Some((id, 2..)) = content(path) else {
            return Ok(false);
        };
        // the second name may also be in a copy of the folder by links
        let staged = self.root.join(TMP_FOLDER);
        Ok(list_names(&staged)?.iter().any(|name| content_id(&staged.join(name)) == Some(id)))
    }

    /// Makes the names in a folder outlast a power failure.
    pub(crate) fn sync_folder(&self, folder: &Path) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(FileQueueError::io("sync folder", folder))
    }

    /// Removes a file. Returns `false` if it does not exist.
    pub(crate) fn remove(&self, path: &Path) -> Result<bool> {
        default_if_missing(fs::remove_file(path).map(|()| true)).map_err(FileQueueError::io("remove", path))
    }
}

/// Reason of the error for a symbolic link in place of a file or folder of the queue.
const SYMLINK_REFUSED: &str = "it is a symbolic link, which is not followed";

/// Reads a file; `None` if it does not exist. A path that is no regular file of at most [`FILE_BYTES_MAX`] is torn; the
/// reader does not block on it, and follows no link.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let torn = |reason: String| Err(FileQueueError::torn("file", path, reason));
    let failed = |error| FileQueueError::io("read", path)(error);
    // the folder of the queue itself may be a link
    if path.file_name().is_none_or(|name| name != names::QUEUE_FILE)
        && let Some(folder) = path.parent()
    {
        refuse_symlink(folder)?;
    }
    let file = match modes::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return match fs::symlink_metadata(path) {
                Ok(metadata) if !metadata.is_file() => torn(describe_file_type(&metadata)),
                _ => Err(failed(error)),
            };
        }
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return torn(describe_file_type(&metadata));
    }
    let too_large = |bytes| torn(format!("it has {bytes} bytes, at most {FILE_BYTES_MAX} are read"));
    if metadata.len() > FILE_BYTES_MAX {
        return too_large(metadata.len());
    }
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(failed)?;
    match content.len() as u64 {
        bytes if bytes > FILE_BYTES_MAX => too_large(bytes),
        _ => Ok(Some(content)),
    }
}

fn describe_file_type(metadata: &Metadata) -> String {
    let what = match metadata {
        folder if folder.is_dir() => "it is a folder",
        link if link.is_symlink() => SYMLINK_REFUSED,
        _ => "it is no regular file",
    };
    what.into()
}

fn is_symlink(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Refuses a folder that is a symbolic link, with `Io` instead of `Torn`: the link does not show that files are torn.
fn refuse_symlink(folder: &Path) -> Result<()> {
    match is_symlink(folder) {
        false => Ok(()),
        true => Err(FileQueueError::io("use folder", folder)(io::Error::other(SYMLINK_REFUSED))),
    }
}

/// Returns the folders that get a new name when `folder` and the missing folders above it are made, the nearest first.
fn folders_with_new_name(folder: &Path) -> Vec<&Path> {
    let mut above = Vec::new();
    for parent in folder.ancestors().skip(1) {
        above.push(parent);
        if parent.is_dir() {
            break;
        }
    }
    above
}

fn ok_if_exists(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Refuses content whose file, or an event whose dead letter, would be too large for every reader.
pub(crate) fn check_size(bytes: u64, event_id: Option<EventId>) -> Result<()> {
    let most = if event_id.is_some() { EVENT_BYTES_MAX } else { FILE_BYTES_MAX };
    if bytes > most { Err(FileQueueError::TooLarge { event_id, bytes, most }) } else { Ok(()) }
}

/// Reads a file as JSON; `None` if it does not exist. The error for other content says that the file holds no `what`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<Option<T>> {
    let value = read(path)?.map(from_json).transpose();
    value.map_err(|error| FileQueueError::torn(what, path, error))
}

/// Returns `true` if a file, folder or link has this path.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    default_if_missing(fs::symlink_metadata(path).map(|_| true)).map_err(FileQueueError::io("inspect", path))
}

/// Returns the names in a folder, unsorted, without those that are no UTF-8; none if the folder does not exist.
pub(crate) fn list_names(folder: &Path) -> Result<Vec<String>> {
    Ok(list_all_names(folder)?.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Returns the numbers of the numbered files in a folder, unsorted; none if the folder does not exist.
pub(crate) fn list_numbers(folder: &Path) -> Result<Vec<u64>> {
    Ok(list_names(folder)?.iter().filter_map(|name| names::parse_file_name(name)).collect())
}

/// Returns the names in a folder, unsorted; none if it does not exist, or is a file.
pub(crate) fn list_all_names(folder: &Path) -> Result<Vec<OsString>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(Vec::new()),
        entries => default_if_missing(entries.map(Some)).map_err(FileQueueError::io("list", folder))?,
    };
    let names = entries.into_iter().flatten().map(|entry| entry.map(|entry| entry.file_name()));
    names.collect::<io::Result<_>>().map_err(FileQueueError::io("list", folder))
}

/// Returns the default if the file or folder does not exist.
fn default_if_missing<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        other => other,
    }
}

/// Returns the inode of a path.
fn content_id(path: &Path) -> Option<u64> {
    content(path).map(|(id, _)| id)
}

/// Returns the inode of a path, and the number of its names.
#[cfg(unix)]
fn content(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.ino(), metadata.nlink()))
}

#[cfg(not(unix))]
fn content(_: &Path) -> Option<(u64, u64)> {
    None
}

/// Opening and making files and folders with modes.
#[cfg(unix)]
mod modes {
    use std::{
        fs::Permissions,
        os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    };

    use rustix::fs::OFlags;

    use super::*;

    /// Sets the mode of a folder for the owner alone.
    pub(super) fn private(builder: &mut DirBuilder) -> &mut DirBuilder {
        builder.mode(0o700)
    }

    /// Opens a path without blocking on a pipe and without following a link.
    pub(super) fn open(path: &Path) -> io::Result<File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        OpenOptions::new().read(true).custom_flags(flags).open(path)
    }

    fn of_folder(folder: &Path) -> io::Result<u32> {
        Ok(fs::metadata(folder)?.mode() & 0o7777)
    }

    /// Makes a file with the mode of a folder, regardless of the process's umask.
    pub(super) fn create(path: &Path, like: &Path) -> io::Result<File> {
        let mode = of_folder(like)? & 0o666;
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        if file.metadata()?.mode() & 0o777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(file)
    }

    /// Makes a folder with the mode of the folder `like`, regardless of the process's umask.
    pub(super) fn create_folder(folder: &Path, like: &Path) -> io::Result<()> {
        let mode = of_folder(like)?;
        DirBuilder::new().mode(mode & 0o777).create(folder)?;
        if of_folder(folder)? != mode {
            fs::set_permissions(folder, Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}

#[cfg(not(unix))]
mod modes {
    use super::*;

    pub(super) fn private(builder: &mut DirBuilder) -> &mut DirBuilder {
        builder
    }

    pub(super) fn open(path: &Path) -> io::Result<File> {
        match fs::symlink_metadata(path)?.is_file() {
            true => File::open(path),
            false => Err(io::Error::other("it is no regular file")),
        }
    }

    pub(super) fn create(path: &Path, _like: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    pub(super) fn create_folder(folder: &Path, _like: &Path) -> io::Result<()> {
        fs::create_dir(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_and_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path().into(), true, &["a"]).unwrap();
        let path = root.path().join("a/b/1");
        assert!(disk.create(&path, b"one").unwrap());
        assert!(!disk.create(&path, b"two").unwrap());
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"one"[..]));
        disk.replace(&path, b"three").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"three"[..]));
        assert!(list_names(&root.path().join(TMP_FOLDER)).unwrap().is_empty());
    }

    /// These are synced when a queue is made.
    #[test]
    fn the_folders_above_a_new_one_hold_a_new_name_up_to_one_that_existed() {
        let root = tempfile::tempdir().unwrap();
        let (queue, between) = (root.path().join("a/b/queue"), [root.path().join("a/b"), root.path().join("a")]);
        assert_eq!(folders_with_new_name(&queue), [&*between[0], &*between[1], root.path()]);
        Disk::open(queue.clone(), true, &["c"]).unwrap();
        assert_eq!(folders_with_new_name(&queue), [&*between[0]]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_cannot_be_written_to_is_told_on_opening() {
        let root = tempfile::tempdir().unwrap();
        // a folder in which even the superuser makes no files
        let queue = root.path().join("queue");
        std::os::unix::fs::symlink("/proc/self/fdinfo", &queue).unwrap();
        let refused = Disk::open(queue, true, &[]).unwrap_err();
        assert!(matches!(&refused, FileQueueError::Io { path, .. } if path.ends_with(TMP_FOLDER)), "{refused:?}");
    }

    #[test]
    fn many_are_staged_in_order() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path().into(), false, &[]).unwrap();
        let contents: Vec<_> = (0..100).map(|number: u32| number.to_string().into_bytes()).collect();
        let staged = disk.stage_all(&contents).unwrap();
        let read: Vec<_> = staged.iter().map(|staged| fs::read(&staged.path).unwrap()).collect();
        assert_eq!(read, contents);
    }

    /// Fails if a system that starts no further thread ends a publisher by a panic.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    #[test]
    fn content_is_staged_in_order_also_if_no_thread_can_start() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path().into(), false, &[]).unwrap();
        // no system has the memory for such a stack
        let new_thread = || thread::Builder::new().stack_size(1 << 60);
        assert!(new_thread().spawn(|| ()).is_err());
        let contents: Vec<_> = (0..100).map(|number: u32| number.to_string().into_bytes()).collect();
        let staged = disk.stage_on_threads(&contents, new_thread).unwrap();
        let read: Vec<_> = staged.iter().map(|staged| fs::read(&staged.path).unwrap()).collect();
        assert_eq!(read, contents);
    }

    /// Fails if a process that changes its working directory mistakes its queue for a missing or a different one.
    #[cfg(unix)]
    #[test]
    fn a_relative_path_is_resolved_on_opening() {
        let root = tempfile::tempdir().unwrap();
        let up: PathBuf = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect();
        let disk = Disk::open(up.join(root.path().strip_prefix("/").unwrap()), false, &[]).unwrap();
        assert!(disk.root().is_absolute(), "{}", disk.root().display());
        assert!(root.path().join(names::QUEUE_FILE).exists());
    }

    #[test]
    fn a_name_that_was_given_without_an_answer_is_ours() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path().into(), false, &[]).unwrap();
        let staged = disk.stage(b"one").unwrap();
        let path = root.path().join("1");
        assert!(disk.link(&staged, &path).unwrap());
        assert!(disk.link(&staged, &path).unwrap(), "the same content under the same name");
        assert!(!disk.link(&disk.stage(b"two").unwrap(), &path).unwrap());
        let copied = disk.stage(b"three").unwrap();
        fs::hard_link(&copied.path, root.path().join("in a copy of the folder")).unwrap();
        assert!(!disk.link(&copied, &path).unwrap(), "it has two names, but not this one");
    }
}
