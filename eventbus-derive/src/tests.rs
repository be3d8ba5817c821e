use proc_macro2::{TokenStream, TokenTree};
use quote::quote;

use crate::{aggregate, domain_event, handler, mistakes::Mistakes, projection};

/// Returns the code that a macro writes for a correct item; fails with the mistakes if there are any.
fn written(expand: impl FnOnce(&mut Mistakes) -> TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let code = expand(&mut mistakes);
    assert_eq!(mistakes.texts(), [""; 0]);
    code
}

fn all() -> [TokenStream; 5] {
    let event = quote! {
        #[event(aggregate = Order, type = "created", version = 2, crate = my::facade)]
        pub struct OrderCreated { pub total: u64 }
    };
    let set = quote! {
        #[event(crate = my::facade)]
        pub enum Audited { Created(OrderCreated), Shipped(shop::OrderShipped) }
    };
    let aggregate = quote! {
        #[aggregate(events(OrderCreated, shop::OrderShipped as Shipped), crate = my::facade)]
        pub struct Order { total: u64 }
    };
    let handler = quote! {
        async fn on_created(event: &OrderCreated, meta: &Metadata, state: State<u8>, tx: &mut Connection) -> Result<(), Error> {}
    };
    let projection = quote! {
        impl Rows {
            async fn created(&self, event: &OrderCreated, meta: &Metadata, tx: &mut Connection) -> Result<(), Error> {}
            fn shipped(&self, event: OrderShipped, state: State<u8>) {}
            async fn paid(&self, events: &[Envelope<OrderPaid>], tx: &mut Connection) -> Result<(), Error> {}
        }
    };
    [
        written(|mistakes| domain_event::derive(event, mistakes)),
        written(|mistakes| domain_event::derive(set, mistakes)),
        written(|mistakes| aggregate::derive(aggregate, mistakes)),
        written(|mistakes| {
            let arguments = quote!(group = "mail", retries = 2, crate = my::facade);
            handler::attribute(arguments, &handler, mistakes)
        }),
        written(|mistakes| {
            let arguments = quote!(name = "rows", crate = my::facade);
            projection::attribute(arguments, &projection, mistakes)
        }),
    ]
}

/// Returns the words of the code, each with `true` if it comes right after `::`.
fn words(code: TokenStream) -> Vec<(String, bool)> {
    let mut words = Vec::new();
    let mut after_colons = false;
    for token in code {
        match &token {
            TokenTree::Ident(ident) => words.push((ident.to_string(), after_colons)),
            TokenTree::Group(group) => words.extend(self::words(group.stream())),
            _ => {}
        }
        after_colons = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ':');
    }
    words
}

#[test]
fn the_library_is_named_by_the_given_path_only() {
    for code in all() {
        let words = words(code);
        assert!(words.iter().any(|(word, _)| word == "facade"));
        assert!(words.iter().all(|(word, _)| word != "eventbus"));
    }
}

#[test]
fn a_key_of_one_event_beside_a_batch_is_refused_by_any_path() {
    for key in [quote!(EffectKey), quote!(handler::EffectKey), quote!(::eventbus::handler::EffectKey)] {
        let rows = quote! {
            impl Rows {
                async fn paid(&self, events: &[OrderPaid], key: #key, tx: &mut Connection) {}
            }
        };
        let mut mistakes = Mistakes::default();
        projection::attribute(quote!(name = "rows"), &rows, &mut mistakes);
        assert_eq!(mistakes.texts(), ["`EffectKey` belongs to one event, and a batch has several: take one event"]);
    }
}

#[test]
fn a_parameter_that_may_be_left_out_is_refused() {
    let handler = quote! {
        async fn send(event: &OrderPaid, #[cfg(feature = "mail")] mailer: State<Mailer>) {}
    };
    let mut mistakes = Mistakes::default();
    handler::attribute(quote!(group = "mail"), &handler, &mut mistakes);
    assert_eq!(mistakes.texts(), ["a handler takes each parameter always: put `#[cfg]` on two functions"]);
    let rows = quote! {
        impl Rows {
            async fn paid(&self, event: &OrderPaid, #[cfg(test)] meta: &Metadata, tx: &mut Connection) {}
        }
    };
    let mut mistakes = Mistakes::default();
    projection::attribute(quote!(name = "rows"), &rows, &mut mistakes);
    assert_eq!(mistakes.texts(), ["an event method takes each parameter always: put `#[cfg]` on two functions"]);
}

#[test]
fn names_of_the_standard_library_are_never_looked_up_in_scope() {
    const STANDARD: &[&str] = &[
        "Box",
        "Clone",
        "Debug",
        "Err",
        "From",
        "None",
        "Ok",
        "Option",
        "Some",
        "String",
        "Vec",
        "assert",
        "concat",
        "file",
        "line",
        "module_path",
        "panic",
        "str",
        "u32",
        "usize",
    ];
    for code in all() {
        for (word, after_colons) in words(code) {
            assert!(after_colons || !STANDARD.contains(&word.as_str()), "`{word}` is looked up in the user's scope");
        }
    }
}
