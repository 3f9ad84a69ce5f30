//! The rows of the six tables. Immutable values; only [`crate::Writer`] puts them into tables.

mod alias;
mod backend;
mod frontend;
mod proxy;
mod service;
mod tunnel;

pub use alias::{Alias, AliasKey, AliasTarget};
pub use backend::{Backend, BackendKey, BackendState};
pub use frontend::{
    Frontend, FrontendKey, FrontendParams, FrontendType, Protocol, Role, Scope, Selected, TargetPort,
};
pub use proxy::{Proxy, ProxyState, Veth};
pub use service::{DataKey, LbPolicy, Service, ServiceKeys, ServiceName, Source, Timeouts};
pub use tunnel::Tunnel;
