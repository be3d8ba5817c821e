//! The suites that every event store passes.

use crate::common::{TestSchema, open};
use eventstore_postgres::PgEventStoreConfig;

// the schema is a temporary of the statement that runs the rule, and is dropped with it
eventbus::event_store_conformance!(postgres, TestSchema::new().store());

eventbus::event_store_conformance!(on_pool, TestSchema::new().store_on_pool(3));

eventbus::event_store_tags_conformance!(tags, TestSchema::new().store());

eventbus::event_store_tags_conformance!(tags_on_pool, TestSchema::new().store_on_pool(3));

eventbus::handler_progress_conformance!(handlers, TestSchema::new().store());

eventbus::handler_progress_conformance!(handlers_on_pool, TestSchema::new().store_on_pool(3));

eventbus::event_store_transactions_conformance!(transactions, TestSchema::new().store());

eventbus::event_store_transactions_conformance!(transactions_on_pool, TestSchema::new().store_on_pool(3));

eventbus::event_store_reopen_conformance!(reopened, TestSchema::new().place(), async |config: PgEventStoreConfig| {
    open(config).await
});
