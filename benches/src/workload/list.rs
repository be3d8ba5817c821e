//! The list of workloads.

use eventbus::Result;

/// A workload, and the numbers of concurrent callers that it is measured with.
pub struct Workload {
    pub name: &'static str,
    pub operation: &'static str,
    pub callers: &'static [usize],
    pub servers: &'static [Server],
}

impl Workload {
    /// Returns `true` if the workload sets the rate, so that times show what differs.
    pub fn is_paced(&self) -> bool {
        self.name == "deliver" || self.name.starts_with("react")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Postgres,
    Redis,
}

use Server::{Postgres, Redis};

/// The workloads of the table.
pub const ALL: &[Workload] = &[
    Workload {
        name: "save-1",
        operation: "PostgreSQL: save one event, ten saves to an order",
        callers: &[1, 8, 32, 256],
        servers: &[Postgres],
    },
    Workload {
        name: "save-10",
        operation: "PostgreSQL: save ten events at once, to a new order",
        callers: &[8, 32],
        servers: &[Postgres],
    },
    Workload {
        name: "load-100-save",
        operation: "PostgreSQL: load an order of 100 events, and save one",
        callers: &[1, 32],
        servers: &[Postgres],
    },
    Workload {
        name: "load-10",
        operation: "PostgreSQL: load an order of 10 events",
        callers: &[1],
        servers: &[Postgres],
    },
    Workload {
        name: "load-10000-snapshot",
        operation: "PostgreSQL: load an order of 10,000 events from a snapshot and the last 10",
        callers: &[1],
        servers: &[Postgres],
    },
    Workload {
        name: "load-10000",
        operation: "PostgreSQL: load an order of 10,000 events",
        callers: &[1],
        servers: &[Postgres],
    },
    Workload {
        name: "decide-cold",
        operation: "PostgreSQL: decide about a course and a student, each caller about its own, and append an event",
        callers: &[1, 8, 32],
        servers: &[Postgres],
    },
    Workload {
        name: "decide-hot",
        operation: "PostgreSQL: decide about a course and a student, all callers about the same few, and append an event",
        callers: &[1, 32],
        servers: &[Postgres],
    },
    Workload {
        name: "rebuild-memory",
        operation: "PostgreSQL: an event of a projection in memory that is rebuilt",
        callers: &[1],
        servers: &[Postgres],
    },
    Workload {
        name: "rebuild-rows",
        operation: "PostgreSQL: an event of a projection with rows that is rebuilt",
        callers: &[1],
        servers: &[Postgres],
    },
    Workload {
        name: "rebuild-batches",
        operation: "PostgreSQL: the same, with a statement for many events",
        callers: &[1],
        servers: &[Postgres],
    },
    Workload {
        name: "publish-1",
        operation: "Redis: publish an event, and wait until the server has it",
        callers: &[1, 32],
        servers: &[Redis],
    },
    Workload {
        name: "publish-100",
        operation: "Redis: an event of 100 that are published at once",
        callers: &[1],
        servers: &[Redis],
    },
    Workload {
        name: "consume",
        operation: "Redis: an event from the stream to its acknowledgement",
        callers: &[1],
        servers: &[Redis],
    },
    Workload {
        name: "deliver",
        operation: "Redis: an event from its publication to its handler, 200 a second",
        callers: &[1],
        servers: &[Redis],
    },
    Workload {
        name: "react",
        operation: "PostgreSQL and Redis: an event from its save to its handler, 200 a second",
        callers: &[1],
        servers: &[Postgres, Redis],
    },
    Workload {
        name: "react-steady",
        operation: "PostgreSQL and Redis: an event from its save to its handler, 1,000 a second",
        callers: &[1],
        servers: &[Postgres, Redis],
    },
    Workload {
        name: "react-gathered",
        operation: "the same; our relay gathers events for 10 ms",
        callers: &[1],
        servers: &[Postgres, Redis],
    },
    Workload {
        name: "sqlite-save-1",
        operation: "SQLite on disk: save one event, ten saves to an order",
        callers: &[1, 8, 32, 256],
        servers: &[],
    },
    Workload {
        name: "sqlite-load-10000",
        operation: "SQLite on disk: load an order of 10,000 events",
        callers: &[1],
        servers: &[],
    },
    Workload {
        name: "sqlite-rebuild-memory",
        operation: "SQLite on disk: an event of a projection in memory that is rebuilt",
        callers: &[1],
        servers: &[],
    },
];

/// The workloads that only `growth` measures.
const GROWTH: &[Workload] = &[
    Workload {
        name: "load-100",
        operation: "PostgreSQL: load an order of 100 events",
        callers: &[1],
        servers: &[Postgres],
    },
    Workload {
        name: "project-memory",
        operation: "PostgreSQL: save an event, until all projections in memory have it, 200 a second",
        callers: &[1],
        servers: &[Postgres],
    },
    Workload {
        name: "project-rows",
        operation: "PostgreSQL: save an event, until all projections with rows have committed theirs, 200 a second",
        callers: &[1],
        servers: &[Postgres],
    },
];

/// Returns the workload of this name.
pub fn find(name: &str) -> Result<&'static Workload> {
    let names = || ALL.iter().map(|workload| workload.name).collect::<Vec<_>>().join(", ");
    Ok(ALL
        .iter()
        .chain(GROWTH)
        .find(|workload| workload.name == name)
        .ok_or_else(|| format!("no workload `{name}`; there are {}", names()))?)
}
