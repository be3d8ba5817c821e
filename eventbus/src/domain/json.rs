//! Writes a value as JSON, but refuses NaN and infinity, which JSON does not have and `serde_json` writes as `null`;
//! and reads a value, with errors that quote no value.
//!
//! A serializer wraps the one of `serde_json`, in the same pass. It checks each float and counts each `Some(None)`; on
//! an error the calls record the path as they return.

use std::{borrow::Cow, cell::RefCell, fmt::Display};

use serde::{
    Serialize, Serializer,
    de::DeserializeOwned,
    ser::{
        SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
        SerializeTupleVariant,
    },
};

use super::field_error::{FieldError, Step, reason_of};

/// The initial capacity for a JSON text, in bytes: most events fit.
const USUAL_BYTES: usize = 512;

const NOT_FINITE: &str = "not a finite number (NaN or infinity), which JSON cannot hold";

const SOME_NONE: &str = "`Some(None)` is written as `null`, which reads back as `None`; a `deserialize_with` that returns \
                         `Some` of what is there keeps it";

/// Writes a value as compact JSON, as `serde_json` does, except that a number which is not finite is an error.
///
/// # Errors
/// [`FieldError`] if a number is NaN or infinite, at any depth, or if the value's own `Serialize` refuses.
///
/// # Examples
/// ```
/// # use std::collections::BTreeMap;
/// use eventbus::support::to_json;
/// assert_eq!(to_json(&BTreeMap::from([("celsius", Some(20.5))]))?, r#"{"celsius":20.5}"#);
/// let error = to_json(&BTreeMap::from([("celsius", Some(f64::NAN))])).unwrap_err();
/// assert!(error.to_string().starts_with("field `celsius`: not a finite number"));
/// # Ok::<(), eventbus::Error>(())
/// ```
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, FieldError> {
    write_json(value).map(|written| written.json)
}

/// A value as JSON.
#[doc(hidden)]
#[derive(derive_more::Debug)]
#[debug("Written")]
pub struct Written {
    pub(crate) json: String,
    /// The number of `Some(None)` in the value: each is a `null`, as a `None` is.
    pub(crate) some_nones: usize,
}

/// Writes a value as [`to_json`] does.
///
/// # Errors
/// As for [`to_json`].
pub(crate) fn write_json<T: Serialize + ?Sized>(value: &T) -> Result<Written, FieldError> {
    write(value, Trace::default())
}

/// Returns the error of the first `Some(None)` in a value; `None` if it holds none.
#[cold]
pub(crate) fn find_some_none<T: Serialize + ?Sized>(value: &T) -> Option<FieldError> {
    let state = TraceState { refuses_some_none: true, ..TraceState::default() };
    write(value, Trace(RefCell::new(state))).err()
}

fn write<T: Serialize + ?Sized>(value: &T, trace: Trace) -> Result<Written, FieldError> {
    let mut json = Vec::with_capacity(USUAL_BYTES);
    let mut inner = serde_json::Serializer::new(&mut json);
    match value.serialize(Finite { inner: &mut inner, trace: &trace, is_in_some: false }) {
        Ok(()) => {
            let json = String::from_utf8(json).map_err(|_| FieldError::new([], "a `RawValue` in it is not UTF-8"))?;
            Ok(Written { json, some_nones: trace.0.into_inner().some_nones })
        }
        Err(error) => Err(trace.into_error(&error)),
    }
}

/// Reads a value from JSON, as `serde_json` does, except that the error does not quote the text: errors reach logs.
///
/// # Errors
/// [`FieldError`] with the field at which the text is not JSON, or not of that type.
///
/// # Examples
/// ```
/// # use std::collections::BTreeMap;
/// use eventbus::support::from_json;
/// let error = from_json::<BTreeMap<String, u32>>(r#"{"pin":"1234"}"#).unwrap_err();
/// assert_eq!(error.to_string(), "field `pin`: invalid type: string, expected u32");
/// ```
pub fn from_json<T: DeserializeOwned>(json: impl AsRef<[u8]>) -> Result<T, FieldError> {
    let json = json.as_ref();
    serde_json::from_slice(json).map_err(|error| FieldError::from_parse_error(&String::from_utf8_lossy(json), &error))
}

