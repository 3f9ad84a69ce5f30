//! A process that serves a socket, and clients of it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use epic_lb::Writer;
use epic_sources::socket::{Settings, Socket, State};
use epic_sources::start;
use epic_store::{Query, Schema as _};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(super) const LONG: Duration = Duration::from_secs(20);

/// A process, with tables of its own.
pub(super) struct Host {
    pub(super) settings: Settings,
    pub(super) writer: Writer,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Host {
    pub(super) async fn start(settings: Settings) -> Self {
        Self::start_on(Writer::new(), settings).await
    }

    /// With tables that somebody had before.
    pub(super) async fn start_on(writer: Writer, settings: Settings) -> Self {
        let (socket, state) = Socket::new(settings.clone());
        let stop = CancellationToken::new();
        let task = Some(start(socket, &writer, stop.clone()));
        let mut host = Self { settings, writer, state, stop, task };
        host.wait(|state| state.listening).await;
        host
    }

    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(LONG, task).await.expect("it ends").expect("it does not panic");
        }
    }

    /// Ends the process, tables and all, and starts another.
    pub(super) async fn restart(mut self) -> Self {
        self.stop().await;
        Self::start(self.settings).await
    }

    pub(super) async fn wait(&mut self, wanted: impl FnMut(&State) -> bool) -> State {
        let state = tokio::time::timeout(LONG, self.state.wait_for(wanted)).await;
        state.expect("it comes to this").expect("the server runs").clone()
    }

    /// Waits until a client stands so; `gone`: nobody knows it.
    pub(super) async fn until(&mut self, name: &str, presence: &str) {
        self.wait(|state| {
            let standing = state.clients.iter().find(|(known, _)| known.as_str() == name);
            let presence_now =
                standing.map(|(_, standing)| format!("{:?}", standing.presence).to_lowercase());
            presence_now.as_deref().unwrap_or("gone") == presence
        })
        .await;
    }

    /// All tables that have rows.
    pub(super) fn tables(&self) -> String {
        let snapshot = self.writer.snapshot();
        let mut out = String::new();
        for table in epic_lb::TableId::ALL.iter().filter(|table| snapshot.len_of(**table) > 0) {
            for line in snapshot.listing_of(*table, Query::All).to_string().lines() {
                writeln!(out, "  {table}: {line}").expect("it fits");
            }
        }
        if out.is_empty() { "  no rows\n".to_owned() } else { out }
    }

    /// What outlives it.
    pub(super) fn kept(&self) -> String {
        let mut files: Vec<_> = fs::read_dir(&self.settings.kept)
            .expect("the folder is there")
            .map(|file| file.expect("it can be read").path())
            .collect();
        files.sort();
        let mut out = String::new();
        for file in files {
            let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
            writeln!(out, "  {name}").expect("it fits");
            for line in fs::read_to_string(&file).expect("it can be read").lines() {
                writeln!(out, "    {line}").expect("it fits");
            }
        }
        out
    }
}

/// A connection.
pub(super) struct Client {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Client {
    pub(super) async fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).await.expect("the server accepts");
        let (from, to) = stream.into_split();
        Self { from: BufReader::new(from), to }
    }

    /// Sends a line. A server that has ended reads nothing.
    pub(super) async fn send(&mut self, line: &str) {
        let sent = self.to.write_all(format!("{line}\n").as_bytes()).await;
        if let Err(error) = sent {
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    /// The next line, without what differs from run to run; nothing at the end.
    pub(super) async fn hear(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(LONG, self.from.read_line(&mut line)).await;
        // Who is let go while something of it is unread sees a reset.
        if let Err(error) = read.expect("it is answered") {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        without(&without(line.trim_end(), "\"since\":"), "\"process\":")
            .replace(&format!("process {}", std::process::id()), "process PID")
    }

    /// Registers, and hears that it is asked.
    pub(super) async fn register(&mut self, name: &str) {
        self.send(&format!(r#"{{"register":{{"name":"{name}"}}}}"#)).await;
        assert_eq!(self.hear().await, r#"{"ok":{}}"#);
        assert_eq!(self.hear().await, r#"{"list":{}}"#);
    }

    pub(super) fn into_split(self) -> (BufReader<OwnedReadHalf>, OwnedWriteHalf) {
        (self.from, self.to)
    }
}

/// Without the number behind each occurrence of a key.
fn without(text: &str, key: &str) -> String {
    let mut parts = text.split(key);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(key);
        out.push('N');
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}
