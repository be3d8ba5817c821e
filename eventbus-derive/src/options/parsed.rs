//! The options of an attribute: `key = value`, `key(list)`, `key`.
//!
//! Values stay tokens until the macro reads the key, so that an unknown key never hides the mistakes after it.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use proc_macro2::{Span, TokenStream};
use syn::{
    Attribute, Expr, Ident, LitInt, LitStr, Meta, Path,
    parse::{Parse, Parser},
};

use super::{
    split::{self, Found, Value, comma_separated},
    suggest,
};
use crate::{mistakes::Mistakes, text};

/// An option that an attribute knows.
pub(crate) struct Known {
    key: &'static str,
    expects: &'static str,
    example: &'static str,
}

impl Known {
    /// An option that takes a string.
    pub(crate) const fn text(key: &'static str, example: &'static str) -> Self {
        Self::new(key, "a string", example)
    }

    /// An option that takes a number.
    pub(crate) const fn number(key: &'static str, example: &'static str) -> Self {
        Self::new(key, "a whole number", example)
    }

    /// An option that takes a string, or an expression such as a constant.
    pub(crate) const fn expression(key: &'static str, example: &'static str) -> Self {
        Self::new(key, "a string or a constant", example)
    }

    /// An option that takes a path.
    pub(crate) const fn path(key: &'static str, example: &'static str) -> Self {
        Self::new(key, "a path", example)
    }

    /// An option that takes a list in parentheses.
    pub(crate) const fn list(key: &'static str, example: &'static str) -> Self {
        Self::new(key, "a list", example)
    }

    /// An option that takes the name of a type.
    pub(crate) const fn ident(key: &'static str, example: &'static str) -> Self {
        Self::new(key, "a name", example)
    }

    /// An option without a value.
    pub(crate) const fn flag(key: &'static str, example: &'static str) -> Self {
        Self::new(key, "no value", example)
    }

    const fn new(key: &'static str, expects: &'static str, example: &'static str) -> Self {
        Self { key, expects, example }
    }
}

/// The options written in one attribute, or in several of the same name.
pub(crate) struct Options {
    attribute: &'static str,
    known: &'static [Known],
    found: Vec<Found>,
}

impl Options {
    /// Collects the options in the attributes called `attribute`.
    pub(crate) fn of_attributes(
        attribute: &'static str,
        known: &'static [Known],
        attrs: &[Attribute],
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut options = Self::none(attribute, known);
        for attr in attrs.iter().filter(|attr| attr.path().is_ident(attribute)) {
            match &attr.meta {
                Meta::Path(_) => {}
                Meta::List(list) => options.read(list.tokens.clone(), mistakes),
                Meta::NameValue(_) => {
                    mistakes.at(&attr.meta, format!("options stand in parentheses: `#[{attribute}(..)]`"))
                }
            }
        }
        options
    }

    /// Collects the options in the arguments of the attribute macro `attribute`.
    pub(crate) fn of_arguments(
        attribute: &'static str,
        known: &'static [Known],
        arguments: TokenStream,
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut options = Self::none(attribute, known);
        options.read(arguments, mistakes);
        options
    }

    fn none(attribute: &'static str, known: &'static [Known]) -> Self {
        let found = Vec::new();
        Self { attribute, known, found }
    }

    /// Adds the options in `tokens`; reports unknown and repeated ones.
    fn read(&mut self, tokens: TokenStream, mistakes: &mut Mistakes) {
        for option in comma_separated(tokens) {
            let Some(found) = mistakes.take(split::key_and_value(option)) else {
                continue;
            };
            let key = text::name_of(&found.key);
            if !self.known.iter().any(|known| known.key == key) {
                let keys: Vec<_> = self.known.iter().map(|known| known.key).collect();
                mistakes.at(&found.key, suggest::unknown(self.attribute, &key, &keys));
            } else if self.find(&key).is_some() {
                mistakes.at(&found.key, format!("`{key}` is given twice"));
            } else {
                self.found.push(found);
            }
        }
    }

    fn find(&self, key: &str) -> Option<&Found> {
        self.found.iter().find(|found| text::name_of(&found.key) == key)
    }

    /// Returns the key as written, if the option is given.
    pub(crate) fn key(&self, key: &str) -> Option<&Ident> {
        self.find(key).map(|found| &found.key)
    }

    /// Parses the value after the `=` of `key`.
    fn value<T>(&self, key: &str, parser: impl Parser<Output = T>, mistakes: &mut Mistakes) -> Option<T> {
        let found = self.find(key)?;
        let value = match &found.value {
            Value::Equals(tokens) => parser.parse2(tokens.clone()).ok(),
            Value::Nothing | Value::List(_) => None,
        };
        if value.is_none() {
            self.expected(found, mistakes);
        }
        value
    }

