//! The axes: what grows, in which steps, and which operations are measured at each.

use eventbus::Result;

use crate::implementation::Implementation::{self, ByHand, Ours};

/// What grows, and the operations whose cost is measured meanwhile.
#[derive(Debug)]
pub struct Axis {
    pub name: &'static str,
    /// The title of the axis of sizes, with its unit.
    pub title: &'static str,
    pub grows: Grows,
    pub sizes: &'static [usize],
    pub quick_sizes: &'static [usize],
    pub lines: &'static [Line],
}

impl Axis {
    /// Returns `true` if the workloads have a rate of their own.
    pub fn is_paced(&self) -> bool {
        self.grows == Grows::Projections
    }

    /// Returns `true` if the stores of all sizes stay side by side, and each round of a line measures every size;
    /// otherwise each round of a size measures every line.
    pub fn sizes_take_turns(&self) -> bool {
        matches!(self.grows, Grows::Streams { .. } | Grows::Events { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grows {
    /// The streams of a store with this number of events, in quick runs with a tenth of it.
    Streams {
        events: u64,
    },
    /// The events of a store with this number of streams, in quick runs with a tenth of it.
    Events {
        streams: usize,
    },
    EventBytes,
    Handlers,
    Groups,
    Projections,
    /// Processes on one store.
    Processes,
    Callers,
}

/// An operation that is measured at each size.
#[derive(Debug)]
pub struct Line {
    pub label: &'static str,
    pub workload: &'static str,
    pub implementation: Implementation,
    /// In each process; the size itself if the callers grow.
    pub callers: usize,
    /// Set if PostgreSQL waits 2 ms before each flush of its WAL.
    pub has_slow_flush: bool,
}

impl Line {
    const fn ours(label: &'static str, workload: &'static str, callers: usize) -> Self {
        Self { label, workload, implementation: Ours, callers, has_slow_flush: false }
    }

    const fn save(label: &'static str, implementation: Implementation, has_slow_flush: bool) -> Self {
        Self { label, workload: "save-1", implementation, callers: 1, has_slow_flush }
    }
}

/// On a filled store; saves come last, since they add to it.
const STORED: &[Line] = &[
    Line::ours("load 100 events", "load-100", 1),
    Line::ours("rebuild in memory, per event", "rebuild-memory", 1),
    Line::ours("save one event, 32 callers", "save-1", 32),
];

const CONSUME: &[Line] = &[Line::ours("consume", "consume", 1)];

pub const AXES: &[Axis] = &[
    Axis {
        name: "streams",
        title: "streams in the store",
        grows: Grows::Streams { events: 2_000_000 },
        sizes: &[1_000, 10_000, 100_000, 1_000_000],
        quick_sizes: &[1_000, 10_000, 100_000],
        lines: STORED,
    },
    Axis {
        name: "events",
        title: "events in the store",
        grows: Grows::Events { streams: 10_000 },
        sizes: &[100_000, 1_000_000, 10_000_000],
        quick_sizes: &[10_000, 100_000, 1_000_000],
        lines: STORED,
    },
    Axis {
        name: "event-size",
        title: "bytes of an event's fields",
        grows: Grows::EventBytes,
        sizes: &[200, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000],
        quick_sizes: &[200, 1_000, 4_000, 16_000, 64_000],
        lines: &[
            Line::ours("save one event, 32 callers", "save-1", 32),
            Line::ours("publish one event, 32 callers", "publish-1", 32),
        ],
    },
    Axis {
        name: "handlers",
        title: "handlers of an event",
        grows: Grows::Handlers,
        sizes: &[1, 2, 5, 10, 20, 50],
        quick_sizes: &[1, 5, 20, 50],
        lines: CONSUME,
    },
    Axis {
        name: "groups",
        title: "consumer groups in one process",
        grows: Grows::Groups,
        sizes: &[1, 2, 3, 5, 7, 10],
        quick_sizes: &[1, 2, 5, 10],
        lines: CONSUME,
    },
    Axis {
        name: "projections",
        title: "projections of an app",
        grows: Grows::Projections,
        sizes: &[1, 2, 5, 10, 15, 20],
        quick_sizes: &[1, 5, 10, 20],
        lines: &[
            Line::ours("save until all have it, in memory", "project-memory", 1),
            Line::ours("save until all have it, rows", "project-rows", 1),
        ],
    },
    Axis {
        name: "processes",
        title: "processes on one store, 8 callers each",
        grows: Grows::Processes,
        sizes: &[1, 2, 3, 4, 6, 8],
        quick_sizes: &[1, 2, 4, 8],
        lines: &[Line::ours("save one event", "save-1", 8)],
    },
    Axis {
        name: "flush",
        title: "callers",
        grows: Grows::Callers,
        sizes: &[1, 8, 32, 256],
        quick_sizes: &[1, 8, 32, 256],
        lines: &[
            Line::save("save one event, ours", Ours, false),
            Line::save("save one event, by hand", ByHand, false),
            Line::save("save one event, ours, flush + 2 ms", Ours, true),
            Line::save("save one event, by hand, flush + 2 ms", ByHand, true),
        ],
    },
];

/// Returns the axes with these names; all if there are none.
pub fn find(names: &[String]) -> Result<Vec<&'static Axis>> {
    if names.is_empty() {
        return Ok(AXES.iter().collect());
    }
    let known = || AXES.iter().map(|axis| axis.name).collect::<Vec<_>>().join(", ");
    let axis = |name: &String| {
        let found = AXES.iter().find(|axis| axis.name == name);
        Ok(found.ok_or_else(|| format!("no axis `{name}`; there are {}", known()))?)
    };
    names.iter().map(axis).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn sizes_grow_and_workloads_exist() {
        for Axis { name, sizes, quick_sizes, lines, .. } in AXES {
            for sizes in [sizes, quick_sizes] {
                assert!(sizes.is_sorted_by(|a, b| a < b), "{name}");
            }
            for line in *lines {
                assert!(workload::find(line.workload).is_ok(), "{name}: {}", line.workload);
            }
        }
    }

    #[test]
    fn an_unknown_axis_is_an_error() -> Result<()> {
        assert_eq!(find(&[])?.len(), AXES.len());
        assert_eq!(find(&["flush".into()])?[0].name, "flush");
        let error = find(&["flushes".into()]).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("no axis `flushes`; there are streams, events"), "{error}");
        Ok(())
    }
}
