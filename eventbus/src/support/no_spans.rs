//! Spans without the feature `opentelemetry`: only handlers have one, and events keep the trace that they came with.

use time::OffsetDateTime;
use tracing::Span;

use crate::{
    domain::{context::EventContext, name::Name, record::RecordedEvent, stream::StreamId},
    port::{ReadError, delivery::Delivery},
};

pub(crate) fn append(_: impl FnOnce() -> Option<StreamId>, _: &mut EventContext) -> Span {
    Span::none()
}

pub(crate) const fn continue_current(_: &mut EventContext) {}

pub(crate) fn relay(_: &Name, _: &[RecordedEvent]) -> Span {
    Span::none()
}

pub(crate) fn project(_: &'static str, _: &[RecordedEvent]) -> Span {
    Span::none()
}

pub(crate) fn rebuild(_: &'static str) -> Span {
    Span::none()
}

pub(crate) const fn describe_handling(_: &Span, _: &Delivery, _: &Name) {}

pub(crate) const fn record_error(_: &Span, _: &str) {}

pub(crate) struct FeedRead;

impl FeedRead {
    pub(crate) fn begin(_: impl FnOnce() -> Name) -> Self {
        Self
    }

    pub(crate) const fn none() -> Self {
        Self
    }

    pub(crate) const fn since(self, _: Option<OffsetDateTime>) -> Self {
        self
    }

    pub(crate) const fn add(&mut self, _: &RecordedEvent) {}

    pub(crate) const fn fail(&mut self, _: &ReadError) {}
}
