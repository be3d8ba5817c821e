//! The catalog of an application: the events, handlers and projections that are linked into its binary, or that it runs,
//! as values, JSON Schema, AsyncAPI and a picture.
//!
//! It needs no running app; for what is linked, also no store and no bus.

mod async_api;
mod json_schema;
mod schema_document;
mod view;

pub use self::{
    async_api::async_api,
    json_schema::event_schema,
    schema_document::event_schemas,
    view::{AggregateRow, CatalogView, EventRow, HandlerGroupRow, HandlerRow, ProjectionReaderRow},
};
