//! Which backends of its service a frontend uses, and for what.
//!
//! Pure. State and health never remove a backend: they decide whether it takes new flows, so that flows which exist
//! are not cut by a verdict. A row that the service's source removed is gone at once.
//!
//! Rules, in this order:
//! 1. of several sources that name the same (address, port, protocol) the most preferred *healthy* one counts; if none
//!    is healthy, the most preferred one;
//! 2. same protocol, or [`Protocol::Any`]; the family does not matter, a proxy stands between the two;
//! 3. the port: a named frontend takes backends whose port has that name; else `target_port` by number or by name;
//!    else every backend;
//! 4. serving are healthy active ones with a weight; if there is none, healthy terminating ones with a weight; all
//!    others keep the flows they have.

use std::sync::Arc;

use crate::rows::{Backend, BackendState, FrontendParams, Protocol, Role, Selected, TargetPort};

/// The backends of one frontend out of those of its service (given by key): serving ones first, then by key.
pub fn select<'a>(
    frontend: &FrontendParams,
    backends: impl IntoIterator<Item = &'a Arc<Backend>>,
) -> Arc<[Selected]> {
    let candidates = preferred(backends).into_iter().filter(|b| matches(frontend, b));
    let candidates: Vec<&Arc<Backend>> = candidates.collect();
    let takes_flows = |state| {
        let fits = |b: &&&Arc<Backend>| b.state == state && !b.unhealthy && b.weight > 0;
        candidates.iter().any(|b| fits(&b))
    };
    let serving_state = if takes_flows(BackendState::Active) {
        Some(BackendState::Active)
    } else if takes_flows(BackendState::Terminating) {
        Some(BackendState::Terminating)
    } else {
        None
    };
    let mut selected: Vec<Selected> = candidates
        .into_iter()
        .map(|b| {
            let serves = Some(b.state) == serving_state && !b.unhealthy && b.weight > 0;
            let role = if serves { Role::Serving } else { Role::ExistingOnly };
            Selected { backend: Arc::clone(b), role }
        })
        .collect();
    selected.sort_by_key(|s| s.role);
    selected.into()
}

/// One row per (address, port, protocol). Rows come by key, so those of one address stand together, best source first.
fn preferred<'a>(backends: impl IntoIterator<Item = &'a Arc<Backend>>) -> Vec<&'a Arc<Backend>> {
    let mut out: Vec<&Arc<Backend>> = Vec::new();
    for b in backends {
        match out.last_mut() {
            Some(last) if same_place(last, b) => {
                if last.unhealthy && !b.unhealthy {
                    *last = b;
                }
            }
            _ => out.push(b),
        }
    }
    out
}

fn same_place(a: &Backend, b: &Backend) -> bool {
    a.key.address == b.key.address && a.key.port == b.key.port && a.key.protocol == b.key.protocol
}

fn matches(frontend: &FrontendParams, backend: &Backend) -> bool {
    let key = &backend.key;
    if key.protocol != Protocol::Any && key.protocol != frontend.key.protocol {
        return false;
    }
    let named = |name: &str| backend.port_names.iter().any(|n| &**n == name);
    if let Some(name) = &frontend.port_name
        && named(name)
    {
        return true;
    }
    match &frontend.target_port {
        Some(TargetPort::Number(n)) => key.port == *n,
        Some(TargetPort::Name(name)) => named(name),
        None => frontend.port_name.is_none() || backend.port_names.is_empty(),
    }
}
