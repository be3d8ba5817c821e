//! Tests of the parts in isolation: without git, on a store in memory.

use std::{collections::BTreeMap, sync::Arc};

use eventbus::{
    AggregateId, AggregateRepository, ExpectedVersion, InMemoryEventStore, NewEvent, Position, ProjectionHandle,
    store::{AppendEvents, ReadFeed},
};
use examples::signal::Stop;
use futures_util::TryStreamExt;
use tokio::sync::mpsc;

use crate::{
    domain::{File, FileEvent, Kind, What},
    git::LogProcess,
    identity,
    import::Importer,
    log::{self, Oddity, Parser, ReadCommit},
    resume::{Imported, Plan},
};

/// Formats a commit as `git log` prints it. Its hash is its number, its changes are `A path`, `R050 old new` and the
/// like.
fn printed(number: usize, changes: &[&str]) -> Vec<u8> {
    let parent = match number {
        1 => String::new(),
        _ => format!("{:040}", number - 1),
    };
    let mut text = format!("{number:040}\0{parent}\0Ada\0ada@example.org\0{number}\0no. {number}\0");
    for (index, change) in changes.iter().enumerate() {
        let mut words = change.split(' ');
        let status = words.next().unwrap_or_default();
        let separator = if index == 0 { "\n" } else { "" };
        text += &format!("{separator}:100644 100644 a b {status}\0");
        words.for_each(|path| text += &format!("{path}\0"));
    }
    text.into_bytes()
}

fn parsed(printed: &[u8]) -> Vec<ReadCommit> {
    let mut parser = Parser::new(printed);
    std::iter::from_fn(|| parser.next_commit().unwrap()).collect()
}

/// A history that uses every rule of identity.
fn history() -> Vec<ReadCommit> {
    let commits: [&[&str]; 13] = [
        &["A a", "A b", "A c"],
        &["M a", "M b"],
        &["R090 a moved", "M c"],
        &["M a", "M moved"], // a branch without the rename
        &["A a"],            // the name is free: a new file
        &[],
        &["M a", "M moved", "D b"],
        &["A b"], // it came back
        &["D b", "D c"],
        &["R100 moved b"], // takes over the name of a deleted file
        &["M b", "A moved"],
        &["R070 b moved-again", "D moved"],
        &["M moved-again", "A moved", "M a"],
    ];
    let printed: Vec<u8> = (1..).zip(commits).flat_map(|(n, changes)| printed(n, changes)).collect();
    parsed(&printed)
}

/// Imports in windows of `window` commits.
async fn import(store: &Arc<InMemoryEventStore>, commits: &[ReadCommit], window: usize) {
    for window in commits.chunks(window) {
        let imported = ProjectionHandle::with_factory(Imported::default);
        imported.rebuild(store).await.unwrap();
        let imported = imported.read().await.clone();
        let plan = Plan { without: Vec::new(), skip: Default::default(), commits: 0, rewritten: None };
        let (sender, receiver) = mpsc::channel(window.len());
        for commit in window {
            sender.try_send(Ok(commit.clone())).unwrap();
        }
        drop(sender);
        let importer = Importer::new(Arc::clone(store), imported).unwrap();
        let mut stop = Stop::on_signal().unwrap();
        importer.run(receiver, &plan, &mut stop, |_| {}).await.unwrap();
    }
}

type Streams = BTreeMap<String, Vec<(String, String, String)>>;

async fn streams(store: &InMemoryEventStore) -> Streams {
    let mut streams = Streams::new();
    let mut feed = store.read_all(Position::START);
    while let Some(record) = feed.try_next().await.unwrap() {
        let meta = record.metadata();
        streams.entry(meta.stream().to_string()).or_default().push((
            meta.event_id().to_string(),
            format!("{} of {}", meta.event_type(), meta.occurred_at()),
            record.payload().to_owned(),
        ));
    }
    streams
}

