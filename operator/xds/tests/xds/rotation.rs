//! A change of the authority under a real Envoy that never stops connecting, to two servers in turn.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use epic_xds::authority::{Authorities, Step};
use epic_xds::{Credentials, Findings, Limits, Metrics, Reports, Tls, pki, sync};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::envoy::{Proxy, answers, endpoints, eventually, free_port};
use crate::harness::Site;
use crate::rows::{World, identity, service};

/// Passes connections on to these addresses in turn, as a Service does.
async fn in_turn(servers: [SocketAddr; 2]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for server in servers.into_iter().cycle() {
            let (mut from, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(server).await?;
                copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    address
}

/// What a replica presents and trusts that has read this.
fn give_server(site: &Site, authorities: &Authorities) {
    let server = pki::issue_server(&authorities.signing, SystemTime::now()).unwrap();
    let client_authorities = authorities.trusted.clone();
    let credentials = Credentials { certificate: server.certificate, key: server.key, client_authorities };
    site.tls.replace(&credentials).unwrap();
}

/// What a proxy has once its files have come, and Envoy has read them.
async fn give_proxy(proxy: &Proxy, authorities: &Authorities) {
    let leaf = pki::issue_client(&authorities.signing, &identity("web"), SystemTime::now()).unwrap();
    let folder = proxy.folder.path();
    let files = [("ca.crt", &authorities.trusted), ("tls.crt", &leaf.certificate), ("tls.key", &leaf.key)];
    for (name, content) in files {
        replace(folder, name, content);
    }
    let serial = serial(&leaf.certificate);
    eventually("Envoy presents the new certificate", || async {
        proxy.admin("/certs").await.to_lowercase().contains(&serial).then_some(())
    })
    .await;
}

fn replace(folder: &Path, name: &str, content: &str) {
    std::fs::write(folder.join("next"), content).unwrap();
    std::fs::rename(folder.join("next"), folder.join("tls").join(name)).unwrap();
}

fn serial(certificate: &str) -> String {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let hex: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    hex.trim_start_matches('0').to_owned()
}

/// Waits until the proxy has come back to both servers several times.
async fn reconnected(sites: [&Site; 2]) {
    let ended = |site: &Site| site.metric("xds_ended_total{reason=\"Age\"}");
    let before = sites.map(ended);
    eventually("the proxy comes back to both", || async {
        let now = sites.map(ended);
        now.iter().zip(before).all(|(now, before)| *now >= before + 2.0).then_some(())
    })
    .await;
}

async fn failed(sites: [&Site; 2], proxy: &Proxy) -> u64 {
    let mut failed = 0;
    for name in ["ssl.connection_error", "ssl.fail_verify_error", "upstream_cx_connect_fail"] {
        failed += proxy.stat(&format!("cluster.xds.{name}")).await;
    }
    let refused: f64 = sites.map(|site| site.metric("xds_ended_total{reason=\"Handshake\"}")).iter().sum();
    failed + refused as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_changes_without_a_failed_stream() {
    let all = endpoints(&["one"]).await;
    let one = Site::new();
    let mut authorities = Authorities::one(one.authority.clone());
    let other = Site {
        authority: one.authority.clone(),
        views: Arc::clone(&one.views),
        reports: Reports::new(),
        findings: Findings::new(),
        tls: Tls::new(&crate::harness::credentials(&one.authority, &authorities.trusted)).unwrap(),
        metrics: Metrics::default(),
    };
    let sites = [&one, &other];
    let world = World::new();
    let port = free_port(10_400);
    world.load_balancer(&service("web"), &[(80, port - 10_000, all[0].port)]);
    world.endpoints("web", &all);
    tokio::spawn(sync::run(world.tables.clone(), one.views.clone()));
    let limits = Limits { max_connection_age: Duration::from_millis(100), ..Limits::default() };
    let (first, second) = (one.serve(limits.clone(), 0).await, other.serve(limits, 0).await);
    let proxy = Proxy::start(&one, in_turn([first.address, second.address]).await, "web");
    proxy.ready().await;
    // Envoy waits longer and longer between streams on which it hears nothing, so there is always something to hear.
    let changes = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        for weight in (1..=2).cycle() {
            tick.tick().await;
            let changed = [all[0].clone().weighing(weight)];
            world.endpoints("web", &changed);
        }
    });
    reconnected(sites).await;

    let old = authorities.clone();
    for step in [Step::TrustBoth, Step::ChangeLeaves, Step::Idle] {
        authorities = authorities.advanced(SystemTime::now()).unwrap();
        assert_eq!(authorities.step(), step);
        // One replica reads it before the proxies get their files, the other one after that.
        give_server(&one, &authorities);
        reconnected(sites).await;
        give_proxy(&proxy, &authorities).await;
        reconnected(sites).await;
        give_server(&other, &authorities);
        reconnected(sites).await;
    }
    let failed_streams = failed(sites, &proxy).await;
    println!("authority_rotation_failed_streams {failed_streams}");
    assert_eq!(failed_streams, 0);
    changes.abort();
    assert_eq!(answers(port, 3).await, ["one"]);

    // Who is still where it began is refused by now.
    give_server(&one, &old);
    eventually("the old authority is refused", || async { (failed(sites, &proxy).await > 0).then_some(()) })
        .await;
}