    fn expected(&self, found: &Found, mistakes: &mut Mistakes) {
        let key = text::name_of(&found.key);
        let Some(known) = self.known.iter().find(|known| key == known.key) else {
            return;
        };
        let (expects, example) = (known.expects, known.example);
        let message = format!("`{key}` expects {expects}, as in {example}");
        match &found.value {
            Value::Equals(tokens) | Value::List(tokens) if !tokens.is_empty() => {
                mistakes.at(tokens, message);
            }
            _ => mistakes.at(&found.key, message),
        }
    }

    /// Returns the string given for `key`.
    pub(crate) fn text(&self, key: &str, mistakes: &mut Mistakes) -> Option<LitStr> {
        self.value(key, <LitStr as Parse>::parse, mistakes)
    }

    /// Returns the one of `choices` that is given for `key`.
    pub(crate) fn one_of(&self, key: &str, choices: &[&'static str], mistakes: &mut Mistakes) -> Option<&'static str> {
        let given = self.text(key, mistakes)?;
        let choice = choices.iter().copied().find(|choice| *choice == given.value());
        if choice.is_none() {
            let choices: Vec<_> = choices.iter().map(|choice| format!("`\"{choice}\"`")).collect();
            mistakes.at(&given, format!("`{key}` is {}", choices.join(" or ")));
        }
        choice
    }

    /// Returns the durable name given for `key`; `what` names its kind (`an event type`).
    pub(crate) fn name(&self, key: &str, what: &str, mistakes: &mut Mistakes) -> Option<LitStr> {
        let name = self.text(key, mistakes)?;
        text::check_name(what, &name, mistakes);
        Some(name)
    }

    /// Returns the durable names in the list given for `key`, those that are texts; `what` names their kind.
    pub(crate) fn names(&self, key: &str, what: &str, mistakes: &mut Mistakes) -> Vec<LitStr> {
        let Some((span, members)) = self.list(key, mistakes) else {
            return Vec::new();
        };
        if members.is_empty() {
            mistakes.at_span(span, format!("`{key}` lists at least one name: `{key}(\"..\")`"));
        }
        let mut names = Vec::new();
        for member in members {
            match syn::parse2::<LitStr>(member.clone()) {
                Ok(name) => {
                    text::check_name(what, &name, mistakes);
                    names.push(name);
                }
                Err(_) => mistakes.at(member, format!("`{key}` lists names in quotes: `{key}(\"..\")`")),
            }
        }
        names
    }

    /// Returns the number given for `key`, within `range`.
    pub(crate) fn number<N: FromStr + PartialOrd + Display>(
        &self,
        key: &str,
        range: RangeInclusive<N>,
        mistakes: &mut Mistakes,
    ) -> Option<N> {
        let literal: LitInt = self.value(key, <LitInt as Parse>::parse, mistakes)?;
        let number = literal.base10_digits().parse().ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (min, max) = range.into_inner();
            mistakes.at(&literal, format!("`{key}` is a number from {min} to {max}"));
        }
        number
    }

    /// Returns the expression given for `key`.
    pub(crate) fn expression(&self, key: &str, mistakes: &mut Mistakes) -> Option<Expr> {
        self.value(key, <Expr as Parse>::parse, mistakes)
    }

    /// Returns the path given for `key`.
    pub(crate) fn path(&self, key: &str, mistakes: &mut Mistakes) -> Option<Path> {
        self.value(key, Path::parse_mod_style, mistakes)
    }

    /// Returns the name given for `key`.
    pub(crate) fn ident(&self, key: &str, mistakes: &mut Mistakes) -> Option<Ident> {
        self.value(key, <Ident as Parse>::parse, mistakes)
    }

    /// Returns `true` if the flag `key` is given.
    pub(crate) fn flag(&self, key: &str, mistakes: &mut Mistakes) -> bool {
        let Some(found) = self.find(key) else {
            return false;
        };
        if !matches!(found.value, Value::Nothing) {
            self.expected(found, mistakes);
        }
        true
    }

    /// Returns the span of the key and the members of the list given for it.
    pub(crate) fn list(&self, key: &str, mistakes: &mut Mistakes) -> Option<(Span, Vec<TokenStream>)> {
        let found = self.find(key)?;
        if let Value::List(tokens) = &found.value {
            return Some((found.key.span(), comma_separated(tokens.clone())));
        }
        self.expected(found, mistakes);
        None
    }
}
