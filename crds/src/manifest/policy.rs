//! ValidatingAdmissionPolicies: who may write what where, as far as RBAC cannot say it.
//!
//! A policy sees one request and the object before and after, never another object. Each one denies with a
//! message that says what to do, fails closed, and is bound everywhere with one binding of the same name.
//! `dyn()` keeps the type checker of the API server from refusing what is legal on untyped objects.

use serde_json::{Value, json};

use crate::well_known::{
    ANNOTATION_DELETE_IN_USE, ANNOTATION_IFINDEX, ANNOTATION_IFNAME, ANNOTATION_POLICY_PROBE,
    ANNOTATION_UNINSTALL, EPIC_NAMESPACE, GROUP, LABEL_ACCOUNT, LABEL_NODE, POD_CONDITION_PROGRAMMED,
    SERVICE_ACCOUNT_NODE, SERVICE_ACCOUNT_OPERATOR, TENANT_NAMESPACE_PREFIX, policy,
};

const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// File name and objects.
pub(super) fn objects() -> Vec<(&'static str, Vec<Value>)> {
    [
        tenant_workloads(),
        node_pods(),
        node_objects(),
        node_label(),
        placement(),
        private_groups(),
        finalizers(),
        no_orphans(),
        in_use(),
        operator_scope(),
    ]
    .into_iter()
    .map(|policy| (policy.name, policy.objects()))
    .collect()
}

struct Policy {
    name: &'static str,
    description: &'static str,
    namespace_selector: Option<Value>,
    rules: Vec<Value>,
    conditions: Vec<(&'static str, String)>,
    variables: Vec<(&'static str, String)>,
    validations: Vec<(String, &'static str)>,
}

impl Policy {
    fn objects(self) -> Vec<Value> {
        let metadata = json!({
            "name": self.name,
            "labels": { "app.kubernetes.io/part-of": "epic" },
            "annotations": { "kubernetes.io/description": self.description },
        });
        let mut constraints = json!({ "matchPolicy": "Equivalent", "resourceRules": self.rules });
        if let Some(selector) = self.namespace_selector {
            constraints["namespaceSelector"] = selector;
        }
        let mut spec = json!({
            "failurePolicy": "Fail",
            "matchConstraints": constraints,
            "validations": self.validations.iter().map(|(expression, message)| json!({
                "expression": expression,
                "message": message,
                "reason": "Forbidden",
            })).collect::<Vec<_>>(),
        });
        let named = |items: &[(&str, String)]| -> Value {
            items.iter().map(|(name, expression)| json!({ "name": name, "expression": expression })).collect()
        };
        if !self.conditions.is_empty() {
            spec["matchConditions"] = named(&self.conditions);
        }
        if !self.variables.is_empty() {
            spec["variables"] = named(&self.variables);
        }
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": self.name, "labels": { "app.kubernetes.io/part-of": "epic" } },
            "spec": { "policyName": self.name, "validationActions": ["Deny"] },
        });
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": metadata,
            "spec": spec,
        });
        vec![policy, binding]
    }
}

fn user(service_account: &str) -> String {
    format!("system:serviceaccount:{EPIC_NAMESPACE}:{service_account}")
}

fn is_user(service_account: &str) -> String {
    format!("request.userInfo.username == '{}'", user(service_account))
}

fn rule(group: &str, resources: &[&str], operations: &[&str]) -> Value {
    json!({ "apiGroups": [group], "apiVersions": ["*"], "resources": resources, "operations": operations })
}

/// The node that the request's token is bound to; empty when it is bound to none.
fn node_of_token() -> (&'static str, String) {
    (
        "node",
        format!(
            "has(request.userInfo.extra) && '{NODE_CLAIM}' in request.userInfo.extra && request.userInfo.extra['{NODE_CLAIM}'].size() == 1 ? request.userInfo.extra['{NODE_CLAIM}'][0] : ''"
        ),
    )
}

