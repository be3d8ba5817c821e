//! The summary lists every chapter, each chapter is compiled, and every link within the guide leads somewhere. So do the links
//! of the repository's pages; the files and programs that they name exist.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn source() -> PathBuf {
    workspace().join("guide/src")
}

/// Returns the files below a folder, by their paths in it, with `/` between folders.
fn files(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path(), &format!("{name}/"))),
            false => found.push(name),
        }
    }
    found
}

/// Returns the lines of a chapter that are no code.
fn prose(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let is_prose = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    text.lines().filter(is_prose).collect()
}

/// Returns the targets of the links and pictures in a line: `[text](target)`.
fn targets(line: &str) -> Vec<String> {
    let link = |rest: &str| rest.split(')').next().unwrap_or_default().to_owned();
    // within a span of code there is no link
    let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    plain.split("](").skip(1).map(link).collect()
}

/// Returns the anchor that mdBook gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter_map(|c| if c == ' ' { Some('-') } else { (c.is_alphanumeric() || "-_".contains(c)).then_some(c) })
        .collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

fn chapters() -> BTreeMap<String, String> {
    let markdown = files(&source(), "").into_iter().filter(|name| name.ends_with(".md"));
    markdown.map(|name| (name.clone(), fs::read_to_string(source().join(name)).unwrap())).collect()
}

#[test]
fn the_summary_lists_every_chapter_once() {
    let chapters = chapters();
    let mut listed: Vec<_> = prose(&chapters["SUMMARY.md"]).into_iter().flat_map(targets).collect();
    let count = listed.len();
    listed.sort();
    listed.dedup();
    assert_eq!(listed.len(), count, "a chapter is listed twice");
    let there: Vec<_> = chapters.keys().filter(|name| *name != "SUMMARY.md").cloned().collect();
    assert_eq!(listed, there);
    let mut compiled: Vec<_> = guide::CHAPTERS.iter().map(|name| (*name).to_owned()).collect();
    compiled.sort();
    assert_eq!(compiled, there, "a chapter is missing in chapters.rs, so its code is not compiled");
}

#[test]
fn every_link_leads_somewhere() {
    let chapters = chapters();
    let all: BTreeSet<_> = files(&source(), "").into_iter().collect();
    let (mut broken, mut seen, mut pictures) = (Vec::new(), 0, BTreeSet::new());
    for (name, text) in &chapters {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        for target in prose(text).into_iter().flat_map(targets) {
            if target.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (file, heading) =
                target.split_once('#').map_or((&*target, None), |(file, heading)| (file, Some(heading)));
            let path = match file {
                "" => name.clone(),
                _ => resolve(folder, file),
            };
            let is_there =
                all.contains(&path) && heading.is_none_or(|heading| anchors(&chapters[&path]).contains(heading));
            if !is_there {
                broken.push(format!("{name}: {target}"));
            }
            pictures.insert(path);
        }
    }
    assert!(seen > 40, "{seen} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
    let unused: Vec<_> = all.iter().filter(|file| !file.ends_with(".md") && !pictures.contains(*file)).collect();
    assert!(unused.is_empty(), "no chapter shows {unused:?}");
}

/// Resolves a relative path within the folder of the chapters.
fn resolve(folder: &str, file: &str) -> String {
    let mut parts: Vec<_> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Returns the folders of the crates that are published, by the list in the manifest of the workspace and in each of them.
fn published() -> Vec<PathBuf> {
    let folders = fs::read_dir(workspace()).unwrap().map(|entry| entry.unwrap().path());
    let is_published = |folder: &PathBuf| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml"));
        manifest.is_ok_and(|manifest| !manifest.contains("publish = false") && manifest.contains("[package]"))
    };
    let mut published: Vec<_> = folders.filter(is_published).filter(|folder| !folder.ends_with("benches")).collect();
    published.sort();
    published
}

/// The registry shows these pages, where no file of the repository is beside them.
#[test]
fn links_of_the_pages_of_crates_hold_outside_of_the_repository() {
    let published = published();
    assert!(published.len() >= 10, "{published:?}");
    for folder in published {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for wanted in ["description = ", "documentation = ", "license.workspace = true", "[package.metadata.docs.rs]"] {
            assert!(manifest.contains(wanted), "{}: {wanted}", folder.display());
        }
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            // a package holds files of this folder only; cargo packs the file that a link leads to
            let of_crate = fs::read_to_string(folder.join(licence)).unwrap_or_default();
            assert_eq!(of_crate, fs::read_to_string(workspace().join(licence)).unwrap(), "{}", folder.display());
        }
        let page = folder.join("README.md");
        assert_eq!(manifest.contains("readme = \"README.md\""), page.exists(), "{}", folder.display());
        let Ok(text) = fs::read_to_string(&page) else { continue };
        assert!(!page.is_symlink(), "{}: its links would be those of another folder", page.display());
        let anchors = anchors(&text);
        for target in prose(&text).into_iter().flat_map(targets) {
            let holds = target.starts_with("https://")
                || target.strip_prefix('#').is_some_and(|heading| anchors.contains(heading));
            assert!(holds, "{}: {target}", page.display());
        }
    }
}

