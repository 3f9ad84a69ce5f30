//! From a line to a command. What is not understood is answered by what to type.

use std::net::{IpAddr, SocketAddr};

use epic_lb::{Protocol, TableId};

use crate::command::{Asked, COMMANDS, Command, Filter, Rows};

/// How to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// A command, and how to answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// How to answer.
    pub form: Form,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No command begins so.
    #[error("{typed:?} is no command; type one of: {}", known.join(", "))]
    Unknown {
        /// What was typed.
        typed: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// Words are missing, or there are too many.
    #[error("type: {0}")]
    Usage(&'static str),
    /// No such table.
    #[error(transparent)]
    Table(#[from] epic_store::UnknownTable),
    /// Something else than a frontend.
    #[error(
        "{0:?} is no address with a port; type for example: selection 192.0.2.7:443/TCP or [2001:db8::7]:443"
    )]
    Frontend(String),
    /// An output form that there is not.
    #[error("-o takes text or json, not {0:?}")]
    Form(String),
}

impl Request {
    /// Reads a line. Words are separated by blanks; a key may be several of them.
    ///
    /// # Errors
    /// [`ParseError`]; its text says what to type.
    pub fn parse(line: &str) -> Result<Self, ParseError> {
        let (words, form) = form(line.split_whitespace())?;
        Ok(Self { command: command(&words)?, form })
    }
}

/// Takes the output form out of the words, wherever it stands.
fn form<'a>(words: impl Iterator<Item = &'a str>) -> Result<(Vec<&'a str>, Form), ParseError> {
    let (mut rest, mut form) = (Vec::new(), Form::Text);
    let mut words = words;
    while let Some(word) = words.next() {
        let value = match word {
            "-o" | "--output" => words.next().unwrap_or_default(),
            _ => match word.strip_prefix("--output=").or_else(|| word.strip_prefix("-o=")) {
                Some(value) => value,
                None => {
                    rest.push(word);
                    continue;
                }
            },
        };
        form = match value {
            "text" => Form::Text,
            "json" => Form::Json,
            other => return Err(ParseError::Form(other.to_owned())),
        };
    }
    Ok((rest, form))
}

fn command(words: &[&str]) -> Result<Command, ParseError> {
    match words {
        [] | ["help" | "-h" | "--help"] => Ok(Command::Help),
        ["db", "tables"] => Ok(Command::Tables),
        ["db", "show", table] => Ok(Command::List(table.parse()?, Rows::All)),
        ["db", "watch", table] => Ok(Command::Watch(table.parse()?)),
        ["db", "initialized"] => Ok(Command::Initialized),
        ["db", how @ ("get" | "prefix" | "lowerbound"), table, key @ ..] if !key.is_empty() => {
            let (table, key): (TableId, String) = (table.parse()?, key.join(" "));
            let rows = match *how {
                "get" => Rows::Key(key),
                "prefix" => Rows::Prefix(key),
                _ => Rows::LowerBound(key),
            };
            Ok(Command::List(table, rows))
        }
        ["lb-maps", "dump"] => Ok(Command::Dump(None)),
        ["lb-maps", "dump", text @ ..] => Ok(Command::Dump(Some(filter(&text.join(" "))))),
        ["lb-maps", "check"] => Ok(Command::Check),
        ["health"] => Ok(Command::Health),
        ["reconciler", "status"] => Ok(Command::Status(None)),
        ["reconciler", "status", table] => Ok(Command::Status(Some(table.parse()?))),
        ["selection", frontend] => Ok(Command::Selection(asked(frontend)?)),
        _ => Err(not_understood(words)),
    }
}

/// The command that was meant, or those that begin with the same word, or all.
fn not_understood(words: &[&str]) -> ParseError {
    let names = |usage: &'static str| usage.split(' ').filter(|word| word.chars().all(is_of_a_name));
    let meant = COMMANDS.iter().find(|(usage, _)| {
        let mut typed = words.iter();
        names(usage).all(|name| typed.next() == Some(&name))
    });
    if let Some((usage, _)) = meant {
        return ParseError::Usage(usage);
    }
    let known: Vec<&'static str> = COMMANDS.iter().map(|(usage, _)| *usage).collect();
    let first = words.first().copied().unwrap_or_default();
    let alike: Vec<&'static str> =
        known.iter().filter(|usage| usage.split(' ').next() == Some(first)).copied().collect();
    ParseError::Unknown { typed: words.join(" "), known: if alike.is_empty() { known } else { alike } }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c == '-'
}

fn filter(text: &str) -> Filter {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Filter::Vip(address, None);
    }
    match text.parse::<SocketAddr>() {
        Ok(place) => Filter::Vip(place.ip(), Some(place.port())),
        Err(_) => Filter::Text(text.to_owned()),
    }
}

fn asked(text: &str) -> Result<Asked, ParseError> {
    let wrong = || ParseError::Frontend(text.to_owned());
    let (place, protocol) = match text.split_once('/') {
        None => (text, None),
        Some((place, protocol)) => {
            let protocol = match protocol.to_ascii_uppercase().as_str() {
                "TCP" => Protocol::Tcp,
                "UDP" => Protocol::Udp,
                "SCTP" => Protocol::Sctp,
                _ => return Err(wrong()),
            };
            (place, Some(protocol))
        }
    };
    let place: SocketAddr = place.parse().map_err(|_| wrong())?;
    Ok(Asked { address: place.ip(), port: place.port(), protocol })
}
