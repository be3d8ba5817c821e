//! The blocks ```` ```console ```` of the chapters: each line after `$` is run, and shows what stands below it.
//!
//! The blocks of a chapter run in their order, on a bank of their own. Ids, times and durations may differ.
//! `EVENTBUS_BLESS=1` writes what the commands show into the chapters.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use super::bank::Bank;

const FENCE: &str = "```console\n";

fn chapter_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src").join(name)
}

/// Returns the commands of a block, each with the lines that it shows.
fn commands(block: &str) -> Vec<(&str, String)> {
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, String::new())),
            (None, Some((_, shown))) => {
                let _ = writeln!(shown, "{line}");
            }
            (None, None) => panic!("a block begins with a command: {line}"),
        }
    }
    commands
}

/// Replaces what differs from run to run: ids, times, durations, and runs of spaces, which depend on their lengths.
fn masked(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-:._+/@".contains(c);
    let mut masked = String::new();
    for line in text.lines() {
        let (mut rest, mut shown) = (line, String::new());
        while !rest.is_empty() {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(end);
            // a colon or a full stop behind it is none of its characters
            let core = word.trim_end_matches([':', '.']);
            shown.push_str(mask_of(core).unwrap_or(core));
            shown.push_str(&word[core.len()..]);
            let next = tail.find(is_part).unwrap_or(tail.len());
            shown.push_str(if next > 1 && tail[..next].trim().is_empty() { " " } else { &tail[..next] });
            rest = &tail[next..];
        }
        masked.push_str(shown.trim_end());
        masked.push('\n');
    }
    masked
}

fn mask_of(word: &str) -> Option<&'static str> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_decimal = |text: &str| text.split_once('.').is_some_and(|(a, b)| is_number(a) && is_number(b));
    let parts: Vec<_> = word.split(':').collect();
    match word {
        word if word.len() == 36 && word.split('-').map(str::len).eq([8, 4, 4, 4, 12]) => Some("ID"),
        word if word.len() >= 20 && word.starts_with("20") && word.ends_with('Z') => Some("TIME"),
        // an entry of Redis; a dead letter of the in-process bus has its group behind it
        word if word.len() > 12 && word.contains('-') && word.split('-').take(2).all(is_number) => Some("ENTRY"),
        word if is_decimal(word.trim_end_matches('s')) => Some("NUMBER"),
        word if word.ends_with(['s', 'm', 'h', 'd']) && is_number(&word[..word.len() - 1]) => Some("NUMBER"),
        _ if parts.len() == 3 && is_number(parts[1]) => Some("PROCESS"),
        _ => None,
    }
}

/// Runs the commands of a chapter; returns it with what they show, all from this run, and the differences.
fn run(bank: &Bank, chapter: &str) -> (String, Vec<String>) {
    let (mut written, mut differences) = (String::new(), Vec::new());
    let mut blocks = chapter.split(FENCE);
    written.push_str(blocks.next().unwrap());
    for rest in blocks {
        let (block, rest) = rest.split_once("```").unwrap();
        written.push_str(FENCE);
        for (command, due) in commands(block) {
            let shown = bank.shell(command);
            if masked(&shown) != masked(&due) {
                differences.push(format!("$ {command}\n{}instead of\n{}", masked(&shown), masked(&due)));
            }
            write!(written, "$ {command}\n{shown}").unwrap();
        }
        written.push_str("```");
        written.push_str(rest);
    }
    (written, differences)
}

fn check(name: &str, bank: &Bank) {
    let path = chapter_path(name);
    let chapter = fs::read_to_string(&path).unwrap();
    let (written, differences) = run(bank, &chapter);
    if env::var_os("EVENTBUS_BLESS").is_none() {
        assert!(differences.is_empty(), "{name} shows something else:\n{}", differences.join("\n"));
    } else if !differences.is_empty() {
        fs::write(path, written).unwrap();
    }
}

macro_rules! chapters {
    ($($test:ident $name:literal)*) => {
        const TESTED: &[&str] = &[$($name),*];

        $(#[test] fn $test() { check($name, &Bank::after_a_day()); })*
    };
}

chapters! {
    backup_and_restore "backup-and-restore.md"
    deploying "deploying.md"
    projections "projections.md"
    troubleshooting "troubleshooting.md"
}

#[test]
fn operating() {
    check("operating.md", &Bank::after_a_day());
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers() {
    let bank = Bank::after_a_day();
    bank.add_file().await;
    check("handlers.md", &bank);
}

#[test]
fn each_chapter_with_commands_is_tested() {
    let has_commands = |name: &&&str| fs::read_to_string(chapter_path(name)).unwrap().contains(FENCE);
    let with_commands: Vec<_> = guide::CHAPTERS.iter().filter(has_commands).copied().collect();
    let mut tested = [TESTED, &["handlers.md", "operating.md"]].concat();
    tested.sort_unstable();
    let mut sorted = with_commands.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, tested);
}

#[test]
fn the_check_itself_masks_what_differs_and_nothing_else() {
    let line =
        "0195f0a2-0000-4000-8000-000000000001  2026-05-05T03:00:00Z 1795500000000-0 host:12:0a1b2c3d 0.3 12s mail";
    assert_eq!(masked(line), "ID TIME ENTRY PROCESS NUMBER NUMBER mail\n");
    assert_eq!(masked("dead letter 1795500000000-0: mail"), "dead letter ENTRY: mail\n");
    assert_eq!(masked("4 events, 2 of `thank`"), "4 events, 2 of `thank`\n");
    let block = "$ eventbus lag\nnothing\n$ eventbus relay\n";
    assert_eq!(commands(block), [("eventbus lag", "nothing\n".to_owned()), ("eventbus relay", String::new())]);
}
