//! The product's own sources, for the tests over layering, time and vocabulary.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The crates that users depend on.
pub const PRODUCT: &[&str] = &[
    "eventbus",
    "eventbus-cli",
    "eventbus-derive",
    "eventbus-file",
    "eventbus-redis",
    "eventbus-redis-core",
    "eventbus-test",
    "eventstore-postgres",
    "eventstore-redis",
    "eventstore-sqlite",
];

/// A file of the workspace.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its path in the workspace, with `/` between folders.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl SourceFile {
    /// Returns the lines of the file that are neither comments nor unit tests.
    #[must_use]
    pub fn code(&self) -> String {
        without_tests(&self.text)
            .into_iter()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Returns the root folder of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("")).to_owned()
}

/// Returns the files below a folder of the workspace whose name ends with one of `endings`, ordered by path.
///
/// Files that hold unit tests only are left out: `tests.rs` and all in folders named `tests`.
///
/// # Errors
/// If a file or folder cannot be read, with its path.
pub fn files(folder: &str, endings: &[&str]) -> io::Result<Vec<SourceFile>> {
    let is_tests = |name: &str| name == "tests" || name == "tests.rs";
    let mut found = files_with_tests(folder, endings)?;
    found.retain(|file| !file.path[folder.len()..].split('/').any(is_tests));
    Ok(found)
}

/// Returns the files below a folder like [`files`], those of unit tests too.
///
/// # Errors
/// As [`files`].
pub fn files_with_tests(folder: &str, endings: &[&str]) -> io::Result<Vec<SourceFile>> {
    let mut found = Vec::new();
    collect(&workspace().join(folder), endings, &mut found)?;
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// Returns the Rust files of all crates that users depend on, without the conformance suites.
///
/// # Errors
/// As [`files`].
pub fn product_files() -> io::Result<Vec<SourceFile>> {
    let mut found = Vec::new();
    for package in PRODUCT {
        found.extend(files(&format!("{package}/src"), &[".rs"])?);
    }
    found.retain(|file| !file.path.contains("/testkit/"));
    Ok(found)
}

/// Returns the lines of `text` without the items below `#[cfg(test)]`.
///
/// It relies on rustfmt: an item ends on its first line, if that ends with `;` or `}`, or at the first line that
/// closes it with the same indentation.
#[must_use]
pub fn without_tests(text: &str) -> Vec<&str> {
    let mut lines = text.lines();
    let mut kept = Vec::new();
    while let Some(line) = lines.next() {
        let attribute = line.trim_start();
        if !attribute.starts_with("#[cfg(test)]") && !attribute.starts_with("#[cfg(all(test,") {
            kept.push(line);
            continue;
        }
        let indent = &line[..line.len() - attribute.len()];
        let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#[")).unwrap_or_default();
        if !item.ends_with([';', '}', ',']) {
            let ends = |line: &&str| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with(['}', ')', ']']));
            lines.by_ref().find(|line| ends(line) && line.ends_with(['}', ';', ',']));
        }
    }
    kept
}

fn collect(folder: &Path, endings: &[&str], found: &mut Vec<SourceFile>) -> io::Result<()> {
    let with_path =
        |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    for entry in fs::read_dir(folder).map_err(|error| with_path(folder, error))? {
        let path = entry.map_err(|error| with_path(folder, error))?.path();
        if path.is_dir() {
            collect(&path, endings, found)?;
        } else if path.to_str().is_some_and(|name| endings.iter().any(|ending| name.ends_with(ending))) {
            let text = fs::read_to_string(&path).map_err(|error| with_path(&path, error))?;
            let parts: Vec<_> =
                path.strip_prefix(workspace()).unwrap_or(&path).iter().map(|part| part.to_string_lossy()).collect();
            found.push(SourceFile { path: parts.join("/"), text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::without_tests;

    #[test]
    fn items_for_tests_are_left_out_and_what_follows_them_is_kept() {
        let text = "\
use a;
#[cfg(test)]
mod tests;

struct A {
    #[cfg(test)]
    probe: u8,
    kept: u8,
}
impl A {
    #[cfg(test)]
    #[must_use]
    fn probe(
        &self,
    ) -> u8 {
        if true {
            1
        }
    }

    fn kept(&self) {}
}
#[cfg(test)]
mod more {
    fn gone() {}
}
fn last() {}";
        let kept = "use a;\n\nstruct A {\n    kept: u8,\n}\nimpl A {\n\n    fn kept(&self) {}\n}\nfn last() {}";
        assert_eq!(without_tests(text).join("\n"), kept);
    }
}
