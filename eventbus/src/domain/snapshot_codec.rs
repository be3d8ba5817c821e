//! Encoding and decoding of snapshots: the state of an aggregate, guarded by a checksum.
//!
//! Invariant: a snapshot is not decoded if it differs in one bit from what was encoded, or is of a different program,
//! stream, fold or version. A decoded state is what folding the events up to its version gives.
//!
//! | bytes | contents |
//! |---|---|
//! | 0–3 | the format: `EBS1` |
//! | 4–11 | the checksum of the stream, the fold and all that follows (xxh3, little endian) |
//! | 12–19 | the version of the stream |
//! | 20–23 | the version of the state, by `#[aggregate(snapshot(version = 2))]` |
//! | 24–31 | the fingerprint of the state's shape |
//! | 32– | the state as JSON |

use std::{any::TypeId, collections::HashMap, sync::OnceLock};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::{
    field_error::FieldError,
    json::{Written, from_json, write_json},
    stream::{StreamId, Version},
    trace,
};

const FORMAT: &[u8; 4] = b"EBS1";
const HEADER_BYTES: usize = 32;

/// A state that a snapshot can hold: any `Serialize + Deserialize` type.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the state `{Self}` cannot be kept in a snapshot",
    label = "`Serialize` or `Deserialize` is missing",
    note = "add `#[derive(Serialize, Deserialize)]` to `{Self}`, for `#[aggregate(.., snapshot(..))]`"
)]
pub trait SnapshotState: Sized + 'static {
    /// Writes and reads the state as serde does.
    const FORM: StateForm<Self>;
}

#[diagnostic::do_not_recommend]
impl<A: Serialize + DeserializeOwned + 'static> SnapshotState for A {
    const FORM: StateForm<Self> =
        StateForm { encode: |state| write_json(state), decode: |json| from_json(json), shape: shape::<A> };
}

/// The functions of a state type.
#[doc(hidden)]
#[derive(Debug)]
pub struct StateForm<A: 'static> {
    encode: fn(&A) -> Result<Written, FieldError>,
    decode: fn(&str) -> Result<A, FieldError>,
    shape: fn() -> String,
}

/// Returns the fields of a type and of all types within it, with their kinds; up to the first one whose `Deserialize`
/// does not reveal them. Empty if a `Deserialize` panics at the sample values.
fn shape<A: DeserializeOwned>() -> String {
    let traced = std::panic::catch_unwind(trace::shape_of::<A>).unwrap_or_default();
    traced.iter().map(|(path, kind)| format!("{path}: {kind}\n")).collect()
}

/// How snapshots of an aggregate are taken; a constant of every aggregate with `snapshot(..)`, made by the derive.
#[doc(hidden)]
#[derive(Debug)]
pub struct SnapshotCodec<A: 'static> {
    /// The path of the state type.
    fold: &'static str,
    /// The number of events between two snapshots.
    every: u32,
    /// The version of the state, raised when `apply` changes.
    version: u32,
    /// The source text of the state type.
    source: &'static str,
    form: StateForm<A>,
}

/// Why a state has no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotFault {
    /// It cannot be written, or not be read back.
    #[error(transparent)]
    State(#[from] FieldError),
    /// It reads back as a different state.
    #[error("the state reads back as a different one: what its `Serialize` writes is not what its `Deserialize` reads")]
    Lossy,
}

impl<A> SnapshotCodec<A> {
    /// Describes the snapshots of a state type.
    #[must_use]
    pub const fn new(fold: &'static str, every: u32, version: u32, source: &'static str, form: StateForm<A>) -> Self {
        Self { fold, every, version, source, form }
    }

