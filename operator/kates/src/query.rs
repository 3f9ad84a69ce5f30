//! What part of a kind is watched.
//!
//! A query is sent to the API server as selectors, and applied here to objects that this process wrote itself:
//! an own write outside the query must not show up in its snapshot.

use std::collections::BTreeMap;

use kube::api::ListParams;
use kube::core::{Selector, SelectorExt};

use crate::{Key, Version};

/// Namespace, labels and fields that select objects of one kind.
#[derive(Clone, Debug, Default)]
pub struct Query {
    namespace: Option<String>,
    labels: Selector,
    fields: BTreeMap<String, String>,
    not_older_than: Option<Version>,
}

impl Query {
    /// Every object of the kind, in every namespace.
    pub fn all() -> Self {
        Self::default()
    }

    /// Every object of the kind in one namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    /// Only objects whose labels `selector` matches.
    pub fn labels(mut self, selector: impl Into<Selector>) -> Self {
        self.labels.extend(selector.into());
        self
    }

    /// Only objects whose field at `path` (`metadata.name`, `spec.nodeName`, a selectable field of a CRD) is
    /// `value`. The API server knows few such paths per kind and refuses the others.
    pub fn field(mut self, path: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.insert(path.into(), value.into());
        self
    }

    /// Refuses a first list older than `revision`, which an earlier run of this process has already acted on.
    ///
    /// Lists are quorum reads (no `resourceVersion` in the request), which is stronger than
    /// `resourceVersionMatch=NotOlderThan`; a list that is older all the same (a cluster restored from a
    /// backup) leaves the query unsynced, with the reason in `pending`.
    pub fn not_older_than(mut self, revision: impl Into<Version>) -> Self {
        self.not_older_than = Some(revision.into());
        self
    }

    pub(crate) fn in_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub(crate) fn floor(&self) -> Option<&Version> {
        self.not_older_than.as_ref()
    }

    /// Two queries with the same identity share one watch and one store.
    pub(crate) fn identity(&self) -> String {
        format!(
            "{}|{}|{}|{}",
            self.namespace.as_deref().unwrap_or_default(),
            self.labels,
            self.field_selector().unwrap_or_default(),
            self.not_older_than.as_ref().map(Version::as_str).unwrap_or_default()
        )
    }

    pub(crate) fn label_selector(&self) -> Option<String> {
        (!self.labels.selects_all()).then(|| self.labels.to_string())
    }

    pub(crate) fn field_selector(&self) -> Option<String> {
        let pairs: Vec<_> = self.fields.iter().map(|(path, value)| format!("{path}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join(","))
    }

    pub(crate) fn list_params(&self) -> ListParams {
        ListParams {
            label_selector: self.label_selector(),
            field_selector: self.field_selector(),
            ..ListParams::default()
        }
    }

    pub(crate) fn reads_fields(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Whether an object with this key can ever be in this query, whatever becomes of its labels and fields.
    pub(crate) fn could_select(&self, key: &Key) -> bool {
        let name = self.fields.get("metadata.name");
        (self.namespace.is_none() || self.namespace.as_deref() == key.namespace())
            && name.is_none_or(|name| name == key.name())
    }

    /// Whether namespace and labels are those of this query.
    pub(crate) fn selects(&self, namespace: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        (self.namespace.is_none() || self.namespace.as_deref() == namespace) && self.labels.matches(labels)
    }

    /// Whether the fields of an object are those of this query. A field that is absent counts as empty.
    pub(crate) fn selects_fields(&self, object: &serde_json::Value) -> bool {
        self.fields.iter().all(|(path, wanted)| {
            let found = path.split('.').try_fold(object, |value, step| value.get(step));
            match found {
                Some(serde_json::Value::String(text)) => text == wanted,
                Some(serde_json::Value::Null) | None => wanted.is_empty(),
                Some(value) => value.to_string().as_str() == wanted.as_str(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_selects_by_namespace_labels_and_fields() {
        let query = Query::namespace("a")
            .labels(Selector::from_iter([("app", "web")]))
            .field("metadata.name", "x")
            .field("spec.count", "3");
        let web = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        assert!(query.selects(Some("a"), &web));
        assert!(!query.selects(Some("b"), &web));
        assert!(!query.selects(Some("a"), &BTreeMap::new()));
        assert!(query.selects_fields(&json!({"metadata": {"name": "x"}, "spec": {"count": 3}})));
        assert!(!query.selects_fields(&json!({"metadata": {"name": "x"}})));
        assert_eq!(query.field_selector().as_deref(), Some("metadata.name=x,spec.count=3"));
        assert_eq!(query.label_selector().as_deref(), Some("app=web"));
    }
}
