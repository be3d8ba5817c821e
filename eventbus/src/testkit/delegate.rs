//! Delegation of the ports of a test double to the value that it wraps; each port is written out here once.
//!
//! Invariant: a delegate passes on every method of a port, also one with a provided body: the wrapped value may have
//! its own.

/// Implements ports of a test double by passing each call on to the value that it wraps.
///
/// The arguments are the type, the wrapped value, and the ports. For an event bus, write these methods by hand, all of
/// them and in this order, so that none falls back to the body that the port provides: `publish`, `relay_target`,
/// `dead_letters`. The macro passes on the rest.
///
/// # Examples
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use async_trait::async_trait;
/// use eventbus::{Name, Position, port::{CheckpointError, Checkpoints, EventStore}, testkit::delegate};
///
/// /// Counts the checkpoints that are saved.
/// struct CountingStore { store: Arc<dyn EventStore>, saved: AtomicU64 }
///
/// delegate!(CountingStore, self => self.store; AppendEvents, ReadStream, ReadFeed, Leases, EventStore);
///
/// #[async_trait]
/// impl Checkpoints for CountingStore {
///     async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
///         self.store.load_checkpoint(name).await
///     }
///
///     async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
///         self.saved.fetch_add(1, Ordering::SeqCst);
///         self.store.save_checkpoint(name, position).await
///     }
///
///     async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
///         self.store.delete_checkpoint(name).await
///     }
/// }
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __delegate {
    ($type:ty, $self:ident => $inner:expr; $($port:ident $({ $($own:tt)* })?),+ $(,)?) => {
        $($crate::__delegate!(@$port $type, $self, $inner, { $($($own)*)? });)+
    };

    (@AppendEvents $type:ty, $self:ident, $inner:expr, {}) => {
        const _: () = {
            use $crate::__private::ports::*;
            #[deny(clippy::missing_trait_methods)]
            #[async_trait]
            impl AppendEvents for $type {
                async fn append(
                    &$self,
                    stream: &StreamId,
                    expected: ExpectedVersion,
                    events: Vec<NewEvent>,
                ) -> Result<Vec<RecordedEvent>, AppendError> {
                    $inner.append(stream, expected, events).await
                }

                async fn append_many(&$self, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
                    $inner.append_many(appends).await
                }
            }
        };
    };
    (@ReadStream $type:ty, $self:ident, $inner:expr, {}) => {
        const _: () = {
            use $crate::__private::ports::*;
            #[deny(clippy::missing_trait_methods)]
            #[async_trait]
            impl ReadStream for $type {
                fn read_stream(&$self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
                    $inner.read_stream(stream, from, direction)
                }

                async fn visit_stream(
                    &$self,
                    stream: &StreamId,
                    from: Version,
                    visit: &mut VisitEvent<'_>,
                ) -> Result<(), ReadError> {
                    $inner.visit_stream(stream, from, visit).await
                }

                async fn stream_version(&$self, stream: &StreamId) -> Result<Version, ReadError> {
                    $inner.stream_version(stream).await
                }
            }
        };
    };
    (@ReadFeed $type:ty, $self:ident, $inner:expr, {}) => {
        const _: () = {
            use $crate::__private::ports::*;
            #[deny(clippy::missing_trait_methods)]
            #[async_trait]
            impl ReadFeed for $type {
                fn read_feed(&$self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
                    $inner.read_feed(after, through, filter)
                }

                async fn visit_feed(
                    &$self,
                    after: Position,
                    through: Position,
                    filter: &FeedFilter,
                    visit: &mut VisitFeedEvent<'_>,
                ) -> Result<(), ReadError> {
                    $inner.visit_feed(after, through, filter, visit).await
                }

                async fn read_events_at(
                    &$self,
                    positions: &[Position],
                ) -> Vec<Result<Option<RecordedEvent>, ReadError>> {
                    $inner.read_events_at(positions).await
                }

                fn read_all(&$self, after: Position) -> RecordStream<'_> {
                    $inner.read_all(after)
                }

                async fn head(&$self) -> Result<Position, ReadError> {
                    $inner.head().await
                }

                async fn feed_end(&$self) -> Result<FeedEnd, ReadError> {
                    $inner.feed_end().await
                }

                async fn read_page(
                    &$self,
                    after: Position,
                    filter: &FeedFilter,
                    limits: PageLimits,
                ) -> Result<FeedPage, ReadError> {
                    $inner.read_page(after, filter, limits).await
                }

                async fn held_for(&$self) -> Result<Option<Duration>, ReadError> {
                    $inner.held_for().await
                }

                async fn count_events(
                    &$self,
                    after: Position,
                    through: Position,
                    filter: &FeedFilter,
                ) -> Result<u64, ReadError> {
                    $inner.count_events(after, through, filter).await
                }

                async fn first_recorded_after(&$self, after: Position) -> Result<Option<OffsetDateTime>, ReadError> {
                    $inner.first_recorded_after(after).await
                }

                async fn find_missing_event(
                    &$self,
                    stream: Option<&StreamId>,
                ) -> Result<Option<MissingEvent>, ReadError> {
                    $inner.find_missing_event(stream).await
                }

                async fn store_id(&$self) -> Result<Uuid, ReadError> {
                    $inner.store_id().await
                }

                fn appended(&$self) -> &AppendSignal {
                    $inner.appended()
                }
            }
        };
    };
    (@Checkpoints $type:ty, $self:ident, $inner:expr, {}) => {
        const _: () = {
            use $crate::__private::ports::*;
            #[deny(clippy::missing_trait_methods)]
            #[async_trait]
            impl Checkpoints for $type {
                async fn load_checkpoint(&$self, name: &Name) -> Result<Option<Position>, CheckpointError> {
                    $inner.load_checkpoint(name).await
                }

                async fn load_checkpoints(&$self, names: &[Name]) -> Result<Vec<Option<Position>>, CheckpointError> {
                    $inner.load_checkpoints(names).await
                }

                async fn save_checkpoint(&$self, name: &Name, position: Position) -> Result<(), CheckpointError> {
                    $inner.save_checkpoint(name, position).await
                }

                async fn delete_checkpoint(&$self, name: &Name) -> Result<(), CheckpointError> {
                    $inner.delete_checkpoint(name).await
                }
            }
        };
    };
    (@Leases $type:ty, $self:ident, $inner:expr, {}) => {
        const _: () = {
            use $crate::__private::ports::*;
            #[deny(clippy::missing_trait_methods)]
            #[async_trait]
            impl Leases for $type {
                async fn acquire_lease(
                    &$self,
                    role: &Name,
                    owner: &Name,
                    ttl: Duration,
                ) -> Result<Option<Lease>, LeaseError> {
                    $inner.acquire_lease(role, owner, ttl).await
                }

                async fn seize_lease(&$self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
                    $inner.seize_lease(role, owner, ttl).await
                }

                async fn renew_lease(&$self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
                    $inner.renew_lease(lease, ttl).await
                }

                async fn renew_leases(&$self, leases: &[Lease], ttl: Duration) -> Result<Vec<bool>, LeaseError> {
                    $inner.renew_leases(leases, ttl).await
                }

                async fn release_lease(&$self, lease: &Lease) -> Result<(), LeaseError> {
                    $inner.release_lease(lease).await
                }

                async fn lease_of(&$self, role: &Name) -> Result<Option<Lease>, LeaseError> {
                    $inner.lease_of(role).await
                }

                async fn leases_of(&$self, roles: &[Name]) -> Result<Vec<Option<Lease>>, LeaseError> {
                    $inner.leases_of(roles).await
                }
            }
        };
    };
    (@HandlerProgress $type:ty, $self:ident, $inner:expr, { $($save_shards:tt)+ }) => {
        const _: () = {
            use $crate::__private::ports::*;
            #[deny(clippy::missing_trait_methods)]
            #[async_trait]
            impl HandlerProgress for $type {
                fn lease_ends_with_process(&$self) -> bool {
                    $inner.lease_ends_with_process()
                }

                async fn declare_handlers(
                    &$self,
                    declared: &[DeclaredHandler],
                    head: Position,
                ) -> Result<Vec<NotedHandler>, HandlerProgressError> {
                    $inner.declare_handlers(declared, head).await
                }

                async fn join(&$self, member: &Member) -> Result<MemberGuard, HandlerProgressError> {
                    $inner.join(member).await
                }

                async fn leave(&$self, member: &Name) -> Result<(), HandlerProgressError> {
                    $inner.leave(member).await
                }

                async fn members(&$self, names: &[Name]) -> Result<Vec<Member>, HandlerProgressError> {
                    $inner.members(names).await
                }

                async fn heartbeat(
                    &$self,
                    member: &Name,
                    handlers: &[Name],
                    owned: &[(ShardId, u64)],
                    renew_for: Option<Duration>,
                    live_for: Duration,
                ) -> Result<Heartbeat, HandlerProgressError> {
                    $inner.heartbeat(member, handlers, owned, renew_for, live_for).await
                }

                async fn acquire_shards(
                    &$self,
                    member: &Name,
                    wanted: &[ShardId],
                    ttl: Duration,
                ) -> Result<Vec<AcquiredShard>, HandlerProgressError> {
                    $inner.acquire_shards(member, wanted, ttl).await
                }

                async fn live_rows(
                    &$self,
                    shards: &[ShardId],
                ) -> Result<BTreeMap<ShardId, Vec<DeliveryRow>>, HandlerProgressError> {
                    $inner.live_rows(shards).await
                }

                $($save_shards)+

                async fn list_handlers(&$self) -> Result<Vec<ListedHandler>, HandlerProgressError> {
                    $inner.list_handlers().await
                }

                async fn dead_rows(
                    &$self,
                    after: Option<&DeadRow>,
                    limit: usize,
                ) -> Result<Vec<DeadRow>, HandlerProgressError> {
                    $inner.dead_rows(after, limit).await
                }

                async fn dead_row(
                    &$self,
                    handler: &Name,
                    position: Position,
                ) -> Result<Option<DeadRow>, HandlerProgressError> {
                    $inner.dead_row(handler, position).await
                }

                async fn count_dead_rows(&$self, at_most: u64) -> Result<u64, HandlerProgressError> {
                    $inner.count_dead_rows(at_most).await
                }

                async fn replay_dead(&$self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
                    $inner.replay_dead(handler, position).await
                }

                async fn discard_dead(
                    &$self,
                    handler: &Name,
                    position: Position,
                ) -> Result<bool, HandlerProgressError> {
                    $inner.discard_dead(handler, position).await
                }

                async fn set_paused(&$self, group: &Name, is_paused: bool) -> Result<(), HandlerProgressError> {
                    $inner.set_paused(group, is_paused).await
                }

                async fn create_handler(&$self, name: &Name, after: Position) -> Result<bool, HandlerProgressError> {
                    $inner.create_handler(name, after).await
                }

                async fn retire_handler(&$self, name: &Name) -> Result<Option<u64>, HandlerProgressError> {
                    $inner.retire_handler(name).await
                }
            }
        };
    };
    (@EventStore $type:ty, $self:ident, $inner:expr, {}) => {
        $crate::__delegate!(@EventStore $type, $self, $inner, {
            fn handler_progress(&$self) -> Option<&dyn HandlerProgress> {
                $inner.handler_progress()
            }

            fn multi_stream_appends(&$self) -> Option<&dyn MultiStreamAppends> {
                $inner.multi_stream_appends()
            }
        });
    };
    (@EventStore $type:ty, $self:ident, $inner:expr, { $($own:tt)+ }) => {
        const _: () = {
            use $crate::__private::ports::*;
            #[deny(clippy::missing_trait_methods)]
            impl EventStore for $type {
                fn transactions(&$self) -> Option<Arc<dyn Transactions>> {
                    $inner.transactions()
                }

                fn server_fault(&$self, error: &(dyn std::error::Error + 'static)) -> Option<ServerFault> {
                    // stores may also implement `Transactions`, which has a method of this name
                    EventStore::server_fault(&$inner, error)
                }

                fn describe(&$self) -> String {
                    $inner.describe()
                }

                fn notes(&$self) -> Option<&dyn Notes> {
                    $inner.notes()
                }

                fn event_types(&$self) -> Option<&dyn EventTypes> {
                    $inner.event_types()
                }

                fn listings(&$self) -> Option<&dyn Listings> {
                    $inner.listings()
                }

                fn snapshots(&$self) -> Option<&dyn Snapshots> {
                    $inner.snapshots()
                }

                $($own)+

                fn append_batches(&$self) -> Option<&AppendBatches> {
                    $inner.append_batches()
                }

                fn unique_values(&$self) -> Option<&dyn UniqueValues> {
                    $inner.unique_values()
                }

                fn boundaries(&$self) -> Option<&dyn Boundaries> {
                    $inner.boundaries()
                }
            }
        };
    };
    (@EventBus $type:ty, $self:ident, $inner:expr, {
        async fn publish($($publish:tt)*) -> $published:ty $do_publish:block
        fn relay_target($($relay_target:tt)*) -> $target:ty $do_relay_target:block
        fn dead_letters($($dead_letters:tt)*) -> $dead_letter:ty $do_dead_letters:block
    }) => {
        const _: () = {
            use $crate::__private::ports::*;
            #[deny(clippy::missing_trait_methods)]
            #[async_trait]
            impl EventBus for $type {
                async fn publish($($publish)*) -> $published $do_publish

                fn relay_target($($relay_target)*) -> $target $do_relay_target

                fn dead_letters($($dead_letters)*) -> $dead_letter $do_dead_letters

                fn destination(&$self) -> &Name {
                    $inner.destination()
                }

                fn describe(&$self) -> String {
                    $inner.describe()
                }

                fn as_any(&$self) -> Option<&dyn std::any::Any> {
                    $inner.as_any()
                }

                fn default_group(&$self) -> &Name {
                    $inner.default_group()
                }

                async fn ensure_connected(&$self) -> Result<(), ConnectError> {
                    $inner.ensure_connected().await
                }

                fn add_subscriber(&$self, group: Name, subscriber: Subscriber) -> Subscription {
                    $inner.add_subscriber(group, subscriber)
                }

                fn subscribers(&$self) -> Vec<Arc<dyn SubscriberStatus>> {
                    $inner.subscribers()
                }

                fn report(&$self, health: Health) -> Health {
                    $inner.report(health)
                }

                fn in_flight(&$self) -> BTreeMap<Name, InFlightCounts> {
                    $inner.in_flight()
                }

                async fn start_consuming(&$self) -> Result<(), ConsumeError> {
                    $inner.start_consuming().await
                }

                async fn stop_consuming(&$self) {
                    $inner.stop_consuming().await;
                }

                fn is_consuming(&$self) -> bool {
                    $inner.is_consuming()
                }

                async fn shutdown(&$self, timeout: Duration) -> Result<(), ShutdownError> {
                    $inner.shutdown(timeout).await
                }

                fn stats(&$self) -> BusStats {
                    $inner.stats()
                }

                async fn stream_info(&$self) -> StreamInfo {
                    $inner.stream_info().await
                }

                async fn health(&$self) -> Health {
                    $inner.health().await
                }

                async fn progress(&$self, group: &Name) -> Result<GroupProgress, ConsumeError> {
                    $inner.progress(group).await
                }
            }
        };
    };
    (@EventBus $($other:tt)*) => {
        compile_error!(
            "write what a bus offers, and what it does for publishers, by hand, in this order: `publish`, \
             `relay_target`, `dead_letters`"
        );
    };
}
