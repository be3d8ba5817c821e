//! All statements of a store, filled in for its schema once, at connect.

use eventbus::ExpectedVersion;
use sqlx::SqlStr;

use crate::schema::Schema;

#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) schema: Schema,
    append_new: SqlStr,
    append_exact: SqlStr,
    append_existing: SqlStr,
    append_any: SqlStr,
    pub(crate) append_many: SqlStr,
    pub(crate) resolve: SqlStr,
    pub(crate) read_forward: SqlStr,
    pub(crate) read_backward: SqlStr,
    pub(crate) stream_version: SqlStr,
    pub(crate) head: SqlStr,
    pub(crate) read_page: SqlStr,
    pub(crate) read_filtered: SqlStr,
    pub(crate) reach: SqlStr,
    pub(crate) count_events: SqlStr,
    pub(crate) first_recorded_after: SqlStr,
    pub(crate) store_id: SqlStr,
    pub(crate) load_checkpoint: SqlStr,
    pub(crate) save_checkpoint: SqlStr,
    pub(crate) acquire_lease: SqlStr,
    pub(crate) seize_lease: SqlStr,
    pub(crate) lease_of: SqlStr,
    pub(crate) renew_lease: SqlStr,
    pub(crate) load_floors: SqlStr,
    pub(crate) save_floors: SqlStr,
    pub(crate) forget_floor: SqlStr,
    pub(crate) advance: SqlStr,
    pub(crate) advance_first: SqlStr,
    pub(crate) keep_append: SqlStr,
    pub(crate) ask_appended: SqlStr,
    pub(crate) note_delivery: SqlStr,
    pub(crate) forget_deliveries: SqlStr,
    pub(crate) take_checkpoint: SqlStr,
    pub(crate) open_append: SqlStr,
}

impl Statements {
    pub(crate) fn new(schema: &Schema) -> Self {
        let append = |claim: &str| {
            schema.statement(&uncommented(include_str!("sql/append.sql")).replace("{claim}", &uncommented(claim)))
        };
        let statement = |sql: &str| {
            let sql = uncommented(sql).replace("{record}", include_str!("sql/record.sql").trim());
            let sql = sql.replace("{wanted}", include_str!("sql/wanted.sql").trim());
            schema.statement(&sql.replace("{appended_in}", &uncommented(include_str!("sql/appended_in.sql"))))
        };
        Self {
            schema: schema.clone(),
            append_new: append(include_str!("sql/claim_new.sql")),
            append_exact: append(include_str!("sql/claim_exact.sql")),
            append_existing: append(include_str!("sql/claim_existing.sql")),
            append_any: append(include_str!("sql/claim_any.sql")),
            append_many: statement(include_str!("sql/append_many.sql")),
            resolve: statement(include_str!("sql/resolve.sql")),
            read_forward: statement(include_str!("sql/read_forward.sql")),
            read_backward: statement(include_str!("sql/read_backward.sql")),
            stream_version: statement(include_str!("sql/stream_version.sql")),
            head: statement(include_str!("sql/head.sql")),
            read_page: statement(include_str!("sql/read_page.sql")),
            read_filtered: statement(include_str!("sql/read_filtered.sql")),
            reach: statement(include_str!("sql/reach.sql")),
            count_events: statement(include_str!("sql/count_events.sql")),
            first_recorded_after: statement(include_str!("sql/first_recorded_after.sql")),
            store_id: statement(include_str!("sql/store_id.sql")),
            load_checkpoint: statement(include_str!("sql/load_checkpoint.sql")),
            save_checkpoint: statement(include_str!("sql/save_checkpoint.sql")),
            acquire_lease: statement(include_str!("sql/acquire_lease.sql")),
            seize_lease: statement(include_str!("sql/seize_lease.sql")),
            lease_of: statement(include_str!("sql/lease_of.sql")),
            renew_lease: statement(include_str!("sql/renew_lease.sql")),
            load_floors: statement(include_str!("sql/load_floors.sql")),
            save_floors: statement(include_str!("sql/save_floors.sql")),
            forget_floor: statement(include_str!("sql/forget_floor.sql")),
            advance: statement(include_str!("sql/advance.sql")),
            advance_first: statement(include_str!("sql/advance_first.sql")),
            keep_append: statement("RELEASE SAVEPOINT eventbus_append; SET LOCAL eventbus.appended_{namespace} = on"),
            ask_appended: statement("SELECT {appended_in}"),
            note_delivery: statement(include_str!("sql/note_delivery.sql")),
            forget_deliveries: statement(include_str!("sql/forget_deliveries.sql")),
            take_checkpoint: statement(include_str!("sql/take_checkpoint.sql")),
            open_append: statement(include_str!("sql/open_append.sql")),
        }
    }

    /// The append that claims the stream as `expected` demands.
    pub(crate) fn append(&self, expected: ExpectedVersion) -> &SqlStr {
        match expected {
            ExpectedVersion::Any => &self.append_any,
            ExpectedVersion::StreamExists => &self.append_existing,
            ExpectedVersion::Exact(version) if version > eventbus::Version::NONE => &self.append_exact,
            ExpectedVersion::NoStream | ExpectedVersion::Exact(_) => &self.append_new,
        }
    }
}

/// Leaves out the comments: the text is the key of the statement cache, and what the server shows as running.
fn uncommented(sql: &str) -> String {
    let lines: Vec<_> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    lines.join("\n").trim().into()
}
