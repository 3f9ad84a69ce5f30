//! The gRPC probe: one call of `grpc.health.v1.Health/Check`, in clear text, on a connection of its own.
//!
//! Healthy is status OK and SERVING, nothing else: for Envoy and kubelet alike a server that does not implement the
//! service, or does not know what it is asked about, is not healthy.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::PathAndQuery;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{USER_AGENT, whole};
use crate::verdict::Failure;

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// The answer has one number.
const MAX_MESSAGE: usize = 1 << 10;

/// As much of headers and trailers is read.
const MAX_HEAD: u32 = 16 << 10;

const WINDOW: u32 = 64 << 10;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

pub(super) async fn ask(stream: TcpStream, service: &str, authority: &str) -> Result<(), Failure> {
    let origin =
        Uri::builder().scheme("http").authority(authority).path_and_query("/").build().map_err(|error| {
            Failure::not_made(format!("authority {authority:?} cannot be sent: {error}; correct the check"))
        })?;
    let tasks = Tasks::default();
    let _guard = AbortOnDrop(tasks.clone());
    let (sender, connection) = http2::Builder::new(tasks)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::silent(format!("does not speak HTTP/2: {}", whole(&error))))?;
    let exchange = check(sender, origin, service);
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        _ = connection => exchange.await,
    }
}

async fn check(sender: SendRequest<Body>, origin: Uri, service: &str) -> Result<(), Failure> {
    let mut client = Grpc::with_origin(Connection(sender), origin).max_decoding_message_size(MAX_MESSAGE);
    client.ready().await.map_err(|error| Failure::silent(format!("does not answer: {}", whole(&error))))?;
    let mut request = Request::new(HealthCheckRequest { service: service.to_owned() });
    request.metadata_mut().insert("user-agent", MetadataValue::from_static(USER_AGENT));
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = client
        .unary(request, PathAndQuery::from_static(CHECK), codec)
        .await
        .map_err(|status| failure(&status, service))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing => Err(Failure::wrong("says NOT_SERVING")),
        ServingStatus::ServiceUnknown => Err(unknown(service)),
        ServingStatus::Unknown => Err(Failure::wrong("says UNKNOWN")),
    }
}

fn failure(status: &Status, service: &str) -> Failure {
    match status.code() {
        // What has a cause was made here, of what the connection did.
        _ if status.source().is_some() => Failure::silent(format!("does not answer: {}", whole(status))),
        Code::Unimplemented => Failure::wrong(
            "does not implement grpc.health.v1.Health; add that service to the server, or check it by tcp",
        ),
        Code::NotFound => unknown(service),
        code => Failure::wrong(format!("answers {code:?}: {}", status.message())),
    }
}

fn unknown(service: &str) -> Failure {
    Failure::wrong(format!("knows no service {service:?}; name one that it reports, or leave the name out"))
}

/// hyper's end of the connection, for tonic.
struct Connection(SendRequest<Body>);

impl GrpcService<Body> for Connection {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<http::Response<Self::ResponseBody>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// The tasks of one connection: hyper wants to spawn them.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        self.0.lock().spawn(async move {
            task.await;
        });
    }
}

/// Ends them with the probe: they hold the socket, and a peer that reads nothing would keep them.
struct AbortOnDrop(Tasks);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.0.lock().abort_all();
    }
}
