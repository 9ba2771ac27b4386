//! From a JSON value to a type, without serde's leniency.

use serde::de::{DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::de::{Deserializer, Error, IntoDeserializer, Unexpected};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use super::fault::{Fault, fields, quoted};
use super::tree::Segment;

/// A value that is being read.
#[derive(Clone, Copy)]
pub struct Json<'tree> {
    value: &'tree Value,
    /// Whether serde keeps the value in a buffer, from which it takes more than is meant: a struct
    /// from an array, a variant from an object. Only scalars are let in; no tagged part has a field
    /// that is anything else.
    is_buffered: bool,
}

impl<'tree> Json<'tree> {
    /// The root.
    pub fn new(value: &'tree Value) -> Self {
        Self {
            value,
            is_buffered: false,
        }
    }

    fn list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Array(array) => {
                let mut elements = Elements { array, read: 0 };
                let list = visitor.visit_seq(&mut elements)?;
                match elements.read == array.len() {
                    true => Ok(list),
                    // Only an array of a fixed length stops early.
                    false => Err(Fault::unfit(format!(
                        "an array of length {}",
                        elements.read
                    ))),
                }
            }
            _ => self.scalar(visitor),
        }
    }

    /// What is no object and no array, or the error that it is one.
    fn scalar<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(value) => visitor.visit_str(value),
            Value::Number(number) => {
                if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::Array(_) => Err(Fault::invalid_type(Unexpected::Seq, &visitor)),
            Value::Object(_) => Err(Fault::invalid_type(Unexpected::Map, &visitor)),
        }
    }
}

impl<'de> Deserializer<'de> for Json<'_> {
    type Error = Fault;

    /// What asks for anything is a tagged part, or the buffer below one.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Object(object) if !self.is_buffered => {
                visitor.visit_map(Entries::of(object, true))
            }
            _ => self.scalar(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            Value::Object(object) => visitor.visit_map(Entries::of(object, false)),
            _ => Err(Fault::unfit(format!("an object of {}", fields(names)))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Object(object) => visitor.visit_map(Entries::of(object, false)),
            _ => self.scalar(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.list(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.list(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.list(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (name, payload) = match self.value {
            Value::String(name) => (name, None),
            Value::Object(object) => match object.iter().next() {
                Some((name, payload)) if object.len() == 1 => (name, Some(payload)),
                _ => return Err(Fault::unfit(quoted(names))),
            },
            _ => return Err(Fault::unfit(quoted(names))),
        };
        visitor.visit_enum(Variant { name, payload })
    }

    /// A name; serde would also take its number.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::String(name) => visitor.visit_str(name),
            _ => Err(Fault::invalid_type(Unexpected::Other("no name"), &visitor)),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct ignored_any
    }
}

struct Entries<'tree> {
    entries: serde_json::map::Iter<'tree>,
    /// The one whose key was read.
    entry: Option<(&'tree String, &'tree Value)>,
    is_buffered: bool,
}

impl<'tree> Entries<'tree> {
    fn of(object: &'tree Map<String, Value>, is_buffered: bool) -> Self {
        Self {
            entries: object.iter(),
            entry: None,
            is_buffered,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.entry = self.entries.next();
        match self.entry {
            Some((key, _)) => seed.deserialize(key.as_str().into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, value)) = self.entry.take() else {
            return Err(Fault::custom("a value was asked for before its key"));
        };
        let value = Json {
            value,
            is_buffered: self.is_buffered,
        };
        seed.deserialize(value)
            .map_err(|fault| fault.below(Segment::Key(key.clone())))
    }
}

struct Elements<'tree> {
    array: &'tree [Value],
    read: usize,
}

impl<'de> SeqAccess<'de> for &mut Elements<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(value) = self.array.get(self.read) else {
            return Ok(None);
        };
        let index = Segment::Index(self.read);
        self.read += 1;
        seed.deserialize(Json::new(value))
            .map(Some)
            .map_err(|fault| fault.below(index))
    }
}

/// `"name"`, or `{"name": payload}`.
struct Variant<'tree> {
    name: &'tree str,
    payload: Option<&'tree Value>,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name = IntoDeserializer::<Fault>::into_deserializer(self.name);
        let name = seed.deserialize(name)?;
        Ok((name, self))
    }
}

impl Variant<'_> {
    fn payload<T>(
        &self,
        accepted: &str,
        read: impl FnOnce(Json) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match self.payload {
            Some(value) => {
                read(Json::new(value)).map_err(|fault| fault.below(Segment::Key(self.name.into())))
            }
            None => Err(Fault::unfit(format!("{{\"{}\": {accepted}}}", self.name))),
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.payload {
            None => Ok(()),
            Some(_) => Err(Fault::unfit(format!("the plain \"{}\"", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.payload("...", |value| seed.deserialize(value))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.payload("[...]", |value| value.list(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let each: Vec<_> = names
            .iter()
            .map(|name| format!("\"{name}\": ..."))
            .collect();
        self.payload(&format!("{{{}}}", each.join(", ")), |value| {
            value.deserialize_struct("", names, visitor)
        })
    }
}
