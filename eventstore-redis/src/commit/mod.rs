//! Parts of an open transaction: what it reads and plans, and the script that commits it.
//!
//! Invariant: each part adds its own steps to the program, and `RedisTransaction` alone decides their order.

mod appends;
mod checkpoint_moves;
pub(crate) mod command;
mod deliveries;
mod effects;
mod locks;
mod read_set;
mod run;
mod shadow;
mod tables;
pub(crate) mod tags;
mod unique_values;
mod write_set;

pub(super) use appends::PlannedAppends;
pub(super) use checkpoint_moves::CheckpointMoves;
pub(super) use deliveries::{HandledDeliveries, delivery_note, parse_delivery_note};
pub(super) use effects::EffectList;
pub(super) use locks::TransactionLocks;
pub(super) use read_set::{ReadSet, refused_error};
pub(super) use run::{run, timed_out_error};
pub(super) use shadow::{
    SHADOW_BATCH_MAX, ShadowSwap, drop_copies, list_shadow_copies, load_shadow_position, missing_shadow,
    plan_shadow_swap, unlink,
};
pub(super) use tables::{Table, key_to_write, parse_tables, scan_pattern};
pub(super) use unique_values::PlannedValues;
pub(super) use write_set::{PredictedValue, WriteSet, parse_number};
