//! Typed subscriptions to a bus: closures, handler values, annotated handlers, projections.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use super::{
    definition::{Handler, HandlerDefinition, HandlerRegistration, Projection},
    extract::HandlerOutcome,
    handler_context::HandlerContext,
    handler_inbox::HandlerInbox,
    projection::ProjectionHandle,
    repository::RepositorySource,
    start::{StartError, StartMistake},
};
use crate::{
    domain::{
        context::Scope,
        event::Source,
        name::Name,
        record::{EventSet, RecordedEvent},
    },
    port::{
        ConsumeError, DeadLetterError, DeadLetters, EventBus, Subscriber, Subscription,
        delivery::HandlerError,
        state::{Requirements, StateMap},
    },
};

/// A handler of events of type `E`: a closure, or a value with an `async fn handle`.
///
/// # Examples
/// ```
/// use eventbus::{handler::EventHandler, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Account")]
/// # struct Opened {}
/// struct Greeter;
///
/// impl EventHandler<Opened> for Greeter {
///     async fn handle(&self, event: Opened) -> Result<(), HandlerError> {
///         println!("{event:?}");
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{E}`",
    label = "not a handler of `{E}`",
    note = "a handler is an async closure of the event (`|event: {E}| async move {{ .. }}`), or a value whose type implements `EventHandler<{E}>`"
)]
pub trait EventHandler<E>: Send + Sync + 'static {
    /// Handles one event.
    ///
    /// # Errors
    /// The handler's own error: the bus retries, and in the end makes a dead letter; see [`HandlerError`].
    fn handle(&self, event: E) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

impl<E, F, Fut, O> EventHandler<E> for F
where
    F: Fn(E) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send,
    O: HandlerOutcome,
{
    fn handle(&self, event: E) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let handled = self(event);
        async move { handled.await.into_outcome() }
    }
}

/// The typed methods of every bus.
pub trait EventBusExt: EventBus {
    /// Subscribes to the events of `E`, in the bus's own group.
    ///
    /// The type of the closure's parameter selects them: `bus.subscribe(|event: OrderCreated| async move { .. })`.
    fn subscribe<E: EventSet>(&self, handler: impl EventHandler<E>) -> Subscription {
        self.add_subscriber(self.default_group().clone(), typed_subscriber::<E, _>(handler))
    }

    /// Subscribes to every event of every type, in the bus's own group.
    #[doc(alias = "subscribe_to_all_events")]
    fn subscribe_to_all(&self, handler: impl EventHandler<RecordedEvent>) -> Subscription {
        self.subscribe::<RecordedEvent>(handler)
    }

    /// Subscribes an annotated handler, in its own group or else the bus's.
    ///
    /// The context is the states, `&state`, or `(&state, &store)`: then a handler that takes the connection of the
    /// store runs in a transaction of its own. The store notes each delivery that took effect. Delete old notes now and
    /// then with [`MultiStreamAppends::forget_deliveries`](crate::port::MultiStreamAppends::forget_deliveries); an app
    /// deletes them itself.
    ///
    /// # Errors
    /// [`StartError`] if the handler takes a state that the context does not hold, or a transaction and the context has
    /// no store, or a different one.
    fn subscribe_handler<H: Handler>(&self, context: impl Into<HandlerContext>) -> Result<Subscription, StartError> {
        let mut subscriptions = subscribe_handlers(self, &[H::definition()], &context.into())?;
        subscriptions.pop().ok_or_else(|| StartMistake::NothingDiscovered.into())
    }

    /// Subscribes every annotated handler that is linked into the program; the context is as for
    /// [`subscribe_handler`](Self::subscribe_handler).
    ///
    /// # Errors
    /// [`StartError`] with every mistake: no handler found, a name used twice, states that the context does not hold,
    /// transactions without a store or of a different one.
    fn subscribe_discovered(&self, context: impl Into<HandlerContext>) -> Result<Vec<Subscription>, StartError> {
        subscribe_handlers(self, &discovered_handlers(), &context.into())
    }

    /// Feeds a projection from the bus, in the bus's own group: at least once, so an event may be counted twice after a
    /// crash. Its methods get no `State`. An app feeds projections from the store instead, in order and from zero.
    fn subscribe_all<P: Projection>(&self, projection: &ProjectionHandle<P>) -> Subscription {
        let definition = P::definition();
        let projection = projection.clone();
        let subscriber = Subscriber::new(Name::from_static(definition.name), definition.events, move |delivery| {
            let projection = projection.clone();
            Box::pin(async move { projection.inner().handle_from_bus(delivery).await })
        });
        self.add_subscriber(self.default_group().clone(), subscriber)
    }

    /// Returns the dead letters of the bus, to list, replay and discard them.
    ///
    /// # Errors
    /// [`DeadLetterError::Unsupported`] if the bus offers none.
    fn require_dead_letters(&self) -> Result<&dyn DeadLetters, DeadLetterError> {
        self.dead_letters().ok_or_else(|| DeadLetterError::Unsupported { destination: self.destination().clone() })
    }

    /// Returns the number of subscribers, wildcards aside; a projection of two types counts as two.
    #[doc(alias = "get_subscriber_count")]
    fn subscriber_count(&self) -> usize {
        self.subscribers().iter().map(|other| other.subscriber().events().descriptors().len()).sum()
    }

    /// Returns the number of subscribers that name the types of `E`.
    #[doc(alias = "get_subscriber_count")]
    fn subscriber_count_of<E: EventSet>(&self) -> usize {
        let subscribers = self.subscribers();
        let typed =
            || subscribers.iter().map(|other| other.subscriber()).filter(|subscriber| !subscriber.is_wildcard());
        let count = |event_type| typed().filter(|subscriber| subscriber.events().matches(event_type)).count();
        E::EVENTS.descriptors().iter().map(|event| count(event.event_type)).sum()
    }

    /// Returns the number of subscribers to every event.
    #[doc(alias = "get_wildcard_subscriber_count")]
    fn wildcard_subscriber_count(&self) -> usize {
        self.subscribers().iter().filter(|other| other.subscriber().is_wildcard()).count()
    }

    /// Consumes in a task of its own, which ends when the bus stops consuming.
    fn start_consuming_in_background(&self) -> tokio::task::JoinHandle<Result<(), ConsumeError>>
    where
        Self: Clone + Sized,
    {
        let bus = self.clone();
        tokio::spawn(async move { bus.start_consuming().await })
    }
}

impl<B: EventBus + ?Sized> EventBusExt for B {}

fn typed_subscriber<E: EventSet, H: EventHandler<E>>(handler: H) -> Subscriber {
    let handler = Arc::new(handler);
    Subscriber::new(type_name_of::<H>(), E::EVENTS, move |delivery| {
        let event = E::decode(delivery.record()).map_err(HandlerError::undecodable);
        let handler = Arc::clone(&handler);
        Box::pin(async move { handler.handle(event?).await })
    })
}

/// Returns the name that logs give a subscriber without a durable one: the last 255 bytes of its type's path.
fn type_name_of<H>() -> Name {
    let path = std::any::type_name::<H>();
    let start = path.len().saturating_sub(crate::domain::name::MAX_NAME_BYTES);
    let tail = (start..path.len()).find_map(|i| path.get(i..)).unwrap_or("subscriber");
    Name::new("subscriber", tail).unwrap_or(Name::from_static("subscriber"))
}

/// Returns every linked handler, sorted by name and place.
pub(crate) fn discovered_handlers() -> Vec<HandlerDefinition> {
    let mut found: Vec<_> = inventory::iter::<HandlerRegistration>().map(|registration| (registration.0)()).collect();
    found.sort_unstable_by_key(|handler| (handler.name, handler.source));
    found
}

/// The groups of handlers that name none.
#[derive(Debug, Clone)]
pub(crate) struct GroupNames {
    /// The default group of the bus; `None` if handlers read the store, where each is a group of its own.
    pub(crate) own: Option<Name>,
    /// The default groups of foreign streams.
    pub(crate) consumed: BTreeMap<Name, Name>,
}

impl GroupNames {
    /// Returns the groups of a bus without an app.
    pub(crate) fn of_bus<B: EventBus + ?Sized>(bus: &B) -> Self {
        Self { own: Some(bus.default_group().clone()), consumed: BTreeMap::new() }
    }

    /// Returns the group that a handler belongs to.
    pub(crate) fn of(&self, handler: &HandlerDefinition) -> Name {
        let default = match handler.options.stream {
            Some(stream) => self.consumed.get(stream),
            None => self.own.as_ref(),
        };
        handler.group.map(Name::from_static).or_else(|| default.cloned()).unwrap_or(Name::from_static(handler.name))
    }
}

fn subscribe_handlers<B: EventBus + ?Sized>(
    bus: &B,
    handlers: &[HandlerDefinition],
    context: &HandlerContext,
) -> Result<Vec<Subscription>, StartError> {
    if handlers.is_empty() {
        return Err(StartMistake::NothingDiscovered.into());
    }
    check_handlers(handlers, context)?;
    Ok(add_handlers(bus, handlers, &GroupNames::of_bus(bus), context))
}

/// Subscribes handlers, each in its group.
pub(crate) fn add_handlers<B: EventBus + ?Sized>(
    bus: &B,
    handlers: &[HandlerDefinition],
    groups: &GroupNames,
    context: &HandlerContext,
) -> Vec<Subscription> {
    let subscribe = |definition: &HandlerDefinition| {
        bus.add_subscriber(groups.of(definition), handler_subscriber(*definition, context))
    };
    handlers.iter().map(subscribe).collect()
}

/// Returns the subscriber that runs a handler in `context`.
fn handler_subscriber(definition: HandlerDefinition, context: &HandlerContext) -> Subscriber {
    let call = definition.call;
    let inbox = HandlerInbox::for_handler(&definition, context).map(Arc::new);
    let (state, name) = (context.state.clone(), definition.name);
    Subscriber::new(Name::from_static(definition.name), definition.events, move |delivery| {
        let delivery = delivery.clone().with_state(state.clone()).with_handler(name);
        let inbox = inbox.clone();
        Box::pin(Scope::Delivery(delivery.record().cause()).run(async move {
            match inbox {
                Some(inbox) => inbox.run_once(&delivery, call).await,
                None => call(&delivery, None).await,
            }
        }))
    })
    .with_options(definition.options)
    .of_app(context.app)
    .of_crate(definition.source.crate_name())
}

/// Returns the subscriber of one handler, once the context is checked to hold what it takes.
pub(crate) fn checked_subscriber(
    definition: HandlerDefinition,
    context: &HandlerContext,
) -> Result<Subscriber, StartError> {
    check_handlers(&[definition], context)?;
    Ok(handler_subscriber(definition, context))
}

/// Reports every mistake of handlers without an app.
fn check_handlers(handlers: &[HandlerDefinition], context: &HandlerContext) -> Result<(), StartError> {
    let mut mistakes = duplicate_handlers(handlers);
    let transaction = context.transactions.as_ref().map(|transactions| transactions.transaction_type());
    for handler in handlers {
        let requirements = handler.requirements();
        mistakes.extend(unmet_requirements(handler.name, handler.source, &requirements, &context.state, transaction));
    }
    StartError::unless_empty(mistakes)
}

/// Reports handlers that share a name with the one before them; `handlers` is sorted by name.
pub(crate) fn duplicate_handlers(handlers: &[HandlerDefinition]) -> Vec<StartMistake> {
    let same = |pair: &&[HandlerDefinition]| pair[0].name == pair[1].name;
    let mistake = |pair: &[HandlerDefinition]| StartMistake::DuplicateHandler {
        name: pair[0].name,
        first: pair[0].source,
        second: pair[1].source,
    };
    handlers.windows(2).filter(same).map(mistake).collect()
}

/// Reports states and transactions that a handler or projection takes and the app does not have.
pub(crate) fn unmet_requirements(
    name: &'static str,
    source_place: Source,
    requirements: &Requirements,
    state: &StateMap,
    transaction: Option<crate::port::TypeKey>,
) -> Vec<StartMistake> {
    let missing = requirements.states().iter().filter(|key| !state.contains(**key));
    let states = missing.map(|key| StartMistake::MissingState { name, source_place, state: key.name() });
    let others = requirements.transactions().iter().filter(|wanted| transaction != Some(**wanted));
    let transactions = others.map(|wanted| StartMistake::TransactionMismatch {
        name,
        source_place,
        wanted: wanted.name(),
        offered: transaction.map(|key| key.name()),
    });
    let source = state.get::<RepositorySource>();
    let store = source.as_ref().map(|source| &source.store);
    let takes_one_stream = store.is_none_or(|store| store.multi_stream_appends().is_none());
    let repositories = requirements.aggregates().iter().filter(|_| takes_one_stream);
    let repositories = repositories.map(|aggregate| StartMistake::RepositoryWithoutStore {
        name,
        source_place,
        aggregate: aggregate.name(),
        store: store.map(|store| store.describe()),
    });
    states.chain(transactions).chain(repositories).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::TypeKey;

    fn mistakes(offered: Option<TypeKey>) -> Vec<String> {
        let mut requirements = Requirements::default();
        requirements.transaction::<u8>();
        let found =
            unmet_requirements("reserve", Source::new("src/x.rs", 58, "x"), &requirements, &StateMap::new(), offered);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_transaction_of_another_store_is_a_mistake() {
        let other = "`reserve` (src/x.rs:58) takes the connection of another store (`&mut` of a `u8`), but this app's store \
                     lends a `u16`: take that one, or give the builder the other store";
        assert_eq!(mistakes(Some(TypeKey::of::<u16>())), [other]);
        let none = "`reserve` (src/x.rs:58) takes the connection of another store (`&mut` of a `u8`), but this app's store \
                    lends none: give the builder the store that does, with `.store(..)`";
        assert_eq!(mistakes(None), [none]);
        assert!(mistakes(Some(TypeKey::of::<u8>())).is_empty());
    }

    #[test]
    fn closures_have_names_that_logs_can_show() {
        let closure = |_: RecordedEvent| async {};
        fn name_of<H>(_: &H) -> Name {
            type_name_of::<H>()
        }
        assert!(name_of(&closure).contains("closures_have_names_that_logs_can_show"));
    }
}