/// Returns the pages of the repository, without those of the guide and of the crates, by their paths.
fn pages() -> BTreeMap<String, String> {
    let at_root =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benches/README.md"];
    let names = at_root.map(str::to_owned).into_iter().chain(files(&workspace().join("docs"), "docs/"));
    let pages = names.filter(|name| name.ends_with(".md"));
    pages.map(|name| (name.clone(), fs::read_to_string(workspace().join(name)).unwrap())).collect()
}

#[test]
fn links_of_the_repositorys_pages_lead_somewhere() {
    for (name, text) in pages() {
        let page = workspace().join(&name);
        for target in prose(&text).into_iter().flat_map(targets).filter(|target| !target.starts_with("https://")) {
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{name}: {target}");
            let is_there = || anchors(&fs::read_to_string(&path).unwrap()).contains(heading);
            assert!(heading.is_empty() || is_there(), "{name}: {target}");
        }
    }
}

/// The two pages for developers name files by their paths, which may begin in any folder.
#[test]
fn the_files_that_the_pages_for_developers_name_exist() {
    let mut there = Vec::new();
    for entry in fs::read_dir(workspace()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // hidden folders are named from the root on; `target` and `benches/target` hold millions of files
        if workspace().join(&name).is_dir() && !["target", "benches", "."].iter().any(|begin| name.starts_with(begin)) {
            there.extend(files(&workspace().join(&name), &format!("/{name}/")));
        }
    }
    let (mut missing, mut seen) = (Vec::new(), 0);
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = &pages()[page];
        for span in prose(text).into_iter().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_file = [".rs", ".lua", ".sh", ".md"].iter().any(|end| span.len() > end.len() && span.ends_with(end));
            let is_plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if !is_plain || !(is_file || span.contains('/')) || span.starts_with("target/") {
                continue;
            }
            seen += 1;
            let (file, folder) = (format!("/{span}"), format!("/{}/", span.trim_end_matches('/')));
            let is_there = |path: &String| path.ends_with(&file) || path.contains(&folder);
            if !workspace().join(span).exists() && !there.iter().any(is_there) {
                missing.push(format!("{page}: {span}"));
            }
        }
    }
    assert!(seen > 100, "{seen} paths were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Commands such as `cargo test -p guide --test links` name packages of this repository, and their programs.
#[test]
fn the_programs_that_pages_and_chapters_run_exist() {
    let mut seen = 0;
    for (name, text) in pages().into_iter().chain(chapters()) {
        for command in text.split(['`', '\n']).filter_map(|code| Some(code.split_once("cargo ")?.1)) {
            let words: Vec<_> = command.split_whitespace().collect();
            let value = |option: &str| words.iter().skip_while(|word| **word != option).nth(1).copied();
            let Some(package) = value("-p") else { continue };
            let folder = workspace().join(if package == "workspace-tests" { "tests" } else { package });
            assert!(folder.join("Cargo.toml").exists(), "{name}: {command}");
            for (option, programs) in [("--test", "tests"), ("--bin", "src/bin")] {
                let Some(program) = value(option).filter(|program| *program != "..") else { continue };
                let path = folder.join(programs).join(program);
                assert!(path.join("main.rs").exists() || path.with_extension("rs").exists(), "{name}: {command}");
                seen += 1;
            }
        }
    }
    assert!(seen > 8, "{seen} programs were found");
}

#[test]
fn the_command_is_installed_with_the_versions_that_were_tested() {
    let crates = published().into_iter().map(|folder| folder.join("README.md")).filter(|page| page.exists());
    let crates = crates.map(|page| (page.display().to_string(), fs::read_to_string(page).unwrap()));
    let mut seen = 0;
    for (name, text) in pages().into_iter().chain(chapters()).chain(crates) {
        for arguments in text.split("cargo install --path ").skip(1) {
            let arguments = arguments.split(['`', '\n']).next().unwrap();
            assert!(arguments.contains(" --locked"), "{name}: cargo install --path {arguments}");
            seen += 1;
        }
    }
    assert!(seen > 4, "{seen}");
}

/// The blocks that rustdoc passes by are those of other frameworks, each with a note.
#[test]
fn only_code_of_other_frameworks_is_not_compiled() {
    for (name, text) in chapters() {
        let ignored = text.lines().filter(|line| line.starts_with("```") && line.contains("ignore")).count();
        let is_comparison = name.starts_with("moving/");
        assert!(ignored == 0 || is_comparison, "{name} has {ignored} blocks that are not compiled");
        if ignored > 0 {
            assert!(
                text.contains("is not compiled"),
                "{name} does not say that the other framework's code is not compiled"
            );
        }
    }
}

/// Returns the heads of the blocks that hold a test without being compiled as one: the compiler then removes the test
/// unchecked.
fn unchecked_tests(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut head: Option<&str> = None;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("```") {
            head = head.is_none().then_some(line);
        } else if let Some(head) = head.filter(|head| head.starts_with("```rust") && !head.contains("test_harness"))
            && ["#[test]", "#[tokio::test"].iter().any(|test| line.starts_with(test))
        {
            found.push(format!("{head}: {line}"));
        }
    }
    found
}

