//! Fields of a newer version, kept so that a write of this one does not erase them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// What an object level holds besides the fields that this version knows.
///
/// Writes are PUTs of whole objects, and there is no conversion webhook: what a type drops when it is read is gone from
/// the API server with the next write. So every spec, status and row carries one of these, flattened and skipped in the
/// schema. It is filled only where the CustomResourceDefinition is of a newer release than the process (a rollback, or a
/// rolling upgrade); otherwise the API server has pruned what nobody knows, and it is one empty pointer.
///
/// # Expected flow
/// Rows that are written from other facts than the row before take its `rest` along: what stands there is somebody
/// else's. [`carry`] and [`carry_keyed`] do that for lists.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Rest(Option<Arc<BTreeMap<String, Value>>>);

impl Rest {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value of a field that this version does not know.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.as_ref()?.get(field)
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().flat_map(|fields| fields.iter())).finish()
    }
}

impl FromIterator<(String, Value)> for Rest {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(fields: I) -> Self {
        let fields: BTreeMap<_, _> = fields.into_iter().collect();
        Self((!fields.is_empty()).then(|| Arc::new(fields)))
    }
}

impl Serialize for Rest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.as_ref().map_or(0, |fields| fields.len())))?;
        for (field, value) in self.0.iter().flat_map(|fields| fields.iter()) {
            map.serialize_entry(field, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Rest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Rest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rest, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((field, value)) = map.next_entry::<String, Value>()? {
                    fields.insert(field, value);
                }
                Ok(fields.into_iter().collect())
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A spec, status or row that keeps fields of a newer version.
pub trait Keeps {
    /// The fields that this version does not know.
    fn rest(&self) -> &Rest;
    /// The same, to be replaced.
    fn rest_mut(&mut self) -> &mut Rest;
    /// Gives the rows *below* this one what `_before` keeps in its own. One without rows below has nothing to do.
    fn carry_below(&mut self, _before: &Self) {}
}

/// A kind whose objects are written back as a whole.
pub trait KeepsUnknown {
    /// Gives spec, status and all rows of the object the unknown fields of the object that it is written over; those
    /// that it carries already stay. For whoever makes a status of other facts than the status before.
    fn carry_unknown(&mut self, before: &Self);
}

/// Gives `row` the unknown fields of the row that it takes the place of, at this level and below; those that it
/// carries already stay.
pub fn carry<R: Keeps>(row: &mut R, before: &R) {
    if row.rest().is_empty() && !before.rest().is_empty() {
        *row.rest_mut() = before.rest().clone();
    }
    row.carry_below(before);
}

/// [`carry`] where there is a row on both sides.
pub fn carry_option<R: Keeps>(row: Option<&mut R>, before: Option<&R>) {
    if let (Some(row), Some(before)) = (row, before) {
        carry(row, before);
    }
}

/// [`carry`] for each row of a list from the one before that has the same key. The rows have none below them.
pub fn carry_keyed<R: Keeps, K: Ord>(rows: &mut [R], before: &[R], key: impl Fn(&R) -> K) {
    // Almost always empty, and then this is one walk without a key made.
    let before: BTreeMap<K, &R> =
        before.iter().filter(|row| !row.rest().is_empty()).map(|row| (key(row), row)).collect();
    if before.is_empty() {
        return;
    }
    for row in rows {
        if let Some(before) = before.get(&key(row)) {
            carry(row, before);
        }
    }
}

/// Implements [`Keeps`] for spec, status and row types: `Type`, or `Type { row, before => what to do below }`.
macro_rules! keeps {
    ($($type:ty $({ $row:ident, $before:ident => $below:expr })?),* $(,)?) => {$(
        impl $crate::rest::Keeps for $type {
            fn rest(&self) -> &$crate::Rest {
                &self.rest
            }

            fn rest_mut(&mut self) -> &mut $crate::Rest {
                &mut self.rest
            }

            $(fn carry_below(&mut self, $before: &Self) {
                let $row = self;
                $below
            })?
        }
    )*};
}
pub(crate) use keeps;

/// Implements [`KeepsUnknown`] for kinds.
macro_rules! keeps_unknown {
    ($($kind:ty),* $(,)?) => {$(
        impl $crate::rest::KeepsUnknown for $kind {
            fn carry_unknown(&mut self, before: &Self) {
                $crate::rest::carry(&mut self.spec, &before.spec);
                $crate::rest::carry_option(self.status.as_mut(), before.status.as_ref());
            }
        }
    )*};
}
pub(crate) use keeps_unknown;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EndpointPort;
    use serde_json::json;

    #[test]
    fn what_is_not_known_comes_out_as_it_went_in() {
        let text = json!({"port": 80, "protocol": "TCP", "newer": {"deep": [1, {"a": null}]}, "other": 1.5});
        let port: EndpointPort = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(port.rest.get("other"), Some(&json!(1.5)));
        assert_eq!(serde_json::to_value(&port).unwrap(), text);
    }

    #[test]
    fn nothing_unknown_costs_one_pointer() {
        let port: EndpointPort = serde_json::from_value(json!({"port": 80})).unwrap();
        assert!(port.rest.is_empty());
        assert_eq!(std::mem::size_of::<Rest>(), std::mem::size_of::<usize>());
        assert_eq!(port.rest, Rest::default());
    }

    #[test]
    fn a_row_written_anew_keeps_what_stood_there() {
        let before: EndpointPort = serde_json::from_value(json!({"port": 80, "newer": 1})).unwrap();
        let mut rows = [EndpointPort { port: 81, ..Default::default() }, EndpointPort::gue(80)];
        carry_keyed(&mut rows, std::slice::from_ref(&before), |row| row.port);
        assert!(rows[0].rest.is_empty());
        assert_eq!(rows[1].rest, before.rest);
    }
}
