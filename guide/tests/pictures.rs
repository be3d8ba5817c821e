//! The pictures of the chapters and of the measurements are well-formed. Those that are drawn by hand say what their chapter
//! says, in its words.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The folder of the drawings; those in its folder `plots` come from a program.
const DRAWINGS: &str = "guide/src/images";

fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns the files in a folder whose names end so, with their texts.
fn texts(folder: &str, ending: &str) -> BTreeMap<String, String> {
    let names = fs::read_dir(workspace(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let text = |name: &str| fs::read_to_string(workspace(folder).join(name)).unwrap();
    names.filter(|name| name.ends_with(ending)).map(|name| (name.clone(), text(&name))).collect()
}

/// Returns the chapter that shows a drawing, and the text there in place of it.
fn chapter_of(drawing: &str) -> (String, String) {
    let target = format!("](images/{drawing})");
    let shows = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("![")?.strip_suffix(target.as_str()))?.to_owned();
        Some((text, line))
    };
    texts("guide/src", ".md").into_values().find_map(shows).unwrap_or_else(|| panic!("no chapter shows {drawing}"))
}

/// An element of a picture, with the text behind its start.
#[derive(Debug)]
struct Element<'a> {
    name: &'a str,
    attributes: BTreeMap<&'a str, &'a str>,
    text: &'a str,
}

impl Element<'_> {
    fn number(&self, attribute: &str) -> f64 {
        self.attributes[attribute].parse().unwrap()
    }
}

/// Returns the elements of a picture in their order, or the part that is not well-formed. XML allows more, such as comments:
/// no picture has them.
fn elements(xml: &str) -> Result<Vec<Element<'_>>, &str> {
    let (mut elements, mut open) = (Vec::new(), Vec::<&str>::new());
    let (before, tags) = xml.split_once('<').ok_or(xml)?;
    for part in tags.split('<') {
        let is_over = !elements.is_empty() && open.is_empty();
        let (tag, text) = part.split_once('>').ok_or(part)?;
        if let Some(name) = tag.strip_prefix('/') {
            open.pop().filter(|opened| *opened == name).ok_or(part)?;
        } else {
            let start = tag.strip_suffix('/').unwrap_or(tag);
            let (name, attributes) = start.split_once(char::is_whitespace).unwrap_or((start, ""));
            let attributes = read_attributes(attributes).filter(|_| is_name(name) && !is_over).ok_or(part)?;
            if start == tag {
                open.push(name);
            }
            elements.push(Element { name, attributes, text });
        }
        if !has_known_entities(text) || open.is_empty() && !text.trim().is_empty() {
            return Err(part);
        }
    }
    if before.is_empty() && open.is_empty() { Ok(elements) } else { Err("begin or end") }
}

/// Returns the attributes in a start tag, or `None` if they are not well-formed.
fn read_attributes(mut rest: &str) -> Option<BTreeMap<&str, &str>> {
    let mut attributes = BTreeMap::new();
    while !rest.trim().is_empty() {
        let (name, after) = rest.trim_start().split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        let is_apart = after.is_empty() || after.starts_with(char::is_whitespace);
        let is_valid = is_apart && is_name(name) && has_known_entities(value);
        if !is_valid || attributes.insert(name, value).is_some() {
            return None;
        }
        rest = after;
    }
    Some(attributes)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-:".contains(c))
}

fn has_known_entities(text: &str) -> bool {
    let is_known = |rest: &str| ["amp;", "lt;", "gt;", "quot;", "apos;"].iter().any(|entity| rest.starts_with(entity));
    text.split('&').skip(1).all(is_known)
}

fn labels<'a>(elements: &'a [Element<'a>]) -> impl Iterator<Item = &'a Element<'a>> {
    elements.iter().filter(|element| element.name == "text")
}

/// Returns the words of a text in lower case.
fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