#[test]
fn tests_in_the_chapters_are_compiled_as_tests() {
    let mut seen = 0;
    for (name, text) in chapters() {
        assert_eq!(
            unchecked_tests(&text),
            Vec::<String>::new(),
            "{name}: write `test_harness` at the head of the block"
        );
        seen += text.matches("test_harness").count();
    }
    assert!(seen > 3, "{seen} blocks");
}

#[test]
fn the_check_itself_sees_tests_that_are_not_compiled() {
    let block = |head: &str| format!("a\n```{head}\nlet a = 1;\n#[tokio::test]\nasync fn b() {{}}\n```\n#[test]\n");
    assert_eq!(unchecked_tests(&block("rust,no_run")), ["```rust,no_run: #[tokio::test]"]);
    for head in ["rust,test_harness", "text"] {
        assert_eq!(unchecked_tests(&block(head)), Vec::<String>::new(), "{head}");
    }
}

#[test]
fn the_check_itself_reads_links_and_headings() {
    assert_eq!(targets("see [a](b.md#c) and ![d](e.svg), not `[f](g)`"), ["b.md#c", "e.svg"]);
    assert_eq!(anchor(" What `republish` does"), "what-republish-does");
    assert_eq!(anchor(" A group: it's late"), "a-group-its-late");
    assert_eq!(prose("a\n```sh\n# b\n```\nc"), ["a", "c"]);
    assert_eq!(resolve("moving", "../tests.md"), "tests.md");
}
