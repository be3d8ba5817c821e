//! The plan of an app: handlers and projections to run, and the check for mistakes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::{event::EventFilter, name::Name},
    port::{
        EventBus, EventStore, TypeKey,
        state::{Requirements, StateMap},
    },
    runtime::{
        definition::{AggregateRegistration, EventRegistration, HandlerDefinition, ProjectionDefinition},
        projection::{AnyProjection, ProjectionRegistration},
        registry::EventRegistry,
        start::{StartError, StartMistake},
        subscription::{GroupNames, discovered_handlers, duplicate_handlers, unmet_requirements},
    },
};

/// The group name of projections in `discover_groups`.
const PROJECTIONS_GROUP: &str = "projections";

/// The linked handlers and projections that the app runs.
#[derive(Debug)]
pub(super) enum Discovery {
    Off,
    All,
    Groups(BTreeSet<String>),
}

impl Discovery {
    fn wants(&self, group: &str) -> bool {
        match self {
            Self::Off => false,
            Self::All => true,
            Self::Groups(groups) => groups.contains(group),
        }
    }
}

/// The builder's input.
pub(super) struct Plan<'a> {
    pub(super) discovery: Discovery,
    pub(super) expected_crates: BTreeSet<String>,
    pub(super) handlers: Vec<HandlerDefinition>,
    pub(super) projections: Vec<AnyProjection>,
    pub(super) state: &'a StateMap,
    pub(super) transaction: Option<TypeKey>,
    pub(super) has_store: bool,
    /// Set if handlers that name no stream get events: the app has a store, or a bus of its own.
    pub(super) has_own_events: bool,
    /// Set if the store keeps the progress of handlers.
    pub(super) has_progress: bool,
    /// Set if the app has a store, and a bus on which it does not publish.
    pub(super) has_idle_bus: bool,
    pub(super) groups: &'a GroupNames,
}

/// A plan without mistakes.
pub(super) struct CheckedPlan {
    pub(super) handlers: Vec<HandlerDefinition>,
    pub(super) projections: Vec<AnyProjection>,
    pub(super) groups: GroupNames,
}