#[test]
fn every_picture_is_well_formed() {
    let mut count = 0;
    for folder in [DRAWINGS, "guide/src/images/plots", "docs/plots"] {
        for (name, svg) in texts(folder, ".svg") {
            let elements = elements(&svg).unwrap_or_else(|part| panic!("{folder}/{name}: `<{part}`"));
            assert_eq!(elements[0].attributes["xmlns"], "http://www.w3.org/2000/svg", "{folder}/{name}");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn the_text_in_place_of_a_drawing_is_its_title() {
    for (name, svg) in texts(DRAWINGS, ".svg") {
        let elements = elements(&svg).unwrap();
        let title = elements.iter().find(|element| element.name == "title").unwrap();
        assert_eq!(chapter_of(&name).1, title.text, "{name}");
    }
}

#[test]
fn each_label_is_within_its_drawing() {
    for (name, svg) in texts(DRAWINGS, ".svg") {
        let elements = elements(&svg).unwrap();
        let view: Vec<f64> =
            elements[0].attributes["viewBox"].split(' ').map(|number| number.parse().unwrap()).collect();
        let [left, top, width, height] = view[..] else { panic!("{name}: {view:?}") };
        assert!(svg.contains("text-anchor: middle"), "{name}");
        let size = elements[0].number("font-size");
        for label in labels(&elements) {
            let (x, y) = (label.number("x"), label.number("y"));
            // letters are about half as wide as high
            let half = size * label.text.len() as f64 / 4.0;
            let is_within = x - half >= left && x + half <= left + width && y - size >= top && y <= top + height;
            assert!(is_within, "{name}: `{}`", label.text);
        }
    }
}

#[test]
fn a_drawing_has_the_words_of_its_chapter_or_of_the_glossary() {
    let architecture = fs::read_to_string(workspace("ARCHITECTURE.md")).unwrap();
    let glossary = words(architecture.split_once("\n## Glossary\n").unwrap().1);
    let mut unknown = Vec::new();
    for (name, svg) in texts(DRAWINGS, ".svg") {
        // without the texts in place of pictures
        let chapter: Vec<_> = chapter_of(&name).0.lines().filter(|line| !line.starts_with("![")).map(words).collect();
        let has = |word: &str| glossary.contains(word) || chapter.iter().any(|line| line.contains(word));
        let elements = elements(&svg).unwrap();
        let words = labels(&elements).flat_map(|label| words(label.text));
        // `load` is the word of `the repository loads`
        let is_unknown = |word: &String| !has(word) && !has(&format!("{word}s"));
        unknown.extend(words.filter(is_unknown).map(|word| format!("{name}: `{word}`")));
    }
    assert!(unknown.is_empty(), "the chapter and ARCHITECTURE's glossary do not have {unknown:?}");
}

#[test]
fn the_chapter_explains_each_part_on_the_way_of_an_event() {
    let chapter = chapter_of("flow.svg").0;
    let explained: Vec<_> = chapter.split("**").skip(1).step_by(2).map(|term| term.trim_end_matches('s')).collect();
    let svg = &texts(DRAWINGS, "flow.svg")["flow.svg"];
    let elements = elements(svg).unwrap();
    // labels with a class say what the part does
    let parts: Vec<_> = labels(&elements).filter(|label| !label.attributes.contains_key("class")).collect();
    assert_eq!(parts.len(), 6, "{parts:?}");
    for part in parts {
        assert!(explained.contains(&part.text.trim_end_matches('s')), "`{}` is not in {explained:?}", part.text);
    }
}

#[test]
fn the_check_itself_refuses_what_is_not_well_formed() {
    let found = elements("<a b=\"1\" c=\"&lt;\">d\n<e/></a>\n").unwrap();
    assert_eq!((found.len(), found[0].number("b"), found[0].text, found[1].name), (2, 1.0, "d\n", "e"));
    for broken in [
        "",
        "<a",
        "<a>",
        "<a></b>",
        "<a/></a>",
        "<a/><b/>",
        "<a/>b",
        "b<a/>",
        "<a>b & c</a>",
        "<a b=1/>",
        "<a b=\"1\"c=\"2\"/>",
        "<a b=\"1\" b=\"2\"/>",
    ] {
        assert!(elements(broken).is_err(), "{broken}");
    }
}
