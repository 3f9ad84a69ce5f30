//! Names that more than one process must spell alike.
//!
//! Namespaces, labels, annotations, finalizers, pod conditions, and the names of objects that one part of EPIC
//! creates and another one reads. Names of children (Deployments, Secrets of one LoadBalancer) are not here:
//! they are computed.

/// API group of all kinds.
pub const GROUP: &str = "epic.acnodal.io";
/// The one API version.
pub const VERSION: &str = "v1";
/// `apiVersion` of all kinds.
pub const API_VERSION: &str = "epic.acnodal.io/v1";
/// Category under which `kubectl get epic-all` finds every kind.
pub const CATEGORY: &str = "epic-all";

/// Namespace of EPIC itself: its processes, its singleton, pools, claims, shared groups, node reports.
pub const EPIC_NAMESPACE: &str = "epic";
/// Name of the EPIC singleton in [`EPIC_NAMESPACE`].
pub const EPIC_NAME: &str = "epic";
/// What a tenant namespace is called: this prefix, then the Account's name.
pub const TENANT_NAMESPACE_PREFIX: &str = "epic-";
/// Longest name of an Account, so that its namespace is still a DNS label.
pub const ACCOUNT_NAME_MAX: usize = 58;

/// Finalizer on EPIC and Account, the parents of IDs. Only the operator sets and removes it.
pub const FINALIZER: &str = "epic.acnodal.io/finalizer";
/// Field manager of the operator's writes.
pub const FIELD_MANAGER: &str = "epic-operator";

/// Label with the Account's name; marks a tenant namespace and everything the operator makes in it. The
/// admission policies select tenant namespaces by it.
pub const LABEL_ACCOUNT: &str = "epic.acnodal.io/account";
/// Label with the LoadBalancer's name on what the operator makes for it.
pub const LABEL_LOAD_BALANCER: &str = "epic.acnodal.io/load-balancer";

/// Label on the Nodes where an EPIC agent is alive: proxies run there alone. Kept by the operator.
pub const LABEL_NODE: &str = "epic.acnodal.io/node";
/// Label on the copies, in tenant namespaces, of Secrets that Envoy's image is pulled with.
pub const LABEL_PULL_SECRET: &str = "epic.acnodal.io/pull-secret";
/// Annotation on a LoadBalancer or a ServiceGroup: another text has its proxies made anew, one after the other. By
/// custom it is the time at which that was asked for.
pub const ANNOTATION_RESTARTED_AT: &str = "epic.acnodal.io/restarted-at";

/// Annotation on a proxy pod, written by its node's agent: interface index of the host side of its veth.
pub const ANNOTATION_IFINDEX: &str = "epic.acnodal.io/ifindex";
/// Annotation on a proxy pod, written by its node's agent: name of the host side of its veth.
pub const ANNOTATION_IFNAME: &str = "epic.acnodal.io/ifname";
/// Annotation on a proxy pod, written by the operator replica that serves its xDS stream: program and version, as the proxy
/// says. Nothing is decided by it.
pub const ANNOTATION_PROXY_VERSION: &str = "epic.acnodal.io/proxy-version";
/// Annotation on the EPIC singleton that tells agents to detach and the operator to drop finalizers.
pub const ANNOTATION_UNINSTALL: &str = "epic.acnodal.io/uninstall";
/// Annotation that lets an AddressPool, a ServiceGroup or an Account be deleted although it is in use, see
/// [`policy::IN_USE`]: whoever sets it knows what becomes of those that use it.
pub const ANNOTATION_DELETE_IN_USE: &str = "epic.acnodal.io/delete-in-use";
/// Annotation on the Secret [`SECRET_XDS_AUTHORITY`] with which an administrator asks for another authority; the operator
/// takes it off when it begins.
pub const ANNOTATION_ROTATE_AUTHORITY: &str = "epic.acnodal.io/rotate-authority";
/// Annotation there, written by the operator: how far the change of the authority is, in words.
pub const ANNOTATION_AUTHORITY_PROGRESS: &str = "epic.acnodal.io/authority-progress";
/// Annotation there, written by the operator: when the last change of the authority was complete.
pub const ANNOTATION_AUTHORITY_ROTATED: &str = "epic.acnodal.io/authority-rotated";
/// Annotation that asks [`policy::TENANT_WORKLOADS`] to refuse a write even of the operator. The operator sends a
/// dry run with it into a tenant namespace and knows by the refusal that the policies act there.
pub const ANNOTATION_POLICY_PROBE: &str = "epic.acnodal.io/policy-probe";

/// Readiness gate of a proxy pod, written by its node's agent: veth, NAT and tunnel entries are in.
pub const POD_CONDITION_PROGRAMMED: &str = "epic.acnodal.io/programmed";
/// Condition of a proxy pod, written by the operator replica that serves its xDS stream.
pub const POD_CONDITION_CONFIGURED: &str = "epic.acnodal.io/configured";