/// The path to a value that cannot be written, from the inside out.
#[derive(Default)]
struct Trace(RefCell<TraceState>);

#[derive(Default)]
struct TraceState {
    /// Why this serializer refused the value, if it did.
    refused: Option<&'static str>,
    path: Vec<Step<'static>>,
    some_nones: usize,
    /// Set if a `Some(None)` is an error.
    refuses_some_none: bool,
}

impl Trace {
    #[cold]
    fn refuse<E: serde::ser::Error>(&self, reason: &'static str) -> E {
        self.0.borrow_mut().refused = Some(reason);
        E::custom(reason)
    }

    /// Counts a `Some(None)`, or refuses it.
    #[cold]
    fn count_some_none<E: serde::ser::Error>(&self) -> Result<(), E> {
        self.0.borrow_mut().some_nones += 1;
        let refuses = self.0.borrow().refuses_some_none;
        if refuses { Err(self.refuse(SOME_NONE)) } else { Ok(()) }
    }

    /// Records the step that led to an error.
    #[inline]
    fn step<T, E>(&self, result: Result<T, E>, step: impl FnOnce() -> Step<'static>) -> Result<T, E> {
        if result.is_err() {
            self.0.borrow_mut().path.push(step());
        }
        result
    }

    fn into_error(self, error: &serde_json::Error) -> FieldError {
        let TraceState { refused, path, .. } = self.0.into_inner();
        let reason: Cow<'static, str> = refused.map_or_else(|| Cow::Owned(reason_of(error)), Cow::Borrowed);
        FieldError::new(path.into_iter().rev(), reason)
    }
}

/// A serializer that refuses floats that are not finite, counts each `Some(None)`, and forwards all other values.
struct Finite<'t, S> {
    inner: S,
    trace: &'t Trace,
    /// Set if the value is inside a `Some`.
    is_in_some: bool,
}

/// A value within a value.
struct Value<'v, 't, T: ?Sized> {
    value: &'v T,
    trace: &'t Trace,
    /// Set if the value is inside a `Some`.
    is_in_some: bool,
}

impl<'v, 't, T: ?Sized> Value<'v, 't, T> {
    #[inline]
    const fn new(value: &'v T, trace: &'t Trace) -> Self {
        Self { value, trace, is_in_some: false }
    }
}

impl<T: Serialize + ?Sized> Serialize for Value<'_, '_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Finite { inner: serializer, trace: self.trace, is_in_some: self.is_in_some })
    }
}

/// An object or array that is being written.
struct Parts<'t, C> {
    inner: C,
    trace: &'t Trace,
    /// Number of items begun.
    next: usize,
    /// The variant that holds it.
    variant: Option<&'static str>,
}

impl<'t, S: Serializer> Finite<'t, S> {
    #[inline]
    fn parts<C>(self, begin: impl FnOnce(S) -> Result<C, S::Error>) -> Result<Parts<'t, C>, S::Error> {
        Ok(Parts { inner: begin(self.inner)?, trace: self.trace, next: 0, variant: None })
    }

    #[inline]
    fn parts_of<C>(
        self,
        variant: &'static str,
        begin: impl FnOnce(S) -> Result<C, S::Error>,
    ) -> Result<Parts<'t, C>, S::Error> {
        Ok(Parts { variant: Some(variant), ..self.parts(begin)? })
    }
}

macro_rules! forward {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {
        $(
            #[inline]
            fn $method(self, $($name: $type),*) -> Result<S::Ok, S::Error> {
                self.inner.$method($($name),*)
            }
        )*
    };
}

