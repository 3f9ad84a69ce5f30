//! Account: a tenant, its limits, and the counters of its service and endpoint IDs.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, has_conditions};
use crate::reason::reasons;
use crate::reservation::Reservation;
use crate::rest::{Rest, carry_keyed, carry_option, keeps, keeps_unknown};
use crate::schema;

/// Who the tenant is and how much it may use.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "epic.acnodal.io",
    version = "v1",
    kind = "Account",
    plural = "accounts",
    singular = "account",
    shortname = "epicacct",
    namespaced,
    status = "AccountStatus",
    derive = "Default",
    derive = "PartialEq",
    category = "epic-all",
    doc = "Account is a tenant. Account X lies in namespace epic or in epic-X; its LoadBalancers, Endpoints and private ServiceGroups lie in epic-X. Administrators write it, tenants never do.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the tenant can be served."
    ),
    printcolumn(
        name = "Tenant-Namespace",
        type_ = "string",
        json_path = ".status.namespace",
        description = "Namespace of the tenant."
    ),
    printcolumn(
        name = "Load-Balancers",
        type_ = "integer",
        json_path = ".status.usage.load-balancers",
        description = "LoadBalancers of the tenant."
    ),
    printcolumn(
        name = "Endpoints",
        type_ = "integer",
        json_path = ".status.usage.endpoints",
        description = "Endpoints of the tenant."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    ),
    printcolumn(
        name = "Group-ID",
        type_ = "integer",
        json_path = ".status.group-id",
        description = "Granted group ID.",
        priority = 1
    ),
    printcolumn(
        name = "Proxies",
        type_ = "integer",
        json_path = ".status.usage.proxies",
        description = "Proxies that the tenant's LoadBalancers want.",
        priority = 1
    ),
    printcolumn(
        name = "Service-ID",
        type_ = "integer",
        json_path = ".status.current-service-id",
        description = "Service ID last handed out.",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is or is not ready.",
        priority = 1
    )
)]
#[serde(rename_all = "kebab-case")]
pub struct AccountSpec {
    /// Group ID that is asked for. Absent: the next free one; the operator then fills it in. Once granted it must
    /// be absent or equal to status.group-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub group_id: Option<i64>,
    /// Who may write LoadBalancers, Endpoints and private ServiceGroups in the tenant's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub subjects: Vec<Subject>,
    /// Most proxies of all the tenant's LoadBalancers, draining ones included. What runs is never taken away for it; a
    /// LoadBalancer that asks for more than fits is refused until there is room. Absent: 250.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub proxy_limit: Option<i64>,
    /// Most LoadBalancers. Absent: 100. More than 3000 count as 3000, since their keys lie in one Secret. A tenth and ten
    /// more can be created, but are refused by a condition; beyond that the API server refuses (ResourceQuota epic-limits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub load_balancer_limit: Option<i64>,
    /// Most Endpoints. Absent: 5000. A tenth and ten more can be created, as for load-balancer-limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub endpoint_limit: Option<i64>,
    /// Most private ServiceGroups, with the same room. Absent: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub service_group_limit: Option<i64>,
    /// Networks from which the tenant's client nodes may call. Absent: anywhere that is not protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<schema::Cidr>>", length(max = 256))]
    pub client_networks: Option<Vec<String>>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// A user, group or ServiceAccount, spelled as the subject of a RoleBinding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    inline,
    extend("x-kubernetes-validations" = [
        {
            "rule": "self.kind == 'ServiceAccount' ? has(self.__namespace__) : !has(self.__namespace__)",
            "message": "namespace is required for a ServiceAccount and not allowed for a User or Group"
        },
        {
            "rule": "!has(self.apiGroup) || self.apiGroup == (self.kind == 'ServiceAccount' ? '' : 'rbac.authorization.k8s.io')",
            "message": "apiGroup must be absent, or rbac.authorization.k8s.io for a User or Group and empty for a ServiceAccount"
        }
    ])
)]
pub struct Subject {
    /// User, Group or ServiceAccount.
    pub kind: SubjectKind,
    /// Name of the user, group or ServiceAccount.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::NamespaceName>")]
    pub namespace: Option<String>,
    /// API group of the kind; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub api_group: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Kind of a [`Subject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum SubjectKind {
    /// A user by name.
    User,
    /// All users of a group.
    Group,
    /// A ServiceAccount.
    ServiceAccount,
}

