//! Commands that look into load balancing, as text for people and as JSON for programs.
//!
//! Expected flow: a line is parsed into a [`Command`] ([`Request::parse`]), and [`answer`] carries it out on a
//! [`Subject`]: the tables, the progress of the reconciler and the entries of its maps, of a running agent, of the
//! stand-alone program or of a test. Which maps these are says its [`MapSide`].
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
pub mod side;
mod status;
mod watching;

use std::sync::Arc;
use std::time::Instant;

pub use command::{Asked, Command, Filter, Rows, help};
use epic_lb::{Progress, Snapshot};
use epic_reconciler::MapError;
pub use request::{Form, ParseError, Request};
pub use side::{Direct, Side};
use side::{Entries, MapSide};
pub use watching::Watching;

/// What is looked into.
pub trait Subject {
    /// Whose maps these are.
    type Side: MapSide;
    /// All tables, now.
    fn tables(&self) -> Arc<Snapshot>;
    /// How far the maps are.
    fn progress(&self) -> Progress;
    /// Every entry of every map.
    ///
    /// # Errors
    /// If a map cannot be read.
    fn entries(&self) -> Result<Entries<<Self::Side as MapSide>::Layout>, MapError>;
    /// Whose maps these are.
    fn side(&self) -> &Self::Side;
    /// What else there is to say of the process, for `health`: its sources, its checks.
    fn parts(&self) -> Vec<Part> {
        Vec::new()
    }
    /// What time it is.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl<S: Subject + ?Sized> Subject for Arc<S> {
    type Side = S::Side;
    fn tables(&self) -> Arc<Snapshot> {
        (**self).tables()
    }
    fn progress(&self) -> Progress {
        (**self).progress()
    }
    fn entries(&self) -> Result<Entries<<S::Side as MapSide>::Layout>, MapError> {
        (**self).entries()
    }
    fn side(&self) -> &S::Side {
        (**self).side()
    }
    fn parts(&self) -> Vec<Part> {
        (**self).parts()
    }
    fn now(&self) -> Instant {
        (**self).now()
    }
}

/// A part of the process beside tables and maps, for `health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name, a word or two: it begins a line.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// How it stands, one line; if it does not work, with what to do.
    pub says: String,
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
pub fn answer<S: Subject>(subject: &S, request: &Request) -> Result<String, Error> {
    let form = request.form;
    match &request.command {
        Command::Help => Ok(help()),
        Command::Tables => Ok(db::tables(&subject.tables(), form)),
        Command::List(table, rows) => db::list(&subject.tables(), *table, rows, form),
        Command::Watch(_) => Err(Error::Endless),
        Command::Initialized => Ok(db::initialized(&subject.tables(), form)),
        Command::Dump(filter) => Ok(maps::dump::<S::Side>(subject.entries()?, filter.as_ref(), form)),
        Command::Check => maps::check(subject, form),
        Command::Health => Ok(status::health(&subject.tables(), &subject.progress(), &subject.parts(), form)),
        Command::Status(table) => Ok(status::behind(subject, *table, form)),
        Command::Selection(asked) => selection::selection(subject, asked, form),
    }
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