fn tenant_workloads() -> Policy {
    Policy {
        name: policy::TENANT_WORKLOADS,
        description: "Workloads in tenant namespaces come from the operator and the built-in controllers alone, so nothing else runs beside a tenant's proxies or pretends to be one. Requests of the operator with the annotation epic.acnodal.io/policy-probe are refused too: a dry run shows it that the policy acts.",
        namespace_selector: Some(json!({
            "matchExpressions": [{ "key": LABEL_ACCOUNT, "operator": "Exists" }],
        })),
        rules: vec![
            rule(
                "",
                &[
                    "pods",
                    "pods/ephemeralcontainers",
                    "pods/resize",
                    "podtemplates",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                ],
                &["CREATE", "UPDATE"],
            ),
            rule(
                "apps",
                &[
                    "daemonsets",
                    "deployments",
                    "deployments/scale",
                    "replicasets",
                    "replicasets/scale",
                    "statefulsets",
                    "statefulsets/scale",
                ],
                &["CREATE", "UPDATE"],
            ),
            rule("batch", &["cronjobs", "jobs"], &["CREATE", "UPDATE"]),
        ],
        conditions: vec![],
        variables: vec![
            ("operator", is_user(SERVICE_ACCOUNT_OPERATOR)),
            (
                "controller",
                "request.userInfo.username == 'system:kube-controller-manager' || request.userInfo.username.startsWith('system:serviceaccount:kube-system:')".to_owned(),
            ),
            (
                "probe",
                format!(
                    "has(object.metadata.annotations) && '{ANNOTATION_POLICY_PROBE}' in object.metadata.annotations"
                ),
            ),
        ],
        validations: vec![(
            "variables.controller || (variables.operator && !variables.probe)".to_owned(),
            "workloads in a tenant namespace are made by the EPIC operator alone; run yours in another namespace. To restart proxies: epicctl restart lb NAME -n NAMESPACE. To change them: spec.proxies of EPIC or of a shared ServiceGroup",
        )],
    }
}

fn node_pods() -> Policy {
    let annotations_kept = |from: &str, to: &str| {
        format!(
            "!has({from}.metadata.annotations) || {from}.metadata.annotations.all(key, key == '{ANNOTATION_IFINDEX}' || key == '{ANNOTATION_IFNAME}' || (has({to}.metadata.annotations) && key in {to}.metadata.annotations && {from}.metadata.annotations[key] == {to}.metadata.annotations[key]))"
        )
    };
    let same = |field: &str, empty: &str| {
        format!(
            "(has(object.metadata.{field}) ? dyn(object.metadata.{field}) : dyn({empty})) == (has(oldObject.metadata.{field}) ? dyn(oldObject.metadata.{field}) : dyn({empty}))"
        )
    };
    let others = |of: &str| {
        format!(
            "has({of}.status) && has({of}.status.conditions) ? dyn({of}.status.conditions.filter(c, c.type != '{POD_CONDITION_PROGRAMMED}')) : dyn([])"
        )
    };
    let guarded = |expression: &str| format!("!variables.update || ({expression})");
    Policy {
        name: policy::NODE_PODS,
        description: "A node agent may set, on pods of tenant namespaces that run on the node of its token, the readiness gate epic.acnodal.io/programmed and the annotations epic.acnodal.io/ifindex and /ifname. It may change nothing else of a pod.",
        namespace_selector: None,
        rules: vec![rule("", &["pods", "pods/*"], &["*"])],
        conditions: vec![("the-node-agent", is_user(SERVICE_ACCOUNT_NODE))],
        variables: vec![
            node_of_token(),
            ("update", "request.operation == 'UPDATE' && has(request.subResource) && request.subResource == 'status'".to_owned()),
            ("status", "variables.update && has(object.status) ? dyn(object.status) : dyn({})".to_owned()),
            (
                "oldStatus",
                "variables.update && has(oldObject.status) ? dyn(oldObject.status) : dyn({})".to_owned(),
            ),
        ],
        validations: vec![
            (
                "variables.update".to_owned(),
                "a node agent changes nothing of a pod but its status subresource",
            ),
            (
                guarded(&format!(
                    "has(namespaceObject.metadata.labels) && '{LABEL_ACCOUNT}' in namespaceObject.metadata.labels"
                )),
                "a node agent changes pods in tenant namespaces only",
            ),
            (
                guarded(
                    "variables.node != '' && has(oldObject.spec.nodeName) && oldObject.spec.nodeName == variables.node",
                ),
                "a node agent changes pods of its own node only, which is the node that its token is bound to",
            ),
            (
                guarded(&format!(
                    "{} && {} && {}",
                    same("labels", "{}"),
                    same("finalizers", "[]"),
                    same("ownerReferences", "[]")
                )),
                "a node agent may not change labels, finalizers or owners of a pod",
            ),
            (
                guarded(&format!(
                    "({}) && ({})",
                    annotations_kept("object", "oldObject"),
                    annotations_kept("oldObject", "object")
                )),
                "a node agent may change no annotation of a pod but epic.acnodal.io/ifindex and epic.acnodal.io/ifname",
            ),
            (
                guarded(
                    "variables.status.all(key, key == 'conditions' || (key in variables.oldStatus && variables.status[key] == variables.oldStatus[key])) && variables.oldStatus.all(key, key == 'conditions' || key in variables.status)",
                ),
                "a node agent may change nothing of a pod's status but its condition epic.acnodal.io/programmed",
            ),
            (
                guarded(&format!("({}) == ({})", others("object"), others("oldObject"))),
                "a node agent may change no condition of a pod but epic.acnodal.io/programmed",
            ),
        ],
    }
}

