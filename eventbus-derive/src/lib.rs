//! The macros of `eventbus`; use them through that crate, where their documentation is.
//!
//! Every macro reads its input into a model and collects all mistakes on the way (`parse`), then writes code from the
//! model alone (`expand`). What it writes names only `eventbus`, the standard library by absolute paths, and the types
//! of its input.

mod aggregate;
mod domain_event;
mod handler;
mod krate;
mod mistakes;
mod options;
mod parameters;
mod projection;
mod sets;
mod text;

use proc_macro::TokenStream;

use mistakes::Mistakes;

/// Makes a struct an event, or an enum a set of events.
#[proc_macro_derive(DomainEvent, attributes(event))]
pub fn domain_event(item: TokenStream) -> TokenStream {
    run(|mistakes| domain_event::derive(item.into(), mistakes))
}

/// Makes a struct the state of an aggregate, and the enum of its events.
#[proc_macro_derive(Aggregate, attributes(aggregate))]
pub fn aggregate(item: TokenStream) -> TokenStream {
    run(|mistakes| aggregate::derive(item.into(), mistakes))
}

/// Makes an async function a handler of events.
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    run(|mistakes| handler::attribute(arguments.into(), &item.into(), mistakes))
}

/// Makes the methods of an `impl` block a projection.
#[proc_macro_attribute]
pub fn projection(arguments: TokenStream, item: TokenStream) -> TokenStream {
    run(|mistakes| projection::attribute(arguments.into(), &item.into(), mistakes))
}

/// The only place that turns mistakes into `compile_error!`.
fn run(expand: impl FnOnce(&mut Mistakes) -> proc_macro2::TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let mut code = expand(&mut mistakes);
    code.extend(mistakes.into_compile_errors());
    code.into()
}
