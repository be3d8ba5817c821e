//! The chapter on promises has the tests of each promise, as `tests/tests/promises.rs` lists them.
//!
//! `EVENTBUS_BLESS=1` writes these lists into the chapter.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{env, fmt::Write as _, fs, path::PathBuf};

use syn::{Expr, Item, Lit};

/// Begins the list of tests of a promise; the next heading ends it.
const MARK: &str = "Proved by:\n";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Returns the elements of an array or a tuple.
fn elements(expression: &Expr) -> Vec<&Expr> {
    match expression {
        Expr::Reference(reference) => elements(&reference.expr),
        Expr::Array(array) => array.elems.iter().collect(),
        Expr::Tuple(tuple) => tuple.elems.iter().collect(),
        _ => panic!("neither an array nor a tuple"),
    }
}

fn text(expression: &Expr) -> String {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => text.value(),
            _ => panic!("no text"),
        },
        _ => panic!("no literal"),
    }
}

/// Returns each promise with the list of its tests, as the chapter has it.
fn promises() -> Vec<(String, String)> {
    let source = syn::parse_file(&fs::read_to_string(path("../tests/tests/promises.rs")).unwrap()).unwrap();
    let list = source.items.iter().find_map(|item| match item {
        Item::Const(constant) if constant.ident == "PROMISES" => Some(&constant.expr),
        _ => None,
    });
    let promise = |promise: &Expr| {
        let [name, proofs] = elements(promise)[..] else { panic!("a promise and its proofs") };
        let mut list = String::new();
        for proof in elements(proofs) {
            let [place, tests] = elements(proof)[..] else { panic!("a place and its tests") };
            writeln!(list, "- `{}`:", text(place)).unwrap();
            for test in elements(tests) {
                writeln!(list, "  - `{}`", text(test)).unwrap();
            }
        }
        (text(name), list)
    };
    elements(list.unwrap()).into_iter().map(promise).collect()
}

/// Returns the chapter with the list of tests in each section of a promise.
fn with_lists(chapter: &str, promises: &[(String, String)]) -> String {
    let (mut written, mut rest) = (String::new(), chapter);
    for (promise, list) in promises {
        let heading = format!("\n## {}", promise.trim_end_matches('.'));
        let at = rest.find(&heading).unwrap_or_else(|| panic!("no section, or not in this order: {promise}"));
        let mark = at + rest[at..].find(MARK).unwrap_or_else(|| panic!("`{MARK}` is missing: {promise}")) + MARK.len();
        assert!(!rest[at + heading.len()..mark].contains("\n## "), "`{MARK}` is missing: {promise}");
        let end = mark + rest[mark..].find("\n## ").unwrap_or_else(|| panic!("a section follows: {promise}"));
        write!(written, "{}\n{list}", &rest[..mark]).unwrap();
        rest = &rest[end..];
    }
    written + rest
}

#[test]
fn the_chapter_has_the_tests_of_each_promise() {
    let promises = promises();
    assert!(promises.len() > 15, "{} promises", promises.len());
    let file = path("src/promises.md");
    let chapter = fs::read_to_string(&file).unwrap();
    let due = with_lists(&chapter, &promises);
    if env::var_os("EVENTBUS_BLESS").is_some() {
        fs::write(file, &due).unwrap();
    } else {
        assert!(chapter == due, "other tests prove the promises now: write the chapter with EVENTBUS_BLESS=1");
    }
    assert_eq!(due.matches(MARK).count(), promises.len(), "a section proves a promise that is none");
}

#[test]
fn the_check_itself_writes_lists_once() {
    let promises = [("A is b.".to_owned(), "- `x`:\n  - `y`\n".to_owned()), ("C".to_owned(), "- `z`:\n".to_owned())];
    let chapter = "# P\n\n## A is b\n\nText.\n\nProved by:\n\n## C is d\n\nProved by:\n\n## End\n";
    let due = with_lists(chapter, &promises);
    assert_eq!(
        due,
        "# P\n\n## A is b\n\nText.\n\nProved by:\n\n- `x`:\n  - `y`\n\n## C is d\n\nProved by:\n\n- `z`:\n\n## End\n"
    );
    assert_eq!(with_lists(&due, &promises), due);
}
