//! Who may do what: the ClusterRoles of the API's contract, and what binds EPIC's own processes to them.
//!
//! The operator and the node agents have a Role in namespace `epic` for what lies only there (Secrets, Leases,
//! node reports). Cluster-wide the operator has no Secret: in each tenant namespace it binds
//! `epic-operator-tenant` to itself. What RBAC cannot say (own node, own name, which condition) is said by the
//! admission policies.

use serde_json::{Value, json};

use crate::well_known::{
    CONFIG_MAP_CLIENT, CONFIG_MAP_LIMITS, EPIC_NAMESPACE, GROUP, ROLE_ADMIN, ROLE_CLIENT, ROLE_EDITOR,
    ROLE_NODE, ROLE_OPERATOR, ROLE_OPERATOR_TENANT, ROLE_TENANT, ROLE_VIEWER, SECRET_GUE_KEYS,
    SECRET_GUE_MASTER, SERVICE_ACCOUNT_CLIENT, SERVICE_ACCOUNT_NODE, SERVICE_ACCOUNT_OPERATOR,
};

const RBAC: &str = "rbac.authorization.k8s.io";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete"];

/// File name and objects.
pub(super) fn objects() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        (ROLE_ADMIN, vec![admin()]),
        (ROLE_VIEWER, vec![viewer()]),
        (ROLE_EDITOR, vec![editor()]),
        (ROLE_OPERATOR, operator()),
        (ROLE_NODE, node()),
        (ROLE_TENANT, vec![tenant()]),
        (ROLE_CLIENT, vec![client()]),
    ]
}

fn admin() -> Value {
    cluster_role(
        ROLE_ADMIN,
        "Everything of EPIC's API group, and what epicctl needs besides: tokens for tenants' client agents, and the Leases that say which agents are alive. No Secret, workload or role.",
        &[
            rule(GROUP, &["*"], &["*"]),
            named_rule("", &["serviceaccounts/token"], &[SERVICE_ACCOUNT_CLIENT], &["create"]),
            rule("coordination.k8s.io", &["leases"], READ),
        ],
    )
}

/// Kinds that a tenant writes.
const TENANTS: &[&str] = &["loadbalancers", "endpoints", "servicegroups"];

/// Whoever may `view` a namespace, or all of them, sees what is there of EPIC. Nothing of it is secret.
fn viewer() -> Value {
    let role = cluster_role(
        ROLE_VIEWER,
        "Reads everything of EPIC's API group. Aggregated to Kubernetes' roles view, edit and admin, so whoever has one of these sees EPIC's objects where he has it; bind it by itself for somebody who looks after EPIC and changes nothing.",
        &[rule(
            GROUP,
            &[
                "epics",
                "epicnodes",
                "accounts",
                "addresspools",
                "addressclaims",
                "servicegroups",
                "loadbalancers",
                "endpoints",
            ],
            READ,
        )],
    );
    aggregated(role, &["view", "edit", "admin"])
}

/// No Account, pool or EPIC: with `admin` of a tenant namespace one could raise one's own limits. No status and no
/// finalizers: they are the operator's.
fn editor() -> Value {
    let role = cluster_role(
        ROLE_EDITOR,
        "Writes LoadBalancers, Endpoints and ServiceGroups: what a tenant writes. Aggregated to Kubernetes' roles edit and admin. In namespace epic it writes shared ServiceGroups, and whoever may edit there may run anything as the operator anyway.",
        &[rule(GROUP, TENANTS, &["create", "update", "patch", "delete", "deletecollection"])],
    );
    aggregated(role, &["edit", "admin"])
}

fn aggregated(mut role: Value, to: &[&str]) -> Value {
    for role_of_kubernetes in to {
        role["metadata"]["labels"][format!("{RBAC}/aggregate-to-{role_of_kubernetes}")] = "true".into();
    }
    role
}

