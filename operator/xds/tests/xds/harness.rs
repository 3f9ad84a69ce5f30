//! A server on loopback with certificates of its own, and clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use epic_xds::engine::Kind;
use epic_xds::pki::{self, KeyedCertificate};
use epic_xds::{Credentials, Findings, Identity, Limits, Metrics, Report, Reports, Server, Tls, Views};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Status, Streaming};

/// Nothing here takes this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Certificates, views and reports; servers come and go on top of them.
pub(crate) struct Site {
    pub(crate) authority: KeyedCertificate,
    pub(crate) views: Arc<Views>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) findings: Arc<Findings>,
    pub(crate) tls: Arc<Tls>,
    pub(crate) metrics: Metrics,
}

/// A running server.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

pub(crate) fn credentials(authority: &KeyedCertificate, trusted: &str) -> Credentials {
    let server = pki::issue_server(authority, SystemTime::now()).unwrap();
    Credentials { certificate: server.certificate, key: server.key, client_authorities: trusted.to_owned() }
}

impl Site {
    pub(crate) fn new() -> Self {
        let authority = pki::create_authority(SystemTime::now()).unwrap();
        let tls = Tls::new(&credentials(&authority, &authority.certificate)).unwrap();
        Self {
            tls,
            authority,
            views: Views::new(),
            reports: Reports::new(),
            findings: Findings::new(),
            metrics: Metrics::default(),
        }
    }

    pub(crate) async fn serve(&self, limits: Limits, port: u16) -> Running {
        // The port of a server that just ended may take a moment to be free.
        let listener = retry("bind", || TcpListener::bind(("127.0.0.1", port))).await;
        let address = listener.local_addr().unwrap();
        let server = Server {
            views: Arc::clone(&self.views),
            reports: Arc::clone(&self.reports),
            findings: Arc::clone(&self.findings),
            metrics: self.metrics.clone(),
            tls: Arc::clone(&self.tls),
            limits,
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.serve(listener, shutdown.clone()));
        Running { address, shutdown, task }
    }

    pub(crate) fn client_certificate(&self, identity: &Identity) -> KeyedCertificate {
        pki::issue_client(&self.authority, identity, SystemTime::now()).unwrap()
    }

    /// Value of a metric as it is scraped, named with its labels; 0 when it is not there yet.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.show(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a report fulfils `wanted`.
    pub(crate) async fn report(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let mut watch = self.reports.watch();
        let found = async {
            loop {
                if let Some(report) = watch.changed().await.into_iter().find(|report| wanted(report)) {
                    return report;
                }
            }
        };
        match tokio::time::timeout(DEADLINE, found).await {
            Ok(report) => report,
            Err(_) => panic!("no report with {what}; there are {:#?}", self.reports.rows()),
        }
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.expect("the server ends").unwrap().unwrap();
    }
}

async fn retry<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    f: impl Fn() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match f().await {
            Ok(value) => return value,
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{what}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One stream of a scripted client.
pub(crate) struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(crate) responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
}

pub(crate) fn node(id: &str, cluster: &str) -> Node {
    Node { id: id.to_owned(), cluster: cluster.to_owned(), ..Node::default() }
}

/// A connection with this certificate.
pub(crate) async fn channel(
    address: SocketAddr,
    authority: &str,
    certificate: Option<&KeyedCertificate>,
) -> Result<Channel, tonic::transport::Error> {
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).domain_name(pki::SERVER_NAME);
    let tls = match certificate {
        Some(certificate) => {
            tls.identity(tonic::transport::Identity::from_pem(&certificate.certificate, &certificate.key))
        }
        None => tls,
    };
    // Small windows, so that a client that does not read holds the server up soon.
    Channel::from_shared(format!("https://{address}"))
        .unwrap()
        .initial_stream_window_size(Some(65_535))
        .initial_connection_window_size(Some(65_535))
        .tls_config(tls)?
        .connect()
        .await
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, is: impl Fn() -> bool) {
    retry(what, || std::future::ready(if is() { Ok(()) } else { Err("not so") })).await;
}

/// A connection that has shaken hands and says nothing more.
pub(crate) async fn tls(
    address: SocketAddr,
    authority: &str,
    certificate: &KeyedCertificate,
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let mut configuration = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    configuration.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(pki::SERVER_NAME).unwrap();
    TlsConnector::from(Arc::new(configuration)).connect(name, socket).await.unwrap()
}

impl Client {
    pub(crate) async fn open(channel: Channel, node: Node) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let opened = client.delta_aggregated_resources(ReceiverStream::new(receiver));
        let responses = tokio::time::timeout(DEADLINE, opened).await.expect("a stream opens")?.into_inner();
        Ok(Self { requests, responses, node: Some(node) })
    }

    pub(crate) async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        // A stream that has ended takes nothing; the test sees that when it reads.
        let _ = self.requests.send(request).await;
    }

    pub(crate) async fn ask(&mut self, kind: Kind, names: &[&str]) {
        self.send(request(kind, names)).await;
    }

    pub(crate) async fn read(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        tokio::time::timeout(DEADLINE, self.responses.message()).await.expect("a response or the end")
    }

    /// The next response, as `cluster +a -b`, acknowledged.
    pub(crate) async fn take(&mut self) -> String {
        let response = self.read().await.expect("no error").expect("a response");
        let mut answer = request(Kind::of_type_url(&response.type_url).unwrap(), &[]);
        answer.response_nonce.clone_from(&response.nonce);
        self.send(answer).await;
        shown(&response)
    }

    /// Passes if nothing was sent before the answer to a question asked now.
    pub(crate) async fn expect_nothing(&mut self) {
        self.ask(Kind::Assignment, &["is-anything-before-this"]).await;
        assert_eq!(self.take().await, "assignment -is-anything-before-this");
    }
}

pub(crate) fn request(kind: Kind, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

pub(crate) fn shown(response: &DeltaDiscoveryResponse) -> String {
    let kind = Kind::of_type_url(&response.type_url).unwrap();
    let added = response.resources.iter().map(|r| format!(" +{}", r.name));
    let removed = response.removed_resources.iter().map(|name| format!(" -{name}"));
    format!("{kind}{}", added.chain(removed).collect::<String>())
}
