//! The namespace of a tenant and who may do what in it.

use epic_crds::well_known::{
    LABEL_ACCOUNT, ROLE_CLIENT, ROLE_OPERATOR_TENANT, ROLE_TENANT, SERVICE_ACCOUNT_CLIENT,
    SERVICE_ACCOUNT_OPERATOR,
};
use epic_crds::{Subject, SubjectKind};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::metadata;

/// An Account as far as its namespace is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// Name of the Account.
    pub account: String,
    /// Its namespace.
    pub namespace: String,
    /// Uid of that namespace if the operator made it.
    pub created: Option<String>,
    /// Who gets the tenant role.
    pub subjects: Vec<Subject>,
    /// Namespace of the operator.
    pub system: String,
}

/// Annotation on a namespace that the operator made, with the uid of the Account: only such a one is removed again.
pub const ANNOTATION_CREATED_FOR: &str = "epic.acnodal.io/created-for";

/// Annotation on the operator's own binding in a namespace that it made, with the uid of the namespace. Tools that take
/// off what they do not know reach namespaces, and this one seldom.
pub const ANNOTATION_CREATED: &str = "epic.acnodal.io/created-namespace";

/// Whether the operator made a namespace: it says so itself, or the operator's own binding in it does.
pub fn is_created(namespace: &Namespace, operators: Option<&RoleBinding>) -> bool {
    let recorded = operators.and_then(|binding| binding.annotations().get(ANNOTATION_CREATED));
    namespace.annotations().contains_key(ANNOTATION_CREATED_FOR)
        || (recorded.is_some() && recorded == namespace.metadata.uid.as_ref())
}

/// The namespace. `created_for` is the uid of the Account when the operator makes it, `None` when it adopts one.
pub fn namespace(tenant: &Tenant, created_for: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": tenant.namespace,
            "labels": {
                LABEL_ACCOUNT: tenant.account,
                // Proxies need nothing more, and nothing else runs here.
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    });
    if let Some(uid) = created_for {
        object["metadata"]["annotations"] = json!({ANNOTATION_CREATED_FOR: uid});
    }
    object
}

/// The ServiceAccount of client agents and the three bindings, in the order in which they are applied: the
/// operator's own first, without which it could not write the rest.
pub fn rights(tenant: &Tenant) -> Vec<Value> {
    let operator = json!({
        "kind": "ServiceAccount", "name": SERVICE_ACCOUNT_OPERATOR, "namespace": tenant.system,
    });
    let client = json!({
        "kind": "ServiceAccount", "name": SERVICE_ACCOUNT_CLIENT, "namespace": tenant.namespace,
    });
    let mut operators = binding(tenant, ROLE_OPERATOR_TENANT, vec![operator]);
    if let Some(uid) = &tenant.created {
        operators["metadata"]["annotations"] = json!({ANNOTATION_CREATED: uid});
    }
    vec![
        operators,
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(&tenant.account, &tenant.namespace, SERVICE_ACCOUNT_CLIENT),
            "automountServiceAccountToken": false,
        }),
        binding(tenant, ROLE_CLIENT, vec![client]),
        binding(tenant, ROLE_TENANT, tenant.subjects.iter().map(subject).collect()),
    ]
}

fn binding(tenant: &Tenant, role: &str, subjects: Vec<Value>) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(&tenant.account, &tenant.namespace, role),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    })
}

fn subject(subject: &Subject) -> Value {
    let (kind, group) = match subject.kind {
        SubjectKind::User => ("User", "rbac.authorization.k8s.io"),
        SubjectKind::Group => ("Group", "rbac.authorization.k8s.io"),
        SubjectKind::ServiceAccount => ("ServiceAccount", ""),
    };
    let mut value = json!({"kind": kind, "name": subject.name});
    if !group.is_empty() {
        value["apiGroup"] = group.into();
    }
    if let Some(namespace) = &subject.namespace {
        value["namespace"] = namespace.as_str().into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Tenant {
        Tenant {
            account: "red".into(),
            namespace: "epic-red".into(),
            created: None,
            subjects: vec![Subject {
                kind: SubjectKind::Group,
                name: "red-team".into(),
                namespace: None,
                api_group: None,
                rest: Default::default(),
            }],
            system: "epic".into(),
        }
    }

    #[test]
    fn subjects_get_the_tenant_role_in_their_namespace_only() {
        let last = rights(&tenant()).pop().unwrap();
        let binding: RoleBinding = serde_json::from_value(last).unwrap();
        assert_eq!(binding.role_ref.name, ROLE_TENANT);
        assert_eq!(binding.metadata.namespace.as_deref(), Some("epic-red"));
        assert_eq!(binding.subjects.unwrap()[0].name, "red-team");
    }

    /// The pure domain depends on no API types, so it spells these names by itself.
    #[test]
    fn the_domain_and_the_api_name_namespaces_alike() {
        let name = epic_model::id::AccountName::parse("red").unwrap();
        assert_eq!(name.namespace().as_str(), epic_crds::well_known::tenant_namespace("red"));
        assert_eq!(epic_model::name::SYSTEM_NAMESPACE, epic_crds::well_known::EPIC_NAMESPACE);
        assert_eq!(epic_model::id::AccountName::MAX_LEN, epic_crds::well_known::ACCOUNT_NAME_MAX);
    }

    #[test]
    fn a_namespace_that_lost_its_annotation_is_known_by_the_operators_binding_in_it() {
        let live = |uid: &str, annotations: Value| -> Namespace {
            let metadata = json!({"name": "epic-red", "uid": uid, "annotations": annotations});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let binding = |created: Option<&str>| -> RoleBinding {
            let tenant = Tenant { created: created.map(str::to_owned), ..tenant() };
            serde_json::from_value(rights(&tenant).remove(0)).unwrap()
        };
        assert!(is_created(&live("n", json!({ANNOTATION_CREATED_FOR: "a"})), None));
        assert!(is_created(&live("n", json!({})), Some(&binding(Some("n")))));
        assert!(!is_created(&live("n", json!({})), Some(&binding(None))), "one that was adopted");
        let recreated = live("made anew by somebody", json!({}));
        assert!(!is_created(&recreated, Some(&binding(Some("n")))), "the binding is of its predecessor");
        assert!(!is_created(&Namespace::default(), Some(&binding(None))), "nothing is equal to nothing");
    }

    #[test]
    fn an_adopted_namespace_does_not_say_that_it_was_created() {
        assert!(namespace(&tenant(), None)["metadata"].get("annotations").is_none());
        assert_eq!(namespace(&tenant(), Some("u"))["metadata"]["annotations"][ANNOTATION_CREATED_FOR], "u");
    }
}
