//! The values that handlers share with the application, and what handlers require of it.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::Arc,
};

/// A type, with its name for messages.
#[derive(Clone, Copy, derive_more::Debug)]
#[debug("{name}")]
pub struct TypeKey {
    id: TypeId,
    name: &'static str,
}

impl TypeKey {
    /// The key of `T`.
    #[must_use]
    pub fn of<T: 'static>() -> Self {
        Self { id: TypeId::of::<T>(), name: std::any::type_name::<T>() }
    }

    /// The path of the type.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl PartialEq for TypeKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for TypeKey {}

/// The values that handlers take as `State<T>`, one per type. Cloning is cheap; an empty one allocates no memory.
///
/// # Examples
/// ```
/// use eventbus::handler::StateMap;
/// let state = StateMap::new().with(5_u32);
/// assert_eq!(state.get::<u32>(), Some(5));
/// assert_eq!(state.get::<i64>(), None);
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct StateMap(Option<Arc<HashMap<TypeId, Stored>>>);

#[derive(Clone)]
struct Stored {
    name: &'static str,
    value: Arc<dyn Any + Send + Sync>,
}

impl StateMap {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value; a former one of the same type is replaced.
    pub fn with<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        let stored = Stored { name: std::any::type_name::<T>(), value: Arc::new(value) };
        Arc::make_mut(self.0.get_or_insert_default()).insert(TypeId::of::<T>(), stored);
        self
    }

    /// A clone of the value of this type.
    #[must_use]
    pub fn get<T: Clone + 'static>(&self) -> Option<T> {
        self.0.as_ref()?.get(&TypeId::of::<T>())?.value.downcast_ref().cloned()
    }

    /// Returns `true` if there is a value of this type.
    #[must_use]
    pub fn contains(&self, key: TypeKey) -> bool {
        self.0.as_ref().is_some_and(|values| values.contains_key(&key.id))
    }
}

impl fmt::Debug for StateMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().flat_map(|values| values.values()).map(|stored| stored.name)).finish()
    }
}

/// The requirements of a handler or projection, which the application checks once, at start.
#[derive(Debug, Clone, Default)]
pub struct Requirements {
    states: Vec<TypeKey>,
    transactions: Vec<TypeKey>,
    aggregates: Vec<TypeKey>,
}

impl Requirements {
    /// Requires a `.state(T)`.
    pub fn state<T: 'static>(&mut self) {
        demand(&mut self.states, TypeKey::of::<T>());
    }

    /// Requires a store whose transactions are `T`.
    pub fn transaction<T: 'static>(&mut self) {
        demand(&mut self.transactions, TypeKey::of::<T>());
    }

    /// Requires a store, to save aggregates of type `A` in one commit with the note of the delivery.
    pub fn repository<A: 'static>(&mut self) {
        demand(&mut self.aggregates, TypeKey::of::<A>());
    }

    /// The aggregate types of the required repositories.
    #[must_use]
    pub fn aggregates(&self) -> &[TypeKey] {
        &self.aggregates
    }

    /// The required state types.
    #[must_use]
    pub fn states(&self) -> &[TypeKey] {
        &self.states
    }

    /// The required transaction types.
    #[must_use]
    pub fn transactions(&self) -> &[TypeKey] {
        &self.transactions
    }
}

/// Adds a key once: several methods of a projection may take the same type, and the start reports it missing once.
fn demand(demanded: &mut Vec<TypeKey>, key: TypeKey) {
    if !demanded.contains(&key) {
        demanded.push(key);
    }
}
