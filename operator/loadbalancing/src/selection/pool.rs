//! The backends of one service for one frontend: who takes new flows.

use std::sync::Arc;

use epic_store::Stored;

use super::{Explained, Here, Reason, Role, Selected, speaks};
use crate::rows::{
    Backend, ClusterAffinity, Distribution, Forwarding, Frontend, NatPolicy, NewFlows, Protocol, Scope,
    ServiceRef, TargetPort, Traffic, TrafficPolicy, VerdictKey,
};
use crate::tables::Tables;

/// What a frontend asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    protocol: Protocol,
    scope: Scope,
    port_name: Option<&'a str>,
    target: Option<&'a TargetPort>,
    /// Whether the packets' own family arrives at the backend, and which that is.
    v4: Option<bool>,
    here_only: bool,
}

impl<'a> Wanted<'a> {
    pub(super) fn by(frontend: &'a Frontend) -> Self {
        let direct = frontend.forwarding == Forwarding::Direct;
        Self {
            protocol: frontend.key.protocol,
            scope: frontend.key.scope,
            port_name: frontend.port_name.as_deref(),
            target: frontend.target_port.as_ref(),
            v4: direct.then(|| frontend.key.address.ip().is_ipv4()),
            here_only: false,
        }
    }

    /// The same of another service, whose backends listen elsewhere.
    pub(super) fn redirected(self, port: Option<&'a TargetPort>) -> Self {
        match port {
            Some(_) => Self { port_name: None, target: port, ..self },
            None => self,
        }
    }

    /// Of this node only.
    pub(super) fn here_only(self) -> Self {
        Self { here_only: true, ..self }
    }

    fn port(&self, backend: &Backend) -> bool {
        let named = |name: &str| backend.port_names().iter().any(|known| &**known == name);
        if self.port_name.is_some_and(named) {
            return true;
        }
        match self.target {
            Some(TargetPort::Number(number)) => backend.place.port == *number,
            Some(TargetPort::Name(name)) => named(name),
            None => self.port_name.is_none() || backend.port_names().is_empty(),
        }
    }

    fn family(&self, backend: &Backend, nat: NatPolicy) -> bool {
        let to_v4 = backend.place.address.ip().is_ipv4();
        match self.v4 {
            None => true,
            Some(from_v4) if from_v4 == to_v4 => true,
            Some(true) => nat == NatPolicy::Nat46,
            Some(false) => nat == NatPolicy::Nat64,
        }
    }
}

/// How far a backend is from what the service prefers; 0 is best.
type Distance = (u16, u8);

/// The backends of one service for one frontend.
#[derive(Clone, Debug)]
pub(super) struct Pool<'a> {
    tables: &'a Tables,
    service: ServiceRef,
    traffic: &'a Traffic,
    wanted: Wanted<'a>,
    here: Here<'a>,
    /// Whether any verdict has to be looked up.
    judged: bool,
    panic: bool,
    /// State and distance of those that take new flows; `None` if nothing does.
    chosen: Option<(NewFlows, Distance)>,
}

impl<'a> Pool<'a> {
    pub(super) fn of(tables: &'a Tables, service: ServiceRef, wanted: Wanted<'a>, here: Here<'a>) -> Self {
        let traffic = tables.service(service).map_or(Traffic::DEFAULT, |row| row.traffic());
        let judged = tables.verdicts.prefix(service).next().is_some();
        let mut pool = Self { tables, service, traffic, wanted, here, judged, panic: false, chosen: None };
        pool.decide();
        pool
    }

    fn decide(&mut self) {
        let (mut all, mut healthy) = (0u64, 0u64);
        let mut best: Option<(NewFlows, Distance)> = None;
        let mut best_in_panic: Option<(NewFlows, Distance)> = None;
        for backend in self.candidates() {
            let Some(wants) = self.wants(backend) else { continue };
            let is_healthy = self.is_healthy(backend) && wants != NewFlows::IfPanic;
            // What goes away is not missing.
            if wants != NewFlows::IfNoOther {
                all += 1;
                healthy += u64::from(is_healthy);
            }
            let distance = self.distance(backend);
            let nearer = |best: &mut Option<(NewFlows, Distance)>, wants| {
                let this = (wants, distance);
                if best.is_none_or(|best| this < best) {
                    *best = Some(this);
                }
            };
            if is_healthy {
                nearer(&mut best, wants);
            }
            nearer(&mut best_in_panic, if wants == NewFlows::IfPanic { NewFlows::Yes } else { wants });
        }
        self.panic = healthy * 100 < all * u64::from(self.traffic.panic_threshold.min(100));
        self.chosen = if self.panic { best_in_panic } else { best };
    }

    pub(super) fn service(&self) -> ServiceRef {
        self.service
    }

    pub(super) fn serves(&self) -> bool {
        self.chosen.is_some()
    }

    pub(super) fn in_panic(&self) -> bool {
        self.panic
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Selected<'a>> + use<'_, 'a> {
        self.candidates().map(|backend| Selected { backend, role: self.role(backend) })
    }

