//! Who is known, and which services each client has: decided in values, without a socket, a file or a table.
//!
//! Invariants: a service is of one client; an address is of one service; what is refused changes nothing, for nobody.
//! A name is known from its first list on until it is forgotten; one that never listed goes with its connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use epic_lb::{Place, ServiceName, Traffic};

use super::protocol::{ClientName, Key, Presence, Standing};
use super::refusal::Refusal;
use crate::Rows;
use crate::file::{Document, Entry};

/// Property of a service that names the client it is of.
const PROPERTY: &str = "client";

/// Number of a connection; none comes twice.
pub(super) type ConnectionId = u64;

/// What to do with the tables.
#[derive(Debug)]
pub(super) enum Change {
    /// Make the service this.
    Put(Box<Rows>),
    /// Delete it.
    Delete(ServiceName),
}

/// What is to be done outside.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// To the tables, in turn.
    pub(super) changes: Vec<Change>,
    /// The client of which something else is to be kept now.
    pub(super) touched: Option<ClientName>,
}

/// What is bounded, and who may do what.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) names: usize,
    pub(super) rows: usize,
    pub(super) namespaces: BTreeMap<String, ClientName>,
}

/// What a client was refused because another has it.
#[derive(Debug)]
enum Wants {
    Service(ServiceName),
    Place(Place),
}

#[derive(Debug)]
struct Connected {
    id: ConnectionId,
    process: Option<i32>,
    listed: bool,
}

#[derive(Debug)]
struct Client {
    services: BTreeMap<ServiceName, Entry>,
    rows: usize,
    connected: Option<Connected>,
    /// Whether it has ever listed.
    known: bool,
    since: u64,
    /// Why what was kept cannot be read.
    lost: Option<String>,
    wants: Option<Wants>,
    /// What most of its services have for [`Traffic`].
    plain: Arc<Traffic>,
}

impl Client {
    fn new(name: &ClientName, since: u64) -> Self {
        Self {
            services: BTreeMap::new(),
            rows: 0,
            connected: None,
            known: false,
            since,
            lost: None,
            wants: None,
            plain: marked(Traffic::default(), name).into(),
        }
    }
}

fn marked(mut traffic: Traffic, name: &ClientName) -> Traffic {
    traffic.properties.insert(PROPERTY.into(), name.as_str().into());
    traffic
}

/// Who is known.
#[derive(Debug)]
pub(super) struct Registry {
    bounds: Bounds,
    clients: BTreeMap<ClientName, Client>,
    connections: BTreeMap<ConnectionId, ClientName>,
    services: BTreeMap<ServiceName, ClientName>,
    places: BTreeMap<Place, ServiceName>,
}

impl Registry {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            clients: BTreeMap::new(),
            connections: BTreeMap::new(),
            services: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    /// Takes over what was kept of a client, before anybody is connected.
    pub(super) fn restore(
        &mut self,
        name: ClientName,
        kept: Result<Document, String>,
        now: u64,
        effects: &mut Effects,
    ) {
        let client = Client { known: true, ..Client::new(&name, now) };
        self.clients.insert(name.clone(), client);
        let restored = kept.and_then(|document| {
            let list = self.checked(&name, document).map_err(|refusal| refusal.to_string())?;
            self.replace(&name, list, effects);
            Ok(())
        });
        if let (Err(why), Some(client)) = (restored, self.clients.get_mut(&name)) {
            client.lost = Some(why);
        }
    }

    /// Whether the services of every known client are known.
    pub(super) fn is_complete(&self) -> bool {
        self.clients.values().all(|client| client.lost.is_none())
    }

    pub(super) fn register(
        &mut self,
        connection: ConnectionId,
        process: Option<i32>,
        name: &str,
        now: u64,
    ) -> Result<(), Refusal> {
        if let Some(name) = self.connections.get(&connection) {
            return Err(Refusal::Registered(name.clone()));
        }
        let name = ClientName::parse(name).ok_or_else(|| Refusal::NoName(name.to_owned()))?;
        let limit = self.bounds.names;
        if !self.clients.contains_key(&name) && self.clients.len() >= limit {
            return Err(Refusal::TooManyNames { limit });
        }
        let client = self.clients.entry(name.clone()).or_insert_with(|| Client::new(&name, now));
        if let Some(connected) = &client.connected {
            return Err(Refusal::Taken { name, process: connected.process });
        }
        client.connected = Some(Connected { id: connection, process, listed: false });
        client.since = now;
        self.connections.insert(connection, name);
        Ok(())
    }

    /// The connection that has a name.
    pub(super) fn connection_of(&self, name: &ClientName) -> Option<ConnectionId> {
        self.clients.get(name)?.connected.as_ref().map(|connected| connected.id)
    }

    /// A connection is over; says whether it had a name.
    pub(super) fn leave(&mut self, connection: ConnectionId, now: u64) -> bool {
        let Some(name) = self.connections.remove(&connection) else { return false };
        if let Some(client) = self.clients.get_mut(&name) {
            client.connected = None;
            client.wants = None;
            client.since = now;
            if !client.known {
                self.clients.remove(&name);
            }
        }
        true
    }