impl Plan<'_> {
    /// Adds the discovered handlers and projections, and reports every mistake at once.
    pub(super) fn check(mut self, mut mistakes: Vec<StartMistake>) -> Result<CheckedPlan, StartError> {
        mistakes.extend(self.missing_crates());
        let (duplicates, in_tests) = self.duplicate_aggregates();
        mistakes.extend(duplicates);
        mistakes.extend(self.events().mistakes());
        self.discover(&mut mistakes);
        self.handlers.sort_unstable_by_key(HandlerDefinition::place);
        self.handlers.dedup_by_key(|handler| handler.place());
        self.projections.sort_by_key(|instance| instance.definition().place());
        mistakes.extend(duplicate_handlers(&self.handlers));
        mistakes.extend(self.without_events());
        let consumes = self.handlers.iter().any(|handler| handler.options.stream.is_some());
        mistakes.extend((self.has_idle_bus && !consumes).then_some(StartMistake::BusWithoutUse));
        mistakes.extend(self.duplicate_projections());
        mistakes.extend(self.unmet_requirements());
        StartError::unless_empty(mistakes)?;
        for duplicate in in_tests {
            tracing::warn!("in a test this is no error without `discover()`: {duplicate}");
        }
        self.log_not_run();
        Ok(CheckedPlan { handlers: self.handlers, projections: self.projections, groups: self.groups.clone() })
    }

    fn missing_crates(&self) -> Vec<StartMistake> {
        let events = inventory::iter::<EventRegistration>().map(|event| event.descriptor.source);
        let aggregates = inventory::iter::<AggregateRegistration>().map(|aggregate| aggregate.source);
        let handlers = discovered_handlers().into_iter().map(|handler| handler.source);
        let projections = inventory::iter::<ProjectionRegistration>().map(|linked| (linked.definition)().source);
        let sources = events.chain(aggregates).chain(handlers).chain(projections);
        let linked: BTreeSet<_> = sources.map(|source| source.crate_name()).collect();
        let missing = self.expected_crates.iter().filter(|name| !linked.contains(name.as_str()));
        let linked: Vec<_> = linked.iter().copied().collect();
        missing.map(|name| StartMistake::CrateNotLinked { name: name.clone(), linked: linked.clone() }).collect()
    }

    /// Returns the events whose types have to differ: all that are linked, or those that the handlers and projections of
    /// an app without `discover()` take, as one binary often holds several tests.
    fn events(&self) -> EventRegistry {
        if !matches!(self.discovery, Discovery::Off) {
            return EventRegistry::discover();
        }
        let handlers = self.handlers.iter().map(|handler| handler.events);
        let projections = self.projections.iter().map(|instance| instance.definition().events);
        EventRegistry::from_events(handlers.chain(projections).flat_map(|events| events.descriptors()).copied())
    }

    fn discover(&mut self, mistakes: &mut Vec<StartMistake>) {
        if matches!(self.discovery, Discovery::Off) {
            return;
        }
        let handlers = discovered_handlers();
        let mut projections: Vec<_> = inventory::iter::<ProjectionRegistration>().collect();
        projections.sort_unstable_by_key(|projection| (projection.definition)().place());
        if handlers.is_empty() && projections.is_empty() {
            mistakes.push(StartMistake::NothingDiscovered);
        }
        self.report_unknown_groups(&handlers, !projections.is_empty(), mistakes);
        let wanted = |handler: &HandlerDefinition| self.discovery.wants(&self.groups.of(handler));
        let wanted: Vec<_> = handlers.into_iter().filter(wanted).collect();
        self.handlers.extend(wanted);
        if self.discovery.wants(PROJECTIONS_GROUP) {
            projections.into_iter().for_each(|projection| self.add_discovered(projection, mistakes));
        }
    }

    /// Warns of linked handlers and projections that this app does not run, if it does not discover. An app that picks
    /// groups leaves the remaining ones to other processes.
    fn log_not_run(&self) {
        if !matches!(self.discovery, Discovery::Off) {
            return;
        }
        let runs = |handler: &HandlerDefinition| self.handlers.iter().any(|own| own.place() == handler.place());
        let handlers = discovered_handlers().into_iter().filter(|handler| !runs(handler));
        let handlers = handlers.map(|handler| format!("`{}` ({})", handler.name, handler.source));
        let projections = inventory::iter::<ProjectionRegistration>().map(|linked| (linked.definition)());
        let is_idle = |linked: &ProjectionDefinition| {
            !self.projections.iter().any(|instance| instance.definition().place() == linked.place())
        };
        let projections = projections.filter(is_idle).map(|linked| format!("`{}` ({})", linked.name, linked.source));
        let mut idle: Vec<_> = handlers.chain(projections).collect();
        idle.sort_unstable();
        if !idle.is_empty() {
            tracing::warn!(
                idle = idle.join(", "),
                "linked handlers or projections that this app does not run: give the builder `.discover()`, or each of \
                 them; if another process runs them, all is well"
            );
        }
    }

    /// Adds the default instance of a projection, unless the builder has one of its type.
    fn add_discovered(&mut self, projection: &ProjectionRegistration, mistakes: &mut Vec<StartMistake>) {
        let definition = (projection.definition)();
        let is_there = self.projections.iter().any(|instance| instance.definition().place() == definition.place());
        match (projection.instance)() {
            _ if is_there => {}
            Some(instance) => self.projections.push(instance),
            None => mistakes.push(StartMistake::ProjectionWithoutInstance {
                name: definition.name,
                source_place: definition.source,
            }),
        }
    }

    fn report_unknown_groups(
        &self,
        handlers: &[HandlerDefinition],
        has_projections: bool,
        mistakes: &mut Vec<StartMistake>,
    ) {
        let Discovery::Groups(wanted) = &self.discovery else {
            return;
        };
        let mut known: BTreeSet<String> =
            handlers.iter().map(|handler| self.groups.of(handler).as_str().to_owned()).collect();
        if has_projections {
            known.insert(PROJECTIONS_GROUP.into());
        }
        let known: Vec<_> = known.into_iter().collect();
        let unknown = wanted.iter().filter(|group| !known.contains(group));
        mistakes.extend(unknown.map(|group| StartMistake::UnknownGroup { group: group.clone(), known: known.clone() }));
    }

    /// Finds linked aggregates of the same type, in the order of types and places. Returns those that are mistakes, and
    /// those that only stand together because one binary holds several tests.
    fn duplicate_aggregates(&self) -> (Vec<StartMistake>, Vec<StartMistake>) {
        let mut linked: Vec<_> =
            inventory::iter::<AggregateRegistration>().filter(|aggregate| !aggregate.is_fold).collect();
        linked.sort_unstable_by_key(|aggregate| (aggregate.aggregate_type, aggregate.source, aggregate.rust_type));
        linked.dedup_by_key(|aggregate| (aggregate.aggregate_type, aggregate.source, aggregate.rust_type));
        let discovers_nothing = matches!(self.discovery, Discovery::Off);
        let (mut mistakes, mut in_tests) = (Vec::new(), Vec::new());
        for pair in linked.windows(2).filter(|pair| pair[0].aggregate_type == pair[1].aggregate_type) {
            let mistake = StartMistake::DuplicateAggregateType {
                aggregate_type: pair[0].aggregate_type,
                first_type: pair[0].rust_type,
                first: pair[0].source,
                second_type: pair[1].rust_type,
                second: pair[1].source,
            };
            let is_in_tests = discovers_nothing && pair.iter().any(|aggregate| aggregate.is_test);
            if is_in_tests { in_tests.push(mistake) } else { mistakes.push(mistake) }
        }
        (mistakes, in_tests)
    }

    /// Reports handlers of a stream that the app does not consume, of none in an app that only consumes streams, and of a
    /// store that keeps no progress.
    fn without_events(&self) -> Vec<StartMistake> {
        let mistake = |handler: &HandlerDefinition| {
            let (name, source_place) = (handler.name, handler.source);
            let known = || self.groups.consumed.keys().map(Name::to_string).collect();
            match handler.options.stream {
                Some(stream) if self.groups.consumed.contains_key(stream) => None,
                Some(stream) => {
                    let known = known();
                    Some(StartMistake::UnknownStream { name, source_place, stream, known })
                }
                None if !self.has_own_events => Some(StartMistake::NoStream { name, source_place, known: known() }),
                None if self.has_store && !self.has_progress => {
                    Some(StartMistake::ProgressUnsupported { name, source_place })
                }
                None => None,
            }
        };
        self.handlers.iter().filter_map(mistake).collect()
    }

    fn duplicate_projections(&self) -> Vec<StartMistake> {
        let same = |pair: &&[AnyProjection]| pair[0].definition().name == pair[1].definition().name;
        let mistake = |pair: &[AnyProjection]| StartMistake::DuplicateProjection {
            name: pair[0].definition().name,
            first: pair[0].definition().source,
            second: pair[1].definition().source,
        };
        self.projections.windows(2).filter(same).map(mistake).collect()
    }

    fn unmet_requirements(&self) -> Vec<StartMistake> {
        let mut mistakes = Vec::new();
        let mut check = |name, source, requirements: Requirements| {
            mistakes.extend(unmet_requirements(name, source, &requirements, self.state, self.transaction));
        };
        for handler in &self.handlers {
            check(handler.name, handler.source, handler.requirements());
        }
        for slot in &self.projections {
            let definition = slot.definition();
            check(definition.name, definition.source, definition.requirements());
        }
        mistakes.extend(self.projections.iter().flat_map(projection_saves));
        if !self.has_store {
            let without = |instance: &AnyProjection| StartMistake::ProjectionWithoutStore {
                name: instance.definition().name,
                source_place: instance.definition().source,
            };
            mistakes.extend(self.projections.iter().map(without));
        }
        mistakes
    }
}