    fn role(&self, backend: &Backend) -> Role {
        let serves = self.chosen.is_some_and(|(state, distance)| {
            let wants = match self.wants(backend) {
                Some(NewFlows::IfPanic) if self.panic => NewFlows::Yes,
                Some(NewFlows::IfPanic) | None => return false,
                Some(wants) => wants,
            };
            wants == state && self.distance(backend) == distance && (self.panic || self.is_healthy(backend))
        });
        if serves { Role::Serving } else { Role::ExistingOnly }
    }

    pub(super) fn explain(&self) -> Vec<Explained<'a>> {
        let rows = self.tables.backends_of(self.service);
        rows.map(|backend| match self.why_out_of_reach(backend) {
            Some(why) => Explained { backend, role: None, why: Some(why) },
            None => {
                let role = self.role(backend);
                let why = (role != Role::Serving).then(|| self.why_not_serving(backend));
                Explained { backend, role: Some(role), why }
            }
        })
        .collect()
    }

    fn why_out_of_reach(&self, backend: &Backend) -> Option<Reason> {
        let same = self.tables.backends.prefix((self.service, backend.place));
        // The first of equal ones, as `candidates` has it.
        let counts = same.min_by_key(|row| (row.state.new_flows(), row.source))?;
        if counts.source != backend.source {
            Some(Reason::OtherSource(counts.source))
        } else if !speaks(backend, self.wanted.protocol) {
            Some(Reason::Protocol(backend.place.protocol))
        } else if !self.wanted.port(backend) {
            Some(Reason::Port)
        } else {
            (!self.wanted.family(backend, self.traffic.nat)).then_some(Reason::Family)
        }
    }

    /// Of one that the frontend reaches and that takes no new flows.
    fn why_not_serving(&self, backend: &Backend) -> Reason {
        let takes = backend.state.new_flows();
        match self.wants(backend) {
            None if takes == NewFlows::No => Reason::State(backend.state),
            None if backend.weight == 0 => Reason::Weight,
            None => Reason::NotHere,
            Some(NewFlows::IfPanic) if !self.panic => Reason::State(backend.state),
            Some(_) if !self.panic && !self.is_healthy(backend) => {
                let key = VerdictKey { service: self.service, place: backend.place };
                Reason::Unhealthy(self.tables.verdicts.get(key).and_then(|verdict| verdict.reason.clone()))
            }
            Some(NewFlows::IfNoOther) if self.chosen.is_some_and(|(chosen, _)| chosen == NewFlows::Yes) => {
                Reason::OthersStay
            }
            Some(_) => Reason::Farther,
        }
    }

    /// Backends that the frontend may reach at all, one a place.
    fn candidates(&self) -> impl Iterator<Item = &'a Arc<Stored<Backend>>> + use<'_, 'a> {
        let mut rows = self.tables.backends_of(self.service).peekable();
        let places = std::iter::from_fn(move || {
            let mut best = rows.next()?;
            // Rows of one place stand together, the most preferred source first.
            while let Some(next) = rows.next_if(|next| next.place == best.place) {
                if next.state.new_flows() < best.state.new_flows() {
                    best = next;
                }
            }
            Some(best)
        });
        places.filter(|backend| self.admits(backend))
    }

    fn admits(&self, backend: &Backend) -> bool {
        speaks(backend, self.wanted.protocol)
            && self.wanted.port(backend)
            && self.wanted.family(backend, self.traffic.nat)
    }

    /// Whether a backend would take new flows if it were healthy.
    fn wants(&self, backend: &Backend) -> Option<NewFlows> {
        let wants = backend.state.new_flows();
        let policy = match self.wanted.scope {
            Scope::External => self.traffic.external,
            Scope::Internal => self.traffic.internal,
        };
        let local = self.wanted.here_only || policy == TrafficPolicy::Local;
        (wants != NewFlows::No && backend.weight > 0 && (!local || self.is_here(backend))).then_some(wants)
    }

    fn is_here(&self, backend: &Backend) -> bool {
        let node = backend.locality.node.as_deref();
        node.is_some() && node == self.here.node
    }

    fn is_healthy(&self, backend: &Backend) -> bool {
        !self.judged || self.tables.is_healthy(self.service, backend.place)
    }

    fn distance(&self, backend: &Backend) -> Distance {
        let locality = &backend.locality;
        // Of the own cluster's backends some sources name it, most do not.
        let of = locality.cluster.as_deref().or(self.here.cluster);
        let cluster = match &self.traffic.clusters {
            ClusterAffinity::Any => 0,
            ClusterAffinity::Local => u16::from(of != self.here.cluster),
            ClusterAffinity::Remote => u16::from(of == self.here.cluster),
            ClusterAffinity::Named(names) => {
                let at = names.iter().position(|name| of == Some(&**name));
                u16::try_from(at.unwrap_or(names.len())).unwrap_or(u16::MAX)
            }
        };
        let same_zone = locality.zone.is_some() && locality.zone.as_deref() == self.here.zone;
        let place = match self.traffic.distribution {
            Distribution::Everywhere => 0,
            Distribution::SameZone => u8::from(!same_zone),
            Distribution::SameNode => {
                if self.is_here(backend) {
                    0
                } else {
                    1 + u8::from(!same_zone)
                }
            }
        };
        (cluster, place)
    }
}