    pub(super) fn list(
        &mut self,
        connection: ConnectionId,
        services: Vec<Entry>,
        now: u64,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let name = self.name_of(connection)?;
        let list = self.checked(&name, Document { services });
        let list = self.noting(&name, list)?;
        self.replace(&name, list, effects);
        if let Some(client) = self.clients.get_mut(&name) {
            client.known = true;
            client.lost = None;
            client.wants = None;
            if let Some(connected) = client.connected.as_mut().filter(|connected| !connected.listed) {
                connected.listed = true;
                client.since = now;
            }
        }
        effects.touched = Some(name);
        Ok(())
    }

    pub(super) fn put(
        &mut self,
        connection: ConnectionId,
        entry: Entry,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let name = self.listed_name_of(connection)?;
        let document = Document { services: vec![entry] };
        document.check()?;
        let Some((service, entry)) = named(document).pop_first() else { return Ok(()) };
        let checked =
            self.check(&name, &service, &entry).and_then(|()| self.check_own(&name, &service, &entry));
        self.noting(&name, checked)?;
        self.insert(&name, service, entry, effects);
        effects.touched = Some(name);
        Ok(())
    }

    pub(super) fn delete(
        &mut self,
        connection: ConnectionId,
        key: Key,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let name = self.listed_name_of(connection)?;
        let (service, text) = match key {
            Key::Place(place) => (self.places.get(&place).cloned(), format!("at {place}")),
            Key::Name(service) => (Some(service.clone()), service.to_string()),
        };
        let service = service.filter(|service| self.services.get(service) == Some(&name));
        let service = service.ok_or(Refusal::NotThere(text))?;
        self.remove(&name, &service);
        effects.changes.push(Change::Delete(service));
        effects.touched = Some(name);
        Ok(())
    }

    pub(super) fn forget(
        &mut self,
        connection: ConnectionId,
        name: &str,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let known = ClientName::parse(name).filter(|name| self.clients.contains_key(name));
        let name = known.ok_or_else(|| Refusal::Unknown(name.to_owned()))?;
        if self.connection_of(&name).is_some_and(|id| id != connection) {
            return Err(Refusal::Connected(name));
        }
        let services = self.clients.get(&name).map(|client| client.services.keys().cloned().collect());
        let services: Vec<ServiceName> = services.unwrap_or_default();
        for service in services {
            self.remove(&name, &service);
            effects.changes.push(Change::Delete(service));
        }
        self.clients.remove(&name);
        self.connections.retain(|_, registered| *registered != name);
        effects.touched = Some(name);
        Ok(())
    }

    /// Clients that were refused what is free now: each is to be asked once.
    pub(super) fn take_freed(&mut self) -> Vec<ConnectionId> {
        let (services, places) = (&self.services, &self.places);
        let mut ask = Vec::new();
        for (name, client) in &mut self.clients {
            let (Some(wants), Some(connected)) = (&client.wants, &client.connected) else { continue };
            let holder = match wants {
                Wants::Service(service) => services.get(service),
                Wants::Place(place) => places.get(place).and_then(|service| services.get(service)),
            };
            if holder.is_none_or(|holder| holder == name) {
                ask.push(connected.id);
                client.wants = None;
            }
        }
        ask
    }

    /// What is to be kept of a client; `None`: nothing.
    pub(super) fn document(&self, name: &ClientName) -> Option<Document> {
        let client = self.clients.get(name).filter(|client| client.known && client.lost.is_none())?;
        Some(Document { services: client.services.values().cloned().collect() })
    }

    /// All services there are.
    pub(super) fn has(&self, service: &ServiceName) -> bool {
        self.services.contains_key(service)
    }

    pub(super) fn standings(&self) -> BTreeMap<ClientName, Standing> {
        let standing = |client: &Client| Standing {
            presence: match &client.connected {
                Some(connected) if connected.listed => Presence::Listed,
                Some(_) => Presence::Asked,
                None => Presence::Stale,
            },
            since: client.since,
            services: client.services.len(),
            process: client.connected.as_ref().and_then(|connected| connected.process),
            lost: client.lost.clone(),
        };
        self.clients.iter().map(|(name, client)| (name.clone(), standing(client))).collect()
    }

    fn name_of(&self, connection: ConnectionId) -> Result<ClientName, Refusal> {
        self.connections.get(&connection).cloned().ok_or(Refusal::Unregistered)
    }

    fn listed_name_of(&self, connection: ConnectionId) -> Result<ClientName, Refusal> {
        let name = self.name_of(connection)?;
        let client = self.clients.get(&name).and_then(|client| client.connected.as_ref());
        if client.is_some_and(|connected| connected.listed) { Ok(name) } else { Err(Refusal::Unlisted) }
    }

    /// Notes what a client is refused because another has it.
    fn noting<T>(&mut self, name: &ClientName, done: Result<T, Refusal>) -> Result<T, Refusal> {
        let wants = match &done {
            Err(Refusal::OthersService { service, .. }) => Wants::Service(service.clone()),
            Err(Refusal::Address { place, owner, .. }) if owner != name => Wants::Place(*place),
            _ => return done,
        };
        if let Some(client) = self.clients.get_mut(name) {
            client.wants = Some(wants);
        }
        done
    }