    /// The name of the state type, by which stores keep its snapshots.
    pub(crate) const fn fold(&self) -> &'static str {
        self.fold
    }

    /// The number of events between two snapshots.
    pub(crate) fn every(&self) -> u64 {
        u64::from(self.every)
    }

    /// Encodes the state of a stream at a version.
    pub(crate) fn encode(&self, stream: &StreamId, version: Version, state: &A) -> Result<Vec<u8>, SnapshotFault> {
        let Written { json, some_nones } = (self.form.encode)(state)?;
        let read_back = (self.form.encode)(&(self.form.decode)(&json)?)?;
        // a `Some(None)` that is read as `None` is the same text
        if some_nones != read_back.some_nones || canonical(&json)? != canonical(&read_back.json)? {
            return Err(SnapshotFault::Lossy);
        }
        let mut data = Vec::with_capacity(HEADER_BYTES + json.len());
        data.extend(FORMAT);
        data.extend([0; 8]);
        data.extend(version.get().to_le_bytes());
        data.extend(self.version.to_le_bytes());
        data.extend(self.fingerprint().to_le_bytes());
        data.extend(json.as_bytes());
        let checksum = self.checksum(stream, &data[12..]).to_le_bytes();
        data[4..12].copy_from_slice(&checksum);
        Ok(data)
    }

    /// Decodes the state of a stream at a version; `None` if the data does not hold exactly that.
    pub(crate) fn decode(&self, stream: &StreamId, version: Version, data: &[u8]) -> Option<A> {
        let (format, rest) = data.split_first_chunk::<4>()?;
        let (checksum, guarded) = rest.split_first_chunk::<8>()?;
        if format != FORMAT || u64::from_le_bytes(*checksum) != self.checksum(stream, guarded) {
            return None;
        }
        let (of_version, rest) = guarded.split_first_chunk::<8>()?;
        let (state_version, rest) = rest.split_first_chunk::<4>()?;
        let (fingerprint, json) = rest.split_first_chunk::<8>()?;
        let is_same = u64::from_le_bytes(*of_version) == version.get()
            && u32::from_le_bytes(*state_version) == self.version
            && u64::from_le_bytes(*fingerprint) == self.fingerprint();
        if !is_same {
            return None;
        }
        (self.form.decode)(std::str::from_utf8(json).ok()?).ok()
    }

    fn checksum(&self, stream: &StreamId, guarded: &[u8]) -> u64 {
        let tenant = stream.tenant_or_nil();
        let (aggregate_type, id) = (stream.aggregate_type().as_bytes(), stream.aggregate_id().as_str().as_bytes());
        let mut hash = Xxh3::new();
        for part in [aggregate_type, id, tenant.as_bytes(), self.fold.as_bytes(), guarded] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.digest()
    }

    /// Returns the fingerprint of the state's shape: it differs if a field of the state, or of a type within it,
    /// differs.
    fn fingerprint(&self) -> u64 {
        // one for each state type: tracing costs up to milliseconds
        static FINGERPRINTS: OnceLock<Mutex<HashMap<TypeId, u64>>> = OnceLock::new();
        let known = FINGERPRINTS.get_or_init(Mutex::default);
        // the lock guards the map only: tracing runs code of the state's types
        if let Some(fingerprint) = known.lock().get(&TypeId::of::<A>()) {
            return *fingerprint;
        }
        let mut hash = Xxh3::new();
        hash.update(self.source.as_bytes());
        hash.update((self.form.shape)().as_bytes());
        *known.lock().entry(TypeId::of::<A>()).or_insert(hash.digest())
    }
}