/// Secret in [`EPIC_NAMESPACE`] with the master key from which all tunnel keys are derived.
pub const SECRET_GUE_MASTER: &str = "epic-gue-master";
/// Secret in `epic` with the authority of xDS: who signs, who is trusted, and who is to sign next.
pub const SECRET_XDS_AUTHORITY: &str = "epic-xds-ca";
/// Secret in each tenant namespace with the derived keys of its LoadBalancers.
pub const SECRET_GUE_KEYS: &str = "epic-gue-keys";
/// ConfigMap in each tenant namespace with what a client agent must know (proxy ranges, port, MTU, versions).
pub const CONFIG_MAP_CLIENT: &str = "epic-client";

/// ConfigMap in each tenant namespace with the tenant's limits, what it uses of them, and what it may name.
pub const CONFIG_MAP_LIMITS: &str = "epic-limits";
/// ResourceQuota in each tenant namespace: the most objects of EPIC's kinds that can exist there.
pub const QUOTA_LIMITS: &str = "epic-limits";

/// ServiceAccount of the operator in [`EPIC_NAMESPACE`].
pub const SERVICE_ACCOUNT_OPERATOR: &str = "epic-operator";
/// ServiceAccount of the node agents in [`EPIC_NAMESPACE`].
pub const SERVICE_ACCOUNT_NODE: &str = "epic-node";
/// ServiceAccount of a tenant's client agents, one per tenant namespace.
pub const SERVICE_ACCOUNT_CLIENT: &str = "epic-client";

/// ClusterRole that reads everything of the group, aggregated to `view`.
pub const ROLE_VIEWER: &str = "epic-viewer";
/// ClusterRole that writes what a tenant writes, aggregated to `edit` and `admin`.
pub const ROLE_EDITOR: &str = "epic-editor";
/// ClusterRole of administrators: everything of the group, and tokens for tenants' client agents.
pub const ROLE_ADMIN: &str = "epic-admin";
/// ClusterRole of the operator.
pub const ROLE_OPERATOR: &str = "epic-operator";
/// ClusterRole that the operator binds to itself in each tenant namespace (the Secrets there).
pub const ROLE_OPERATOR_TENANT: &str = "epic-operator-tenant";
/// ClusterRole of the node agents.
pub const ROLE_NODE: &str = "epic-node";
/// ClusterRole bound in a tenant namespace to the Account's subjects.
pub const ROLE_TENANT: &str = "epic-tenant";
/// ClusterRole bound in a tenant namespace to [`SERVICE_ACCOUNT_CLIENT`].
pub const ROLE_CLIENT: &str = "epic-client";

/// Lease with which operator replicas agree on who writes.
pub const LEASE_OPERATOR: &str = "epic-operator";

/// Label of the Leases in which operator replicas name the proxies that are connected to them.
pub const LABEL_STREAMS: &str = "epic.acnodal.io/streams";
/// Annotation on such a Lease: the IDs of the proxies, as in `1-4,9`.
pub const ANNOTATION_STREAMS: &str = "epic.acnodal.io/streams";

/// Annotation on such a Lease: the node that the replica runs on.
pub const ANNOTATION_NODE: &str = "epic.acnodal.io/node";
/// Annotation on such a Lease: address and port of the replica's probes and metrics.
pub const ANNOTATION_OPS: &str = "epic.acnodal.io/ops";
/// Annotation on such a Lease: `true` while the replica reaches no replica on another node, though there are some.
pub const ANNOTATION_ISOLATED: &str = "epic.acnodal.io/isolated";

/// Name of the Lease in which an operator replica (its pod) names the proxies that are connected to it.
pub fn streams_lease_name(replica: &str) -> String {
    format!("epic-streams-{replica}")
}

/// Name of the Lease by which a node's agent shows that it lives (in [`EPIC_NAMESPACE`]).
pub fn node_lease_name(node: &str) -> String {
    format!("epic-node-{node}")
}

/// Namespace of an Account's tenants.
pub fn tenant_namespace(account: &str) -> String {
    format!("{TENANT_NAMESPACE_PREFIX}{account}")
}

/// Names of the ValidatingAdmissionPolicies (and of their bindings).
pub mod policy {
    /// Workloads in tenant namespaces come from the operator and the built-in controllers alone.
    pub const TENANT_WORKLOADS: &str = "epic-tenant-workloads";
    /// A node agent changes its condition and its two annotations on proxy pods of its own node, nothing else.
    pub const NODE_PODS: &str = "epic-node-pods";
    /// A node agent writes its own EPICNode and its own Lease.
    pub const NODE_OBJECTS: &str = "epic-node-objects";
    /// Where objects of each kind may lie.
    pub const PLACEMENT: &str = "epic-placement";
    /// Who says that a Node is an EPIC node.
    pub const NODE_LABEL: &str = "epic-node-label";
    /// What a private ServiceGroup may not say.
    pub const PRIVATE_GROUPS: &str = "epic-private-groups";
    /// EPIC's finalizer goes only by the operator or who may update finalizers.
    pub const FINALIZERS: &str = "epic-finalizers";
    /// A LoadBalancer goes together with what was made for it.
    pub const NO_ORPHANS: &str = "epic-no-orphans";
    /// What others live off is deleted after them.
    pub const IN_USE: &str = "epic-in-use";
    /// The operator writes into its own and into tenant namespaces only.
    pub const OPERATOR_SCOPE: &str = "epic-operator-scope";
}