/// Reports the repositories that a projection takes.
fn projection_saves(projection: &AnyProjection) -> Vec<StartMistake> {
    let definition = projection.definition();
    let requirements = definition.requirements();
    let mistake = |aggregate: &TypeKey| StartMistake::ProjectionSaves {
        name: definition.name,
        source_place: definition.source,
        aggregate: aggregate.name(),
    };
    requirements.aggregates().iter().map(mistake).collect()
}

impl CheckedPlan {
    pub(super) fn projection_names(&self) -> Vec<&'static str> {
        self.projections.iter().map(|projection| projection.definition().name).collect()
    }

    pub(super) fn handler_names(&self) -> Vec<&'static str> {
        self.handlers.iter().map(|handler| handler.name).collect()
    }

    /// Returns the projection of this name.
    pub(super) fn projection(&self, name: &str) -> Result<&AnyProjection, StartError> {
        let found = self.projections.iter().find(|projection| projection.definition().name == name);
        found.ok_or_else(|| unknown("projection", name, self.projection_names()))
    }

    /// Returns the handler of this name.
    pub(super) fn handler(&self, name: &str) -> Result<&HandlerDefinition, StartError> {
        let found = self.handlers.iter().find(|handler| handler.name == name);
        found.ok_or_else(|| unknown("handler", name, self.handler_names()))
    }

    /// Returns the consumer groups of the handlers, sorted.
    pub(super) fn groups(&self) -> Vec<Name> {
        let mut groups: Vec<_> = self.handlers.iter().map(|handler| self.groups.of(handler)).collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// Logs in one line the store, bus, groups and projections of the app.
    pub(super) fn log_start(&self, store: Option<&dyn EventStore>, bus: &dyn EventBus, relays: bool) {
        let mut groups: BTreeMap<Name, usize> = BTreeMap::new();
        for handler in &self.handlers {
            *groups.entry(self.groups.of(handler)).or_default() += 1;
        }
        let groups = groups.iter().map(|(group, handlers)| match handlers {
            1 => format!("{group} (1 handler)"),
            _ => format!("{group} ({handlers} handlers)"),
        });
        let groups = none_if_empty(&groups.collect::<Vec<_>>());
        let projections = self.projections.iter().map(|instance| instance.definition().name.to_owned());
        let projections = none_if_empty(&projections.collect::<Vec<_>>());
        let store = store.map_or_else(|| "none".into(), EventStore::describe);
        let relay = if relays { "on" } else { "off" };
        tracing::info!(%store, bus = %bus.describe(), %groups, %projections, %relay, "app runs");
    }

    /// Logs the event types of each handler and projection.
    pub(super) fn log_routes(&self) {
        for handler in &self.handlers {
            let group = self.groups.of(handler);
            tracing::debug!(handler = handler.name, %group, events = %describe_events(handler.events), source = %handler.source, "route");
        }
        for slot in &self.projections {
            let definition = slot.definition();
            tracing::debug!(
                projection = definition.name, kind = ?definition.kind, events = %describe_events(definition.events),
                source = %definition.source, "route"
            );
        }
    }
}

fn none_if_empty(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn describe_events(filter: EventFilter) -> String {
    match filter {
        EventFilter::All => "all".into(),
        EventFilter::Only(_) => filter.event_types().join(", "),
    }
}

fn unknown(what: &'static str, name: &str, mut known: Vec<&'static str>) -> StartError {
    known.sort_unstable();
    StartMistake::UnknownName { what, name: name.to_owned(), known }.into()
}
