//! The contents of the pages.

mod dead_letters;
mod groups;
mod health;
mod login;
mod overview;
mod projections;
mod relay;
mod streams;

pub(super) use self::{
    dead_letters::{DeadLetterChoice, DeadLetterForm, DeadLetterSearch, dead_letter, dead_letters, end_dead_letters},
    groups::groups,
    health::{examine, health},
    login::login,
    overview::overview,
    projections::projections,
    relay::relay,
    streams::{StreamChoice, StreamSearch, stream, streams},
};
