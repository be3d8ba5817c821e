//! Ids that belong to one type of aggregate.

use std::{borrow::Cow, cmp, fmt, hash, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{field_text::FieldText, name::InvalidName, stream::AggregateId};

/// The id of an aggregate of type `A`: an [`AggregateId`] that no repository of a different aggregate accepts.
///
/// An aggregate has such ids with `#[aggregate(.., typed_id)]`; without it, its ids are [`AggregateId`]s. Stored events
/// and texts are the same for both. `Id::from(id)`, or `&id.into()` in a call, turns an `AggregateId` into a typed id;
/// [`untyped`](Id::untyped) and `AggregateId::from` convert it back.
///
/// # Examples
/// ```
/// use eventbus::{InMemoryEventStore, Never, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Customer)]
/// # struct Registered { name: String }
/// # impl Apply for Customer { fn apply(&mut self, _event: &CustomerEvent) {} }
/// # impl Apply for Order { fn apply(&mut self, _event: &OrderEvent) {} }
/// #[derive(Debug, Default, Aggregate)]
/// #[aggregate(events(Registered), typed_id)]
/// struct Customer;
///
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate = Order)]
/// struct Placed { customer: Id<Customer> }
///
/// #[derive(Debug, Default, Aggregate)]
/// #[aggregate(events(Placed), typed_id)]
/// struct Order;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// let orders = AggregateRepository::<Order>::new(InMemoryEventStore::new());
/// let (order, customer) = (Id::<Order>::new(), Id::<Customer>::new());
/// orders.upsert(&order, |_| Ok::<_, Never>(Placed { customer: customer.clone() })).await?;
/// orders.load(&order).await?; // `orders.load(&customer)` does not compile
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Id<A: ?Sized> {
    id: AggregateId,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: ?Sized> Id<A> {
    /// Makes a new id, a UUIDv7: later ids sort after earlier ones.
    #[allow(clippy::new_without_default, reason = "each call makes another id; a default would suggest one value")]
    pub fn new() -> Self {
        AggregateId::new().into()
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.id.as_str()
    }

    /// The id without its type.
    #[must_use]
    pub const fn untyped(&self) -> &AggregateId {
        &self.id
    }
}

impl<A: ?Sized> From<AggregateId> for Id<A> {
    fn from(id: AggregateId) -> Self {
        Self { id, aggregate: PhantomData }
    }
}

impl<A: ?Sized> From<Id<A>> for AggregateId {
    fn from(id: Id<A>) -> Self {
        id.id
    }
}

impl<A: ?Sized> From<Uuid> for Id<A> {
    fn from(id: Uuid) -> Self {
        AggregateId::from(id).into()
    }
}

impl<A: ?Sized> FromStr for Id<A> {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse::<AggregateId>().map(Into::into)
    }
}

impl<A: ?Sized> TryFrom<&str> for Id<A> {
    type Error = InvalidName;
    fn try_from(text: &str) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl<A: ?Sized> TryFrom<String> for Id<A> {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

// by hand: a derive would ask for the same traits of the aggregate

impl<A: ?Sized> Clone for Id<A> {
    fn clone(&self) -> Self {
        self.id.clone().into()
    }
}

impl<A: ?Sized> PartialEq for Id<A> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<A: ?Sized> Eq for Id<A> {}

impl<A: ?Sized> PartialOrd for Id<A> {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<A: ?Sized> Ord for Id<A> {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.id.cmp(&other.id)
    }
}

impl<A: ?Sized> hash::Hash for Id<A> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<A: ?Sized> fmt::Debug for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.id, f)
    }
}

impl<A: ?Sized> fmt::Display for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}

impl<A: ?Sized> AsRef<str> for Id<A> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl<A: ?Sized> Serialize for Id<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}

impl<'de, A: ?Sized> Deserialize<'de> for Id<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        AggregateId::deserialize(deserializer).map(Into::into)
    }
}

impl<A: ?Sized> FieldText for Id<A> {
    fn field_text(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self.id.as_str()))
    }
}

/// The type of the ids of an aggregate. The derive of an aggregate chooses [`AggregateId`], or with `typed_id` [`Id`].
pub trait AggregateKey: From<AggregateId> + Clone + fmt::Debug + Send + Sync + 'static {
    /// The id without its type.
    fn untyped(&self) -> &AggregateId;
}

impl AggregateKey for AggregateId {
    fn untyped(&self) -> &AggregateId {
        self
    }
}

impl<A: ?Sized + 'static> AggregateKey for Id<A> {
    fn untyped(&self) -> &AggregateId {
        self.untyped()
    }
}
