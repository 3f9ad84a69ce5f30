//! The gRPC probe, against a server that is told the bytes of the protocol.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epic_health::{NetworkProber, Outcome, Place, Probe, Prober};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::support::{Scripted, Then, ask, until};

/// What the server says.
#[derive(Clone, Copy, Debug)]
enum Says {
    /// A message, then status OK.
    Status(u8),
    /// No message, this status of gRPC with a text.
    Fails(u8, &'static str),
    /// A message that is longer than any of the protocol.
    Long,
    /// Nothing.
    Nothing,
}

/// Path, authority and body of each request.
type Asked = Arc<Mutex<Vec<(String, String, Vec<u8>)>>>;

struct Server {
    address: SocketAddr,
    asked: Asked,
    /// Connections that are open.
    open: Arc<()>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn new(says: Says) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (asked, open) = (Asked::default(), Arc::new(()));
        let (log, counted) = (Arc::clone(&asked), Arc::clone(&open));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (log, counted) = (Arc::clone(&log), Arc::clone(&counted));
                let service = service_fn(move |request| answer(says, request, Arc::clone(&log)));
                tokio::spawn(async move {
                    let _counted = counted;
                    let _ = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, asked, open, task }
    }

    fn connections(&self) -> usize {
        // Of this struct, and of the task that accepts.
        Arc::strong_count(&self.open) - 2
    }
}

async fn answer(
    says: Says,
    request: Request<Incoming>,
    log: Asked,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let path = request.uri().path().to_owned();
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let body = request.into_body().collect().await.expect("a body").to_bytes().to_vec();
    log.lock().push((path, authority, body));
    let message = match says {
        // Length, then field 1 as a number.
        Says::Status(status) => Bytes::from(vec![0, 0, 0, 0, 2, 0x08, status]),
        Says::Long => Bytes::from([&[0, 0, 1, 0, 0][..], &[0; 65_536]].concat()),
        Says::Fails(..) => Bytes::new(),
        Says::Nothing => std::future::pending().await,
    };
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    if let Says::Fails(status, text) = says {
        response.headers_mut().insert("grpc-status", HeaderValue::from(u16::from(status)));
        response.headers_mut().insert("grpc-message", HeaderValue::from_static(text));
        return Ok(response.map(|()| Full::new(message).boxed()));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(response.map(|()| Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed()))
}

fn server() -> Probe {
    Probe::Grpc { service: String::new(), authority: None }
}

fn service(service: &str) -> Probe {
    Probe::Grpc { service: service.into(), authority: Some("shop".into()) }
}

#[tokio::test]
async fn serving_is_good() {
    let health = Server::new(Says::Status(1)).await;
    assert_eq!(ask(health.address, server()).await, Ok(()));
    assert_eq!(ask(health.address, service("cart")).await, Ok(()));
    let asked = health.asked.lock();
    let path = "/grpc.health.v1.Health/Check";
    assert_eq!(asked[0], (path.into(), health.address.to_string(), vec![0, 0, 0, 0, 0]));
    assert_eq!(asked[1], (path.into(), "shop".into(), b"\0\0\0\0\x06\x0a\x04cart".to_vec()));
}

#[tokio::test]
async fn everything_else_that_it_says_is_not() {
    let unknown = r#"knows no service "cart"; name one that it reports, or leave the name out"#;
    let table = [
        (Says::Status(2), "says NOT_SERVING"),
        (Says::Status(0), "says UNKNOWN"),
        (Says::Status(3), unknown),
        (Says::Status(9), "says UNKNOWN"),
        (Says::Fails(5, "no"), unknown),
        (
            Says::Fails(12, "no"),
            "does not implement grpc.health.v1.Health; add that service to the server, or check it by tcp",
        ),
        (Says::Fails(14, "shutting%0Adown"), "answers Unavailable: shutting down"),
    ];
    for (says, reason) in table {
        let health = Server::new(says).await;
        assert_eq!(
            ask(health.address, service("cart")).await,
            Err((Outcome::Wrong, reason.into())),
            "{says:?}"
        );
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_is_not_read() {
    let health = Server::new(Says::Long).await;
    let (outcome, reason) = ask(health.address, server()).await.expect_err("too long");
    assert_eq!(outcome, Outcome::Wrong, "{reason}");
    assert!(reason.starts_with("answers OutOfRange"), "{reason}");
}

#[tokio::test]
async fn a_server_of_http1_is_not_good() {
    let answer = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let web = Scripted::new(answer, Then::Close).await;
    let (outcome, reason) = ask(web.address, server()).await.expect_err("no HTTP/2");
    assert_eq!(outcome, Outcome::Silent, "{reason}");
    assert!(reason.starts_with("does not answer: "), "{reason}");
}

#[tokio::test]
async fn a_probe_that_is_given_up_leaves_no_connection() {
    let health = Server::new(Says::Nothing).await;
    let place = Place { address: health.address, origin: None };
    let probe = server();
    let asking = NetworkProber.probe(&place, &probe);
    let given_up = timeout(Duration::from_secs(1), async {
        tokio::select! {
            result = asking => panic!("it says nothing: {result:?}"),
            () = until("it is asked", || !health.asked.lock().is_empty()) => {}
        }
    });
    given_up.await.expect("asked");
    until("the server's connection is closed", || health.connections() == 0).await;
}
