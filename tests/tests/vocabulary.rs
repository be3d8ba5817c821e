//! Names and comments keep to the words of ARCHITECTURE's glossary.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};

use quote::ToTokens as _;
use syn::{
    Ident, Item,
    visit::{self, Visit},
};
use workspace_tests::{
    modules::is_test,
    source::{PRODUCT, SourceFile, files, files_with_tests, product_files, without_tests},
};

/// Private words that names of types, traits, functions, constants, modules, fields and variants, and those in scripts,
/// no longer hold. The glossary has the field's word for each idea.
const RETIRED: &str = "
adopt adopts adopted adopting adoption aside asked asking ask beat beats beating blame board breath bring bringing brought
buried burial bury burying crowding deaths desk die differing doom doomed double effort ending endure epitaph fate
forgetful forsaken gauge ghost hand hands heard hello hole holes hopeless impatience impatient intake judge judged keeper
keeping lane lanes learn lend lent let letter letters life look looked looking looks marked marking midway mine
nameless nap notebook pace papers paper parked passing patience patient patiently placed places pour quiet
rerun retake retaken revive revived rewound rival said says scene sealed seal sees several slip soon stash steady
sweep tenure terms tell tells tidy told trial tries trouble turn turns unclear vain verdict verdicts
weather witness who why word words";

/// Names that hold a retired word on purpose: the name, the end of its file's path, and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("trouble", "status.rs", "a field of the status that operators read as JSON"),
    ("trouble_since", "status.rs", "a field of the status that operators read as JSON"),
    ("trouble", "follow/control.rs", "a field of the status that operators read as JSON"),
    ("letters", "port/dead_letter.rs", "a field of the page that operators read as JSON"),
    ("told", "eventstore-redis/src/durability.rs", "a field of the warning that operators read as JSON"),
    ("Gauge", "runtime/metrics/catalog.rs", "a kind of metric in the words of Prometheus and OpenTelemetry"),
    ("Told", "tests/src/fire/history.rs", "an entry of the history file, which the auditor reads"),
];

/// Words that a retired word may stand beside: (before, word, after); an empty one stands for any.
const COMPOUNDS: &[(&str, &str, &str)] =
    &[("dead", "letter", ""), ("dead", "letters", ""), ("", "hand", "off"), ("", "sealed", "fields")];

/// The most vague pronouns in a thousand words of comments, in each crate, and in its tests.
const VAGUE_MAX: f64 = 3.0;
const VAGUE_MAX_IN_TESTS: f64 = 1.0;
/// The folders of tests; unit tests count with their crate.
const TESTS: &[&str] = &[
    "eventbus/tests",
    "eventbus-cli/tests",
    "eventbus-file/tests",
    "eventbus-redis/tests",
    "eventstore-postgres/tests",
    "eventstore-redis/tests",
    "eventstore-sqlite/tests",
    "examples/tests",
    "tests",
];
const VAGUE: &[&str] = &[
    "anybody",
    "anyone",
    "everybody",
    "everyone",
    "somebody",
    "someone",
    "nobody",
    "nothing",
    "something",
    "whoever",
    "whatever",
    "others",
    "another",
    "anything",
    "everything",
];

/// Collects the names that a file defines, without those of its unit tests.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn add(&mut self, name: &Ident) {
        self.0.insert(name.to_string().trim_start_matches("r#").to_owned());
    }
}

