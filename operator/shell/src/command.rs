//! The commands as values, and the list of them for people.

use std::fmt;
use std::net::IpAddr;

use epic_lb::{Protocol, TableId};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Lists the commands.
    Help,
    /// Lists the tables.
    Tables,
    /// Rows of a table.
    List(TableId, Rows),
    /// Rows of a table, then what changes.
    Watch(TableId),
    /// Who has not listed yet.
    Initialized,
    /// Entries of the maps.
    Dump(Option<Filter>),
    /// What is wrong with the maps.
    Check,
    /// The reconciler in short.
    Health,
    /// Rows that the maps do not hold.
    Status(Option<TableId>),
    /// Who serves a frontend.
    Selection(Asked),
}

/// Which rows, by the text of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All.
    All,
    /// The one of this key.
    Key(String),
    /// Those whose keys begin so.
    Prefix(String),
    /// Those from this key on.
    LowerBound(String),
}

/// Which entries of the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Lines with this text in them.
    Text(String),
    /// What packets to this address meet, and what their answers meet.
    Vip(IpAddr, Option<u16>),
}

/// A frontend that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// VIP.
    pub address: IpAddr,
    /// Public port.
    pub port: u16,
    /// Protocol; `None`: any.
    pub protocol: Option<Protocol>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.address, self.port))?;
        self.protocol.map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

/// How each command is typed, and what it does.
pub(crate) const COMMANDS: &[(&str, &str)] = &[
    ("db tables", "tables with their number of rows and revision"),
    ("db show TABLE", "all rows"),
    ("db get TABLE KEY", "the row of this key, as the first column has it"),
    ("db prefix TABLE TEXT", "rows whose keys begin so"),
    ("db lowerbound TABLE KEY", "rows from this key on"),
    ("db watch TABLE", "all rows, then every change (+ added, ~ updated, - removed) until interrupted"),
    ("db initialized", "who has not listed yet: nothing is removed from the maps before"),
    ("lb-maps dump [TEXT|VIP[:PORT]]", "entries of the maps: all, lines with a text, or those of a VIP"),
    ("lb-maps check", "entries that point to nothing or differ from what the rows want"),
    ("health", "the reconciler in short, and what else there is to say of the process"),
    ("reconciler status [TABLE]", "rows that the maps do not hold, and why"),
    ("selection VIP:PORT[/PROTOCOL]", "who takes new flows, who keeps what it has, and why"),
    ("help", "this"),
];

/// The commands, one a line.
pub fn help() -> String {
    let width = COMMANDS.iter().map(|(usage, _)| usage.len()).max().unwrap_or(0);
    let lines: String = COMMANDS.iter().map(|(usage, what)| format!("{usage:<width$}  {what}\n")).collect();
    format!("{lines}Each takes -o json.\n")
}
