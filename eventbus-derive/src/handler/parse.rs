//! Finds every mistake of a function with `#[handler]`.

use proc_macro2::TokenStream;
use syn::{FnArg, GenericParam, Item, ItemFn, Safety, Signature, TraitItemFn};

use super::model::{Model, Twin};
use crate::{
    krate,
    mistakes::Mistakes,
    options::{Known, Options},
    parameters::Parameters,
    surroundings, text,
};

const OPTIONS: &[Known] = &[
    Known::text("name", "`name = \"send-receipt\"`"),
    Known::text("group", "`group = \"mail\"`"),
    Known::number("retries", "`retries = 5`"),
    Known::number("timeout_ms", "`timeout_ms = 30_000`"),
    Known::number("concurrency", "`concurrency = 4`"),
    Known::text("start", "`start = \"oldest\"` or `start = \"now\"`"),
    Known::number("shards", "`shards = 4`"),
    Known::number("max_waiting", "`max_waiting = 10_000`"),
    Known::text("when_dead", "`when_dead = \"pass\"` or `when_dead = \"hold\"`"),
    Known::text("stream", "`stream = \"orders\"`"),
    Known::flag("manual", "`#[handler(manual)]`"),
    krate::CRATE,
];

/// A shard has whole slots of streams, of which a store has so many.
const SHARDS_MAX: u16 = 256;

const FREE: &str = "a handler is a free function: move it out of this block, and take what it needs as `State<T>`";

const ONE_EVENT: &str = "a handler is called with one event: `event: &OrderCreated`. Methods of a projection with rows in \
                         the store's transaction take batches";

/// The parsed part of the item.
pub(super) enum Parsed {
    /// The whole handler.
    Handler(Box<Model>),
    /// A function whose parameters have a mistake.
    Function(Twin),
    /// No function, or a function beside which no type can stand.
    Nothing,
}

/// Parses the arguments of the attribute and the function.
pub(super) fn parse(arguments: TokenStream, item: &TokenStream, mistakes: &mut Mistakes) -> Parsed {
    let options = Options::of_arguments("handler", OPTIONS, arguments, mistakes);
    let krate = krate::path(&options, mistakes);
    let name = options.name("name", "a handler's name", mistakes);
    let group = options.name("group", "a group's name", mistakes);
    let retries = options.number("retries", 0..=u32::MAX, mistakes);
    let timeout_ms = options.number("timeout_ms", 1..=u64::MAX, mistakes);
    let concurrency = options.number("concurrency", 1..=u32::MAX, mistakes);
    let start = options.one_of("start", &["oldest", "now"], mistakes);
    let shards = options.number("shards", 1..=SHARDS_MAX, mistakes);
    let max_waiting = options.number("max_waiting", 1..=u32::MAX, mistakes);
    let when_dead = options.one_of("when_dead", &["pass", "hold"], mistakes);
    let stream = options.name("stream", "a stream's name", mistakes);
    for key in ["shards", "max_waiting", "when_dead", "start"] {
        if let (Some(stream), Some(given)) = (&stream, options.key(key)) {
            let text =
                format!("`{key}` is for the events of the app's own store, this handler consumes `{}`", stream.value());
            mistakes.at(given, text);
        }
    }
    let manual = options.flag("manual", mistakes);
    let Some(function) = function(item, mistakes) else {
        return Parsed::Nothing;
    };
    let signature = function.sig;
    let has_self = check_signature(&signature, mistakes);
    if has_self {
        return Parsed::Nothing;
    }
    if surroundings::is_in_a_block(&signature.ident) {
        mistakes.at(&signature.ident, FREE);
        return Parsed::Nothing;
    }
    let parameters = Parameters::parse("a handler", &signature, mistakes);
    let name = name.map_or_else(|| text::name_of(&signature.ident), |name| name.value());
    let twin = Twin { krate, vis: function.vis, ident: signature.ident };
    let Some(parameters) = parameters else {
        return Parsed::Function(twin);
    };
    parameters.event.refuse_batch(ONE_EVENT, mistakes);
    Parsed::Handler(Box::new(Model {
        twin,
        name,
        group: group.map(|group| group.value()),
        retries,
        timeout_ms,
        concurrency,
        start,
        shards,
        max_waiting,
        holds_dead: when_dead == Some("hold"),
        stream: stream.map(|stream| stream.value()),
        manual,
        parameters,
        output: signature.output,
    }))
}

fn function(item: &TokenStream, mistakes: &mut Mistakes) -> Option<ItemFn> {
    syn::parse2::<ItemFn>(item.clone())
        .map_err(|error| match syn::parse2::<Item>(item.clone()) {
            // a trait's function without a body is no `ItemFn`
            Ok(Item::Verbatim(_)) | Err(_) if let Ok(function) = syn::parse2::<TraitItemFn>(item.clone()) => {
                mistakes.at(&function.sig.ident, FREE);
            }
            Ok(Item::Fn(_)) | Err(_) => mistakes.add(error),
            Ok(other) => mistakes.at(other, "a handler is an `async fn`"),
        })
        .ok()
}

/// Reports the parts of a signature that no handler may have. Returns `true` if it has a `self`.
fn check_signature(signature: &Signature, mistakes: &mut Mistakes) -> bool {
    if signature.asyncness.is_none() {
        mistakes.at(signature.fn_token, "a handler is an `async fn`: it may wait without holding up the others");
    }
    if let Safety::Unsafe(token) = &signature.safety {
        mistakes.at(token, "a handler cannot be unsafe: it is called by the bus");
    }
    if signature.abi.is_some() {
        mistakes.at(&signature.abi, "a handler is a plain Rust function");
    }
    for parameter in &signature.generics.params {
        match parameter {
            GenericParam::Lifetime(lifetime) => mistakes
                .at(lifetime, "leave the lifetime out: a handler borrows for one call, as in `event: &OrderCreated`"),
            other => {
                mistakes.at(other, "a handler cannot be generic: it is registered at link time under one durable name")
            }
        }
    }
    let receiver = signature.inputs.iter().find_map(|input| match input {
        FnArg::Receiver(receiver) => Some(receiver),
        FnArg::Typed(_) => None,
    });
    if let Some(receiver) = receiver {
        mistakes.at(
            receiver,
            "a handler is a free function; take what it needs as `State<T>`, or use `#[projection]` for methods",
        );
    }
    receiver.is_some()
}
