//! Finds every mistake of an `impl` block with `#[projection]`.

use proc_macro2::{Span, TokenStream};
use syn::{
    FnArg, ImplItem, ImplItemFn, Item, ItemImpl, LitStr, Receiver, ReceiverKind, Safety, Type, TypePath,
    spanned::Spanned,
};

use super::model::{Kind, Method, Model};
use crate::{
    krate,
    mistakes::Mistakes,
    options::{Known, Options},
    parameters::{Parameters, strip_groups},
    surroundings,
};

const OPTIONS: &[Known] = &[
    Known::text("name", "`name = \"order-statistics\"`"),
    Known::list("tables", "`tables(\"order_rows\", \"order_lines\")`"),
    Known::text("key", "`key = \"order_id\"`"),
    Known::expression("set_up", "`set_up = \"CREATE TABLE IF NOT EXISTS order_rows (..)\"`"),
    Known::number("version", "`version = 2`"),
    Known::number("timeout_ms", "`timeout_ms = 30_000`"),
    Known::flag("manual", "`#[projection(name = \"..\", manual)]`"),
    krate::CRATE,
];

/// Reserved in the names of checkpoints and leases: `projection:{name}#{shard}`, `projection:{name}@{tenant}`.
const RESERVED_IN_NAMES: [char; 2] = ['#', '@'];

const ELSEWHERE: &str = "move helpers and constructors to another `impl` block";

