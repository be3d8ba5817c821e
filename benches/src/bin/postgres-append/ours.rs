//! The store, as an application uses it.

use eventbus::{ExpectedVersion, NewEvent, Result, StreamId, Version, port::AppendEvents as _};
use eventstore_postgres::PgEventStore;

use crate::Side;

pub struct Ours(PgEventStore);

impl Ours {
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self(PgEventStore::connect(url).await?))
    }
}

impl Side for Ours {
    async fn append(&self, stream: &StreamId, version: Version, event: NewEvent) -> Result<()> {
        let recorded = self.0.append(stream, ExpectedVersion::Exact(version), vec![event]).await?;
        assert_eq!(recorded[0].version(), version.next());
        Ok(())
    }
}
