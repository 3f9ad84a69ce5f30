//! What to do about a reason. The condition's message says what is wrong; this says what mends it.

use epic_crds::reason::Reason as _;
use epic_crds::{EndpointReason, LoadBalancerReason};

/// What is left where nothing else is known to do.
const PATIENCE: &str =
    "wait a moment; if it stays so, look at the operator's log: kubectl -n epic logs deploy/epic-operator";

/// What mends a LoadBalancer that is not accepted, not programmed or not ready for this reason.
pub(super) fn of_balancer(reason: &str, namespace: &str, name: &str) -> String {
    use LoadBalancerReason as Reason;
    let Some(reason) = Reason::parse(reason) else { return PATIENCE.to_owned() };
    let edit = format!("kubectl -n {namespace} edit epiclb {name}");
    let fixed = match reason {
        Reason::GroupNotFound => {
            return format!(
                "name a group that is there (kubectl get epicsg -n {namespace}; kubectl get epicsg -n epic): {edit}"
            );
        }
        Reason::AddressNotInPool => {
            return format!("ask for an address of the group's pools, or for none: {edit}");
        }
        Reason::AddressTaken => return format!("ask for another address, or for none: {edit}"),
        Reason::ServiceIdTaken => return format!("ask for another service-id, or for none: {edit}"),
        Reason::NotSupportedYet => return format!("take out the field that the message names: {edit}"),
        Reason::InvalidPort => return format!("correct the ports that the message names: {edit}"),
        Reason::ProxyStale => {
            return format!(
                "see why the pod that the message names cannot reach epic-xds in namespace epic (TCP 18000: NetworkPolicy, clock, certificate), or have it replaced: kubectl -n {namespace} delete pod NAME"
            );
        }
        Reason::NoReadyProxy | Reason::ProxiesPending => {
            return format!(
                "kubectl -n {namespace} get pods -o wide; the message names the first with a problem"
            );
        }
        Reason::GroupNotAdmitted => {
            "have your Account added to spec.accounts of the group, or name another group"
        }
        Reason::GroupNotAccepted => {
            "mend the ServiceGroup; its condition Accepted says what is wrong with it"
        }
        Reason::AccountNotReady => "mend the Account of this namespace; its conditions say what it lacks",
        Reason::PoolNotFound => "create the AddressPool, or take its name out of address-pools of the group",
        Reason::PoolExhausted => {
            "add addresses to the pool (spec.addresses), or name another pool in the group"
        }
        Reason::AddressOutOfPool => {
            "put the address back into a pool of the group; it stays granted until then"
        }
        Reason::IdsExhausted => {
            "delete what is not used, or create another Account: each has 65,535 service IDs"
        }
        Reason::DuplicateGrant => "delete the younger of the two that the message names, and report it",
        Reason::LimitExceeded | Reason::ProxyLimitExceeded => {
            "delete what is not used, or have the limit of the Account raised"
        }
        Reason::ApplyFailed => "mend what the API server refused; the operator tries again by itself",
        Reason::ProxyRejected => {
            "compare the Envoy image of the group with the one EPIC was made for; if it is EPIC's own, report it"
        }
        Reason::NodesPending => {
            "kubectl -n epic get epicnodes -o wide; the message names the nodes that are behind"
        }
        Reason::AnnouncerSilent => {
            "see the agent on the node that the message names: kubectl -n epic get pods -l app.kubernetes.io/name=epic-agent -o wide"
        }
        Reason::NoNodeToAnnounce => "kubectl -n epic get pods -l app.kubernetes.io/name=epic-agent",
        Reason::AddressConflict => {
            "take the address from the machine that the message names, or out of the pool"
        }
        _ => PATIENCE,
    };
    fixed.to_owned()
}

/// What mends an Endpoint.
pub(super) fn of_endpoint(reason: &str, namespace: &str, name: &str) -> String {
    use EndpointReason as Reason;
    let Some(reason) = Reason::parse(reason) else { return PATIENCE.to_owned() };
    let edit = format!("kubectl -n {namespace} edit epicep {name}");
    match reason {
        Reason::NoMatchingPort => format!("make its port's name, number or protocol match public-ports: {edit}"),
        Reason::AddressRefused => format!("give it the address of a pod or host at the client site: {edit}"),
        Reason::UntunnelledAddressRefused => {
            format!("set node-address, or have the network added to untunnelled-networks of EPIC: {edit}")
        }
        Reason::DuplicateEndpoint => {
            format!("delete one of the two: kubectl -n {namespace} delete epicep {name}")
        }
        Reason::ClusterConflict => format!("give all Endpoints of a client node the same cluster: {edit}"),
        Reason::LimitExceeded => "delete what is not used, or have endpoint-limit of the Account raised".to_owned(),
        Reason::TooManyClientNodes => {
            "spread the Endpoints over several LoadBalancers: one has tunnels to at most 250 client nodes".to_owned()
        }
        Reason::DuplicateGrant => {
            format!("delete it and create it anew: kubectl -n {namespace} delete epicep {name}")
        }
        Reason::IdsExhausted => "delete other Endpoints of the Account".to_owned(),
        Reason::NotSupportedYet => format!("take out the field that the message names: {edit}"),
        Reason::TunnelDown | Reason::TunnelNotReported => {
            "on the client node: epic-agent tunnels. The agent runs with --node-address equal to the Endpoint's node-address, and UDP 6080 passes to the EPIC nodes".to_owned()
        }
        _ => PATIENCE.to_owned(),
    }
}