impl<'t, S: Serializer> Serializer for Finite<'t, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Parts<'t, S::SerializeSeq>;
    type SerializeTuple = Parts<'t, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'t, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'t, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'t, S::SerializeMap>;
    type SerializeStruct = Parts<'t, S::SerializeStruct>;
    type SerializeStructVariant = Parts<'t, S::SerializeStructVariant>;

    #[inline]
    fn serialize_f32(self, number: f32) -> Result<S::Ok, S::Error> {
        if number.is_finite() { self.inner.serialize_f32(number) } else { Err(self.trace.refuse(NOT_FINITE)) }
    }

    #[inline]
    fn serialize_f64(self, number: f64) -> Result<S::Ok, S::Error> {
        if number.is_finite() { self.inner.serialize_f64(number) } else { Err(self.trace.refuse(NOT_FINITE)) }
    }

    forward! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_char(value: char);
        serialize_str(value: &str);
        serialize_bytes(value: &[u8]);
        serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        if self.is_in_some {
            self.trace.count_some_none::<S::Error>()?;
        }
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&Value { value, trace: self.trace, is_in_some: true })
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        // JSON has the value alone, so what is in a `Some` is this value
        self.inner.serialize_newtype_struct(name, &Value { value, trace: self.trace, is_in_some: self.is_in_some })
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let trace = self.trace;
        let written = self.inner.serialize_newtype_variant(name, index, variant, &Value::new(value, trace));
        trace.step(written, || Step::Field(variant.into()))
    }

    #[inline]
    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.parts(|inner| inner.serialize_seq(length))
    }

    #[inline]
    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.parts(|inner| inner.serialize_tuple(length))
    }

    #[inline]
    fn serialize_tuple_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.parts(|inner| inner.serialize_tuple_struct(name, length))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.parts_of(variant, |inner| inner.serialize_tuple_variant(name, index, variant, length))
    }

    #[inline]
    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.parts(|inner| inner.serialize_map(length))
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.parts(|inner| inner.serialize_struct(name, length))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.parts_of(variant, |inner| inner.serialize_struct_variant(name, index, variant, length))
    }
}

impl<C> Parts<'_, C> {
    /// Records the step into an item, and into the variant around it, if it failed.
    #[inline]
    fn step<T, E>(&mut self, written: Result<T, E>, step: impl FnOnce(usize) -> Step<'static>) -> Result<T, E> {
        let index = self.next;
        self.next += 1;
        let written = self.trace.step(written, || step(index));
        match self.variant {
            Some(variant) => self.trace.step(written, || Step::Field(variant.into())),
            None => written,
        }
    }
}

macro_rules! items {
    ($($trait:ident::$method:ident)*) => {
        $(
            impl<C: $trait> $trait for Parts<'_, C> {
                type Ok = C::Ok;
                type Error = C::Error;

                #[inline]
                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                    let written = self.inner.$method(&Value::new(value, self.trace));
                    self.step(written, Step::Item)
                }

                #[inline]
                fn end(self) -> Result<C::Ok, C::Error> {
                    self.inner.end()
                }
            }
        )*
    };
}

items! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(
            impl<C: $trait> $trait for Parts<'_, C> {
                type Ok = C::Ok;
                type Error = C::Error;

                #[inline]
                fn serialize_field<T: Serialize + ?Sized>(
                    &mut self,
                    key: &'static str,
                    value: &T,
                ) -> Result<(), C::Error> {
                    let written = self.inner.serialize_field(key, &Value::new(value, self.trace));
                    self.step(written, |_| Step::Field(key.into()))
                }

                #[inline]
                fn skip_field(&mut self, key: &'static str) -> Result<(), C::Error> {
                    self.inner.skip_field(key)
                }

                #[inline]
                fn end(self) -> Result<C::Ok, C::Error> {
                    self.inner.end()
                }
            }
        )*
    };
}

fields! {
    SerializeStruct
    SerializeStructVariant
}

