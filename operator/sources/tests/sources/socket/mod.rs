//! The Unix socket: transcripts, one claim a file, and what a transcript cannot say.

mod host;
mod property;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use epic_lb::Writer;
use epic_sources::socket::{Presence, Settings, Socket};
use epic_sources::start;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use host::{Client, Host, LONG};

/// Carries a transcript out; what is heard and asked for stands behind each line.
async fn played(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(folder.path().join("services"));
    for (name, value) in
        text.lines().filter_map(|line| line.strip_prefix("# ")?.strip_prefix("set ")?.split_once('='))
    {
        match name {
            "rows" => settings.rows = value.parse().unwrap(),
            "line" => settings.line = value.parse().unwrap(),
            "clients" => settings.clients = value.parse().unwrap(),
            "connections" => settings.connections = value.parse().unwrap(),
            namespace => {
                let owner = epic_sources::socket::ClientName::parse(value).unwrap();
                settings.namespaces.insert(namespace.to_owned(), owner);
            }
        }
    }
    let mut host = Host::start(settings).await;
    let mut clients = std::collections::BTreeMap::<String, Client>::new();
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        writeln!(out, "{line}").unwrap();
        if let Some((name, said)) = line.split_once("> ").filter(|_| !line.starts_with('#')) {
            if !clients.contains_key(name) {
                clients.insert(name.to_owned(), Client::connect(&host.settings.path).await);
            }
            let client = clients.get_mut(name).unwrap();
            client.send(said).await;
            writeln!(out, "  {}", client.hear().await).unwrap();
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", ..] => {}
            ["hear", name] => writeln!(out, "  {}", clients.get_mut(name).unwrap().hear().await).unwrap(),
            ["close", name] => drop(clients.remove(name)),
            ["wait", name, presence] => host.until(name, presence).await,
            ["restart"] => {
                clients.clear();
                host = host.restart().await;
            }
            ["stop"] => {
                clients.clear();
                host.stop().await;
            }
            ["start"] => host = host.restart().await,
            ["corrupt", name] => fs::write(host.settings.kept.join(name), "services: [{ name: ").unwrap(),
            ["kept"] => out.push_str(&host.kept()),
            ["tables"] => out.push_str(&host.tables()),
            ["initialized"] => writeln!(out, "  {}", host.writer.snapshot().initialized()).unwrap(),
            _ => panic!("no command of a transcript: {line}"),
        }
    }
    host.stop().await;
    out.replace(&*folder.path().to_string_lossy(), "FOLDER")
}

#[tokio::test]
async fn every_transcript_goes_as_it_is_written() {
    let folder = Path::new(env!("EPIC_CHECKOUT")).join("operator/sources/tests/sources/socket/transcripts");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        insta::assert_snapshot!(name, played(&text).await);
    }
}

const WEB: &str =
    r#"{"list":{"services":[{"name":"shop/web","frontends":[{"address":"192.0.2.1","port":80}]}]}}"#;

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_and_the_next_one_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { line: 4096, ..Settings::new(folder.path().join("services")) };
    let mut host = Host::start(settings).await;
    let mut client = Client::connect(&host.settings.path).await;
    client.send(&"x".repeat(100_000)).await;
    assert!(client.hear().await.contains("a line has at most 4096 bytes"));
    client.register("edge").await;
    client.send(&format!("{{\"status\":{{}}{}}}", " ".repeat(4096))).await;
    assert!(client.hear().await.contains("a line has at most 4096 bytes"));
    client.send(WEB).await;
    assert_eq!(client.hear().await, r#"{"ok":{}}"#);
    host.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_dropped_and_delays_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let patience = Duration::from_secs(1);
    let settings = Settings { patience, ..Settings::new(folder.path().join("services")) };
    let mut host = Host::start(settings).await;
    let mut deaf = Client::connect(&host.settings.path).await;
    deaf.register("deaf").await;
    deaf.send(WEB).await;
    deaf.hear().await;
    let (reading, mut writing) = deaf.into_split();
    let flood = tokio::spawn(async move {
        let line = b"{\"status\":{}}\n".repeat(1000);
        // Until the server has enough of it.
        while writing.write_all(&line).await.is_ok() {}
    });
    // Meanwhile others are served, each at once.
    let mut client = Client::connect(&host.settings.path).await;
    client.register("edge").await;
    client.send(r#"{"list":{"services":[]}}"#).await;
    client.hear().await;
    for port in 1..50 {
        let put = format!(
            r#"{{"put":{{"name":"shop/api","frontends":[{{"address":"192.0.2.2","port":{port}}}]}}}}"#
        );
        client.send(&put).await;
        let heard = tokio::time::timeout(patience, client.hear()).await.unwrap();
        assert_eq!(heard, r#"{"ok":{}}"#);
    }
    tokio::time::timeout(LONG, flood).await.unwrap().unwrap();
    host.until("deaf", "stale").await;
    drop(reading);
    assert_eq!(host.writer.snapshot().frontends.len(), 2);
    host.stop().await;
}

#[tokio::test]
async fn whoever_says_nothing_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let patience = Duration::from_millis(50);
    let settings = Settings { patience, ..Settings::new(folder.path().join("services")) };
    let mut host = Host::start(settings).await;
    let mut silent = Client::connect(&host.settings.path).await;
    assert!(silent.hear().await.contains("register"));
    assert_eq!(silent.hear().await, "");
    // Who registered may be silent for as long as it likes.
    let mut client = Client::connect(&host.settings.path).await;
    client.register("edge").await;
    tokio::time::sleep(4 * patience).await;
    client.send(WEB).await;
    assert_eq!(client.hear().await, r#"{"ok":{}}"#);
    host.stop().await;
}

#[tokio::test]
async fn the_socket_is_open_to_its_owner_alone_unless_it_is_to_be_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o660] {
        let settings = Settings { mode, ..Settings::new(folder.path().join(format!("{mode:o}"))) };
        let mut host = Host::start(settings).await;
        let found = fs::metadata(&host.settings.path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode);
        assert_eq!(fs::metadata(&host.settings.kept).unwrap().permissions().mode() & 0o777, 0o700);
        host.stop().await;
    }
}

