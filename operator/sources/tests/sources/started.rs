//! All sources of a process, started together.

use std::fs;
use std::time::Duration;

use epic_fake_api::Server;
use epic_lb::Writer;
use epic_sources::Sources;
use epic_sources::kubernetes::Scope;
use epic_sources::socket::Settings;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn each_source_is_pending_from_its_start_and_says_how_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.yaml");
    let (own, west) = (Server::new(), Server::new());
    let (writer, stop) = (Writer::new(), CancellationToken::new());
    let mut sources = Sources::new(&writer, stop.clone());
    sources.file(file.clone());
    sources.socket(Settings::new(folder.path().join("socket")));
    sources.kubernetes(&kates::Client::new(own.client()), Scope::default());
    sources.cluster("west", &kates::Client::new(west.client()));
    sources.etcd("nowhere", "/services").unwrap_err();
    // Nothing has run yet: whoever starts a reconciler now finds them pending.
    assert_eq!(writer.snapshot().pending().count(), 4);
    let ok = |sources: &Sources| -> Vec<(&'static str, bool)> {
        sources.standing().into_iter().map(|source| (source.name, source.ok)).collect()
    };
    assert_eq!(ok(&sources), [("file", false), ("socket", false), ("kubernetes", false), ("cluster", false)]);

    // One that is missing holds up itself and nobody else, and says why.
    let broken = async {
        while !sources.standing()[0].says.contains("cannot read") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, broken).await.expect("the file is missed");
    fs::write(&file, "services: []").unwrap();
    tokio::time::timeout(LONG, sources.listed()).await.expect("all are listed");
    assert_eq!(ok(&sources), [("file", true), ("socket", true), ("kubernetes", true), ("cluster", true)]);
    stop.cancel();
}
