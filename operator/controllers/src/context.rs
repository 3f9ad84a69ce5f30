//! What every controller shares: the one client, the one set of watches, and how to report.
//!
//! One watch per kind and process feeds controllers, allocators and the xDS tables alike. Nothing is decided before
//! all of them have listed; a kind that cannot be listed is named by `/readyz`.

use std::sync::Arc;

use epic_crds::well_known::{FIELD_MANAGER, LABEL_ACCOUNT, LABEL_LOAD_BALANCER};
use epic_crds::{Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, LoadBalancer, ServiceGroup};
use epic_ops::Metrics;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, Pod, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kates::{Accumulator, Client, Query, Snapshot};
use kube::core::Expression;

use crate::account;
use crate::allocation::verdict::Verdicts;
use crate::certificate::Certificates;
use crate::claim::Addresses;
use crate::endpoint;
use crate::event::Events;
use crate::keys::Keys;
use crate::leader::Leadership;
use crate::load_balancer::Awaited;
use crate::metrics::{Counters, StateCollector};
use crate::node::Silent;
use crate::proxy::ReplicaSet;
use crate::settings::Settings;
use crate::tenant;
use crate::witness::Witness;
use crate::xds::Assigned;

/// What every controller shares.
pub struct Context {
    /// Reads, writes, and shows what it wrote.
    pub client: Client,
    /// All watches.
    pub watches: Accumulator,
    /// Whether this replica writes.
    pub leadership: Leadership,
    /// Flags.
    pub settings: Settings,
    /// Events on objects.
    pub events: Events,
    /// What this process counts.
    pub counters: Counters,
    /// The proxies' certificates.
    pub certificates: Certificates,
    /// The master key.
    pub keys: Keys,
    /// Namespaces that are not taken, and why.
    pub refused: account::Refused,
    /// What the passes over Endpoints have in common.
    pub endpoints: Arc<endpoint::Index>,
    /// What ready proxies have acknowledged.
    pub assigned: Assigned,
    /// Who is heard, and who is not any more.
    pub witness: Witness,
    /// Which versions of LoadBalancers nodes have to pass.
    pub awaited: Awaited,
    /// What the allocators could not give.
    pub verdicts: Verdicts,
    /// Since when agents are silent.
    pub silent: Silent,
    /// Which addresses are free, who holds the others, and who waits for one.
    pub addresses: Arc<Addresses>,
    /// Who is within the limits of its Account.
    pub admissions: Arc<account::Admissions>,
    /// Since when usage figures wait to be written.
    pub figures: account::Figures,
}

/// The context, shared.
pub type Shared = Arc<Context>;

impl Context {
    /// A context over `kube`, watching from now on.
    pub fn new(kube: kube::Client, settings: Settings, leadership: Leadership, metrics: &Metrics) -> Shared {
        let limits =
            kates::Settings { field_manager: Some(FIELD_MANAGER.to_owned()), ..kates::Settings::default() };
        let client = Client::with_settings(kube.clone(), limits);
        let watches = watch(&client, &settings);
        let counters = Counters::register(metrics);
        let context = Arc::new(Self {
            events: Events::new(kube, &settings.identity, counters.clone()),
            counters,
            client,
            leadership,
            settings,
            certificates: Certificates::default(),
            keys: Keys::default(),
            refused: account::Refused::default(),
            endpoints: Arc::default(),
            assigned: Assigned::default(),
            witness: Witness::default(),
            awaited: Awaited::default(),
            verdicts: Verdicts::default(),
            silent: Silent::default(),
            addresses: Arc::new(Addresses::new(watches.clone())),
            watches,
            admissions: Arc::default(),
            figures: account::Figures::default(),
        });
        let state = StateCollector::new(Arc::downgrade(&context));
        metrics.register(|registry| registry.register_collector(Box::new(state)));
        context
    }

    /// The state of now. Controllers are only called once there is one.
    ///
    /// # Errors
    /// [`NotSynced`] before every kind has listed.
    pub fn snapshot(&self) -> Result<Snapshot, NotSynced> {
        self.watches.snapshot().ok_or(NotSynced)
    }
}

/// Some kind has not been listed yet; `/readyz` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not every kind has been listed yet; see /readyz")]
pub struct NotSynced;

fn watch(client: &Client, settings: &Settings) -> Accumulator {
    let ours = |label: &str| Query::all().labels(Expression::Exists(label.to_owned()));
    let system = || Query::namespace(settings.namespace.as_str());
    // Of what is applied here, what was applied: a field that is wanted no more has to be found.
    let applied = |label: &str| ours(label).applied_by(FIELD_MANAGER);
    client
        .accumulate()
        .watch::<EPIC>(system())
        .watch::<EPICNode>(system())
        .watch::<Account>(Query::all())
        .watch::<AddressPool>(system())
        .watch::<AddressClaim>(system())
        .watch::<ServiceGroup>(Query::all())
        .watch::<LoadBalancer>(Query::all())
        .watch::<Endpoint>(Query::all())
        .watch::<Namespace>(Query::all().applied_by(FIELD_MANAGER))
        .watch::<Node>(Query::all())
        .watch::<ServiceCIDR>(Query::all())
        .watch::<Lease>(system())
        .watch::<Service>(system().field("metadata.name", settings.xds_service.as_str()))
        .watch::<Secret>(system().field("type", tenant::pull::TYPE))
        .watch::<Pod>(ours(LABEL_LOAD_BALANCER))
        .watch::<ReplicaSet>(ours(LABEL_LOAD_BALANCER))
        .watch::<Deployment>(applied(LABEL_LOAD_BALANCER))
        .watch::<PodDisruptionBudget>(applied(LABEL_LOAD_BALANCER))
        .watch::<ConfigMap>(applied(LABEL_ACCOUNT))
        .watch::<ResourceQuota>(applied(LABEL_ACCOUNT))
        .watch::<ServiceAccount>(applied(LABEL_ACCOUNT))
        .watch::<RoleBinding>(applied(LABEL_ACCOUNT))
        .watch::<NetworkPolicy>(applied(LABEL_ACCOUNT))
        .start()
}
