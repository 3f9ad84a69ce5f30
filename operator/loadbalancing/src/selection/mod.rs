//! Which backends a frontend uses, and for what: a view over the tables, nothing stored.
//!
//! State and health never remove a backend: they decide whether it takes new flows, so that flows which exist are not cut
//! by a verdict. A row that the service's source removed is gone at once.
//!
//! Rules, in this order:
//! 1. of several sources that name the same place the one counts whose state lets it take new flows best, of equal ones
//!    the most preferred; so a source that lost sight of a backend does not hide it from one that sees it;
//! 2. same protocol, or [`Protocol::Any`]; the family does not matter where a proxy stands between the two, without one it
//!    must be the same unless the service lets it change;
//! 3. the port: a named frontend takes backends whose port has that name; else `target_port` by number or by name;
//!    else every backend;
//! 4. policy Local: only those of this node;
//! 5. new flows go to healthy active ones with a weight; if there is none, to healthy terminating ones with a weight. If
//!    fewer are healthy than the panic threshold says, verdicts of health are ignored;
//! 6. of those the ones that the service prefers by cluster, then by node and zone;
//! 7. a redirect replaces those that take new flows by those of another service, as long as its condition holds.
//!
//! All others keep the flows they have. The decision costs one pass over the backends of the service; members are looked at
//! again when they are taken.

mod pool;
mod reason;

use std::sync::Arc;

use epic_store::Stored;

use self::pool::{Pool, Wanted};
pub use self::reason::{Explained, Reason};
use crate::rows::{Backend, Frontend, Protocol, RedirectWhen, ServiceRef};
use crate::tables::Tables;

/// What a selected backend is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes new flows.
    Serving,
    /// Keeps the flows it has, takes no new ones.
    ExistingOnly,
}

/// A backend of a frontend.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The row.
    pub backend: &'a Arc<Stored<Backend>>,
    /// Its use.
    pub role: Role,
}

/// Where packets arrive: what preferences by place are compared with. What is not known is not preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Here<'a> {
    /// Name of this node.
    pub node: Option<&'a str>,
    /// Its zone.
    pub zone: Option<&'a str>,
    /// Its cluster; `None` is what rows without a cluster are in.
    pub cluster: Option<&'a str>,
}

/// [`Here`] of whoever keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Name of this node.
    pub node: Option<Arc<str>>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Its cluster; `None` is what rows without a cluster are in.
    pub cluster: Option<Arc<str>>,
}

impl Location {
    /// For a selection.
    pub fn here(&self) -> Here<'_> {
        Here { node: self.node.as_deref(), zone: self.zone.as_deref(), cluster: self.cluster.as_deref() }
    }
}

/// The backends of one frontend at one moment.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    own: Pool<'a>,
    /// Another service, which takes the new flows.
    instead: Option<Pool<'a>>,
}

impl<'a> Selection<'a> {
    /// Decides for one frontend.
    pub fn of(tables: &'a Tables, frontend: &'a Frontend, here: Here<'a>) -> Self {
        let service = frontend.service.id();
        let own = Pool::of(tables, service, Wanted::by(frontend), here);
        Self { instead: instead(tables, service, frontend, here, &own), own }
    }

    /// All backends by key, those of a redirect last.
    pub fn iter(&self) -> impl Iterator<Item = Selected<'a>> + use<'_, 'a> {
        let redirected = self.instead.is_some();
        let own = self.own.iter().map(move |selected| match redirected {
            true => Selected { role: Role::ExistingOnly, ..selected },
            false => selected,
        });
        own.chain(self.instead.iter().flat_map(Pool::iter))
    }

    /// Backends that take new flows.
    pub fn serving(&self) -> impl Iterator<Item = &'a Arc<Stored<Backend>>> + use<'_, 'a> {
        let pool = self.instead.as_ref().unwrap_or(&self.own);
        pool.iter().filter(|selected| selected.role == Role::Serving).map(|selected| selected.backend)
    }

    /// Whether anything takes new flows.
    pub fn serves(&self) -> bool {
        self.instead.as_ref().unwrap_or(&self.own).serves()
    }

    /// Whether so few backends are healthy that verdicts are ignored.
    pub fn in_panic(&self) -> bool {
        self.instead.as_ref().unwrap_or(&self.own).in_panic()
    }

    /// Every row of the service, and of the service that it is redirected to, with the reason why it takes no new flows.
    /// For people: it looks at each row several times.
    pub fn explain(&self) -> Vec<Explained<'a>> {
        let mut all = self.own.explain();
        let Some(instead) = &self.instead else { return all };
        let instead = instead.explain();
        if let Some(to) = instead.first().map(|explained| explained.backend.service.clone()) {
            for explained in all.iter_mut().filter(|explained| explained.role == Some(Role::Serving)) {
                explained.role = Some(Role::ExistingOnly);
                explained.why = Some(Reason::Redirected(to.clone()));
            }
        }
        all.extend(instead);
        all
    }

    /// The service that takes the new flows instead of the frontend's own.
    pub fn redirected_to(&self) -> Option<ServiceRef> {
        self.instead.as_ref().map(Pool::service)
    }
}

/// The pool of a redirect whose condition holds. Redirects are not followed further: a circle would have no end.
fn instead<'a>(
    tables: &'a Tables,
    service: ServiceRef,
    frontend: &'a Frontend,
    here: Here<'a>,
    own: &Pool<'a>,
) -> Option<Pool<'a>> {
    let redirect = tables.redirect_of(service)?;
    if redirect.when == RedirectWhen::NothingServes && own.serves() {
        return None;
    }
    let wanted = Wanted::by(frontend).redirected(redirect.port.as_ref());
    let wanted = match redirect.when {
        RedirectWhen::NothingServes => wanted,
        RedirectWhen::ServesHere => wanted.here_only(),
    };
    let other = Pool::of(tables, redirect.to.id(), wanted, here);
    other.serves().then_some(other)
}

/// Whether a backend speaks the protocol of a frontend.
fn speaks(backend: &Backend, protocol: Protocol) -> bool {
    backend.place.protocol == Protocol::Any || backend.place.protocol == protocol
}
