//! What part of a kind is watched.
//!
//! A query is sent to the API server as selectors, and applied here to objects that this process wrote itself:
//! an own write outside the query must not show up in its snapshot.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::ListParams;
use kube::core::{ObjectMeta, Selector, SelectorExt};

use crate::{Key, Version};

/// Namespace, labels and fields that select objects of one kind.
#[derive(Clone, Debug, Default)]
pub struct Query {
    namespace: Option<String>,
    labels: Selector,
    fields: BTreeMap<String, String>,
    not_older_than: Option<Version>,
    applied_by: Option<String>,
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

    /// Keeps what `manager` has applied to the objects (its `Apply` entry in `metadata.managedFields`). All other entries
    /// are dropped when an object is received, and every one without this: they are most of the bytes of many objects.
    /// What is written back without them keeps them at the API server.
    pub fn applied_by(mut self, manager: impl Into<String>) -> Self {
        self.applied_by = Some(manager.into());
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
            "{}|{}|{}|{}|{}",
            self.namespace.as_deref().unwrap_or_default(),
            self.labels,
            self.field_selector().unwrap_or_default(),
            self.not_older_than.as_ref().map(Version::as_str).unwrap_or_default(),
            self.applied_by.as_deref().unwrap_or_default()
        )
    }

    /// Whether `slim` would drop anything.
    pub(crate) fn is_slim(&self, meta: &ObjectMeta) -> bool {
        meta.managed_fields.iter().flatten().all(|entry| self.keeps(entry))
    }

    /// Drops what nobody here reads.
    pub(crate) fn slim(&self, meta: &mut ObjectMeta) {
        if let Some(mut entries) = meta.managed_fields.take() {
            entries.retain(|entry| self.keeps(entry));
            entries.shrink_to_fit();
            meta.managed_fields = Some(entries).filter(|entries| !entries.is_empty());
        }
    }

    fn keeps(&self, entry: &ManagedFieldsEntry) -> bool {
        self.applied_by.is_some()
            && entry.manager == self.applied_by
            && entry.operation.as_deref() == Some("Apply")
            && entry.subresource.is_none()
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

    #[test]
    fn of_what_managers_own_only_what_is_asked_for_is_kept() {
        let entry = |manager: &str, operation: &str, subresource: Option<&str>| ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            subresource: subresource.map(str::to_owned),
            ..ManagedFieldsEntry::default()
        };
        let all = vec![
            entry("us", "Apply", None),
            entry("us", "Update", None),
            entry("us", "Apply", Some("status")),
            entry("kubelet", "Update", Some("status")),
        ];
        let meta = || ObjectMeta { managed_fields: Some(all.clone()), ..ObjectMeta::default() };
        let kept = |query: &Query| {
            let mut meta = meta();
            assert!(!query.is_slim(&meta));
            query.slim(&mut meta);
            assert!(query.is_slim(&meta));
            meta.managed_fields.unwrap_or_default()
        };
        assert_eq!(kept(&Query::all()), []);
        assert_eq!(kept(&Query::all().applied_by("us")), all[..1]);
        assert_ne!(Query::all().identity(), Query::all().applied_by("us").identity());
    }
}