fn node_objects() -> Policy {
    Policy {
        name: policy::NODE_OBJECTS,
        description: "A node agent writes its own EPICNode and its own Lease, both in namespace epic and named after the node of its token.",
        namespace_selector: None,
        rules: vec![
            rule(GROUP, &["*/*"], &["CREATE", "UPDATE", "DELETE"]),
            rule("coordination.k8s.io", &["leases"], &["CREATE", "UPDATE", "DELETE"]),
        ],
        conditions: vec![("the-node-agent", is_user(SERVICE_ACCOUNT_NODE))],
        variables: vec![
            node_of_token(),
            ("name", "request.operation == 'CREATE' ? object.metadata.name : (has(request.name) ? request.name : '')".to_owned()),
            ("lease", "request.resource.resource == 'leases'".to_owned()),
        ],
        validations: vec![
            (
                "variables.lease || request.resource.resource == 'epicnodes'".to_owned(),
                "a node agent writes no object of EPIC's but its EPICNode",
            ),
            (
                format!("request.namespace == '{EPIC_NAMESPACE}'"),
                "a node agent writes its EPICNode and its Lease in namespace epic",
            ),
            (
                "variables.node != '' && variables.name == (variables.lease ? 'epic-node-' + variables.node : variables.node)".to_owned(),
                "a node agent writes its own EPICNode and its own Lease only, named after the node that its token is bound to",
            ),
            (
                "variables.lease || request.operation == 'DELETE' || !has(object.metadata.ownerReferences) || object.metadata.ownerReferences.all(owner, owner.kind == 'Node' && owner.name == variables.node)".to_owned(),
                "an EPICNode belongs to its Node and to nothing else",
            ),
        ],
    }
}

