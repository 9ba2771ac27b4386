//! JSON text as a tree, and places in it.

use std::cell::RefCell;
use std::fmt::Display;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};

/// A step from a value to one inside it.
#[derive(Debug, Clone, PartialEq)]
pub enum Segment {
    /// Of an object.
    Key(String),
    /// Of an array.
    Index(usize),
}

/// The way from the root to a value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Path(Vec<Segment>);

impl Path {
    /// Whether it leads nowhere.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// One step further.
    pub fn join(&self, segment: Segment) -> Self {
        let mut path = self.clone();
        path.0.push(segment);
        path
    }

    /// One step more at the root.
    pub fn prepend(&mut self, segment: Segment) {
        self.0.insert(0, segment);
    }

    /// The value there.
    pub fn of<'tree>(&self, root: &'tree Value) -> Option<&'tree Value> {
        self.0
            .iter()
            .try_fold(root, |value, segment| match segment {
                Segment::Key(key) => value.get(key),
                Segment::Index(index) => value.get(index),
            })
    }

    /// A tree with another value there; what is on the way is there already.
    pub fn put(&self, root: &Value, value: Value) -> Value {
        let mut changed = root.clone();
        let mut place = &mut changed;
        for segment in &self.0 {
            place = match (place, segment) {
                (Value::Object(object), Segment::Key(key)) => {
                    object.entry(key.as_str()).or_insert(Value::Null)
                }
                (Value::Array(array), Segment::Index(index)) if *index < array.len() => {
                    &mut array[*index]
                }
                // Not on the way: nothing to change.
                _ => return root.clone(),
            };
        }
        *place = value;
        changed
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (depth, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if depth == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Parses text that holds one value, in which no field is given twice.
pub fn parse(text: &str) -> Result<Value, String> {
    let path = RefCell::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Tree { path: &path }.deserialize(&mut deserializer);
    let parsed = parsed.and_then(|value| deserializer.end().map(|()| value));
    parsed.map_err(|error| {
        // Where it failed, the way is not taken back.
        let path = path.into_inner();
        match out_of_range(text, &error) {
            Some(number) => format!(
                "`{path}` is {number}, which is out of range; accepted: numbers up to 1.8e308"
            ),
            None if path.is_root() || error.classify() == Category::Eof => error.to_string(),
            None => format!("`{path}`: {error}"),
        }
    })
}

/// The number that the error is about, if it is about a number that f64 cannot hold.
fn out_of_range(text: &str, error: &serde_json::Error) -> Option<String> {
    if !error.to_string().starts_with("number out of range") {
        return None;
    }
    let line = text.lines().nth(error.line().checked_sub(1)?)?;
    // The parser stops inside the number or right behind it.
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let (before, after) = line.as_bytes().split_at_checked(error.column())?;
    let start = before.iter().rev().take_while(|byte| is_part(byte)).count();
    let end = after.iter().take_while(|byte| is_part(byte)).count();
    let number = line.get(before.len() - start..before.len() + end)?;
    (!number.is_empty()).then(|| number.to_owned())
}

/// Reads a value, and remembers the way to it.
#[derive(Clone, Copy)]
struct Tree<'path> {
    path: &'path RefCell<Path>,
}

impl Tree<'_> {
    fn at<T, E>(self, segment: Segment, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().0.push(segment);
        let value = read()?;
        self.path.borrow_mut().0.pop();
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        loop {
            let next = self.at(Segment::Index(array.len()), || {
                elements.next_element_seed(self)
            })?;
            match next {
                Some(element) => array.push(element),
                None => return Ok(array.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let segment = Segment::Key(key.clone());
            let value = self.at(segment, || match object.contains_key(&key) {
                true => Err(A::Error::custom("this field is given twice")),
                false => entries.next_value_seed(self),
            })?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}