fn operator() -> Vec<Value> {
    let ours = ["epics", "accounts", "addresspools", "servicegroups", "loadbalancers", "endpoints"];
    let mut all = ours.to_vec();
    all.extend(["addressclaims", "epicnodes"]);
    let mut status: Vec<String> = ours.iter().map(|kind| format!("{kind}/status")).collect();
    status.push("addressclaims/status".to_owned());
    let finalizers: Vec<String> = ours.iter().map(|kind| format!("{kind}/finalizers")).collect();
    vec![
        service_account(SERVICE_ACCOUNT_OPERATOR),
        cluster_role(
            ROLE_OPERATOR,
            "What the operator does anywhere: grants and status of EPIC's kinds, tenant namespaces and what runs there.",
            &[
                rule(GROUP, &all, READ),
                rule(GROUP, &ours, &["update", "patch"]),
                rule(GROUP, &["addressclaims"], WRITE),
                rule(GROUP, &strs(&status), &["get", "update", "patch"]),
                rule(GROUP, &strs(&finalizers), &["update"]),
                rule("", &["namespaces"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
                rule("", &["nodes", "pods"], READ),
                // One label of Nodes; the policy epic-node-label says which.
                rule("", &["nodes"], &["patch"]),
                // Taking EPIC off the cluster ends proxies without waiting for their drain time.
                rule("", &["pods"], &["delete"]),
                rule("apps", &["replicasets"], &["delete"]),
                rule("", &["pods/status"], &["get", "update", "patch"]),
                rule("", &["configmaps", "resourcequotas", "serviceaccounts"], READ),
                rule("", &["configmaps", "resourcequotas", "serviceaccounts"], WRITE),
                rule("apps", &["deployments"], READ),
                rule("apps", &["deployments"], WRITE),
                rule("apps", &["replicasets", "statefulsets", "daemonsets"], READ),
                rule("batch", &["jobs", "cronjobs"], READ),
                rule("policy", &["poddisruptionbudgets"], READ),
                rule("policy", &["poddisruptionbudgets"], WRITE),
                rule("networking.k8s.io", &["servicecidrs"], READ),
                rule("networking.k8s.io", &["networkpolicies"], READ),
                rule("networking.k8s.io", &["networkpolicies"], WRITE),
                rule(RBAC, &["rolebindings"], READ),
                rule(RBAC, &["rolebindings"], WRITE),
                named_rule(
                    RBAC,
                    &["clusterroles"],
                    &[ROLE_CLIENT, ROLE_OPERATOR_TENANT, ROLE_TENANT],
                    &["bind"],
                ),
                rule("", &["events"], &["create", "patch", "update"]),
                rule("events.k8s.io", &["events"], &["create", "patch", "update"]),
            ],
        ),
        cluster_role(
            ROLE_OPERATOR_TENANT,
            "Secrets of one tenant namespace. The operator binds it to itself there, so it reads no Secret elsewhere.",
            &[rule("", &["secrets"], READ), rule("", &["secrets"], WRITE)],
        ),
        cluster_role_binding(ROLE_OPERATOR, SERVICE_ACCOUNT_OPERATOR),
        role(
            ROLE_OPERATOR,
            "What the operator does in EPIC's own namespace: its Secrets, its Leases, the xDS Service, the Leases of node agents, the verdict on nodes.",
            &[
                rule("", &["secrets"], READ),
                rule("", &["secrets"], WRITE),
                rule("", &["services"], READ),
                rule("apps", &["daemonsets"], READ),
                // The condition InService. The rest of an EPICNode is its agent's.
                rule(GROUP, &["epicnodes/status"], &["patch"]),
                rule("coordination.k8s.io", &["leases"], READ),
                rule("coordination.k8s.io", &["leases"], &["create", "update", "patch"]),
            ],
        ),
        role_binding(ROLE_OPERATOR, SERVICE_ACCOUNT_OPERATOR),
    ]
}

fn node() -> Vec<Value> {
    let ours = [
        "epics",
        "epicnodes",
        "accounts",
        "addresspools",
        "addressclaims",
        "servicegroups",
        "loadbalancers",
        "endpoints",
    ];
    vec![
        service_account(SERVICE_ACCOUNT_NODE),
        cluster_role(
            ROLE_NODE,
            "What a node agent does anywhere: read EPIC's kinds, nodes and pods, and set the readiness gate of proxies on its own node (the policy epic-node-pods says which and what).",
            &[
                rule(GROUP, &ours, READ),
                rule("", &["nodes", "pods"], READ),
                rule("", &["pods/status"], &["get", "update", "patch"]),
                rule("", &["events"], &["create", "patch", "update"]),
                rule("events.k8s.io", &["events"], &["create", "patch", "update"]),
            ],
        ),
        cluster_role_binding(ROLE_NODE, SERVICE_ACCOUNT_NODE),
        role(
            ROLE_NODE,
            "What a node agent does in EPIC's own namespace: its EPICNode, its Lease (the policy epic-node-objects says which), the master key, the address of the xDS Service, and whether its DaemonSet is deleted.",
            &[
                rule(GROUP, &["epicnodes"], &["create", "update", "patch"]),
                rule(GROUP, &["epicnodes/status"], &["get", "update", "patch"]),
                rule("apps", &["daemonsets"], READ),
                rule("coordination.k8s.io", &["leases"], READ),
                rule("coordination.k8s.io", &["leases"], &["create", "update", "patch"]),
                named_rule("", &["secrets"], &[SECRET_GUE_MASTER], READ),
                rule("", &["services"], READ),
                rule("discovery.k8s.io", &["endpointslices"], READ),
            ],
        ),
        role_binding(ROLE_NODE, SERVICE_ACCOUNT_NODE),
    ]
}

fn tenant() -> Value {
    cluster_role(
        ROLE_TENANT,
        "What a tenant does in its own namespace. Bound there to Account.spec.subjects. No status, Account, workload, Secret or exec.",
        &[
            rule(GROUP, TENANTS, READ),
            rule(GROUP, TENANTS, &["create", "update", "patch", "delete", "deletecollection"]),
            named_rule("", &["configmaps"], &[CONFIG_MAP_LIMITS], READ),
            rule("", &["events"], READ),
            rule("events.k8s.io", &["events"], READ),
        ],
    )
}

fn client() -> Value {
    cluster_role(
        ROLE_CLIENT,
        "What a client agent does in its tenant's namespace. Bound there to the ServiceAccount epic-client.",
        &[
            rule(GROUP, &["loadbalancers", "endpoints"], READ),
            named_rule("", &["secrets"], &[SECRET_GUE_KEYS], READ),
            named_rule("", &["configmaps"], &[CONFIG_MAP_CLIENT], READ),
            named_rule("", &["serviceaccounts/token"], &[SERVICE_ACCOUNT_CLIENT], &["create"]),
        ],
    )
}

fn strs(items: &[String]) -> Vec<&str> {
    items.iter().map(String::as_str).collect()
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn named_rule(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "resourceNames": names, "verbs": verbs })
}

fn described(name: &str, namespace: Option<&str>, description: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": { "app.kubernetes.io/part-of": "epic" },
        "annotations": { "kubernetes.io/description": description },
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn service_account(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": name,
            "namespace": EPIC_NAMESPACE,
            "labels": { "app.kubernetes.io/part-of": "epic" },
        },
    })
}

fn cluster_role(name: &str, description: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRole",
        "metadata": described(name, None, description),
        "rules": rules,
    })
}

fn role(name: &str, description: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "Role",
        "metadata": described(name, Some(EPIC_NAMESPACE), description),
        "rules": rules,
    })
}

fn cluster_role_binding(role: &str, service_account: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": { "name": role, "labels": { "app.kubernetes.io/part-of": "epic" } },
        "roleRef": { "apiGroup": RBAC, "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": service_account, "namespace": EPIC_NAMESPACE }],
    })
}

fn role_binding(role: &str, service_account: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "RoleBinding",
        "metadata": {
            "name": role,
            "namespace": EPIC_NAMESPACE,
            "labels": { "app.kubernetes.io/part-of": "epic" },
        },
        "roleRef": { "apiGroup": RBAC, "kind": "Role", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": service_account, "namespace": EPIC_NAMESPACE }],
    })
}
