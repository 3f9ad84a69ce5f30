//! The xDS protocol as a state machine: requests and views in, responses out.
//!
//! One session is one stream. It holds no clock, no socket and no lock; the server asks it for the next response
//! whenever the transport has room for one. So a client that reads slowly costs the memory of one session and gets
//! the latest state when it reads again; what was superseded meanwhile is never made.
//!
//! Rules that hold for every variant are here and in `subscription`; the incremental variant is `delta`. Another
//! variant (state of the world) is another session type over the same [`View`]; another resource type (routes,
//! secrets) is one more [`Kind`].

mod delta;
mod exchange;
mod kind;
mod subscription;
mod view;

pub use delta::DeltaSession;
pub use exchange::{
    DeltaRequest, DeltaResponse, Event, MAX_NAME_LENGTH, MAX_NAMES, MAX_NAMES_BYTES, Progress, ProtocolError,
    Rejection, Verdict,
};
pub use kind::Kind;
pub use view::{EndpointRef, Resource, Revision, Version, View};
