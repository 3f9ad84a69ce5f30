//! Every generated file of the repository: definitions, roles, admission policies, the chart's copies, reference.
//!
//! [`files`] is a pure function of the API types. `crdgen` writes what it returns and a test compares the tree
//! with it, so a generated file can neither be edited by hand nor forgotten.
//!
//! Helm: the definitions go into the chart as templates (`files/crd`, rendered by `templates/crds.yaml`), not into
//! Helm's `crds/` folder, because Helm installs that folder once and never upgrades it. They carry
//! `helm.sh/resource-policy: keep`, so they and every object of these kinds survive an uninstall.

mod policy;
mod rbac;
mod reference;
mod yaml;

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// First line of every generated YAML file; a file in a generated folder that has it and is not generated any more
/// is stale.
pub const YAML_MARK: &str = "# Generated from the API types (crds/) by `make generate`; do not edit.\n";
/// First line of every generated Markdown file.
pub const MARKDOWN_MARK: &str =
    "<!-- Generated from the API types (crds/) by `make generate`; do not edit. -->\n";

/// Folders that hold generated files, relative to the root of the repository.
pub const FOLDERS: &[&str] = &[
    "charts/epic/files/crd",
    "charts/epic/files/policy",
    "charts/epic/files/rbac",
    "config/crd",
    "config/policy",
    "config/rbac",
    "docs/reference",
];

/// Path (relative to the root of the repository) and contents of every generated file.
pub fn files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for definition in crate::definitions() {
        let name = definition.metadata.name.clone().unwrap_or_default();
        let mut value = serde_json::to_value(definition).expect("a definition is plain JSON");
        files.insert(format!("config/crd/{name}.yaml"), document(std::slice::from_ref(&value)));
        value["metadata"]["annotations"] = json!({ "helm.sh/resource-policy": "keep" });
        files.insert(format!("charts/epic/files/crd/{name}.yaml"), document(&[value]));
    }
    for (name, objects) in rbac::objects() {
        for folder in ["config/rbac", "charts/epic/files/rbac"] {
            files.insert(format!("{folder}/{name}.yaml"), document(&objects));
        }
    }
    for (name, objects) in policy::objects() {
        for folder in ["config/policy", "charts/epic/files/policy"] {
            files.insert(format!("{folder}/{name}.yaml"), document(&objects));
        }
    }
    for (name, text) in reference::pages() {
        files.insert(format!("docs/reference/{name}.md"), format!("{MARKDOWN_MARK}\n{text}"));
    }
    files
}

/// Roles, bindings and ServiceAccounts as JSON objects, in the order in which they can be applied.
pub fn rbac_objects() -> Vec<Value> {
    rbac::objects().into_iter().flat_map(|(_, objects)| objects).collect()
}

/// ValidatingAdmissionPolicies and their bindings as JSON objects.
pub fn policy_objects() -> Vec<Value> {
    policy::objects().into_iter().flat_map(|(_, objects)| objects).collect()
}

fn document(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(yaml::print).collect();
    format!("{YAML_MARK}{}", texts.join("---\n"))
}