#[tokio::test]
async fn what_a_dead_process_left_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services");
    // A listener that is closed leaves its file, as a process that is killed does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(UnixStream::connect(&path).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let mut host = Host::start(Settings::new(&path)).await;
    let mut client = Client::connect(&path).await;
    client.register("edge").await;

    // Beside the living one: with the same folder, and with another.
    for (kept, why) in [(host.settings.kept.clone(), "end it"), (folder.path().join("other"), "serves")] {
        let (second, mut state) = Socket::new(Settings { kept, ..Settings::new(&path) });
        let stop = CancellationToken::new();
        let writer = Writer::new();
        let task = start(second, &writer, stop.clone());
        let wait = tokio::time::timeout(LONG, state.wait_for(|state| state.error.is_some()));
        let said = wait.await.unwrap().unwrap().clone();
        assert!(said.error.as_ref().unwrap().contains(why), "{said:?}");
        assert!(!writer.snapshot().initialized());
        stop.cancel();
        task.await.unwrap();
    }
    client.send(WEB).await;
    assert_eq!(client.hear().await, r#"{"ok":{}}"#);
    drop(client);
    host.stop().await;

    // What is no socket is nobody's to remove.
    let path = folder.path().join("precious");
    fs::write(&path, "text").unwrap();
    let (socket, mut state) = Socket::new(Settings::new(&path));
    let stop = CancellationToken::new();
    let task = start(socket, &Writer::new(), stop.clone());
    let wait = tokio::time::timeout(LONG, state.wait_for(|state| state.error.is_some()));
    assert!(wait.await.unwrap().unwrap().error.as_ref().unwrap().contains("is no socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_kept_is_in_force_with_a_warning_and_kept_as_soon_as_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(Settings::new(folder.path().join("services"))).await;
    let mut client = Client::connect(&host.settings.path).await;
    client.register("edge").await;
    let in_the_way = host.settings.kept.join("edge.yaml.next");
    fs::create_dir(&in_the_way).unwrap();
    client.send(WEB).await;
    assert!(client.hear().await.contains("would not outlive a restart"));
    assert_eq!(host.writer.snapshot().frontends.len(), 1);
    host.wait(|state| state.error.is_some()).await;
    fs::remove_dir(&in_the_way).unwrap();
    host.wait(|state| state.error.is_none()).await;
    host = host.restart().await;
    assert_eq!(host.writer.snapshot().frontends.len(), 1);
    assert!(host.settings.path.exists());
    host.stop().await;
    assert!(!host.settings.path.exists());
}

#[tokio::test]
async fn nobody_waits_until_anothers_services_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(Settings::new(folder.path().join("services"))).await;
    let mut slow = Client::connect(&host.settings.path).await;
    slow.register("slow").await;
    // Whoever opens it to write waits for a reader.
    let pipe = host.settings.kept.join("slow.yaml.next");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    slow.send(WEB).await;
    host.until("slow", "listed").await;
    let mut client = Client::connect(&host.settings.path).await;
    client.register("edge").await;
    client.send(r#"{"list":{"services":[{"name":"edge/web"}]}}"#).await;
    assert_eq!(client.hear().await, r#"{"ok":{}}"#);
    client.send(r#"{"put":{"name":"edge/api"}}"#).await;
    assert_eq!(client.hear().await, r#"{"ok":{}}"#);
    assert_eq!(host.writer.snapshot().services.len(), 3);

    let text = tokio::task::spawn_blocking(move || {
        let text = fs::read_to_string(&pipe).unwrap();
        fs::remove_file(&pipe).unwrap();
        text
    });
    assert!(text.await.unwrap().contains("shop/web"));
    // A pipe keeps nothing; what comes next is written to a file.
    assert!(slow.hear().await.contains("would not outlive a restart"));
    slow.send(r#"{"put":{"name":"shop/api"}}"#).await;
    assert_eq!(slow.hear().await, r#"{"ok":{}}"#);
    assert!(host.kept().contains("shop/api"));
    host.stop().await;
}

#[tokio::test]
async fn a_name_is_no_longer_than_those_of_kubernetes() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(Settings::new(folder.path().join("services"))).await;
    let mut client = Client::connect(&host.settings.path).await;
    client.register("edge").await;
    let long = "x".repeat(600);
    for service in [
        format!(r#"{{"name":"shop/{long}"}}"#),
        format!(r#"{{"name":"shop/web","backup":"shop/{long}"}}"#),
        format!(r#"{{"name":"shop/web","backends":[{{"address":"10.0.0.1","port":80,"zone":"{long}"}}]}}"#),
    ] {
        client.send(&format!(r#"{{"list":{{"services":[{service}]}}}}"#)).await;
        assert!(client.hear().await.contains("is longer than a name of 253 bytes; shorten it"));
    }
    host.stop().await;
}

#[tokio::test]
async fn a_client_that_is_replaced_by_its_successor_leaves_it_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(Settings::new(folder.path().join("services"))).await;
    let mut other = Client::connect(&host.settings.path).await;
    let mut client = Client::connect(&host.settings.path).await;
    client.register("edge").await;
    // The beginning of the next is noticed before the end of the one.
    for _ in 0..5 {
        let mut next = Client::connect(&host.settings.path).await;
        next.send(r#"{"register":{"name":"edge"}}"#).await;
        for _ in 0..10 {
            other.send(r#"{"status":{}}"#).await;
            other.hear().await;
        }
        drop(std::mem::replace(&mut client, next));
        assert_eq!(client.hear().await, r#"{"ok":{}}"#);
        assert_eq!(client.hear().await, r#"{"list":{}}"#);
    }
    host.stop().await;
}

#[tokio::test]
async fn what_an_earlier_server_left_in_the_tables_goes_if_nobody_knows_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(Settings::new(folder.path().join("services"))).await;
    for (name, address) in [("edge", 1), ("west", 2)] {
        let mut client = Client::connect(&host.settings.path).await;
        client.register(name).await;
        let service =
            format!(r#"{{"name":"{name}/web","frontends":[{{"address":"192.0.2.{address}","port":80}}]}}"#);
        client.send(&format!(r#"{{"list":{{"services":[{service}]}}}}"#)).await;
        assert_eq!(client.hear().await, r#"{"ok":{}}"#);
    }
    host.stop().await;
    fs::remove_file(host.settings.kept.join("west.yaml")).unwrap();
    let mut host = Host::start_on(host.writer.clone(), host.settings.clone()).await;
    let left: Vec<String> = host.writer.snapshot().services.iter().map(|row| row.name.to_string()).collect();
    assert_eq!(left, ["edge/web"]);
    assert_eq!(host.writer.snapshot().frontends.len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_hundred_clients_at_once_are_all_served() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { connections: 100, clients: 100, ..Settings::new(folder.path().join("services")) };
    let mut host = Host::start(settings).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let path = host.settings.path.clone();
        tasks.spawn(async move {
            let mut client = Client::connect(&path).await;
            client.register(&format!("c{number}")).await;
            client.send(r#"{"list":{}}"#).await;
            assert_eq!(client.hear().await, r#"{"ok":{}}"#);
            let put = format!(
                r#"{{"put":{{"name":"n/s{number}","frontends":[{{"address":"192.0.2.{number}","port":80}}]}}}}"#
            );
            client.send(&put).await;
            assert_eq!(client.hear().await, r#"{"ok":{}}"#);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(host.writer.snapshot().frontends.len(), 100);
    let stale = |client: &epic_sources::socket::Standing| client.presence == Presence::Stale;
    host.wait(|state| state.clients.len() == 100 && state.clients.values().all(stale)).await;
    host = host.restart().await;
    assert_eq!(host.writer.snapshot().frontends.len(), 100);
    host.stop().await;
}
