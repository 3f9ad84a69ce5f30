//! The rows of the tables. Immutable values; only [`crate::Writer`] puts them into tables.

mod alias;
mod backend;
mod frontend;
mod node;
mod pass;
mod proxy;
mod service;
mod tunnel;

pub use alias::{Alias, AliasKey};
pub use backend::{Backend, BackendKey, BackendState};
pub use frontend::{
    Frontend, FrontendKey, FrontendParams, FrontendType, Protocol, Role, Scope, Selected, TargetPort,
};
pub use node::EpicNode;
pub use pass::{Pass, PassKey};
pub use proxy::{Proxy, ProxyState, Veth};
pub use service::{DataKey, LbPolicy, Service, ServiceKeys, ServiceName, Source};
pub use tunnel::{Link, Tunnel};
