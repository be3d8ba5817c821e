//! The chapter on moving: its Python code runs on the library's store, and its statement writes the events into lines.

use std::path::{Path, PathBuf};

use eventstore_postgres::{
    PgConnection,
    sqlx::{self, AssertSqlSafe, Connection as _},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::environment;

with_each_release!(the_chapters_statement_writes_what_python_has_stored);

async fn the_chapters_statement_writes_what_python_has_stored(python: &Path) {
    let database = eventbus_test::postgres();
    let chapter = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guide/src/moving/eventsource-py.md");
    let script = environment::scripts().join("store.py");
    let ran = Command::new(python)
        .arg(script)
        .args([database.url().as_ref(), chapter.as_os_str()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output();
    let ran = ran.await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let text = std::fs::read_to_string(chapter).unwrap();
    let statement = text.split("```sql\n").nth(1).unwrap().split(";\n```").next().unwrap().to_owned();
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let lines = sqlx::query_scalar::<_, Value>(AssertSqlSafe(statement)).fetch_all(&mut connection).await.unwrap();
    let mut seen = Vec::new();
    for mut line in lines {
        for made in ["event_id", "occurred_at", "recorded_at", "correlation_id"] {
            assert!(line[made].take().is_string(), "{made}: {line}");
        }
        seen.push(line);
    }
    let expected = |version: u64, cents: u64| {
        json!({
            "event_id": null, "aggregate_type": "Account", "aggregate_id": "00000000-0000-0000-0000-000000000064",
            "tenant": null, "version": version, "event_type": "Deposited", "schema_version": 1, "occurred_at": null,
            "recorded_at": null, "actor_id": null, "correlation_id": null, "causation_id": null, "attributes": {},
            "fields": { "cents": cents },
        })
    };
    assert_eq!(seen, [expected(1, 1), expected(2, 120)]);
}