/// Returns a store as an import leaves it that was killed after `events` events.
async fn killed_after(events: u64, whole: &InMemoryEventStore) -> Arc<InMemoryEventStore> {
    let store = Arc::new(InMemoryEventStore::new());
    let mut feed = whole.read_all(Position::START);
    while let Some(record) = feed.try_next().await.unwrap() {
        let meta = record.metadata();
        if record.position() > Some(Position::new(events)) {
            break;
        }
        let event = NewEvent::new(meta.event_type().clone(), 1, record.payload())
            .with_event_id(meta.event_id())
            .with_occurred_at(meta.occurred_at());
        let appended = store.append(meta.stream(), ExpectedVersion::Any, vec![event]);
        appended.await.unwrap();
    }
    store
}

#[tokio::test]
async fn an_import_killed_at_any_event_ends_as_one_that_was_not() {
    let commits = history();
    let alone = Arc::new(InMemoryEventStore::new());
    import(&alone, &commits, 1).await;
    let expected = streams(&alone).await;
    assert_eq!(expected["History/HEAD"].len(), commits.len());

    for window in [1, 2, 3, 5, commits.len()] {
        let whole = Arc::new(InMemoryEventStore::new());
        import(&whole, &commits, window).await;
        assert_eq!(streams(&whole).await, expected, "windows of {window}");
        for events in 0..=whole.head().await.unwrap().get() {
            let store = killed_after(events, &whole).await;
            let recorded = streams(&store).await.get("History/HEAD").map_or(0, Vec::len);
            import(&store, &commits[recorded..], 4).await;
            assert_eq!(streams(&store).await, expected, "windows of {window}, killed after {events}");
        }
    }
}

#[tokio::test]
async fn files_keep_their_history_under_renames() {
    let store = Arc::new(InMemoryEventStore::new());
    import(&store, &history(), 3).await;
    let files = AggregateRepository::<File>::new(store);
    let file = async |id: &str| {
        let id: AggregateId = id.parse().unwrap();
        let file = files.load(&id).await.unwrap();
        let File { path, former_paths, changes, deleted } = file.state().clone();
        (path, former_paths.join(" "), changes, deleted)
    };
    let text = |path: &str, former: &str, changes, deleted| (path.into(), former.into(), changes, deleted);
    assert_eq!(file("a").await, text("moved-again", "a moved b", 10, false), "born as a");
    assert_eq!(file("a@000000000000").await, text("a", "", 3, false), "took the name that was left");
    assert_eq!(file("b").await, text("b", "", 5, true), "came back, and lost its name to a second file");
    assert_eq!(file("c").await, text("c", "", 3, true));
}

