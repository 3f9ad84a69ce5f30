//! The rows of the tables. Immutable values; only [`crate::Writer`] puts them into tables.
//!
//! A row holds the names in it, its key the numbers of them (see [`epic_store::Name`]).

mod alias;
mod backend;
mod frontend;
mod node;
mod pass;
mod place;
mod proxy;
mod redirect;
mod service;
mod source;
mod traffic;
mod tunnel;
mod verdict;

pub use alias::{Alias, AliasKey, BehindTunnel, ByTunnel};
pub use backend::{Backend, BackendKey, BackendKind, BackendState, EndpointObject, Locality, NewFlows};
pub use frontend::{
    ByService, Forwarding, Frontend, FrontendKey, FrontendKind, Scope, TargetPort, Wish, WishKey,
};
pub use node::EpicNode;
pub use pass::{Pass, PassKey};
pub use place::{Address, Place, Protocol};
pub use proxy::{Proxy, ProxyState, Veth};
pub use redirect::{ByTarget, Redirect, RedirectWhen};
pub use service::{
    ByIds, DataKey, LbPolicy, Service, ServiceIds, ServiceKey, ServiceKeys, ServiceName, ServiceRef,
};
pub use source::{Since, Source};
pub use traffic::{ClusterAffinity, Distribution, NatPolicy, Traffic, TrafficPolicy};
pub use tunnel::{Link, Tunnel};
pub use verdict::{Verdict, VerdictKey};