/// Returns a JSON text as a value whose lists are sorted: maps and sets are written in any order.
fn canonical(json: &str) -> Result<Value, FieldError> {
    fn sort(value: &mut Value) {
        match value {
            Value::Array(items) => {
                items.iter_mut().for_each(sort);
                items.sort_by_cached_key(Value::to_string);
            }
            Value::Object(fields) => fields.values_mut().for_each(sort),
            _ => {}
        }
    }
    let mut value = from_json(json)?;
    sort(&mut value);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Ledger {
        balance: i64,
        holds: Vec<String>,
    }

    const fn codec(fold: &'static str, version: u32, source: &'static str) -> SnapshotCodec<Ledger> {
        SnapshotCodec::new(fold, 100, version, source, Ledger::FORM)
    }

    const LEDGER: SnapshotCodec<Ledger> = codec("tests::Ledger", 1, "struct Ledger");

    fn stream(id: &str) -> StreamId {
        StreamId::parse("Ledger", id).unwrap()
    }

    fn state() -> Ledger {
        Ledger { balance: -7, holds: vec!["a".into(), "b".into()] }
    }

    #[test]
    fn what_is_encoded_is_decoded_for_the_same_stream_fold_version_and_shape() {
        let data = LEDGER.encode(&stream("1"), 9.into(), &state()).unwrap();
        assert_eq!(LEDGER.decode(&stream("1"), 9.into(), &data), Some(state()));
        assert_eq!(LEDGER.decode(&stream("2"), 9.into(), &data), None, "stream");
        let of_tenant = stream("1").with_tenant_id(Some(uuid::Uuid::from_u128(7)));
        assert_eq!(LEDGER.decode(&of_tenant, 9.into(), &data), None, "tenant");
        assert_eq!(LEDGER.decode(&stream("1"), 10.into(), &data), None, "version of the stream");
        assert_eq!(codec("tests::Ledger", 2, "struct Ledger").decode(&stream("1"), 9.into(), &data), None, "version");
        assert_eq!(codec("tests::Other", 1, "struct Ledger").decode(&stream("1"), 9.into(), &data), None, "fold");
    }

    /// A state whose `Deserialize` panics at the sample values of a trace.
    #[derive(Debug, PartialEq, Serialize)]
    struct Even(u64);

    impl<'de> Deserialize<'de> for Even {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let number = u64::deserialize(deserializer)?;
            assert!(number == 8, "on purpose");
            Ok(Self(number))
        }
    }

    #[test]
    fn a_type_that_panics_at_sample_values_has_snapshots() {
        const EVEN: SnapshotCodec<Even> = SnapshotCodec::new("tests::Even", 1, 1, "struct Even", Even::FORM);
        let data = EVEN.encode(&stream("1"), 1.into(), &Even(8)).unwrap();
        assert_eq!(EVEN.decode(&stream("1"), 1.into(), &data), Some(Even(8)));
    }

    /// A state of one source text; the type within it differs.
    #[derive(Debug, Serialize, Deserialize)]
    struct Holds<T> {
        of: Vec<T>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Hold {
        cents: u64,
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct HoldWithDefault {
        cents: u64,
        #[serde(default)]
        until: Option<u64>,
    }

    /// A state with a type that cannot be traced behind the nested one.
    #[derive(Debug, Serialize, Deserialize)]
    struct HoldsAndTag<T> {
        of: Vec<T>,
        tag: Tag,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Tag {
        Named { name: String },
    }

    #[test]
    fn a_field_before_one_that_cannot_be_traced_is_part_of_the_fingerprint() {
        const fn codec<A: SnapshotState>() -> SnapshotCodec<A> {
            SnapshotCodec::new("tests::HoldsAndTag", 1, 1, "struct HoldsAndTag", A::FORM)
        }
        assert!(trace::trace::<HoldsAndTag<Hold>>().is_err());
        let before = codec::<HoldsAndTag<Hold>>().fingerprint();
        assert_ne!(before, codec::<HoldsAndTag<HoldWithDefault>>().fingerprint());
    }

    #[test]
    fn a_field_of_a_nested_type_is_part_of_the_fingerprint() {
        const fn codec<A: SnapshotState>(source: &'static str) -> SnapshotCodec<A> {
            SnapshotCodec::new("tests::Holds", 1, 1, source, A::FORM)
        }
        let before = codec::<Holds<Hold>>("struct Holds").fingerprint();
        assert_ne!(before, codec::<Holds<HoldWithDefault>>("struct Holds").fingerprint());
        assert_ne!(before, codec::<Holds<u64>>("struct Holds").fingerprint());
    }

    #[test]
    fn maps_and_sets_in_any_order_and_exact_numbers_are_kept() {
        type State = (HashMap<String, u8>, std::collections::HashSet<u64>, f64);
        const STATE: SnapshotCodec<State> = SnapshotCodec::new("tests::State", 1, 1, "", State::FORM);
        let state: State =
            ((0..50).map(|n| (n.to_string(), n)).collect(), (0..50).collect(), 0.123_456_789_012_345_67 / 3.0);
        let data = STATE.encode(&stream("1"), 1.into(), &state).unwrap();
        assert_eq!(STATE.decode(&stream("1"), 1.into(), &data), Some(state));
    }

    #[test]
    fn damaged_data_is_not_decoded() {
        let data = LEDGER.encode(&stream("1"), 9.into(), &state()).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let mut damaged = data.clone();
            match random.u8(..4) {
                0 => damaged.truncate(random.usize(..data.len())),
                1 => damaged.push(random.u8(..)),
                2 => drop(damaged.remove(random.usize(..data.len()))),
                _ => damaged[random.usize(..data.len())] ^= 1 << random.u8(..8),
            }
            assert!(damaged == data || LEDGER.decode(&stream("1"), 9.into(), &damaged).is_none());
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Lossy {
        #[serde(serialize_with = "write_whole")]
        exact: f64,
    }

    fn write_whole<S: serde::Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(number / 2.0)
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Deadline {
        due: Option<Option<u32>>,
    }

    #[test]
    fn a_state_with_a_none_in_a_some_that_reads_back_as_none_is_refused() {
        const DEADLINE: SnapshotCodec<Deadline> = SnapshotCodec::new("tests::Deadline", 1, 1, "", Deadline::FORM);
        for (due, fault) in [(None, None), (Some(Some(1)), None), (Some(None), Some(SnapshotFault::Lossy))] {
            assert_eq!(DEADLINE.encode(&stream("1"), 1.into(), &Deadline { due }).err(), fault, "{due:?}");
        }
    }

    #[test]
    fn a_state_that_reads_back_as_another_is_refused() {
        const LOSSY: SnapshotCodec<Lossy> = SnapshotCodec::new("tests::Lossy", 1, 1, "", Lossy::FORM);
        assert_eq!(LOSSY.encode(&stream("1"), 1.into(), &Lossy { exact: 3.0 }), Err(SnapshotFault::Lossy));
    }
}