#[test]
fn changes_are_read_as_git_prints_them() {
    let text = b"\
        1111111111111111111111111111111111111111\0\0Jos\xe9\0\0nonsense\0\0\n\
        :000000 120000 0 a A\0:odd \"name\0\
        :100755 100644 a a M\0mode\0\
        :100644 100755 a b M\0both\0\
        :160000 160000 a b M\0sub\0\
        :100644 120000 a b T\0type\0\
        :100644 100644 a b R075\0old\0new\n\0\
        2222222222222222222222222222222222222222\0p1 p2\0Ada\0a@b\x001700000000\0:100644 a subject\0\n\
        ::100644 100644 100644 a b c MM\0x\0x\0x\0\
        ::100644 100644 100644 a b c RR\0left\0right\0merged\0\
        ::100644 100644 100644 a b c RM\0old\0y\0y\0\
        ::000000 000000 100644 0 0 c AA\0evil\0evil\0evil\0\
        ::100644 100644 000000 a b 0 DD\0gone\0gone\0gone\0";
    let [first, merge] = &parsed(text)[..] else {
        panic!("two commits");
    };
    let short = |event: &FileEvent| match event {
        FileEvent::FileAdded(e) => format!("A {} {:?}", e.path, e.kind),
        FileEvent::FileModified(e) => format!("M {} {:?} {:?}", e.path, e.what, e.kind),
        FileEvent::FileRenamed(e) => format!("R{} {} {}", e.similarity_percent, e.from, e.to),
        FileEvent::FileDeleted(e) => format!("D {}", e.path),
    };
    let modified = |path, what: What, kind: Kind| format!("M {path} {what:?} {kind:?}");
    let events: Vec<_> = first.files.iter().map(short).collect();
    let expected = [
        "A :odd \"name Symlink".into(),
        modified("mode", What::Mode, Kind::File),
        modified("both", What::ContentAndMode, Kind::Executable),
        modified("sub", What::Content, Kind::Submodule),
        modified("type", What::ContentAndMode, Kind::Symlink),
        "R75 old \"new\\n\"".into(),
    ];
    assert_eq!(events, expected);
    assert_eq!((&*first.commit.author, &*first.commit.summary), ("Jos\u{fffd}", ""));
    let hash = &first.commit.hash;
    let oddities =
        [Oddity::NotUtf8(hash.clone()), Oddity::NoDate(hash.clone()), Oddity::QuotedPath(r#""new\n""#.into())];
    assert_eq!(first.oddities, oddities);

    let events: Vec<_> = merge.files.iter().map(short).collect();
    let expected = ["M x Content File", "R0 left merged", "M y Content File", "A evil File", "D gone"];
    assert_eq!(events, expected);
    assert_eq!(merge.parents, ["p1", "p2"]);
    assert_eq!(merge.commit.summary, ":100644 a subject");
}

#[test]
fn output_that_is_cut_off_or_foreign_is_an_error() {
    let whole = printed(1, &["A a", "R100 b c"]);
    for end in 1..whole.len() {
        let mut parser = Parser::new(&whole[..end]);
        let read = parser.next_commit();
        // output that ends between two changes looks complete: only git's exit status tells
        let between = whole[end - 1] == 0 && whole[end] == b':' || whole[end - 1..=end] == *b"\0\n";
        assert_eq!(read.is_ok(), between, "cut off after {end} bytes");
    }
    let error = Parser::new(&b"warning: something\0"[..]).next_commit().unwrap_err();
    assert!(error.to_string().contains("warning: something"), "{error}");
}

#[test]
#[cfg(unix)]
fn the_last_commit_counts_when_git_has_ended_well() {
    let taken = |status: u8| {
        let output = [printed(1, &["A a"]), printed(2, &["A b", "A c"])].concat();
        let output = String::from_utf8(output).unwrap().replace('\0', "\\000");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("printf '{output}'; echo why >&2; exit {status}")]);
        let mut taken = Vec::new();
        let read = log::read(LogProcess::start(command, "").unwrap(), |commit| {
            taken.push(commit.files.len());
            true
        });
        (taken, read.map_err(|error| error.to_string()))
    };
    assert_eq!(taken(0), (vec![1, 2], Ok(())));
    let (taken, read) = taken(9);
    assert_eq!(taken, [1]);
    assert_eq!(read.unwrap_err(), "`git log` failed: why (exit status: 9)");
}

#[test]
fn every_path_has_a_text_and_an_id_of_its_own() {
    let long = "long/".repeat(60);
    let paths: [&[u8]; 8] =
        [b"plain", b"tab\t", b"tab\\t", b"\"tab\\t\"", b"\xe9", "é".as_bytes(), "�".as_bytes(), "\u{85}".as_bytes()];
    let texts: Vec<_> = paths.iter().map(|path| identity::path_text(path)).collect();
    let mut distinct = texts.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), paths.len(), "{texts:?}");
    assert!(texts.iter().all(|text| text.parse::<AggregateId>().is_ok()));

    let id = |path: &str| {
        let commits = parsed(&printed(1, &[&format!("A {path}")]));
        identity::Files::default().file_of(&commits[0].files[0])
    };
    let (one, other) = (id(&format!("a/{long}end")), id(&format!("b/{long}end")));
    assert_ne!(one, other, "they differ where they are cut");
    assert!(one.as_str().contains("long/long/end~"), "{one}");
    assert_eq!(one, id(&format!("a/{long}end")));
}
