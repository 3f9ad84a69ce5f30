//! Why a request of a client is refused: always as a whole, and to its sender alone.

use epic_lb::{Place, ServiceName};

use super::protocol::ClientName;
use crate::file::DocumentError;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The line is no request.
    #[error(
        "it is not understood: {0}; send one JSON object a line: register, list, put, delete, forget or status"
    )]
    Form(#[from] serde_json::Error),
    /// The line is too long.
    #[error(
        "a line has at most {limit} bytes; send a long list in parts, numbered by \"part\" from 0, with \"more\": true in all but the last"
    )]
    TooLong {
        /// Bytes that a line may have.
        limit: usize,
    },
    /// There are too many connections.
    #[error("no more than {limit} clients may be connected; end one of them")]
    TooManyConnections {
        /// How many may be connected.
        limit: usize,
    },
    /// It did not register.
    #[error("nothing was asked for in {seconds} s; connect again and register")]
    Silent {
        /// How long it may take.
        seconds: u64,
    },
    /// Not a name.
    #[error(
        "{0:?} is no name of a client; use 1 - 63 of a-z, 0-9, - and ., a letter or digit first and last"
    )]
    NoName(String),
    /// Another connection has that name.
    #[error("client {name} is connected already{}; end that one, or register under another name", of_process(*process))]
    Taken {
        /// The name.
        name: ClientName,
        /// Who has it.
        process: Option<i32>,
    },
    /// This connection has a name.
    #[error("this connection is client {0} already; open another one for another name")]
    Registered(ClientName),
    /// This connection has no name.
    #[error("register first: {{\"register\":{{\"name\":\"NAME\"}}}}")]
    Unregistered,
    /// It has not listed.
    #[error(
        "list first: this client was asked for all its services, {{\"list\":{{\"services\":[]}}}} says it has none"
    )]
    Unlisted,
    /// A part of a list is missing.
    #[error("part {got} of a list came where part {expected} was expected; begin the list again with part 0")]
    Part {
        /// The part that came.
        got: u32,
        /// The part that was to come.
        expected: u32,
    },
    /// There are too many names.
    #[error("no more than {limit} names may be known; forget one that does not return, status tells which")]
    TooManyNames {
        /// How many may be known.
        limit: usize,
    },
    /// It has too many rows.
    #[error(
        "{rows} services, frontends, backends, ranges and names are more than the {limit} that a client may have; use fewer"
    )]
    TooManyRows {
        /// How many it would have.
        rows: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A service cannot be.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The namespace is bound to another client.
    #[error("service {service}: namespace {} is bound to client {owner}; use another namespace", service.namespace())]
    Namespace {
        /// The service, or its backup.
        service: ServiceName,
        /// Whose the namespace is.
        owner: ClientName,
    },
    /// Another client has a service of this name.
    #[error(
        "service {service} is of client {owner}; use another name, or forget {owner} if it does not return"
    )]
    OthersService {
        /// The service.
        service: ServiceName,
        /// Who has it.
        owner: ClientName,
    },
    /// Another service has this address.
    #[error(
        "service {service}: address {place} is of service {holder} of client {owner}; give each address once, delete it there first"
    )]
    Address {
        /// The service.
        service: ServiceName,
        /// The address.
        place: Place,
        /// The service that has it.
        holder: ServiceName,
        /// Whose that is.
        owner: ClientName,
    },
    /// There is nothing to delete.
    #[error("this client has no service {0}; nothing was deleted")]
    NotThere(String),
    /// There is nobody to forget.
    #[error("no client {0} is known; {{\"status\":{{}}}} names those that are")]
    Unknown(String),
    /// It is there.
    #[error("client {0} is connected; end it first, or let it send forget itself")]
    Connected(ClientName),
}

fn of_process(process: Option<i32>) -> String {
    process.map(|process| format!(" (process {process})")).unwrap_or_default()
}