impl<C: SerializeMap> SerializeMap for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.inner.serialize_key(&Value::new(key, self.trace))
    }

    /// The key was written in a separate call, so the path names the entry by its number.
    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let written = self.inner.serialize_value(&Value::new(value, self.trace));
        self.step(written, Step::Item)
    }

    #[inline]
    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), C::Error> {
        let trace = self.trace;
        let written = self.inner.serialize_entry(&Value::new(key, trace), &Value::new(value, trace));
        self.step(written, |index| key_of(key).map_or(Step::Item(index), |key| Step::Field(key.into())))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

/// Returns the text of a key that is a text or a number.
#[cold]
fn key_of<K: Serialize + ?Sized>(key: &K) -> Option<String> {
    match serde_json::to_value(key).ok()? {
        serde_json::Value::String(key) => Some(key),
        serde_json::Value::Number(key) => Some(key.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::ser::Error as _;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Serialize)]
    struct Everything<'a> {
        unit: (),
        tuple: (u8, char, f32),
        #[serde(serialize_with = "bytes")]
        bytes: &'a [u8],
        numbers: (i8, i16, i32, i64, i128, u128),
        by_number: BTreeMap<u64, bool>,
        raw: &'a RawValue,
        value: serde_json::Value,
        id: uuid::Uuid,
        newtype: Newtype,
        variants: Vec<Variant>,
        tagged: Tagged,
        #[serde(skip_serializing_if = "Option::is_none")]
        none: Option<f64>,
        #[serde(flatten)]
        flat: HashMap<&'a str, f64>,
    }

    #[derive(Serialize)]
    struct Newtype(f64);

    #[derive(Serialize)]
    enum Variant {
        Unit,
        Tuple(u8, f64),
        Struct { number: f64 },
        Newtype(Box<[f64]>),
    }

    #[derive(Serialize)]
    #[serde(tag = "is")]
    enum Tagged {
        Warm { celsius: f64 },
    }

    fn bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    fn everything(raw: &RawValue) -> Everything<'_> {
        Everything {
            unit: (),
            tuple: (1, 'é', 0.1),
            bytes: &[1, 2],
            numbers: (-1, -2, -3, -4, i128::MIN, u128::MAX),
            by_number: BTreeMap::from([(7, true)]),
            raw,
            value: serde_json::json!({ "a": [1, null, 1.5, "\u{0}"] }),
            id: uuid::Uuid::from_u128(7),
            newtype: Newtype(5e-324),
            variants: vec![
                Variant::Unit,
                Variant::Tuple(1, -0.0),
                Variant::Struct { number: f64::MAX },
                Variant::Newtype(Box::new([1.0])),
            ],
            tagged: Tagged::Warm { celsius: 20.0 },
            none: None,
            flat: HashMap::from([("depth", 1e300)]),
        }
    }

    #[test]
    fn everything_is_written_as_serde_json_does() {
        let raw = RawValue::from_string(r#"{ "a" : [1e999] }"#.into()).unwrap();
        let everything = everything(&raw);
        assert_eq!(to_json(&everything).unwrap(), serde_json::to_string(&everything).unwrap());
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused_wherever_it_is() {
        let raw = RawValue::from_string("1".into()).unwrap();
        let path_with = |change: fn(&mut Everything<'_>)| {
            let mut everything = everything(&raw);
            change(&mut everything);
            let error = to_json(&everything).unwrap_err();
            assert_eq!(error.reason(), NOT_FINITE);
            error.path().to_owned()
        };
        assert_eq!(path_with(|it| it.tuple.2 = f32::NAN), "tuple[2]");
        assert_eq!(path_with(|it| it.newtype.0 = f64::INFINITY), "newtype");
        assert_eq!(path_with(|it| it.none = Some(f64::NEG_INFINITY)), "none");
        assert_eq!(path_with(|it| it.variants[1] = Variant::Tuple(1, f64::NAN)), "variants[1].Tuple[1]");
        assert_eq!(path_with(|it| it.variants[2] = Variant::Struct { number: f64::NAN }), "variants[2].Struct.number");
        assert_eq!(path_with(|it| it.variants[3] = Variant::Newtype(Box::new([f64::NAN]))), "variants[3].Newtype[0]");
        assert_eq!(path_with(|it| it.tagged = Tagged::Warm { celsius: f64::NAN }), "tagged.celsius");
        assert_eq!(path_with(|it| it.flat = HashMap::from([("depth", f64::NAN)])), "depth");
        assert_eq!(to_json(&f64::NAN).unwrap_err().to_string(), NOT_FINITE);
        let by_number = HashMap::from([(7, Some(f64::NAN))]);
        assert_eq!(to_json(&by_number).unwrap_err().path(), "7");
    }

    #[test]
    fn what_serde_json_cannot_write_is_an_error_with_its_place() {
        let error = to_json(&[BTreeMap::from([((1, 2), 3)])]).unwrap_err();
        assert_eq!(error.to_string(), "field `[0][0]`: key must be a string");
        let error = to_json(&HashMap::from([("a", Refusing)])).unwrap_err();
        assert_eq!(error.to_string(), "field `a`: the type's own `Serialize` or `Deserialize` refuses it");
    }

    struct Refusing;

    impl Serialize for Refusing {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("the value s3cret is not mine"))
        }
    }
}