    /// A whole list, if this client may have it.
    fn checked(
        &self,
        name: &ClientName,
        document: Document,
    ) -> Result<BTreeMap<ServiceName, Entry>, Refusal> {
        document.check()?;
        let (rows, limit) = (document.services.iter().map(Entry::weight).sum(), self.bounds.rows);
        if rows > limit {
            return Err(Refusal::TooManyRows { rows, limit });
        }
        let list = named(document);
        let mut places: BTreeMap<Place, &ServiceName> = BTreeMap::new();
        for (service, entry) in &list {
            for place in entry.places() {
                if let Some(holder) = places.insert(place, service) {
                    let (service, holder) = (service.clone(), holder.clone());
                    return Err(Refusal::Address { service, place, holder, owner: name.clone() });
                }
            }
            self.check(name, service, entry)?;
        }
        Ok(list)
    }

    /// Whether a service is in the way of no other client.
    fn check(&self, name: &ClientName, service: &ServiceName, entry: &Entry) -> Result<(), Refusal> {
        let backup = entry.backup.as_deref().and_then(ServiceName::parse);
        for service in std::iter::once(service).chain(&backup) {
            if let Some(owner) =
                self.bounds.namespaces.get(service.namespace()).filter(|owner| *owner != name)
            {
                return Err(Refusal::Namespace { service: service.clone(), owner: owner.clone() });
            }
        }
        if let Some(owner) = self.services.get(service).filter(|owner| *owner != name) {
            return Err(Refusal::OthersService { service: service.clone(), owner: owner.clone() });
        }
        self.check_places(service, entry, |owner| owner != name)
    }

    /// Whether a service alone is in the way of no other of the same client.
    fn check_own(&self, name: &ClientName, service: &ServiceName, entry: &Entry) -> Result<(), Refusal> {
        self.check_places(service, entry, |owner| owner == name)?;
        let Some(client) = self.clients.get(name) else { return Ok(()) };
        let before = client.services.get(service).map_or(0, Entry::weight);
        let (rows, limit) = (client.rows - before + entry.weight(), self.bounds.rows);
        if rows > limit { Err(Refusal::TooManyRows { rows, limit }) } else { Ok(()) }
    }

    fn check_places(
        &self,
        service: &ServiceName,
        entry: &Entry,
        of: impl Fn(&ClientName) -> bool,
    ) -> Result<(), Refusal> {
        for place in entry.places() {
            let Some(holder) = self.places.get(&place).filter(|holder| *holder != service) else { continue };
            if let Some(owner) = self.services.get(holder).filter(|owner| of(owner)) {
                let (service, holder, owner) = (service.clone(), holder.clone(), owner.clone());
                return Err(Refusal::Address { service, place, holder, owner });
            }
        }
        Ok(())
    }

    /// Makes a checked list all that a client has.
    fn replace(&mut self, name: &ClientName, list: BTreeMap<ServiceName, Entry>, effects: &mut Effects) {
        let Some(client) = self.clients.get(name) else { return };
        let differs = |(service, entry): &(&ServiceName, &Entry)| list.get(*service) != Some(*entry);
        let differing = client.services.iter().filter(differs).map(|(service, _)| service.clone());
        let differing: Vec<ServiceName> = differing.collect();
        // All addresses that are given up are free before any is taken.
        for service in differing {
            self.remove(name, &service);
            if !list.contains_key(&service) {
                effects.changes.push(Change::Delete(service));
            }
        }
        for (service, entry) in list {
            if !self.services.contains_key(&service) {
                self.insert(name, service, entry, effects);
            }
        }
    }

    fn insert(&mut self, name: &ClientName, service: ServiceName, entry: Entry, effects: &mut Effects) {
        self.remove(name, &service);
        let Some(client) = self.clients.get_mut(name) else { return };
        if let Some(mut rows) = entry.rows() {
            let traffic = rows.service.traffic.take().map(Arc::unwrap_or_clone);
            let traffic = traffic.map(|traffic| marked(traffic, name).into());
            rows.service.traffic = traffic.or_else(|| Some(Arc::clone(&client.plain)));
            effects.changes.push(Change::Put(Box::new(rows)));
        }
        for place in entry.places() {
            self.places.insert(place, service.clone());
        }
        client.rows += entry.weight();
        client.services.insert(service.clone(), entry);
        self.services.insert(service, name.clone());
    }

    /// Removes a service from the indexes.
    fn remove(&mut self, name: &ClientName, service: &ServiceName) {
        let entry = self.clients.get_mut(name).and_then(|client| {
            let entry = client.services.remove(service)?;
            client.rows -= entry.weight();
            Some(entry)
        });
        let Some(entry) = entry else { return };
        self.services.remove(service);
        for place in entry.places() {
            self.places.remove(&place);
        }
    }
}

fn named(document: Document) -> BTreeMap<ServiceName, Entry> {
    let named = |entry: Entry| ServiceName::parse(&entry.name).map(|name| (name, entry));
    document.services.into_iter().filter_map(named).collect()
}
