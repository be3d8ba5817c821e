//! Twenty projections in memory and twenty with rows.

use eventbus::{app::AppBuilder, prelude::*, *};
use eventstore_postgres::PgConnection;

use crate::order::ItemAdded;

/// Where projections keep their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Memory,
    /// A row per order, in a table of the projection's own.
    Rows,
}

/// Declares projections, and what an app does with some of them.
macro_rules! projections {
    ($($state:ident $state_name:tt $rows:ident $rows_name:tt),+ $(,)?) => {
        $(
            #[derive(Debug, Default)]
            struct $state(u64);

            #[projection(name = $state_name, manual)]
            impl $state {
                fn added(&mut self, event: &ItemAdded) {
                    self.0 += u64::from(event.quantity);
                }
            }

            #[derive(Debug, Default)]
            struct $rows;

            #[projection(
                name = $rows_name,
                tables($rows_name),
                key = "order_id",
                set_up = concat!("CREATE TABLE IF NOT EXISTS ", $rows_name, " (order_id text PRIMARY KEY, items bigint NOT NULL)"),
                manual,
            )]
            impl $rows {
                async fn added(
                    &self,
                    event: &ItemAdded,
                    meta: &Metadata,
                    conn: &mut PgConnection,
                ) -> Result<(), sqlx::Error> {
                    const UPSERT: &str = concat!(
                        "INSERT INTO ", $rows_name, " AS total (order_id, items) VALUES ($1, $2) ",
                        "ON CONFLICT (order_id) DO UPDATE SET items = total.items + excluded.items",
                    );
                    let upsert = sqlx::query(UPSERT).bind(meta.aggregate_id().as_str()).bind(i64::from(event.quantity));
                    upsert.execute(conn).await?;
                    Ok(())
                }
            }
        )+

        /// The most projections of a kind.
        pub const MOST: usize = [$($state_name),+].len();

        /// Adds `number` projections of this kind to an app.
        pub fn add(mut app: AppBuilder, kind: Kind, number: usize) -> AppBuilder {
            let mut missing = number;
            $(
                if missing > 0 {
                    missing -= 1;
                    app = match kind {
                        Kind::Memory => app.projection($state::default()),
                        Kind::Rows => app.projection($rows),
                    };
                }
            )+
            debug_assert_eq!(missing, 0);
            app
        }

        /// Waits until the first `number` projections of this kind include the events up to `position`.
        pub async fn wait(app: &App, kind: Kind, number: usize, position: Option<Position>) -> Result<()> {
            let mut missing = number;
            $(
                if missing > 0 {
                    missing -= 1;
                    match kind {
                        Kind::Memory => drop(app.projected::<$state>(position).await?),
                        Kind::Rows => drop(app.projected::<$rows>(position).await?),
                    }
                }
            )+
            debug_assert_eq!(missing, 0);
            Ok(())
        }
    };
}

projections! {
    State1 "state_1" Rows1 "rows_1",
    State2 "state_2" Rows2 "rows_2",
    State3 "state_3" Rows3 "rows_3",
    State4 "state_4" Rows4 "rows_4",
    State5 "state_5" Rows5 "rows_5",
    State6 "state_6" Rows6 "rows_6",
    State7 "state_7" Rows7 "rows_7",
    State8 "state_8" Rows8 "rows_8",
    State9 "state_9" Rows9 "rows_9",
    State10 "state_10" Rows10 "rows_10",
    State11 "state_11" Rows11 "rows_11",
    State12 "state_12" Rows12 "rows_12",
    State13 "state_13" Rows13 "rows_13",
    State14 "state_14" Rows14 "rows_14",
    State15 "state_15" Rows15 "rows_15",
    State16 "state_16" Rows16 "rows_16",
    State17 "state_17" Rows17 "rows_17",
    State18 "state_18" Rows18 "rows_18",
    State19 "state_19" Rows19 "rows_19",
    State20 "state_20" Rows20 "rows_20",
}
