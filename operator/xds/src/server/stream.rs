//! One stream: requests in, responses out, the engine in between.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::convergence::Convergence;
use super::share::Held;
use super::{Common, Server};
use crate::engine::{DeltaRequest, DeltaResponse, DeltaSession, Event, ProtocolError, Verdict};
use crate::health::Finder;
use crate::identity::{Identity, NodeName};
use crate::metrics::{Counting, Ended};
use crate::report::OpenReport;
use crate::software::Software;
use crate::views::Published;

/// How long a stream may stay silent before it says who it is.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// How long a stream that is to end waits for a client that does not take what is still owed to it.
const FAREWELL: Duration = Duration::from_secs(4);

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) server: Server,
    pub(super) common: Arc<Common>,
    pub(super) identity: Identity,
    pub(super) ending: Ending,
}

/// What ends the streams of a connection from outside.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// The connection reached its age.
    pub(super) aged: CancellationToken,
    /// The connection is gone.
    pub(super) gone: CancellationToken,
    /// The server stops.
    pub(super) shutdown: CancellationToken,
}

impl Ending {
    /// The server ends the stream.
    async fn asked(&self) -> Ended {
        tokio::select! {
            () = self.shutdown.cancelled() => Ended::Shutdown,
            () = self.aged.cancelled() => Ended::Age,
        }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Streams {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only the incremental variant is served: set api_type to DELTA_GRPC"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        // One message: the next is made when this one was taken.
        let (sender, receiver) = mpsc::channel(1);
        let held = request.extensions().get::<Arc<Held>>().map(Arc::clone);
        let held = held.ok_or_else(|| Status::internal("a request came by a way that is not counted"))?;
        let finder = request.extensions().get::<Arc<Finder>>().map(Arc::clone);
        let opened = Instant::now();
        let stream = DeltaStream {
            held,
            finder,
            server: self.server.clone(),
            common: Arc::clone(&self.common),
            identity: self.identity.clone(),
            ending: self.ending.clone(),
            session: DeltaSession::new(),
            opened,
            published: None,
            convergence: Convergence::of_a_stream_opened_at(opened),
            turn: Turn::Before,
            kept: 0,
            knows_unknown_type: false,
        };
        tokio::spawn(stream.run(request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct DeltaStream {
    held: Arc<Held>,
    /// Where the connection's proxy says what it finds of endpoints.
    finder: Option<Arc<Finder>>,
    server: Server,
    common: Arc<Common>,
    identity: Identity,
    ending: Ending,
    session: DeltaSession,
    opened: Instant,
    /// What is served.
    published: Option<Published>,
    convergence: Convergence,
    turn: Turn,
    /// Bytes that the stream takes apart from the session.
    kept: usize,
    /// Whether a type that is not served was logged.
    knows_unknown_type: bool,
}

/// How far a stream is with its first responses.
enum Turn {
    /// There was nothing to be sent yet.
    Before,
    /// It waits.
    At {
        until: Instant,
        /// It is counted as waiting until this is dropped.
        _counted: Counting,
    },
    /// It is getting them.
    Now,
    /// It has them.
    Over,
}

impl Turn {
    fn waits_until(&self) -> Option<Instant> {
        match self {
            Turn::At { until, .. } => Some(*until),
            Turn::Before | Turn::Now | Turn::Over => None,
        }
    }
}

type Outgoing = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// Why a stream ended, and what the client is told.
type End = (Ended, Option<Status>);

impl DeltaStream {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>, responses: Outgoing) {
        self.server.metrics.streams.inc();
        let (reason, status) = match self.drive(&mut requests, &responses).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.server.metrics.streams.dec();
        self.server.metrics.ended(reason);
        if let Some(status) = status {
            tracing::warn!(identity = %self.identity, reason = status.message(), "ended a stream");
            // A client that does not read does not get the reason.
            let _ = responses.send_timeout(Err(status), Duration::from_secs(1)).await;
        }
    }

    async fn drive(
        &mut self,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
        responses: &Outgoing,
    ) -> Result<std::convert::Infallible, End> {
        let ending = self.ending.clone();
        let first = tokio::select! {
            reason = ending.asked() => return Err((reason, None)),
            () = ending.gone.cancelled() => return Err((Ended::Client, None)),
            first = tokio::time::timeout(FIRST_REQUEST, requests.message()) => first,
        };
        let first = first.map_err(|_| protocol("the first request took too long"))?;
        let first = received(first)?;
        let node = self.admit(&first)?;
        if let Some(finder) = &self.finder {
            finder.is_of(&node);
        }
        let software = first.node.as_ref().map(Software::of).unwrap_or_default();
        self.kept = software.bytes();
        let _counted = self.server.metrics.opened(&software);
        tracing::info!(identity = %self.identity, pod = %node.pod, %software, "opened a stream");
        let mut views = self.server.views.follow(&self.identity);
        let report = self.server.reports.open(self.identity.clone(), node.clone(), software);
        self.take_view(&mut views, &report)?;
        self.take_request(first, &node, &report)?;
        // What cannot be sent yet is not made yet: by the time it can, it may have changed.
        let mut may_have_response = true;
        // A stream that the server ends is sent first what is owed: a client that has taken a cluster waits for its
        // assignment, and would not ask the next replica for what it has.
        let mut last: Option<(Ended, Instant)> = None;
        loop {
            let (offer, turn) = (self.next_offer(), self.turn.waits_until());
            tokio::select! {
                () = ending.gone.cancelled() => return Err((Ended::Client, None)),
                reason = ending.asked(), if last.is_none() => {
                    last = Some((reason, Instant::now() + FAREWELL));
                    may_have_response = true;
                }
                reason = farewell(last), if last.is_some() => return Err((reason, None)),
                changed = views.changed() => {
                    changed.map_err(|_| (Ended::Shutdown, None))?;
                    self.take_view(&mut views, &report)?;
                    may_have_response = true;
                }
                message = requests.message() => {
                    let request = received(message)?;
                    same_node(&request, &node, &self.identity)?;
                    self.take_request(request, &node, &report)?;
                    may_have_response = true;
                }
                () = until(offer), if offer.is_some() => {
                    may_have_response |= self.session.advance(self.opened.elapsed());
                }
                () = until(turn), if turn.is_some() => self.turn = Turn::Now,
                permit = responses.reserve(), if may_have_response && turn.is_none() => {
                    let permit = permit.map_err(|_| (Ended::Client, None))?;
                    if self.must_wait() {
                        continue;
                    }
                    // The last that is sent is of the last view.
                    if last.is_some() && views.has_changed().unwrap_or_default() {
                        self.take_view(&mut views, &report)?;
                    }
                    match self.session.next_response() {
                        Some(response) => {
                            self.server.metrics.sent(&response);
                            permit.send(Ok(self.encode(response)));
                        }
                        None => {
                            may_have_response = false;
                            if matches!(self.turn, Turn::Now) {
                                self.turn = Turn::Over;
                            }
                            if let Some((reason, _)) = last {
                                return Err((reason, None));
                            }
                        }
                    }
                }
            }
        }
    }

    fn next_offer(&self) -> Option<Instant> {
        self.session.next_offer().map(|offer| self.opened + offer)
    }

    /// Whether the first responses have to wait for their turn; it is taken with that.
    fn must_wait(&mut self) -> bool {
        if !matches!(self.turn, Turn::Before) || !self.session.owes() {
            return false;
        }
        let now = Instant::now();
        let turn = self.common.admissions.reserve(now);
        let waits = turn > now;
        self.turn =
            if waits { Turn::At { until: turn, _counted: self.server.metrics.waits() } } else { Turn::Now };
        waits
    }

    fn encode(&self, response: DeltaResponse) -> DeltaDiscoveryResponse {
        if matches!(self.turn, Turn::Now) {
            let bytes = response.resources.iter().map(|resource| resource.body.len()).sum();
            self.common.admissions.sent(bytes, Instant::now());
        }
        encode(response)
    }

    /// The node of the first request. It only has to agree with the certificate.
    fn admit(&self, request: &DeltaDiscoveryRequest) -> Result<NodeName, End> {
        let node = request.node.as_ref().ok_or_else(|| protocol("the first request has no node"))?;
        self.identity
            .admit(&node.id, &node.cluster)
            .map_err(|error| (Ended::Node, Some(Status::permission_denied(error.to_string()))))
    }

    fn take_view(
        &mut self,
        views: &mut watch::Receiver<Option<Published>>,
        report: &OpenReport,
    ) -> Result<(), End> {
        // Without a view (not synced, or the LoadBalancer is gone) the client keeps what it has.
        let Some(published) = views.borrow_and_update().clone() else { return Ok(()) };
        self.session.advance(self.opened.elapsed());
        self.session.set_view(Arc::clone(&published.view));
        self.published = Some(published);
        self.publish(report);
        self.keep()
    }

    fn take_request(
        &mut self,
        request: DeltaDiscoveryRequest,
        node: &NodeName,
        report: &OpenReport,
    ) -> Result<(), End> {
        self.session.advance(self.opened.elapsed());
        match self.session.request(&decode(request)) {
            Ok(Some(event)) => {
                self.server.metrics.answered(&event);
                log(&event, &self.identity, node);
            }
            Ok(None) => {}
            // A proxy that is newer than this server, as while it is rolled out or taken back.
            Err(error @ ProtocolError::UnknownType(_)) => {
                self.server.metrics.unknown_type();
                if !std::mem::replace(&mut self.knows_unknown_type, true) {
                    tracing::warn!(identity = %self.identity, pod = %node.pod, %error, "ignored a request");
                }
            }
            Err(error) => {
                return Err((Ended::Protocol, Some(Status::invalid_argument(error.to_string()))));
            }
        }
        report.heard();
        self.publish(report);
        self.held.arrived();
        self.keep()
    }

    /// Counts what the stream keeps against the share of its identity.
    fn keep(&self) -> Result<(), End> {
        let bytes = self.session.kept_bytes() + self.kept;
        self.held.keep(bytes).map_err(|status| (Ended::Crowded, Some(status)))
    }

    /// Writes what the client has acknowledged to its row.
    fn publish(&mut self, report: &OpenReport) {
        let progress = self.session.progress();
        report.update(progress);
        let Some(published) = &self.published else { return };
        let (configured, assigned) = (progress.configured, self.session.assigned());
        let converged = self.convergence.progressed(published, configured, assigned, Instant::now());
        if let Some(after) = converged.configured {
            self.server.metrics.converged(after);
        }
        if let Some(after) = converged.assigned {
            self.server.metrics.assigned(after);
        }
    }
}

/// Waits for a time; for ever without one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until an ending stream has waited long enough for its client.
async fn farewell(last: Option<(Ended, Instant)>) -> Ended {
    until(last.map(|(_, deadline)| deadline)).await;
    last.map_or(Ended::Shutdown, |(reason, _)| reason)
}

fn log(event: &Event, identity: &Identity, node: &NodeName) {
    if event.verdict == Verdict::Rejected {
        let names: Vec<&str> = event.names.iter().map(AsRef::as_ref).take(20).collect();
        let message = event.message.as_deref().unwrap_or_default();
        tracing::warn!(%identity, pod = %node.pod, kind = %event.kind, ?names, message, "a proxy refused resources");
    }
}

fn protocol(reason: &str) -> End {
    (Ended::Protocol, Some(Status::invalid_argument(reason.to_owned())))
}

/// The request in what the transport gave; its end, or its error, is the end of the stream.
fn received<T>(message: Result<Option<T>, Status>) -> Result<T, End> {
    match message {
        Ok(Some(request)) => Ok(request),
        Ok(None) => Err((Ended::Client, None)),
        // A request that does not decode, or is too long.
        Err(status) if matches!(status.code(), Code::Internal | Code::OutOfRange) => {
            Err((Ended::Protocol, Some(status)))
        }
        Err(status) if status.code() == Code::ResourceExhausted => Err((Ended::Crowded, Some(status))),
        // The connection broke.
        Err(_) => Err((Ended::Client, None)),
    }
}

/// A client may repeat its node, but not change it.
fn same_node(request: &DeltaDiscoveryRequest, node: &NodeName, identity: &Identity) -> Result<(), End> {
    match &request.node {
        Some(again) if identity.admit(&again.id, &again.cluster).as_ref() != Ok(node) => {
            Err(protocol("the node changed within a stream"))
        }
        _ => Ok(()),
    }
}

fn decode(request: DeltaDiscoveryRequest) -> DeltaRequest {
    DeltaRequest {
        type_url: request.type_url,
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
        subscribe: request.resource_names_subscribe,
        unsubscribe: request.resource_names_unsubscribe,
        initial_versions: request.initial_resource_versions.into_iter().collect(),
    }
}

fn encode(response: DeltaResponse) -> DeltaDiscoveryResponse {
    let type_url = response.kind.type_url();
    let resources = response.resources.iter().map(|resource| Resource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(Any { type_url: type_url.to_owned(), value: resource.body.to_vec() }),
        ..Resource::default()
    });
    DeltaDiscoveryResponse {
        resources: resources.collect(),
        type_url: type_url.to_owned(),
        removed_resources: response.removed.iter().map(ToString::to_string).collect(),
        nonce: response.nonce.to_string(),
        ..DeltaDiscoveryResponse::default()
    }
}