fn ends_with_version(name: &str) -> bool {
    let version = name.rsplit_once(":v").map_or("", |(_, version)| version);
    !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parses the arguments of the attribute and the block; `None` if it cannot be a projection.
pub(super) fn parse(arguments: TokenStream, item: &TokenStream, mistakes: &mut Mistakes) -> Option<Model> {
    let options = Options::of_arguments("projection", OPTIONS, arguments, mistakes);
    let krate = krate::path(&options, mistakes);
    let name = options.name("name", "a projection's name", mistakes);
    if let Some(name) = name.as_ref().filter(|name| name.value().contains(RESERVED_IN_NAMES)) {
        mistakes.at(name, "a projection's name holds no `#` and no `@`: they are reserved for shards and tenants");
    }
    if let Some(name) = name.as_ref().filter(|name| ends_with_version(&name.value())) {
        mistakes
            .at(name, "a projection's name does not end with `:v` and a number: the copies of a rebuild are named so");
    }
    let manual = options.flag("manual", mistakes);
    let tables = tables(&options, mistakes);
    let key = options.text("key", mistakes);
    if let Some(key) = &key {
        check_identifier("a column", key, mistakes);
    }
    let set_up = options.expression("set_up", mistakes);
    let version = options.number("version", 1..=u32::MAX, mistakes);
    let timeout_ms = options.number("timeout_ms", 1..=u64::MAX, mistakes);
    if options.key("name").is_none() {
        mistakes.at_span(
            Span::call_site(),
            "a projection needs a durable name: `#[projection(name = \"order-statistics\")]`",
        );
    }
    let block = block(item, mistakes)?;
    if let Some((path, _)) = &block.trait_ {
        mistakes.at(path, "a projection is an `impl` block of the type itself, not of a trait");
        return None;
    }
    if !block.generics.params.is_empty() {
        mistakes.at(
            &block.generics,
            "a projection cannot be generic: it is registered at link time under one durable name",
        );
        return None;
    }
    let self_ty = strip_groups(&block.self_ty).clone();
    let has_rc = check_fields(&self_ty, mistakes);
    let methods = methods(&block, mistakes);
    let kind = kind(&methods, mistakes);
    check_rebuild(&options, kind, mistakes);
    check_batches(&methods, kind, mistakes);
    Some(Model {
        krate,
        name: name.map(|name| name.value()).unwrap_or_default(),
        kind,
        manual,
        tables,
        key: key.map(|key| key.value()),
        set_up,
        version,
        timeout_ms,
        span: self_ty.span(),
        self_ty,
        has_rc,
        methods,
    })
}

/// Returns `true` if the type has a field that stays in one thread. An `impl` block shows no fields, so this reads its
/// file.
fn check_fields(self_ty: &Type, mistakes: &mut Mistakes) -> bool {
    let Type::Path(TypePath { qself: None, path, .. }) = self_ty else {
        return false;
    };
    let Some(field) = path.get_ident().and_then(surroundings::field_with_rc) else {
        return false;
    };
    mistakes.at(
        self_ty,
        format!("the `Rc` in field `{field}` stays in one thread, and a projection is used in any: write `Arc`"),
    );
    true
}

/// Returns the tables; reports those that are named twice.
fn tables(options: &Options, mistakes: &mut Mistakes) -> Vec<String> {
    const EXPECTED: &str = "`tables` expects names of tables, as in `tables(\"order_rows\", \"order_lines\")`";
    let Some((span, members)) = options.list("tables", mistakes) else {
        return Vec::new();
    };
    if members.is_empty() {
        mistakes.at_span(span, EXPECTED);
    }
    let mut tables = Vec::new();
    for member in members {
        let Ok(table) = syn::parse2::<LitStr>(member.clone()) else {
            mistakes.at(member, EXPECTED);
            continue;
        };
        match table.value().contains([':', '*']) {
            true => check_key(&table, mistakes),
            false => check_identifier("a table", &table, mistakes),
        }
        if tables.contains(&table.value()) {
            mistakes.at(&table, format!("table `{}` is named twice", table.value()));
        }
        tables.push(table.value());
    }
    tables
}

/// Checks a name of a table or column: it goes into statements, so it must be plain.
fn check_identifier(what: &str, literal: &LitStr, mistakes: &mut Mistakes) {
    /// The longest name that PostgreSQL keeps.
    const MAX_BYTES: usize = 63;
    let name = literal.value();
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if name.is_empty() || name.len() > MAX_BYTES || !is_plain || name.starts_with(|c: char| c.is_ascii_digit()) {
        mistakes.at(
            literal,
            format!("{what} is named by 1 to {MAX_BYTES} letters, digits and `_`, and does not begin with a digit"),
        );
    }
}

/// Checks a name with a colon or a star: a key of a store with keys, or all keys of one prefix. Other stores refuse it.
fn check_key(literal: &LitStr, mistakes: &mut Mistakes) {
    const MAX_BYTES: usize = 255;
    let name = literal.value();
    let star_within = name.trim_end_matches('*').contains('*') || name.ends_with("**") || name == "*";
    let has_other = name.chars().any(|c| c.is_control() || c.is_whitespace());
    if name.len() > MAX_BYTES || star_within || has_other {
        let wanted = "a key has up to 255 bytes, no spaces, and a `*` only at its end, behind a prefix";
        mistakes.at(literal, wanted);
    }
}

/// Reports options that only rows in the store's transaction may have.
fn check_rebuild(options: &Options, kind: Kind, mistakes: &mut Mistakes) {
    if let (Kind::InMemory, Some(key)) = (kind, options.key("timeout_ms")) {
        let why = "`timeout_ms` ends a method that writes rows; one that takes `&mut self` cannot be ended half-way";
        mistakes.at(key, why);
    }
    if kind != Kind::Transactional {
        for key in ["tables", "key", "set_up", "version"].into_iter().filter_map(|key| options.key(key)) {
            mistakes.at(
                key,
                format!("`{key}` is for rows in the store's transaction, but no method takes the store's connection"),
            );
        }
    } else if let (Some(key), None) = (options.key("key"), options.key("tables")) {
        mistakes.at(key, "`key` is a column of the projection's tables: say which, as in `tables(\"order_rows\")`");
    }
}

/// Reports slices of events if no transaction would undo a failed batch.
fn check_batches(methods: &[Method], kind: Kind, mistakes: &mut Mistakes) {
    let why = match kind {
        Kind::Transactional => return,
        Kind::InMemory => "state in memory (`&mut self`) takes one event at a time: `event: &OrderCreated`",
        Kind::AtLeastOnce => {
            "only a projection with rows in the store's transaction takes those: add the store's connection, as in \
             `conn: &mut PgConnection`, or take one event"
        }
    };
    for method in methods {
        method.parameters.event.refuse_batch(why, mistakes);
    }
}

fn block(item: &TokenStream, mistakes: &mut Mistakes) -> Option<ItemImpl> {
    syn::parse2::<ItemImpl>(item.clone())
        .map_err(|error| match syn::parse2::<Item>(item.clone()) {
            Ok(Item::Impl(_)) | Err(_) => mistakes.add(error),
            Ok(_) => mistakes.at(item, "a projection is an `impl` block whose methods take the events"),
        })
        .ok()
}

fn methods(block: &ItemImpl, mistakes: &mut Mistakes) -> Vec<Method> {
    let mut methods = Vec::new();
    let mut has_items = false;
    for item in &block.items {
        has_items = true;
        match item {
            ImplItem::Fn(function) => methods.extend(method(function, mistakes)),
            other => mistakes.at(other, format!("a projection's block holds event methods only; {ELSEWHERE}")),
        }
    }
    if !has_items {
        mistakes.at(
            &block.self_ty,
            "a projection has at least one event method: `fn created(&mut self, event: &OrderCreated)`",
        );
    }
    methods
}

fn method(function: &ImplItemFn, mistakes: &mut Mistakes) -> Option<Method> {
    let signature = &function.sig;
    if let Safety::Unsafe(token) = &signature.safety {
        mistakes.at(token, "an event method cannot be unsafe");
    }
    if !signature.generics.params.is_empty() {
        mistakes.at(&signature.generics, "an event method names concrete types, and leaves lifetimes out");
        return None;
    }
    let takes_mut_self = match signature.inputs.first() {
        Some(FnArg::Receiver(receiver)) => takes_mut_self(receiver),
        _ => None,
    };
    let Some(takes_mut_self) = takes_mut_self else {
        mistakes.at(&signature.ident, format!("an event method takes `&mut self` or `&self`; {ELSEWHERE}"));
        return None;
    };
    if signature.inputs.len() == 1 {
        mistakes.at(
            &signature.ident,
            format!("an event method takes the event after self: `event: &OrderCreated`; {ELSEWHERE}"),
        );
        return None;
    }
    Some(Method {
        ident: signature.ident.clone(),
        cfgs: function.attrs.iter().filter(|attr| attr.path().is_ident("cfg")).cloned().collect(),
        is_async: signature.asyncness.is_some(),
        takes_mut_self,
        parameters: Parameters::parse("an event method", signature, mistakes)?,
        output: signature.output.clone(),
    })
}

/// Returns `true` for `&mut self`, `false` for `&self`, `None` for other receivers.
fn takes_mut_self(receiver: &Receiver) -> Option<bool> {
    match &receiver.kind {
        ReceiverKind::Reference(_, None, mutability) => Some(mutability.is_some()),
        _ => None,
    }
}

fn kind(methods: &[Method], mistakes: &mut Mistakes) -> Kind {
    let exclusive = methods.iter().find(|method| method.takes_mut_self);
    let shared = methods.iter().find(|method| !method.takes_mut_self);
    let transactional = |method: &&Method| method.parameters.has_transaction();
    if let Some(exclusive) = exclusive {
        for method in methods.iter().filter(transactional) {
            mistakes.at(
                &method.ident,
                format!(
                    "state in memory (`&mut self` of `{}`) cannot be part of a transaction: take `&self` and keep the rows in the store, or leave the `&mut` parameter out",
                    exclusive.ident
                ),
            );
        }
        if let Some(shared) = shared.filter(|method| !transactional(method)) {
            mistakes.at(
                &shared.ident,
                format!(
                    "the methods of a projection take all `&mut self` (state in memory) or all `&self` (rows elsewhere), and `{}` takes `&mut self`",
                    exclusive.ident
                ),
            );
        }
        Kind::InMemory
    } else if methods.iter().any(|method| transactional(&method)) {
        Kind::Transactional
    } else {
        Kind::AtLeastOnce
    }
}
