//! `get`: everything on one screen, and what is wrong with it.
//!
//! [`gather`] reads, [`judge`] decides what is wrong, [`render`] prints; the last two are pure. *Forbidden is not
//! empty*: a kind that this caller may not list is named, never shown as nothing.

pub mod judge;
pub mod lease;
pub mod render;
mod table;
mod traffic;

use epic_crds::well_known::{EPIC_NAMESPACE, tenant_namespace};
use epic_crds::{Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, LoadBalancer, ServiceGroup};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::account;
use crate::api::{self, Listed, is_forbidden};

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// EPIC objects (one, or none).
    pub epics: Listed<EPIC>,
    /// EPIC nodes.
    pub nodes: Listed<EPICNode>,
    /// Leases in namespace `epic`: the operator's and the agents'.
    pub leases: Listed<Lease>,
    /// Accounts.
    pub accounts: Listed<Account>,
    /// Pools.
    pub pools: Listed<AddressPool>,
    /// Claims.
    pub claims: Listed<AddressClaim>,
    /// Groups.
    pub groups: Listed<ServiceGroup>,
    /// LoadBalancers.
    pub balancers: Listed<LoadBalancer>,
    /// Endpoints.
    pub endpoints: Listed<Endpoint>,
    /// Kinds that this caller may not list.
    pub forbidden: Vec<String>,
}

/// Everything on one screen.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Overview {
    /// What is wrong with EPIC itself: no EPIC object, no operator, kinds that may not be listed.
    pub problems: Vec<Problem>,
    /// Who holds the operator's Lease.
    pub operator: Option<String>,
    /// EPIC nodes.
    pub nodes: Vec<Node>,
    /// Accounts.
    pub accounts: Vec<AccountLine>,
    /// Pools.
    pub pools: Vec<Pool>,
    /// Groups with problems. Others are named by their LoadBalancers.
    pub groups: Vec<Group>,
    /// LoadBalancers.
    pub load_balancers: Vec<Balancer>,
    /// Endpoints whose LoadBalancer is not there.
    pub stray_endpoints: Vec<EndpointLine>,
    /// Claims on their way out.
    pub releasing: Vec<Releasing>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Problem {
    /// Condition that says so, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Reason out of the kind's closed list, or one of epicctl's own.
    pub reason: String,
    /// What to know or do.
    pub message: String,
}

/// An EPIC node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Status of its condition Ready.
    pub ready: String,
    /// Addresses at which it receives GUE.
    pub addresses: Vec<String>,
    /// Kernel release.
    pub kernel: String,
    /// Tunnels whose client answers.
    pub tunnels_up: i64,
    /// Tunnels that end at it.
    pub tunnels: i64,
    /// The fullest map: its name and per cent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fullest_map: Option<(String, i64)>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// An Account.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AccountLine {
    /// Its name.
    pub name: String,
    /// Status of its condition Ready.
    pub ready: String,
    /// The tenant's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Granted group ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<i64>,
    /// LoadBalancers there are, and may be.
    pub load_balancers: (i64, i64),
    /// Endpoints there are, and may be.
    pub endpoints: (i64, i64),
    /// Proxies wanted, and allowed.
    pub proxies: (i64, i64),
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Status of its condition Ready.
    pub ready: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// `used/total` of each family that it has.
    pub used: Vec<String>,
    /// How its addresses are made known: `l2`, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// A ServiceGroup that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Group {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// A LoadBalancer with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Balancer {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Granted public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Public ports, `80/TCP`.
    pub ports: Vec<String>,
    /// Status of its condition Ready.
    pub ready: String,
    /// Its ServiceGroup.
    pub group: String,
    /// Granted service ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_id: Option<i64>,
    /// Its proxies.
    pub proxies: Vec<ProxyLine>,
    /// Its tunnels.
    pub tunnels: Vec<TunnelLine>,
    /// Its Endpoints.
    pub endpoints: Vec<EndpointLine>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// A proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProxyLine {
    /// Its pod.
    pub pod: String,
    /// The EPIC node it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Pending, Ready or Draining.
    pub state: String,
    /// Granted proxy ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Its address inside the tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// A tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TunnelLine {
    /// Its ID.
    pub id: i64,
    /// Identity of the client node.
    pub client: String,
    /// Address of the EPIC node.
    pub epic_address: String,
    /// Name of the EPIC node, if one has that address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether the client answers; nothing while its node has not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Whether the client is behind a NAT.
    pub nat: bool,
    /// Since when it is up or down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// An Endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `address:port/protocol`.
    pub address: String,
    /// Identity of its client node; nothing where it has no tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Address by which Envoy knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Weight; 0 is draining.
    pub weight: i64,
    /// Status of its condition Programmed.
    pub programmed: String,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// A claim on its way out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Releasing {
    /// The address.
    pub address: String,
    /// `namespace/name` of the last owner.
    pub owner: String,
    /// Nodes that may still have it in their maps.
    pub waits_for: Vec<String>,
}

