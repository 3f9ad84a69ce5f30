//! Commands that look into load balancing, as text for people and as JSON for programs.
//!
//! Expected flow: a line is parsed into a [`Command`] ([`Request::parse`]), and [`answer`] carries it out on a
//! [`Subject`]: the tables, the progress of the reconciler and the entries of its maps, of a running agent or of a test.
//! [`Watching`] is the one command that goes on: its owner waits for the tables and polls it.
//!
//! Guarantees: nothing is changed; a command reads one snapshot of the tables; keys of tunnels never appear, only their
//! generations (the tables and the map dump show no more).
//! What it does not do: read sockets or terminals, wait, or know how somebody got here.

mod command;
mod db;
mod maps;
mod request;
mod selection;
mod status;
mod watching;

use std::sync::Arc;
use std::time::Instant;

pub use command::{Asked, Command, Filter, Rows, help};
use epic_lb::{Here, MapKey, MapValue, Progress, Snapshot};
use epic_reconciler::MapError;
pub use request::{Form, ParseError, Request};
pub use watching::Watching;

/// What is looked into.
pub trait Subject {
    /// All tables, now.
    fn tables(&self) -> Arc<Snapshot>;
    /// How far the maps are.
    fn progress(&self) -> Progress;
    /// Every entry of every map.
    ///
    /// # Errors
    /// If a map cannot be read.
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError>;
    /// Whose maps these are.
    fn side(&self) -> &Side;
    /// What time it is.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl<S: Subject + ?Sized> Subject for Arc<S> {
    fn tables(&self) -> Arc<Snapshot> {
        (**self).tables()
    }
    fn progress(&self) -> Progress {
        (**self).progress()
    }
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        (**self).entries()
    }
    fn side(&self) -> &Side {
        (**self).side()
    }
    fn now(&self) -> Instant {
        (**self).now()
    }
}

/// Which rows become entries, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// An EPIC node.
    Node {
        /// Its name.
        name: Arc<str>,
        /// Seed of its Maglev tables.
        seed: u32,
    },
    /// A client node.
    Client,
}

impl Side {
    /// Where selection takes place.
    pub fn here(&self) -> Here<'_> {
        match self {
            Side::Node { name, .. } => Here { node: Some(name), ..Here::default() },
            Side::Client => Here::default(),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What was typed.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// No such row.
    #[error("{table} has no row of key {key:?}; type: db show {table}")]
    NoRow {
        /// The table.
        table: epic_lb::TableId,
        /// What was asked for.
        key: String,
    },
    /// No such frontend.
    #[error("no service has {asked}; type: db prefix frontends {address}")]
    NoFrontend {
        /// What was asked for.
        asked: String,
        /// Its address.
        address: String,
    },
    /// A map.
    #[error("the maps cannot be read: {0}")]
    Maps(#[from] MapError),
    /// A command that goes on was asked to end.
    #[error("db watch goes on until it is interrupted, so it cannot be answered at once")]
    Endless,
}

/// Carries out a command.
///
/// # Errors
/// [`Error`]; the text says what to type.
pub fn answer(subject: &impl Subject, request: &Request) -> Result<String, Error> {
    let form = request.form;
    match &request.command {
        Command::Help => Ok(help()),
        Command::Tables => Ok(db::tables(&subject.tables(), form)),
        Command::List(table, rows) => db::list(&subject.tables(), *table, rows, form),
        Command::Watch(_) => Err(Error::Endless),
        Command::Initialized => Ok(db::initialized(&subject.tables(), form)),
        Command::Dump(filter) => Ok(maps::dump(subject.entries()?, filter.as_ref(), form)),
        Command::Check => maps::check(subject, form),
        Command::Health => Ok(status::health(&subject.tables(), &subject.progress(), form)),
        Command::Status(table) => Ok(status::behind(subject, *table, form)),
        Command::Selection(asked) => selection::selection(subject, asked, form),
    }
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
