//! Names in scope do not affect the generated code.
#![no_implicit_prelude]
#![allow(non_camel_case_types, dead_code)]

use ::eventbus::{Aggregate, Apply, DomainEvent, handler, projection};
use ::serde::{Deserialize, Serialize};

struct Result;
struct Option;
struct String;
struct Vec;
struct Box;
struct Future;
struct Default;
struct Send;
struct Debug;
struct Clone;
struct From;
struct EventSet;
struct Metadata;
struct Event;
struct E;

mod std {}
mod core {}
mod eventbus {}

#[allow(unused_macros)]
macro_rules! assert {
    ($($any:tt)*) => {};
}

#[derive(::std::fmt::Debug, ::std::clone::Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(::std::fmt::Debug, ::std::clone::Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Closed;

#[derive(DomainEvent)]
enum Audited {
    Opened(Opened),
    Closed(Closed),
}

#[derive(::std::default::Default, Aggregate)]
#[aggregate(events(Opened, Closed))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

#[handler(retries = 1, group = "x")]
async fn definition(
    _event: &Opened,
    _meta: &::eventbus::Metadata,
    _state: ::eventbus::State<::std::primitive::u32>,
) -> ::std::result::Result<(), ::std::fmt::Error> {
    ::std::result::Result::Ok(())
}

#[handler]
async fn event(event: &Opened) {
    let _ = event;
}

#[handler]
async fn delivery(_event: &Opened) {}

#[handler]
async fn returned(_event: &Opened) {}

#[derive(::std::default::Default)]
struct Statistics {}

#[projection(name = "statistics")]
impl Statistics {
    fn project_mut(&mut self, _event: &Opened) {}
    fn event(&mut self, _event: Closed, _attempt: ::eventbus::Attempt) {}
}

#[derive(::std::default::Default)]
struct Rows {}

#[projection(name = "rows")]
impl Rows {
    async fn project(&self, _event: &Audited) -> ::std::result::Result<(), ::std::fmt::Error> {
        ::std::result::Result::Ok(())
    }
}