/// Reads everything, or what belongs to one account.
///
/// # Errors
/// The API server cannot be asked, or there is no such account. What it refuses is in [`Found::forbidden`].
pub async fn gather(client: &Client, account: Option<&str>) -> Result<Found, account::Error> {
    let tenant = account.map(tenant_namespace);
    let scope = tenant.as_deref();
    let mut forbidden = Vec::new();
    let mut found = Found {
        epics: read(client, Some(EPIC_NAMESPACE), &mut forbidden).await?,
        nodes: read(client, Some(EPIC_NAMESPACE), &mut forbidden).await?,
        leases: read(client, Some(EPIC_NAMESPACE), &mut forbidden).await?,
        accounts: read(client, None, &mut forbidden).await?,
        pools: read(client, Some(EPIC_NAMESPACE), &mut forbidden).await?,
        claims: read(client, Some(EPIC_NAMESPACE), &mut forbidden).await?,
        groups: read(client, scope, &mut forbidden).await?,
        balancers: read(client, scope, &mut forbidden).await?,
        endpoints: read(client, scope, &mut forbidden).await?,
        forbidden: Vec::new(),
    };
    if let Some(name) = account {
        let all = std::mem::take(&mut found.accounts.items);
        let (own, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|account| account.name_any() == name);
        if own.is_empty() && !forbidden.iter().any(|kind| kind == "accounts") {
            return Err(account::Error::unknown(name, &others));
        }
        found.accounts.items = own;
        found.pools.items.retain(|pool| admits(pool, name));
        found.claims.items.retain(|claim| Some(claim.spec.owner.namespace.as_str()) == scope);
    }
    found.forbidden = forbidden;
    Ok(found)
}

/// Reads what the objects of one namespace depend on: the namespace itself and `epic`.
///
/// # Errors
/// The API server cannot be asked. What it refuses is in [`Found::forbidden`].
pub async fn gather_namespace(client: &Client, namespace: &str) -> Result<Found, api::Error> {
    let mut forbidden = Vec::new();
    let (system, scope) = (Some(EPIC_NAMESPACE), Some(namespace));
    let mut found = Found {
        epics: read(client, system, &mut forbidden).await?,
        nodes: read(client, system, &mut forbidden).await?,
        leases: read(client, system, &mut forbidden).await?,
        accounts: read(client, system, &mut forbidden).await?,
        pools: read(client, system, &mut forbidden).await?,
        claims: read(client, system, &mut forbidden).await?,
        groups: read(client, system, &mut forbidden).await?,
        balancers: read(client, scope, &mut forbidden).await?,
        endpoints: read(client, scope, &mut forbidden).await?,
        forbidden: Vec::new(),
    };
    let own: Listed<Account> = read(client, scope, &mut forbidden).await?;
    found.accounts.items.extend(own.items);
    let own: Listed<ServiceGroup> = read(client, scope, &mut forbidden).await?;
    found.groups.items.extend(own.items);
    forbidden.sort();
    forbidden.dedup();
    found.forbidden = forbidden;
    Ok(found)
}

/// Whether an account may have addresses of a pool.
fn admits(pool: &AddressPool, account: &str) -> bool {
    pool.spec.accounts.as_ref().is_none_or(|accounts| accounts.iter().any(|name| name == account))
}

async fn read<K>(
    client: &Client,
    namespace: Option<&str>,
    forbidden: &mut Vec<String>,
) -> Result<Listed<K>, api::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let plural = K::plural(&()).into_owned();
    match api::list::<K>(client, namespace).await {
        Ok(listed) => Ok(listed),
        Err(error) if is_forbidden(&error) => {
            forbidden.push(plural);
            Ok(Listed::default())
        }
        Err(error) => Err(api::Error::call(format!("list {plural}"), error)),
    }
}
