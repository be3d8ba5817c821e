//! The header `Idempotency-Key` of a request.

use ::axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{StatusCode, request::Parts},
};

use super::problem::Problem;
use crate::domain::idempotency_key::IdempotencyKey;

const HEADER: &str = "idempotency-key";

/// The key in the header `Idempotency-Key`, for [`once`](crate::AggregateRepository::once). A request without the header,
/// or with a text that is no key, is refused with a 400; a handler that takes `Option<IdempotencyKey>` gets `None` without
/// the header.
///
/// All clients of a tenant share their keys, with each other and with the tasks and handlers of the service: see
/// [`once`](crate::AggregateRepository::once).
///
/// # Examples
/// ```
/// use axum::{Json, extract::Path};
/// use eventbus::{axum::Problem, prelude::*, repository::IdempotencyKey, Saved};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Order)]
/// # struct Shipped { parcel: String }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Shipped))]
/// # struct Order { is_shipped: bool }
/// # impl Apply for Order { fn apply(&mut self, _: &OrderEvent) { self.is_shipped = true; } }
/// # struct Refusal;
/// # impl From<Refusal> for Problem { fn from(_: Refusal) -> Self { Self::new(axum::http::StatusCode::CONFLICT, "shipped") } }
/// # impl Order { fn ship(&self, command: Ship) -> Result<Shipped, Refusal> { Ok(Shipped { parcel: command.parcel }) } }
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Ship { parcel: String }
///
/// async fn ship(
///     orders: Repository<Order>,
///     key: IdempotencyKey,
///     Path(id): Path<AggregateId>,
///     Json(command): Json<Ship>,
/// ) -> Result<Json<Saved>, Problem> {
///     let key = format!("http:{key}").parse()?; // apart from the keys of the service itself
///     let saved = orders.once(key, command).update_with(&id, Order::ship).await?;
///     Ok(Json(saved)) // however often the client has sent it; 422 for another parcel under the same key
/// }
/// ```
impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let missing = || Problem::new(StatusCode::BAD_REQUEST, "the header Idempotency-Key is missing");
        read_key(parts)?.ok_or_else(missing)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Problem> {
        read_key(parts)
    }
}

fn read_key(parts: &Parts) -> Result<Option<IdempotencyKey>, Problem> {
    let invalid =
        |reason: String| Problem::new(StatusCode::BAD_REQUEST, format!("the header Idempotency-Key: {reason}"));
    let mut values = parts.headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("given twice".into()));
    }
    let text = value.to_str().map_err(|_| invalid("not ASCII text".into()))?;
    text.parse().map(Some).map_err(|error: crate::event::InvalidName| invalid(error.to_string()))
}
