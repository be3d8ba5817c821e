//! The places of events: streams, versions, positions.

use std::{str::FromStr, sync::Arc};

use derive_more::{AsRef, Debug, Display, From};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{
    clock::SharedClock,
    name::{self, InvalidName, Name},
    shown,
};

/// The identity of one aggregate: text of 1–255 bytes without control characters.
///
/// [`AggregateId::new`] makes a UUIDv7; natural keys (`"12345"`, paths) are welcome. Cloning is cheap.
///
/// # Examples
/// ```
/// use eventbus::AggregateId;
/// let made = AggregateId::new();
/// let natural: AggregateId = "src/main.rs".parse()?;
/// assert_ne!(made, natural);
/// # Ok::<(), eventbus::event::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, AsRef, Debug, Display)]
#[as_ref(str)]
#[debug("{_0:?}")]
#[serde(try_from = "String", into = "String")]
pub struct AggregateId(Arc<str>);

impl AggregateId {
    /// Makes a new id, a UUIDv7: later ids sort after earlier ones.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "each call makes another id; a default would suggest one value")]
    pub fn new() -> Self {
        SharedClock::SYSTEM.new_id().into()
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Uuid> for AggregateId {
    fn from(id: Uuid) -> Self {
        let mut text = Uuid::encode_buffer();
        Self((&*id.hyphenated().encode_lower(&mut text)).into())
    }
}

impl FromStr for AggregateId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        name::check("aggregate id", text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<&str> for AggregateId {
    type Error = InvalidName;
    fn try_from(text: &str) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl TryFrom<String> for AggregateId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<AggregateId> for String {
    fn from(id: AggregateId) -> Self {
        id.as_str().into()
    }
}

/// One aggregate's sequence of events: the unit of consistency and order.
///
/// Aggregates of different tenants have different streams, even if type and id are the same.
///
/// # Examples
/// ```
/// use eventbus::{StreamId, Uuid};
/// let tenant = Uuid::parse_str("01a1f85f-1b76-73fd-9432-86542dd2f87b")?;
/// let order = StreamId::parse("Order", "1")?;
/// let order_of_tenant = order.clone().with_tenant_id(Some(tenant));
/// assert_ne!(order, order_of_tenant);
/// assert_eq!(order.to_string(), "Order/1");
/// assert_eq!(order_of_tenant.to_string(), "Order/1@01a1f85f-1b76-73fd-9432-86542dd2f87b");
/// # Ok::<(), eventbus::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Display, Serialize)]
#[display("{aggregate_type}/{aggregate_id}{}", tenant_id.map(|id| format!("@{id}")).unwrap_or_default())]
#[must_use]
pub struct StreamId {
    #[serde(serialize_with = "shown::display")]
    aggregate_type: Name,
    aggregate_id: AggregateId,
    tenant_id: Option<Uuid>,
}

impl StreamId {
    /// Names the stream of one aggregate of no tenant.
    pub const fn new(aggregate_type: Name, aggregate_id: AggregateId) -> Self {
        Self { aggregate_type, aggregate_id, tenant_id: None }
    }

    /// Sets the tenant that the aggregate belongs to. The nil UUID stands for no tenant.
    pub fn with_tenant_id(self, tenant_id: Option<Uuid>) -> Self {
        Self { tenant_id: known_tenant(tenant_id), ..self }
    }

    /// Names a stream of no tenant by two texts, as a store reads them back.
    ///
    /// # Errors
    /// [`InvalidName`] if one of them is empty, longer than 255 bytes or holds a control character.
    pub fn parse(aggregate_type: &str, aggregate_id: &str) -> Result<Self, InvalidName> {
        Ok(Self::new(Name::new("aggregate type", aggregate_type)?, aggregate_id.parse()?))
    }

    /// The type of the aggregate: `Order`.
    #[must_use]
    pub const fn aggregate_type(&self) -> &Name {
        &self.aggregate_type
    }

    /// The id of the aggregate.
    #[must_use]
    pub const fn aggregate_id(&self) -> &AggregateId {
        &self.aggregate_id
    }

    /// The tenant that the aggregate belongs to; never the nil UUID.
    #[must_use]
    pub const fn tenant_id(&self) -> Option<Uuid> {
        self.tenant_id
    }

    /// The tenant as stores write it: the nil UUID if the aggregate belongs to none.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{StreamId, Uuid};
    /// let (order, tenant) = (StreamId::parse("Order", "1")?, Uuid::from_u128(7));
    /// assert_eq!(order.tenant_or_nil(), Uuid::nil());
    /// assert_eq!(order.with_tenant_id(Some(tenant)).tenant_or_nil(), tenant);
    /// # Ok::<(), eventbus::event::InvalidName>(())
    /// ```
    #[must_use]
    pub fn tenant_or_nil(&self) -> Uuid {
        self.tenant_id.unwrap_or_default()
    }

    /// Returns a hash of the stream, the same in every release: the XXH3 of the aggregate type is the seed for that of
    /// the id, and that, for a stream of a tenant, the seed for that of the tenant's 16 bytes.
    pub(crate) fn hash(&self) -> u64 {
        let of_type = xxh3_64(self.aggregate_type.as_bytes());
        let of_id = xxh3_64_with_seed(self.aggregate_id.as_str().as_bytes(), of_type);
        self.tenant_id.map_or(of_id, |tenant| xxh3_64_with_seed(tenant.as_bytes(), of_id))
    }

    /// Returns the slot of the stream, the same in every release: the lowest 8 bits of its hash.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{StreamId, Uuid};
    /// let order = StreamId::parse("Order", "1")?;
    /// assert_eq!(order.slot(), 115);
    /// assert_eq!(order.with_tenant_id(Some(Uuid::from_u128(7))).slot(), 52);
    /// # Ok::<(), eventbus::event::InvalidName>(())
    /// ```
    #[must_use]
    pub fn slot(&self) -> u8 {
        self.hash().to_le_bytes()[0]
    }
}

/// Returns `None` for the nil UUID, by which stores write that a stream has no tenant.
pub(crate) fn known_tenant(tenant_id: Option<Uuid>) -> Option<Uuid> {
    tenant_id.filter(|id| !id.is_nil())
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Display, From,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps the number.
            #[must_use]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number for columns of signed 64 bits, which all our stores have; beyond their range it saturates.
            #[must_use]
            pub fn as_i64(self) -> i64 {
                i64::try_from(self.0).unwrap_or(i64::MAX)
            }
        }

        impl PartialEq<u64> for $name {
            fn eq(&self, number: &u64) -> bool {
                self.0 == *number
            }
        }
    };
}

counter! {
    /// The number of events in a stream up to and including one of them: 0 is none, the first event is 1.
    ///
    /// # Examples
    /// ```
    /// use eventbus::Version;
    /// assert_eq!(Version::NONE.next(), Version::FIRST);
    /// ```
    Version
}

impl Version {
    /// No event yet.
    pub const NONE: Self = Self(0);
    /// The first event of a stream.
    pub const FIRST: Self = Self(1);
    /// Beyond every event: where reading backward from the end starts.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// The version of the event after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The version after `events` more events.
    #[must_use]
    pub const fn plus(self, events: usize) -> Self {
        Self(self.0.saturating_add(events as u64))
    }
}

counter! {
    /// A place in the total order of one store: increasing, may have gaps; compare, never count.
    Position
}

impl Position {
    /// Before the first event of a store.
    pub const START: Self = Self(0);

    /// Returns the next one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The condition of an append: the version that its stream must have before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display)]
pub enum ExpectedVersion {
    /// No condition; never conflicts.
    #[display("any version")]
    Any,
    /// The stream has no events.
    #[display("no stream")]
    NoStream,
    /// The stream has at least one event.
    #[display("an existing stream")]
    StreamExists,
    /// The stream is at exactly this version; `Exact(Version::NONE)` is the same as `NoStream`.
    #[display("version {_0}")]
    Exact(Version),
}

impl ExpectedVersion {
    /// Returns `true` if a stream at version `actual` fulfils the condition.
    #[must_use]
    pub fn matches(self, actual: Version) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual == Version::NONE,
            Self::StreamExists => actual > Version::NONE,
            Self::Exact(version) => actual == version,
        }
    }
}