/// The kubelet of a node may set its labels, also in a write of its status, so a node that is broken into could draw
/// proxies. The operator on the other hand gets the right to patch Nodes for this one label.
fn node_label() -> Policy {
    let labelled = |of: &str| {
        format!(
            "has({of}.metadata.labels) && '{LABEL_NODE}' in {of}.metadata.labels ? {of}.metadata.labels['{LABEL_NODE}'] : 'absent'"
        )
    };
    let same = |path: &str, empty: &str| {
        format!(
            "(has(object.{path}) ? dyn(object.{path}) : dyn({empty})) == (has(oldObject.{path}) ? dyn(oldObject.{path}) : dyn({empty}))"
        )
    };
    let kept = |from: &str, to: &str| {
        format!(
            "(!has({from}.metadata.labels) || {from}.metadata.labels.all(key, key == '{LABEL_NODE}' || (has({to}.metadata.labels) && key in {to}.metadata.labels && {from}.metadata.labels[key] == {to}.metadata.labels[key])))"
        )
    };
    Policy {
        name: policy::NODE_LABEL,
        description: "The label epic.acnodal.io/node, which says where proxies may run, is set and removed by the operator alone, and the operator changes nothing else of a Node.",
        namespace_selector: None,
        rules: vec![rule("", &["nodes", "nodes/status"], &["CREATE", "UPDATE"])],
        conditions: vec![],
        variables: vec![
            ("operator", is_user(SERVICE_ACCOUNT_OPERATOR)),
            ("now", labelled("object")),
            ("before", format!("request.operation == 'UPDATE' ? ({}) : 'absent'", labelled("oldObject"))),
        ],
        validations: vec![
            (
                "variables.operator || variables.now == variables.before".to_owned(),
                "the label epic.acnodal.io/node is kept by the EPIC operator: it follows the agents, so choose nodes by the agents' nodeSelector",
            ),
            (
                format!(
                    "!variables.operator || (request.operation == 'UPDATE' && {} && {} && {} && {} && {})",
                    same("spec", "{}"),
                    same("status", "{}"),
                    same("metadata.annotations", "{}"),
                    kept("object", "oldObject"),
                    kept("oldObject", "object"),
                ),
                "the EPIC operator may change nothing of a Node but its label epic.acnodal.io/node",
            ),
        ],
    }
}

fn placement() -> Policy {
    let kind = |name: &str| format!("request.resource.resource != '{name}'");
    Policy {
        name: policy::PLACEMENT,
        description: "Where objects of EPIC's kinds may lie.",
        namespace_selector: None,
        rules: vec![rule(
            GROUP,
            &[
                "accounts",
                "addressclaims",
                "addresspools",
                "endpoints",
                "epicnodes",
                "epics",
                "loadbalancers",
                "servicegroups",
            ],
            &["CREATE"],
        )],
        conditions: vec![],
        variables: vec![],
        validations: vec![
            (
                format!(
                    "!(request.resource.resource in ['addressclaims', 'addresspools', 'epicnodes', 'epics']) || request.namespace == '{EPIC_NAMESPACE}'"
                ),
                "EPIC, EPICNode, AddressPool and AddressClaim lie in namespace epic",
            ),
            (
                format!(
                    "{} || request.namespace == '{EPIC_NAMESPACE}' || request.namespace == '{TENANT_NAMESPACE_PREFIX}' + object.metadata.name",
                    kind("accounts")
                ),
                "Account X lies in namespace epic or epic-X",
            ),
            (
                format!(
                    "{} || request.namespace == '{EPIC_NAMESPACE}' || request.namespace.startsWith('{TENANT_NAMESPACE_PREFIX}')",
                    kind("servicegroups")
                ),
                "a ServiceGroup lies in namespace epic (shared) or in a tenant namespace epic-X (private)",
            ),
            (
                format!(
                    "!(request.resource.resource in ['endpoints', 'loadbalancers']) || request.namespace.startsWith('{TENANT_NAMESPACE_PREFIX}')"
                ),
                "LoadBalancers and Endpoints lie in a tenant namespace epic-X",
            ),
        ],
    }
}

