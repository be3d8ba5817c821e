//! The repository that a handler takes as a parameter.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{aggregate_repository::AggregateRepository, snapshot_tasks::SnapshotTasks, tag_queues::TagQueues};
use crate::{
    domain::{
        aggregate::{Aggregate, Apply},
        clock::SharedClock,
        context::EventContext,
    },
    port::{
        EventStore, TypeKey,
        delivery::{Delivery, HandlerError},
        state::Requirements,
    },
    runtime::{extract::FromDelivery, metrics::Meters},
};

/// A repository whose saves continue the conversation of the event that a handler handles, or of a request.
///
/// In a handler it loads and saves aggregates of the event's tenant. Its saves take correlation, actor and trace from
/// the event, and name the event as their cause. They take effect together, once the handler has returned `Ok`, in one
/// commit with the note that it handled the event: so they take effect once, even if the event is delivered again within
/// [`inbox_retention`](crate::app::AppBuilder::inbox_retention). The handler can read its own saves; `position` of a
/// [`Saved`](crate::Saved) is `None` there. If another writer was first, the handler runs again.
/// [`create`](AggregateRepository::create) fails at once with a conflict if the aggregate exists: a handler that returns
/// this error runs again, up to ten times.
///
/// If a different aggregate holds a unique value, the save succeeds at first, since that aggregate may give the value
/// back in a later save; when the handler has returned, it fails with
/// [`AppendError::Taken`](crate::store::AppendError::Taken). A handler that is to react to it calls
/// [`find_by`](AggregateRepository::find_by) first. Two aggregates may exchange values, except in a handler that takes
/// the store's transaction: there one of them has to give its value back without taking a new one.
///
/// It dereferences to [`AggregateRepository`]. For a unit test, make it from one: `fine(&event, members.into())`.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{InMemoryEventStore, Never, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Loan)]
/// # struct ReturnedLate { member: String, days: u64 }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(ReturnedLate))]
/// # struct Loan;
/// # impl Apply for Loan { fn apply(&mut self, _event: &LoanEvent) {} }
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Member)]
/// # struct Fined { cents: u64 }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Fined))]
/// # struct Member { owes: u64 }
/// # impl Apply for Member {
/// #     fn apply(&mut self, MemberEvent::Fined(fined): &MemberEvent) { self.owes += fined.cents; }
/// # }
/// #[handler]
/// async fn fine(event: &ReturnedLate, members: Repository<Member>) -> eventbus::Result<()> {
///     members.upsert(&event.member.parse()?, |_| Ok::<_, Never>(Fined { cents: 10 * event.days })).await?;
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// let app = App::builder().handler::<fine>().start().await?;
/// let late = ReturnedLate { member: "ada".into(), days: 3 };
/// let saved = app.repository::<Loan>().upsert(&AggregateId::new(), |_| Ok::<_, Never>(late.clone())).await?;
/// app.settled().await?;
/// let ada = app.repository::<Member>().load(&"ada".parse()?).await?;
/// assert_eq!(ada.owes, 30);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, derive_more::Deref, derive_more::From)]
#[must_use]
pub struct Repository<A: Aggregate>(AggregateRepository<A>);

impl<A: Aggregate + Apply> FromDelivery for Repository<A> {
    fn requires(requirements: &mut Requirements) {
        requirements.repository::<A>();
    }

    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError> {
        let source: Option<RepositorySource> = delivery.state().get();
        let source = source.ok_or_else(|| HandlerError::missing(TypeKey::of::<Self>()))?;
        let event = delivery.metadata();
        let repository =
            source.repository::<A>().for_tenant(event.tenant_id()).with_context(EventContext::caused_by(event));
        Ok(Self(match delivery.saves() {
            Some(saves) => repository.in_handler(Arc::clone(saves)),
            None => repository,
        }))
    }
}

/// The parts from which repositories are made: the store of the app, and what its repositories share.
#[derive(Clone)]
pub(crate) struct RepositorySource {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) has_relay: bool,
    pub(crate) clock: SharedClock,
    pub(crate) snapshot_tasks: SnapshotTasks,
    /// Notified by the first command with a key, which the app will have to forget.
    pub(crate) first_command: Arc<Notify>,
    /// The decisions that wait for each other.
    pub(crate) tag_queues: Arc<TagQueues>,
    /// The counters of the app.
    pub(crate) meters: Meters,
}

impl RepositorySource {
    /// Returns a repository of aggregates of one type.
    pub(crate) fn repository<A: Aggregate + Apply>(&self) -> AggregateRepository<A> {
        let Self { store, has_relay, clock, snapshot_tasks, first_command, meters, .. } = self.clone();
        AggregateRepository::for_app(store, has_relay, clock, snapshot_tasks, first_command, meters)
    }
}