impl<'a> Visit<'a> for Names {
    fn visit_item(&mut self, item: &'a Item) {
        let (name, attributes) = match item {
            Item::Const(item) => (&item.ident, &item.attrs),
            Item::Enum(item) => (&item.ident, &item.attrs),
            Item::Fn(item) => (&item.sig.ident, &item.attrs),
            Item::Mod(item) => (&item.ident, &item.attrs),
            Item::Static(item) => (&item.ident, &item.attrs),
            Item::Struct(item) => (&item.ident, &item.attrs),
            Item::Trait(item) => (&item.ident, &item.attrs),
            Item::Type(item) => (&item.ident, &item.attrs),
            Item::Impl(item) if is_test(&item.attrs) => return,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            self.add(name);
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            self.add(&function.sig.ident);
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_impl_item_const(&mut self, constant: &'a syn::ImplItemConst) {
        self.add(&constant.ident);
    }

    fn visit_trait_item_fn(&mut self, function: &'a syn::TraitItemFn) {
        self.add(&function.sig.ident);
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_field(&mut self, field: &'a syn::Field) {
        if let Some(name) = &field.ident
            && !is_test(&field.attrs)
        {
            self.add(name);
        }
    }

    fn visit_variant(&mut self, variant: &'a syn::Variant) {
        self.add(&variant.ident);
        visit::visit_variant(self, variant);
    }
}

/// The names that a Lua script defines: locals, functions, parameters and variables of loops.
fn lua_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines() {
        let code = line.split("--").next().unwrap_or_default();
        for (keyword, end) in [("local ", '='), ("function", ')'), ("for ", '=')] {
            for (at, _) in code.match_indices(keyword) {
                let declared = code[at + keyword.len()..].split(end).next().unwrap_or_default();
                let declared = declared.split(" in ").next().unwrap_or_default();
                if !declared.starts_with("function") {
                    let parts = declared.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                    names.extend(parts.filter(|name| !name.is_empty()).map(str::to_owned));
                }
            }
        }
    }
    names
}

/// Splits a name at `_` and at capitals, in lower case: `DeadLetterPage` is `dead letter page`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if c == '_' || c.is_uppercase() && !before.is_uppercase() {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns the first retired word of a name.
fn retired_word(name: &str) -> Option<String> {
    let words = words(name);
    let is_compound = |at: usize| {
        let at_offset =
            |offset: isize| at.checked_add_signed(offset).and_then(|at| words.get(at)).map_or("", String::as_str);
        COMPOUNDS.iter().any(|(before, word, after)| {
            *word == words[at]
                && (before.is_empty() || *before == at_offset(-1))
                && (after.is_empty() || *after == at_offset(1))
        })
    };
    let is_retired = |at: &usize| RETIRED.split_whitespace().any(|word| word == words[*at]) && !is_compound(*at);
    (0..words.len()).find(is_retired).map(|at| words[at].clone())
}

#[test]
fn names_hold_no_retired_word() {
    let mut sources = product_files().unwrap();
    sources.extend(files("tests/src/fire", &[".rs"]).unwrap());
    for package in PRODUCT {
        sources.extend(files(&format!("{package}/src"), &[".lua"]).unwrap());
    }
    assert!(sources.len() > 300, "{} files", sources.len());
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for file in &sources {
        let names = match file.path.ends_with(".lua") {
            true => lua_names(&file.text),
            false => {
                let mut names = Names::default();
                names.visit_file(&syn::parse_file(&file.text).unwrap());
                names.0
            }
        };
        for name in &names {
            let Some(word) = retired_word(name) else { continue };
            match EXCEPTIONS.iter().position(|(exempt, path, _)| exempt == name && file.path.ends_with(path)) {
                Some(exception) => drop(used.insert(exception)),
                None => wrong.push(format!("{}: `{name}` holds `{word}`", file.path)),
            }
        }
    }
    assert!(wrong.is_empty(), "take the word of ARCHITECTURE's glossary:\n{}", wrong.join("\n"));
    let unused: Vec<_> = (0..EXCEPTIONS.len()).filter(|at| !used.contains(at)).map(|at| EXCEPTIONS[at]).collect();
    assert!(unused.is_empty(), "exceptions that no name needs any more: {unused:?}");
}

/// Tables and columns that one of the SQL stores alone needs: its package, the name, and the reason.
const SQL_ONLY: &[(&str, &str, &str)] = &[
    ("eventstore-sqlite", "shadows", "rebuilds fill a file; PostgreSQL has a schema for them"),
    ("eventstore-sqlite", "handler_members.lock_id", "names the lock that a process holds while it lives"),
    ("eventstore-postgres", "handler_members.seen_at", "a process lives while it renews; SQLite has locks"),
    ("eventstore-postgres", "handler_shards.renewed_at", "a lease expires; in SQLite it ends with its process"),
    ("eventstore-postgres", "handler_shards.expires_at", "a lease expires; in SQLite it ends with its process"),
];

/// Returns the tables that the migrations of a package create, each with its columns.
fn sql_tables(package: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut tables = BTreeMap::new();
    for file in files(&format!("{package}/migrations"), &[".sql"]).unwrap() {
        let mut lines = file.text.lines();
        while let Some(line) = lines.next() {
            let Some(table) = line.strip_prefix("CREATE TABLE ") else { continue };
            let table = table.trim_start_matches("IF NOT EXISTS ").trim_start_matches("{schema}.");
            let table = table.trim_start_matches("eventbus_").split(' ').next().unwrap();
            let parts = lines.by_ref().take_while(|line| !line.starts_with(')'));
            let names = parts.map(|part| part.split_whitespace().next().unwrap());
            let columns = names.filter(|name| *name == name.to_lowercase() && *name != "--").map(str::to_owned);
            tables.insert(table.to_owned(), columns.collect());
        }
    }
    tables
}

#[test]
fn both_sql_stores_have_one_word_per_idea() {
    let packages = ["eventstore-postgres", "eventstore-sqlite"];
    let stores = packages.map(|package| {
        let mut tables = sql_tables(package);
        for (_, name, _) in SQL_ONLY.iter().filter(|(only, ..)| *only == package) {
            let found = match name.split_once('.') {
                Some((table, column)) => tables.get_mut(table).is_some_and(|columns| columns.remove(column)),
                None => tables.remove(*name).is_some(),
            };
            assert!(found, "{package} has no `{name}` any more");
        }
        tables
    });
    assert!(stores[0].len() > 7 && stores[0]["events"].len() > 15, "{stores:?}");
    let [postgres, sqlite] = stores;
    assert_eq!(postgres, sqlite, "the same table or column has two names, or is missing in one store");
}

/// Names that Redis alone has: the package, the names, and the reason why they are no tables or columns.
const REDIS_ONLY: &[(&str, &str, &str)] = &[
    (
        "eventstore-redis",
        "aggregate feed type timestamp tenant projection",
        "the keys and fields that its tutorial in Python reads",
    ),
    ("eventstore-redis", "eventstore", "begins all other keys"),
    ("eventstore-redis", "meta format min_reader", "the format of the keys; the SQL stores have migrations"),
    ("eventstore-redis", "ids", "finds an event by its id; the SQL stores have an index"),
    ("eventstore-redis", "micros", "the rest of `timestamp`, which has milliseconds"),
    ("eventstore-redis", "bytes", "sizes of events, which end a page"),
    ("eventstore-redis", "note_names", "orders the notes; the SQL stores have a primary key"),
    ("eventstore-redis", "reader_names", "orders checkpoints and leases; the SQL stores have primary keys"),
    ("eventstore-redis", "command_times", "orders the commands by age; the SQL stores have an index"),
    ("eventstore-redis", "unique_holders", "finds a holder by its value; the SQL stores have an index"),
    ("eventstore-redis", "waiting_rows dead_rows dead_row_times", "`handler_rows` by what they wait for"),
    ("eventstore-redis", "handler_member_times", "orders the members by their last renewal"),
    ("eventstore-redis", "shards", "the number of shards, which the SQL stores count"),
    ("eventbus-redis", "type timestamp traceparent tracestate", "the wire, and traces in the W3C's format"),
    ("eventbus-redis", "original_message_id retry_count dlq_timestamp", "the fields of dead letters in Python"),
    (
        "eventbus-redis",
        "error group replay_group replay_done done_handlers first_failed_at last_failed_at",
        "our fields of dead letters",
    ),
    ("eventbus-redis", "meta format min_reader", "the format of the keys"),
    ("eventbus-redis", "members", "the members of a group"),
    ("eventbus-redis", "relay", "how far each store is published"),
    ("eventbus-redis", "projection projections", "projections of plain streams"),
];

/// Returns the names in a package's keys, in the fields of its entries and in those of its hashes.
fn redis_names(package: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut declaring = files(&format!("{package}/src"), &["keys.rs", "entry.rs"]).unwrap();
    declaring.retain(|file| file.path.ends_with("/keys.rs") || file.path.ends_with("src/entry.rs"));
    for file in &declaring {
        let literals = file.code().lines().flat_map(literals_of).collect::<Vec<_>>();
        names.extend(literals.iter().filter(|literal| !literal.contains(' ')).flat_map(|literal| key_parts(literal)));
    }
    let mut scripts = files(&format!("{package}/src"), &[".lua"]).unwrap();
    scripts.extend(files("eventbus-redis-core/src/lua", &["format.lua"]).unwrap());
    names.extend(scripts.iter().flat_map(|script| hash_fields(&script.text)));
    names
}

/// The texts in double quotes of a line.
fn literals_of(line: &str) -> Vec<String> {
    line.split("//").next().unwrap_or_default().split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The words of a key's pattern: `{}eventstore:note:{name}` has `eventstore` and `note`.
fn key_parts(pattern: &str) -> Vec<String> {
    let constant = pattern.split('{').flat_map(|part| part.split_once('}').map_or([part, ""], |(_, rest)| [rest, ""]));
    let words = constant.flat_map(|part| part.split(|c: char| !c.is_ascii_lowercase() && !"_-".contains(c)));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The fields that the commands of a script name in hashes: literals, or their constant beginnings.
fn hash_fields(script: &str) -> Vec<String> {
    let code: String =
        script.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for (at, call) in code.match_indices("call('H") {
        let arguments = lua_arguments(&code[at + call.len() - "'H".len()..]);
        let [command, _, fields @ ..] = arguments.as_slice() else { continue };
        let step = if command == "'HSET'" { 2 } else { 1 };
        let count = if ["'HSET'", "'HMGET'", "'HDEL'"].contains(&command.as_str()) { fields.len() } else { 1 };
        let literals = fields.iter().take(count).step_by(step).filter_map(|field| field.strip_prefix('\''));
        found.extend(literals.filter_map(|field| key_parts(field.split('\'').next()?).into_iter().next()));
    }
    found
}

/// Splits the arguments of a call, up to its closing parenthesis.
fn lua_arguments(code: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut is_text) = (vec![String::new()], 0, false);
    for c in code.chars() {
        match c {
            '\'' => is_text = !is_text,
            _ if is_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().unwrap().push(c);
    }
    arguments.iter().map(|argument| argument.trim().to_owned()).collect()
}

#[test]
fn redis_has_the_words_of_the_sql_stores() {
    let tables = ["eventstore-postgres", "eventstore-sqlite"].map(sql_tables);
    let mut words: BTreeSet<_> = tables.iter().flat_map(BTreeMap::values).flatten().cloned().collect();
    for table in tables.iter().flat_map(BTreeMap::keys) {
        // a key of one item: `note:{name}`
        words.extend([table.clone(), table.trim_end_matches('s').to_owned()]);
    }
    let (mut wrong, mut unused) = (Vec::new(), Vec::new());
    for package in ["eventstore-redis", "eventbus-redis"] {
        let names = redis_names(package);
        assert!(names.len() > 30, "{package}: {names:?}");
        let own = REDIS_ONLY.iter().filter(|(only, ..)| *only == package).flat_map(|(_, names, _)| names.split(' '));
        let own: BTreeSet<_> = own.collect();
        let is_unknown = |name: &&String| !words.contains(*name) && !own.contains(name.as_str());
        wrong.extend(names.iter().filter(is_unknown).map(|name| format!("{package}: `{name}`")));
        unused
            .extend(own.into_iter().filter(|name| words.contains(*name) || !names.contains(*name)).map(str::to_owned));
    }
    assert!(
        wrong.is_empty(),
        "take the word of docs/decisions/words-and-reserved-names.md, as the tables and columns of the SQL stores do, or \
         list the name with a reason:\n{}",
        wrong.join("\n")
    );
    assert!(unused.is_empty(), "names that Redis has no more, or shares with the SQL stores: {unused:?}");
}

#[test]
fn the_check_itself_reads_keys_and_fields_of_redis() {
    assert_eq!(literals_of(r#"format!("{}:x", self.own_key("ids")) // "no""#), ["{}:x", "ids"]);
    assert_eq!(key_parts("{}eventstore:shadow_copy:{name}:rest"), ["eventstore", "shadow_copy", "rest"]);
    let script = "local a = redis.call('HMGET', key_of(a, 'no'), 'owner', name, 'epoch') -- redis.call('HGET', k, 'no')\n\
                  redis.pcall('HSET', KEYS[1], 'fill ' .. text('no'), 'no', 'head', f(1, 2))\n\
                  redis.call('HGET', k, 'position') or other('no')";
    assert_eq!(hash_fields(script), ["owner", "epoch", "fill", "head", "position"]);
}

/// The words of a file's comments, without tables and examples.
fn comment_words(file: &SourceFile) -> Vec<(usize, String)> {
    let mark = if file.path.ends_with(".rs") { "//" } else { "--" };
    let mut is_example = false;
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix(mark) else { continue };
        let comment = comment.trim_start_matches(['/', '!', '-']).trim();
        if comment.starts_with("```") {
            is_example = !is_example;
        } else if !is_example && !comment.starts_with('|') {
            let words = comment.split(|c: char| !c.is_ascii_alphabetic() && c != '\'');
            found.extend(words.filter(|word| !word.is_empty()).map(|word| (number + 1, word.to_lowercase())));
        }
    }
    found
}

#[test]
fn comments_name_who_acts() {
    let mut report = Vec::new();
    let product = PRODUCT.iter().map(|package| (format!("{package}/src"), 1_000, VAGUE_MAX));
    let tests = TESTS.iter().map(|folder| ((*folder).to_owned(), 500, VAGUE_MAX_IN_TESTS));
    for (folder, least, most) in product.chain(tests) {
        let (mut words, mut vague) = (0, BTreeMap::new());
        for file in files_with_tests(&folder, &[".rs", ".lua", ".sql"]).unwrap() {
            if file.path.contains("/migrations/") {
                continue;
            }
            for (_, word) in comment_words(&file) {
                words += 1;
                if VAGUE.contains(&word.as_str()) {
                    *vague.entry(file.path.clone()).or_insert(0) += 1;
                }
            }
        }
        assert!(words > least, "{folder} has {words} words of comments");
        let count: u32 = vague.values().sum();
        let share = 1_000.0 * f64::from(count) / f64::from(words);
        if share > most {
            let files: Vec<_> = vague.iter().map(|(path, count)| format!("  {path}: {count}")).collect();
            report
                .push(format!("{folder}: {share:.1} vague pronouns per 1,000 words of comments\n{}", files.join("\n")));
        }
    }
    assert!(report.is_empty(), "say which part acts, instead of {VAGUE:?}:\n{}", report.join("\n"));
}

/// The fields with a lock that have no doc comment.
#[derive(Default)]
struct BareLocks(Vec<String>);

impl<'a> Visit<'a> for BareLocks {
    fn visit_item(&mut self, item: &'a Item) {
        let is_tests = matches!(item, Item::Mod(module) if is_test(&module.attrs));
        if !is_tests {
            visit::visit_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'a syn::Field) {
        let declared = field.ty.to_token_stream().to_string();
        let is_lock = declared.split(' ').any(|word| ["Mutex", "RwLock", "Semaphore"].contains(&word));
        let has_doc = field.attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
        if let Some(name) = &field.ident
            && is_lock
            && !has_doc
        {
            self.0.push(name.to_string());
        }
    }
}

/// The lines of a file that call `select!` without a comment in the three lines before or after.
fn bare_selects(text: &str) -> Vec<usize> {
    let lines = without_tests(text);
    let is_select = |line: &str| line.contains("select! {") && !line.trim_start().starts_with("//");
    let has_reason =
        |at: usize| lines[at.saturating_sub(3)..lines.len().min(at + 4)].iter().any(|line| line.contains("// "));
    (0..lines.len()).filter(|at| is_select(lines[*at]) && !has_reason(*at)).map(|at| at + 1).collect()
}

#[test]
fn each_lock_and_each_select_has_a_reason() {
    let mut bare = Vec::new();
    for package in PRODUCT {
        for file in files(&format!("{package}/src"), &[".rs"]).unwrap() {
            if file.path.contains("/testkit/") {
                continue;
            }
            let mut locks = BareLocks::default();
            locks.visit_file(&syn::parse_file(&file.text).unwrap());
            bare.extend(locks.0.iter().map(|field| format!("{}: the lock of `{field}`", file.path)));
            bare.extend(bare_selects(&file.text).iter().map(|line| format!("{}:{line}: `select!`", file.path)));
        }
    }
    assert!(bare.is_empty(), "say in a comment what needs the lock, or why it waits for these:\n{}", bare.join("\n"));
}

#[test]
fn the_check_itself_sees_locks_and_selects_without_a_reason() {
    let text = "struct A {\n    a: Mutex<u8>,\n    /// Locked for a move.\n    b: Arc<RwLock<u8>>,\n}\n";
    let mut locks = BareLocks::default();
    locks.visit_file(&syn::parse_file(text).unwrap());
    assert_eq!(locks.0, ["a"]);
    assert_eq!(bare_selects("fn a() {\n    select! {\n    }\n}\n\n\n\n    // fair\n    select! {\n"), [2]);
}

#[test]
fn the_check_itself_splits_names_and_sees_retired_words() {
    assert_eq!(words("DeadLetterPage"), ["dead", "letter", "page"]);
    assert_eq!(words("HAND_OFF_TO_NEWER"), ["hand", "off", "to", "newer"]);
    let script = "local at, id = take() -- local told\nlocal function add(key)\nfor i, entry in ipairs(list) do\n";
    assert_eq!(lua_names(script).into_iter().collect::<Vec<_>>(), ["add", "at", "entry", "i", "id", "key"]);
    for (name, word) in
        [("left_in_hand", "hand"), ("GroupHand", "hand"), ("letters_of", "letters"), ("LOOK_SOON", "look")]
    {
        assert_eq!(retired_word(name).as_deref(), Some(word), "{name}");
    }
    for name in ["dead_letters", "DeadLetter", "skip_or_hand_off", "returned", "outlook"] {
        assert_eq!(retired_word(name), None, "{name}");
    }
}
