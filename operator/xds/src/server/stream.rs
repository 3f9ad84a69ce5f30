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
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Server;
use super::share::Held;
use crate::engine::{DeltaRequest, DeltaResponse, DeltaSession, Event, Revision, Verdict};
use crate::health::Finder;
use crate::identity::{Identity, NodeName};
use crate::metrics::Ended;
use crate::report::OpenReport;
use crate::views::Published;

/// How long a stream may stay silent before it says who it is.
const FIRST_REQUEST: Duration = Duration::from_secs(15);

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) server: Server,
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
    async fn wait(&self) -> End {
        tokio::select! {
            () = self.shutdown.cancelled() => (Ended::Shutdown, None),
            () = self.aged.cancelled() => (Ended::Age, None),
            () = self.gone.cancelled() => (Ended::Client, None),
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
        let stream = DeltaStream {
            held,
            finder,
            server: self.server.clone(),
            identity: self.identity.clone(),
            ending: self.ending.clone(),
            session: DeltaSession::new(),
            measured: None,
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
    identity: Identity,
    ending: Ending,
    session: DeltaSession,
    /// The revision whose convergence has been measured.
    measured: Option<Revision>,
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
            end = ending.wait() => return Err(end),
            first = tokio::time::timeout(FIRST_REQUEST, requests.message()) => first,
        };
        let first = first.map_err(|_| protocol("the first request took too long"))?;
        let first = received(first)?;
        let node = self.admit(&first)?;
        if let Some(finder) = &self.finder {
            finder.is_of(&node);
        }
        let mut views = self.server.views.follow(&self.identity);
        let report = self.server.reports.open(self.identity.clone(), node.clone());
        tracing::info!(identity = %self.identity, pod = %node.pod, "opened a stream");
        self.take_view(&mut views, &report);
        self.take_request(first, &node, &views, &report)?;
        // What cannot be sent yet is not made yet: by the time it can, it may have changed.
        let mut may_have_response = true;
        loop {
            tokio::select! {
                end = ending.wait() => return Err(end),
                changed = views.changed() => {
                    changed.map_err(|_| (Ended::Shutdown, None))?;
                    self.take_view(&mut views, &report);
                    may_have_response = true;
                }
                message = requests.message() => {
                    let request = received(message)?;
                    same_node(&request, &node, &self.identity)?;
                    self.take_request(request, &node, &views, &report)?;
                    may_have_response = true;
                }
                permit = responses.reserve(), if may_have_response => {
                    let permit = permit.map_err(|_| (Ended::Client, None))?;
                    match self.session.next_response() {
                        Some(response) => {
                            self.server.metrics.sent(&response);
                            permit.send(Ok(encode(response)));
                        }
                        None => may_have_response = false,
                    }
                }
            }
        }
    }

    /// The node of the first request. It only has to agree with the certificate.
    fn admit(&self, request: &DeltaDiscoveryRequest) -> Result<NodeName, End> {
        let node = request.node.as_ref().ok_or_else(|| protocol("the first request has no node"))?;
        self.identity
            .admit(&node.id, &node.cluster)
            .map_err(|error| (Ended::Node, Some(Status::permission_denied(error.to_string()))))
    }

    fn take_view(&mut self, views: &mut watch::Receiver<Option<Published>>, report: &OpenReport) {
        // Without a view (not synced, or the LoadBalancer is gone) the client keeps what it has.
        let view = views.borrow_and_update().as_ref().map(|published| published.view.clone());
        if let Some(view) = view {
            self.session.set_view(view);
            self.publish(views, report);
        }
    }

    fn take_request(
        &mut self,
        request: DeltaDiscoveryRequest,
        node: &NodeName,
        views: &watch::Receiver<Option<Published>>,
        report: &OpenReport,
    ) -> Result<(), End> {
        let event = self
            .session
            .request(&decode(request))
            .map_err(|error| (Ended::Protocol, Some(Status::invalid_argument(error.to_string()))))?;
        if let Some(event) = event {
            self.server.metrics.answered(&event);
            log(&event, &self.identity, node);
        }
        report.heard();
        self.publish(views, report);
        self.held.arrived();
        self.held.keep(self.session.kept_bytes()).map_err(|status| (Ended::Crowded, Some(status)))
    }

    /// Writes what the client has acknowledged to its row.
    fn publish(&mut self, views: &watch::Receiver<Option<Published>>, report: &OpenReport) {
        let progress = self.session.progress();
        report.update(progress);
        if progress.configured.is_some() && progress.configured != self.measured {
            self.measured = progress.configured;
            if let Some(published) = views.borrow().as_ref()
                && Some(published.view.revision()) == progress.configured
            {
                self.server.metrics.converged(published.at.elapsed());
            }
        }
    }
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
