//! The value that a pass offers at one path, as a `Deserializer`, and the parts of lists, structs, maps and enums.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer as _, MapAccess, SeqAccess, VariantAccess,
    Visitor, value::StrDeserializer,
};

use super::{
    choices::{Amount, Choices},
    error::TraceError,
    leaf::{self, Any},
};

/// The prefix of the names by which `serde_json` asks for values of its own types.
const OWN_TYPE_PREFIX: &str = "$serde_json::private::";

/// The value at the present path.
pub(super) struct Value<'c> {
    choices: &'c mut Choices,
}

impl<'c> Value<'c> {
    pub(super) const fn new(choices: &'c mut Choices) -> Self {
        Self { choices }
    }

    fn untraceable<'de, V: Visitor<'de>>(self, visitor: &V) -> TraceError {
        self.choices.offer();
        let expected = visitor as &dyn Expected;
        TraceError::Unsupported(format!(
            "its `Deserialize` does not say which values it accepts (it expects {expected})"
        ))
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ident,)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
                self.choices.note(stringify!($type));
                let offer = self.choices.offer();
                let number = $type::try_from(offer.number).unwrap_or($type::MAX / 2);
                visitor.$visit(match (offer.attempt, offer.amount) {
                    (0, Amount::Most) => $type::MAX - number,
                    (0, Amount::Least) => $type::MIN + number,
                    (1, _) => number,
                    (2, _) => 1,
                    (3, _) => 0,
                    (4, _) => 10,
                    _ => 100,
                })
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = TraceError;

    integers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_i128 visit_i128 i128,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128,
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("any");
        let offer = self.choices.offer();
        match leaf::any(offer.number, offer.attempt) {
            Some(Any::Text(text)) => visitor.visit_string(text),
            Some(Any::Unsigned(number)) => visitor.visit_u64(number),
            Some(Any::Float(number)) => visitor.visit_f64(number),
            Some(Any::Bool(value)) => visitor.visit_bool(value),
            Some(Any::Null) => visitor.visit_unit(),
            None => Err(self.untraceable(&visitor)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("bool");
        let offer = self.choices.offer();
        visitor.visit_bool((offer.amount == Amount::Most) == (offer.attempt == 0))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("f32");
        let offer = self.choices.offer();
        visitor.visit_f32(if offer.attempt == 0 { offer.number as f32 + 0.5 } else { 0.5 })
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("f64");
        let offer = self.choices.offer();
        // a number that is no `f32`
        visitor.visit_f64(if offer.attempt == 0 { offer.number as f64 + 0.123_456_789_012 } else { 0.1 })
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("char");
        self.choices.offer();
        visitor.visit_char('x')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        let offer = self.choices.offer();
        let Some((kind, text)) = leaf::text(offer.number, offer.attempt) else {
            return Err(self.untraceable(&visitor));
        };
        self.choices.note(kind);
        visitor.visit_string(text)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("bytes");
        self.choices.offer();
        visitor.visit_byte_buf(vec![1, 2])
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        if self.choices.is_empty_here() {
            return visitor.visit_none();
        }
        let choices = self.choices;
        let value = choices.within_optional(|choices| visitor.visit_some(Value::new(choices)));
        choices.note_optional();
        value
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("null");
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, TraceError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        if name.starts_with(OWN_TYPE_PREFIX) {
            return Err(self.untraceable(&visitor));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("list");
        let length = usize::from(!self.choices.is_empty_here());
        self.choices.within_optional(|choices| visitor.visit_seq(Items { choices, next: 0, length, is_tuple: false }))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, TraceError> {
        visitor.visit_seq(Items { choices: self.choices, next: 0, length, is_tuple: true })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.choices.note("map");
        let is_done = self.choices.is_empty_here();
        self.choices.within_optional(|choices| visitor.visit_map(Entries { choices, is_done }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        if name.starts_with(OWN_TYPE_PREFIX) {
            return Err(self.untraceable(&visitor));
        }
        let keys = self.choices.keys(name, fields).into_iter();
        self.choices.within_type(name, fields, |choices| visitor.visit_map(Fields { choices, name, keys, key: "" }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        self.choices.note("enum");
        self.choices.within_type(name, variants, |choices| {
            choices.with_variant(variants, |choices, name| visitor.visit_enum(Variant { choices, name }))
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        Err(self.untraceable(&visitor))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        visitor.visit_unit()
    }
}

/// The items of a list, or of a tuple.
struct Items<'c> {
    choices: &'c mut Choices,
    next: usize,
    length: usize,
    /// Set if each item has a place of its own.
    is_tuple: bool,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = TraceError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TraceError> {
        if self.next == self.length {
            return Ok(None);
        }
        let step = if self.is_tuple { format!("[{}]", self.next) } else { "[]".into() };
        self.next += 1;
        self.choices.at(&step, |choices| seed.deserialize(Value::new(choices))).map(Some)
    }
}

/// The fields of a struct.
struct Fields<'c> {
    choices: &'c mut Choices,
    name: &'static str,
    keys: std::vec::IntoIter<&'static str>,
    key: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = TraceError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TraceError> {
        let Some(key) = self.keys.next() else {
            return Ok(None);
        };
        self.key = key;
        self.choices.begin_key(self.name, key);
        let key: StrDeserializer<'_, TraceError> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TraceError> {
        self.choices.at(self.key, |choices| seed.deserialize(Value::new(choices)))
    }
}

/// The one entry of a map, or none.
struct Entries<'c> {
    choices: &'c mut Choices,
    is_done: bool,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = TraceError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TraceError> {
        if std::mem::replace(&mut self.is_done, true) {
            return Ok(None);
        }
        self.choices.at("{key}", |choices| seed.deserialize(Value::new(choices))).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TraceError> {
        self.choices.at("{}", |choices| seed.deserialize(Value::new(choices)))
    }
}

/// The chosen variant of an enum.
struct Variant<'c> {
    choices: &'c mut Choices,
    name: &'static str,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = TraceError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), TraceError> {
        let name: StrDeserializer<'_, TraceError> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = TraceError;

    fn unit_variant(self) -> Result<(), TraceError> {
        self.choices.note("variant");
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, TraceError> {
        seed.deserialize(Value::new(self.choices))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, TraceError> {
        visitor.visit_seq(Items { choices: self.choices, next: 0, length, is_tuple: true })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let keys = self.choices.keys(self.name, fields).into_iter();
        visitor.visit_map(Fields { choices: self.choices, name: self.name, keys, key: "" })
    }
}
