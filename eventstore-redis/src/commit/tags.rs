//! The tags of a commit's events, and the condition that no event was added to a boundary.
//!
//! Two kinds of keys per tag: a hash counts its events by type, sorted sets hold their positions as members and as scores.
//! A score is exact up to 2^53, more events than a server can hold. The script compares the counts before it writes any
//! key; as it runs alone, no other append comes in between.

use std::collections::BTreeMap;

use eventbus::{Name, NewEvent, StreamId, Uuid, event::Tag, store::BoundaryCondition};
use eventbus_redis_core::program::AtomicProgram;

use crate::keys::StoreKeys;

/// The events of a commit with a tag.
#[derive(Debug, Default)]
struct TaggedEvents<'e> {
    /// Their number by type.
    counts: BTreeMap<&'e Name, u64>,
    /// Their numbers in the commit, from 1.
    numbers: Vec<usize>,
}

/// Adds a step for each tag, which counts its events and adds their positions. The events are those of the commit, in
/// their order.
pub(super) fn add_writes<'e>(
    events: impl Iterator<Item = (&'e StreamId, &'e NewEvent)>,
    keys: &StoreKeys,
    program: &mut AtomicProgram,
) {
    let mut by_tag: BTreeMap<(Option<Uuid>, &Tag), TaggedEvents<'_>> = BTreeMap::new();
    for (number, (stream, event)) in (1..).zip(events) {
        for tag in event.tags() {
            let tagged = by_tag.entry((stream.tenant_id(), tag)).or_default();
            *tagged.counts.entry(event.event_type()).or_default() += 1;
            tagged.numbers.push(number);
        }
    }
    for ((tenant, tag), TaggedEvents { counts, numbers }) in by_tag {
        program.step("tag").key(&keys.tags(tenant, tag));
        let sets = position_sets(keys, tenant, tag);
        program.arg(sets.len().to_string());
        for set in sets {
            program.key(&set);
        }
        program.arg_list(&arguments(
            counts.iter().flat_map(|(event_type, count)| [event_type.to_string(), count.to_string()]),
        ));
        program.arg_list(&arguments(numbers));
    }
}

/// Returns the keys of the sets that hold the positions of a tenant's events with a tag: that of the whole store, and that
/// of the tenant.
pub(crate) fn position_sets(keys: &StoreKeys, tenant: Option<Uuid>, tag: &Tag) -> Vec<String> {
    let of_tenant = tenant.map(|tenant| keys.tagged_events(Some(tenant), tag));
    [keys.tagged_events(None, tag)].into_iter().chain(of_tenant).collect()
}

/// Adds the step that compares the counts of a condition.
pub(crate) fn add_check(condition: &BoundaryCondition, keys: &StoreKeys, program: &mut AtomicProgram) {
    let boundary = &condition.boundary;
    program.step("boundary").arg_list(&arguments(boundary.counted_names()));
    let tags = boundary.tags();
    program.arg(tags.len().to_string());
    for (key, (_, count)) in counted_keys(condition, keys).zip(condition.tag_counts()) {
        program.key(&key).arg(count.to_string());
    }
    let numbers: BTreeMap<&Tag, usize> = tags.into_iter().zip(1..).collect();
    program.arg(boundary.items.len().to_string());
    for item in &boundary.items {
        program.arg_list(&arguments(item.iter().map(|tag| numbers[tag])));
    }
}

fn arguments(values: impl IntoIterator<Item = impl ToString>) -> Vec<Vec<u8>> {
    values.into_iter().map(|value| value.to_string().into_bytes()).collect()
}

/// Returns the key of the counts of each tag of a condition, in their order.
pub(crate) fn counted_keys<'c>(
    condition: &'c BoundaryCondition,
    keys: &'c StoreKeys,
) -> impl Iterator<Item = String> + use<'c> {
    let tenant = condition.boundary.tenant_id.filter(|tenant| !tenant.is_nil());
    condition.boundary.tags().into_iter().map(move |tag| keys.tags(tenant, tag))
}
