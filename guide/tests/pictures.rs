//! The pictures of the chapters and of the measurements are well-formed. Those that are drawn by hand say what their chapter
//! says, in its words.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use roxmltree::{Document, Node};

const SVG: &str = "http://www.w3.org/2000/svg";

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

/// Reads a picture; fails if it is not well-formed.
fn parse<'a>(name: &str, svg: &'a str) -> Document<'a> {
    Document::parse(svg).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn number(element: Node<'_, '_>, attribute: &str) -> f64 {
    element.attribute(attribute).unwrap().parse().unwrap()
}

fn labels<'a, 'i>(picture: &'a Document<'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    picture.descendants().filter(|element| element.has_tag_name((SVG, "text")))
}

/// Returns the words of a text in lower case.
fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

#[test]
fn every_picture_is_well_formed_and_follows_the_colours_of_the_reader() {
    let mut count = 0;
    for folder in [DRAWINGS, "guide/src/images/plots", "docs/plots"] {
        for (name, svg) in texts(folder, ".svg") {
            let picture = parse(&name, &svg);
            assert!(picture.root_element().has_tag_name((SVG, "svg")), "{folder}/{name}");
            assert!(svg.contains("@media (prefers-color-scheme: dark)"), "{folder}/{name} has light colours only");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

/// A test in a browser, which runs on request, makes the pictures of the dashboard.
#[test]
fn the_dashboard_has_a_picture_of_each_page_and_the_size_of_the_browser_test() {
    let test = fs::read_to_string(workspace("eventbus-cli/tests/dashboard/browser/mod.rs")).unwrap();
    let after = |begin: &str| test.split_once(begin).unwrap_or_else(|| panic!("no `{begin}`")).1;
    let pages = after("const GUIDE_PAGES: ").split_once(" = [").unwrap().1.split("];").next().unwrap();
    let names = pages.split("(\"").skip(1).map(|page| page.split('"').next().unwrap());
    let made: BTreeSet<_> = names.map(|name| format!("dashboard-{name}.png")).collect();
    let screen = after("fn the_guide_has_pictures_of_a_shop_at_work()").split_once("set_screen(").unwrap().1;
    let mut sides = screen.split(", ").map(|side| side.replace('_', "").parse::<u32>());
    let (width, height) = (sides.next().unwrap().unwrap(), sides.next().unwrap().unwrap());

    let files = fs::read_dir(workspace(DRAWINGS)).unwrap().map(|entry| entry.unwrap().file_name());
    let files = files.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".png"));
    let shown: BTreeSet<_> = files.collect();
    assert_eq!(shown, made);
    for name in shown {
        let picture = fs::read(workspace(DRAWINGS).join(&name)).unwrap();
        let (begin, header) = picture.split_at(16);
        assert!(begin.starts_with(b"\x89PNG") && begin.ends_with(b"IHDR"), "{name} is no PNG");
        let side = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        // a page may be longer than the screen
        assert!(side(0) == width && side(4) >= height, "{name}: {} x {}", side(0), side(4));
    }
}

#[test]
fn the_text_in_place_of_a_drawing_is_its_title() {
    for (name, svg) in texts(DRAWINGS, ".svg") {
        let picture = parse(&name, &svg);
        let title = picture.descendants().find(|element| element.has_tag_name((SVG, "title"))).unwrap();
        assert_eq!(title.text(), Some(chapter_of(&name).1.as_str()), "{name}");
    }
}

#[test]
fn each_label_is_within_its_drawing() {
    for (name, svg) in texts(DRAWINGS, ".svg") {
        let picture = parse(&name, &svg);
        let drawing = picture.root_element();
        let view = drawing.attribute("viewBox").unwrap().split(' ');
        let view: Vec<f64> = view.map(|number| number.parse().unwrap()).collect();
        let [left, top, width, height] = view[..] else { panic!("{name}: {view:?}") };
        assert!(svg.contains("text-anchor: middle"), "{name}");
        let size = number(drawing, "font-size");
        for label in labels(&picture) {
            let (x, y, text) = (number(label, "x"), number(label, "y"), label.text().unwrap());
            // letters are about half as wide as high
            let half = size * text.len() as f64 / 4.0;
            let is_within = x - half >= left && x + half <= left + width && y - size >= top && y <= top + height;
            assert!(is_within, "{name}: `{text}`");
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
        let picture = parse(&name, &svg);
        let words = labels(&picture).flat_map(|label| words(label.text().unwrap()));
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
    let picture = parse("flow.svg", svg);
    // labels with a class say what the part does
    let parts = labels(&picture).filter(|label| !label.has_attribute("class"));
    let parts: Vec<_> = parts.map(|label| label.text().unwrap()).collect();
    assert_eq!(parts.len(), 6, "{parts:?}");
    for part in parts {
        assert!(explained.contains(&part.trim_end_matches('s')), "`{part}` is not in {explained:?}");
    }
}