/// What was granted and what is used. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AccountStatus {
    /// Granted group ID; part of every GUE header of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub group_id: Option<i64>,
    /// Service ID last handed out to a LoadBalancer of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub current_service_id: Option<i64>,
    /// Endpoint ID last handed out to an Endpoint of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub current_endpoint_id: Option<i64>,
    /// Values set aside for one write of one object each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["counter", "value"])
    )]
    pub reservations: Vec<Reservation>,
    /// The tenant's namespace, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::NamespaceName>")]
    pub namespace: Option<String>,
    /// Uid of that namespace: it stays the tenant's though somebody takes EPIC's label off it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Uid>")]
    pub namespace_uid: Option<String>,
    /// What is used of the limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<AccountUsage>,
    /// Accepted and Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// What an Account uses of its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct AccountUsage {
    /// Proxies, against proxy-limit: those that are there, draining ones included, and those that are to come. More
    /// than the limit after that was lowered, or while a rolling update drains what it replaces.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub proxies: i64,
    /// LoadBalancers, against load-balancer-limit.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub load_balancers: i64,
    /// Endpoints, against endpoint-limit.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub endpoints: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

has_conditions!(Account);
keeps_unknown!(Account);
keeps! {
    AccountSpec,
    AccountStatus { status, before => {
        carry_keyed(&mut status.reservations, &before.reservations, Reservation::key);
        carry_option(status.usage.as_mut(), before.usage.as_ref());
        carry_keyed(&mut status.conditions, &before.conditions, |row| row.type_.clone());
    } },
    AccountUsage,
}

impl AccountSpec {
    /// Most proxies, 250 where nothing is said: a hundred LoadBalancers of two, and some that are replaced.
    pub fn proxy_limit(&self) -> i64 {
        self.proxy_limit.unwrap_or(250)
    }

    /// Most private ServiceGroups, 20 where nothing is said.
    pub fn service_group_limit(&self) -> i64 {
        self.service_group_limit.unwrap_or(20)
    }

    /// Most LoadBalancers, 100 where nothing is said.
    pub fn load_balancer_limit(&self) -> i64 {
        self.load_balancer_limit.unwrap_or(100)
    }

    /// Most Endpoints, 5000 where nothing is said.
    pub fn endpoint_limit(&self) -> i64 {
        self.endpoint_limit.unwrap_or(5000)
    }
}

/// Rules that see spec, status and name together.
pub(crate) const RULES: &[(&str, &str)] = &[
    (
        "self.metadata.name.size() <= 58 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "the name of an Account must be a DNS label of at most 58 characters, because its namespace is called epic-<name>",
    ),
    (
        "!has(self.status) || !has(self.status.group__dash__id) || !has(self.spec.group__dash__id) || self.spec.group__dash__id == self.status.group__dash__id",
        "spec.group-id must be absent or equal to the granted status.group-id",
    ),
];

reasons! {
    /// Why a condition or an Event of an Account says what it says.
    AccountReason {
        #[doc = "The Account is valid."]
        Accepted,
        #[doc = "Namespace, roles and group ID are in place."]
        Ready,
        #[doc = "The operator has not got to it yet, or waits for something named in the message."]
        Pending,
        #[doc = "There is no EPIC object epic/epic, or it is not ready."]
        EpicNotReady,
        #[doc = "Account X must lie in namespace epic or epic-X."]
        WrongNamespace,
        #[doc = "Another Account of the same name lies in namespace epic and wins."]
        DuplicateAccount,
        #[doc = "The namespace exists, is not labelled for this Account, and holds workloads, Secrets or RoleBindings of others."]
        NamespaceNotAdopted,
        #[doc = "The namespace is being deleted."]
        NamespaceTerminating,
        #[doc = "The group ID asked for is granted to another Account."]
        GroupIdTaken,
        #[doc = "A counter has come round and every value is taken."]
        IdsExhausted,
        #[doc = "The same ID is granted to several objects; the older grant keeps it."]
        DuplicateGrant,
        #[doc = "The Account is to be deleted and waits for its LoadBalancers to go."]
        LoadBalancersRemain,
        #[doc = "Admission policies do not act in the tenant namespace yet."]
        PoliciesPending,
        #[doc = "An ID was handed out."]
        Allocated,
        #[doc = "An object of ours in the tenant namespace could not be written."]
        ApplyFailed,
        #[doc = "Objects that could not be read were skipped."]
        UnreadableObject,
        #[doc = "The Account is being deleted."]
        Deleting,
    }
}
