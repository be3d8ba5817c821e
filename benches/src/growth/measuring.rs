//! Measures the curves of an axis.

use std::{env, path::PathBuf};

use eventbus::Result;
use tokio::runtime::Runtime;

use super::{
    axis::{Axis, Grows, Line},
    curve::{AxisCurves, Curve, Point},
    filled_store::FilledStore,
    processes::Processes,
};
use crate::{
    driver::{Servers, turns},
    own_worker::OwnWorkerArgs,
    scale::Scale,
    workload,
};

/// PostgreSQL waits so long before each flush of its WAL, however few transactions are active.
const SLOW_FLUSH: [&str; 2] = ["commit_delay=2000", "commit_siblings=0"];
/// In a quick run a store is so many times smaller.
const QUICK_DIVISOR: usize = 10;

/// A size of an axis, with the store that its lines share, if they do.
struct Step {
    size: usize,
    store: Option<FilledStore>,
}

/// The servers, and how to measure.
pub struct Measuring {
    program: PathBuf,
    runtime: Runtime,
    servers: Servers,
    /// Started for the first line that uses them.
    slow_flush: Option<Servers>,
    quick: bool,
    rounds: usize,
}

impl Measuring {
    pub fn start(quick: bool, rounds: usize) -> Result<Self> {
        let (program, runtime) = (env::current_exe()?, Runtime::new()?);
        Ok(Self { program, runtime, servers: Servers::start(), slow_flush: None, quick, rounds })
    }

    pub fn measure(&mut self, axis: &Axis) -> Result<AxisCurves> {
        let mut curves = AxisCurves::new(axis);
        let sizes = if self.quick { axis.quick_sizes } else { axis.sizes };
        let (sizes_at_once, lines_at_once) =
            if axis.sizes_take_turns() { (sizes.len(), 1) } else { (1, axis.lines.len()) };
        for sizes in sizes.chunks(sizes_at_once) {
            let step = |&size: &usize| Ok(Step { size, store: self.store_of(axis.grows, size)? });
            let mut steps = sizes.iter().map(step).collect::<Result<Vec<_>>>()?;
            for (lines, curves) in axis.lines.chunks(lines_at_once).zip(curves.curves.chunks_mut(lines_at_once)) {
                self.measure_lines(lines, axis.grows, &mut steps, curves)?;
            }
            for store in steps.into_iter().filter_map(|step| step.store) {
                self.runtime.block_on(store.check())?;
            }
        }
        Ok(curves)
    }

    /// Makes the store that the lines of an axis share at this size, if they do.
    fn store_of(&self, grows: Grows, size: usize) -> Result<Option<FilledStore>> {
        let server = self.servers.postgres_url();
        let divisor = if self.quick { QUICK_DIVISOR } else { 1 };
        let create = |streams, events| self.runtime.block_on(FilledStore::create(server, streams, events));
        Ok(match grows {
            Grows::Streams { events } => Some(create(size, events / divisor as u64)?),
            Grows::Events { streams } => Some(create(streams / divisor, size as u64)?),
            Grows::Processes => Some(self.runtime.block_on(FilledStore::empty(server))?),
            _ => None,
        })
    }

    /// Measures lines at some sizes, all of which take turns, and adds the points to their curves.
    fn measure_lines(&mut self, lines: &[Line], grows: Grows, steps: &mut [Step], curves: &mut [Curve]) -> Result<()> {
        let mut contenders = Vec::new();
        for line in lines {
            for step in &*steps {
                contenders.push(self.start_line(line, grows, step)?);
            }
        }
        let mut measured = vec![Vec::new(); contenders.len()];
        for index in turns(self.rounds, contenders.len()) {
            measured[index].push(contenders[index].run_round()?);
        }
        contenders.into_iter().try_for_each(Processes::finish)?;
        let mut measured = measured.into_iter();
        for (line, curve) in lines.iter().zip(curves) {
            for (step, rounds) in steps.iter_mut().zip(measured.by_ref()) {
                if let (Some(store), "save-1") = (&mut step.store, line.workload) {
                    // the round that warms up is like the others
                    let warm_up = rounds.first().map_or(0, |round| round.operations);
                    store.add_saved(warm_up + rounds.iter().map(|round| round.operations).sum::<u64>());
                }
                curve.points.push(Point { size: step.size, rounds });
            }
        }
        Ok(())
    }

    fn start_line(&mut self, line: &Line, grows: Grows, step: &Step) -> Result<Processes> {
        let size = step.size;
        let servers = match line.has_slow_flush {
            true => self.slow_flush.get_or_insert_with(|| Servers::start_with(&SLOW_FLUSH)),
            false => &self.servers,
        };
        let mut common = servers.worker_args(line.workload, line.callers, true);
        let (mut processes, mut scale) = (1, Scale::default());
        match grows {
            Grows::Streams { .. } | Grows::Events { .. } => {}
            Grows::Processes => processes = size,
            Grows::EventBytes => scale.event_bytes = Some(size),
            Grows::Handlers => scale.handlers = size,
            Grows::Groups => scale.groups = size,
            Grows::Projections => scale.projections = size,
            Grows::Callers => common.callers = size,
        }
        if let Some(store) = &step.store {
            scale.database = Some(store.database.clone());
            scale.orders.clone_from(&store.loaded);
        }
        let meter = self.runtime.block_on(workload::find(line.workload)?.meter(&common))?;
        let args = OwnWorkerArgs { implementation: line.implementation, common, scale };
        Processes::start(&self.program, &args, processes, meter)
    }
}