fn private_groups() -> Policy {
    Policy {
        name: policy::PRIVATE_GROUPS,
        description: "A private ServiceGroup may not name an image, nor say where proxies run and with what: they would run as its tenant chose.",
        namespace_selector: None,
        rules: vec![rule(GROUP, &["servicegroups"], &["CREATE", "UPDATE"])],
        conditions: vec![("a-private-group", format!("request.namespace != '{EPIC_NAMESPACE}'"))],
        variables: vec![],
        validations: vec![
            (
                "!has(object.spec) || !('envoy-image' in dyn(object.spec))".to_owned(),
                "only a shared ServiceGroup, in namespace epic, may set envoy-image",
            ),
            (
                "!has(object.spec) || !('proxies' in dyn(object.spec))".to_owned(),
                "only a shared ServiceGroup, in namespace epic, may set proxies",
            ),
        ],
    }
}

fn finalizers() -> Policy {
    Policy {
        name: policy::FINALIZERS,
        description: "Finalizers of EPIC's kinds are set and removed only by who may update their finalizers subresource: the operator, administrators and built-in controllers. Otherwise a tenant could have IDs handed out again too early, or keep an Account from ever going.",
        namespace_selector: None,
        rules: vec![rule(
            GROUP,
            &["accounts", "addressclaims", "addresspools", "endpoints", "epics", "loadbalancers", "servicegroups"],
            &["CREATE", "UPDATE"],
        )],
        conditions: vec![],
        variables: vec![
            ("now", "has(object.metadata.finalizers) ? object.metadata.finalizers : []".to_owned()),
            (
                "before",
                "request.operation == 'UPDATE' && has(oldObject.metadata.finalizers) ? oldObject.metadata.finalizers : []".to_owned(),
            ),
        ],
        validations: vec![(
            format!(
                "variables.now == variables.before || authorizer.group('{GROUP}').resource(request.resource.resource).subresource('finalizers').namespace(request.namespace).check('update').allowed()"
            ),
            "finalizers of this object are the operator's; an administrator may change them",
        )],
    }
}

/// Other kinds own nothing: what is theirs goes by name or by finalizer, whatever the options of a deletion say.
fn no_orphans() -> Policy {
    let asks = |option: &str, value: &str| {
        format!("(has(request.options.{option}) && request.options.{option} == {value})")
    };
    Policy {
        name: policy::NO_ORPHANS,
        description: "A LoadBalancer is deleted together with what was made for it. Otherwise its proxies would run on, outside of every limit, with nobody to remove them, and a successor of the same name could not be served.",
        namespace_selector: None,
        rules: vec![rule(GROUP, &["loadbalancers"], &["DELETE"])],
        conditions: vec![],
        variables: vec![(
            "orphans",
            format!(
                "has(request.options) && request.options != null && ({} || {})",
                asks("propagationPolicy", "'Orphan'"),
                asks("orphanDependents", "true"),
            ),
        )],
        validations: vec![(
            "!variables.orphans".to_owned(),
            "a LoadBalancer goes together with its proxies; delete it without --cascade=orphan (propagationPolicy Orphan, orphanDependents)",
        )],
    }
}

/// What a policy can know of others is what the operator counts in the status of the object itself, some seconds late.
/// A deletion that slips through does what it did before: it waits (EPIC, Account), or is said in conditions.
fn in_use() -> Policy {
    let is = |resource: &str| format!("request.resource.resource == '{resource}'");
    let annotated = |annotation: &str| {
        format!("(has(oldObject.metadata.annotations) && '{annotation}' in oldObject.metadata.annotations)")
    };
    let count = |within: &str, field: &str| format!("({within}[?'{field}'].orValue(0) > 0)");
    let family = |family: &str| {
        format!(
            "(variables.status[?'{family}'].optMap(usage, dyn(usage)[?'used'].orValue('0')).orValue('0') != '0')"
        )
    };
    Policy {
        name: policy::IN_USE,
        description: "EPIC, an AddressPool, a ServiceGroup or an Account is deleted after what uses it, by the counts in its status. Kubernetes' namespace controller and garbage collector may delete it at any time; so may whoever takes EPIC off the cluster, or says by an annotation that it is meant.",
        namespace_selector: None,
        rules: vec![rule(GROUP, &["accounts", "addresspools", "epics", "servicegroups"], &["DELETE"])],
        conditions: vec![
            (
                "not-by-a-built-in-controller",
                "!(request.userInfo.username in ['system:kube-controller-manager', 'system:serviceaccount:kube-system:namespace-controller', 'system:serviceaccount:kube-system:generic-garbage-collector'])".to_owned(),
            ),
            ("not-deleted-already", "!has(oldObject.metadata.deletionTimestamp)".to_owned()),
        ],
        variables: vec![
            ("status", "has(oldObject.status) ? dyn(oldObject.status) : dyn({})".to_owned()),
            ("meant", annotated(ANNOTATION_DELETE_IN_USE)),
            ("uninstalling", annotated(ANNOTATION_UNINSTALL)),
            ("usage", "variables.status[?'usage'].orValue(dyn({}))".to_owned()),
        ],
        validations: vec![
            (
                format!("!({}) || variables.uninstalling || !{}", is("epics"), count("variables.status", "accounts")),
                "Accounts have their IDs from EPIC, and a deletion of it cannot be taken back. To take EPIC off the cluster: helm uninstall, or epic-operator uninstall, which keep addresses and IDs for an installation to come. To delete everything: first the LoadBalancers, then the Accounts, then EPIC",
            ),
            (
                format!("!({}) || variables.meant || !({} || {})", is("addresspools"), family("ipv4"), family("ipv6")),
                "addresses of this AddressPool are in use. Set spec.disabled to give out no more of them, delete the LoadBalancers that have them, and try again. Where another AddressPool holds them too, annotate this one with epic.acnodal.io/delete-in-use=true first",
            ),
            (
                format!("!({}) || variables.meant || !{}", is("servicegroups"), count("variables.status", "load-balancers")),
                "LoadBalancers are in this ServiceGroup. Name another one in their spec.service-group or delete them, and try again; or annotate it with epic.acnodal.io/delete-in-use=true first: they are served on as they are, and nothing of them can be changed",
            ),
            (
                format!("!({}) || variables.meant || !{}", is("accounts"), count("variables.usage", "load-balancers")),
                "this Account has LoadBalancers. Delete them, wait a few seconds, and try again; or annotate it with epic.acnodal.io/delete-in-use=true first: it is deleted once they are gone, and gets nothing new until then",
            ),
        ],
    }
}

fn operator_scope() -> Policy {
    let operations = &["CREATE", "UPDATE", "DELETE"];
    Policy {
        name: policy::OPERATOR_SCOPE,
        description: "The operator writes into namespace epic and into tenant namespaces epic-X, and makes and removes no other namespace, whatever its roles say.",
        namespace_selector: None,
        rules: vec![
            rule("", &["configmaps", "namespaces", "pods", "pods/*", "resourcequotas", "secrets", "serviceaccounts"], operations),
            rule("apps", &["deployments", "replicasets"], operations),
            rule("policy", &["poddisruptionbudgets"], operations),
            rule("networking.k8s.io", &["networkpolicies"], operations),
            rule("rbac.authorization.k8s.io", &["rolebindings"], operations),
        ],
        conditions: vec![("the-operator", is_user(SERVICE_ACCOUNT_OPERATOR))],
        variables: vec![(
            "target",
            "request.resource.resource == 'namespaces' ? (request.operation == 'CREATE' ? object.metadata.name : request.name) : request.namespace".to_owned(),
        )],
        validations: vec![(
            format!(
                "variables.target.startsWith('{TENANT_NAMESPACE_PREFIX}') || (variables.target == '{EPIC_NAMESPACE}' && request.resource.resource != 'namespaces')"
            ),
            "the EPIC operator writes in namespace epic and in tenant namespaces epic-X only",
        )],
    }
}
