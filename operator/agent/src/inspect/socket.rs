//! The agent's Unix socket.
//!
//! The protocol: a client that sends nothing, or ends its side, gets the JSON document of [`View`](super::View); one that
//! sends a line gets a line `epic-shell 1 ok` or `epic-shell 1 error`, and behind it the answer of the shell to the end of
//! the stream. `db watch` goes on until the client ends its side.
//!
//! Guarantees: a question has at most [`LONGEST`] bytes and comes within [`PATIENCE`]; who takes nothing for [`SLOW`] is
//! dropped; at most [`SHELLS`] questions are answered at once. Answers are made beside the agent's tasks, so that neither
//! a big one nor a slow reader delays anybody.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use epic_lb::{Reader, TableId};
use epic_shell::{Command, Form, Request, Side, Subject, Watching};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::view::ViewFn;

/// What an answer of the shell begins with.
pub(super) const GREETING: &str = "epic-shell 1 ";
/// Bytes that a question may have.
const LONGEST: usize = 4096;
/// Who has said nothing by then, asks for the document: older commands only read.
const SILENCE: Duration = Duration::from_millis(300);
/// How long a question may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a reader may take nothing.
const SLOW: Duration = Duration::from_secs(10);
/// Bytes that are sent at once.
const CHUNK: usize = 64 << 10;
/// Questions that are answered at the same time.
const SHELLS: usize = 8;

/// What is served.
#[derive(Clone)]
pub struct Served {
    /// The document.
    pub view: ViewFn,
    /// What the shell looks into.
    pub subject: Arc<dyn Subject<Side = Side> + Send + Sync>,
    /// The same tables, to wait for.
    pub reader: Reader,
}

/// Serves until `shutdown`. Without the socket only the commands know less, so a failure is logged.
pub async fn serve(path: PathBuf, served: Served, shutdown: CancellationToken) {
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no socket for epic-agent status, tunnels and shell");
            return;
        }
    };
    let shells = Arc::new(Semaphore::new(SHELLS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (served, shells, shutdown) = (served.clone(), Arc::clone(&shells), shutdown.clone());
        tokio::spawn(async move {
            // A reader that went away, or takes nothing, wants nothing more.
            let _ = shutdown.run_until_cancelled(attend(stream, &served, &shells)).await;
        });
    }
    let _ = std::fs::remove_file(&path);
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The view names tenants and addresses: for root, as the maps are.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode)?;
    Ok(listener)
}

/// What a client asks for.
enum Asked {
    Document,
    Line(String),
    TooMuch,
}

async fn attend(stream: UnixStream, served: &Served, shells: &Semaphore) -> io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let line = match asked(&mut from).await? {
        Asked::Document => {
            let text = serde_json::to_vec(&(served.view)()).unwrap_or_default();
            return send(&mut to, &text).await;
        }
        Asked::TooMuch => {
            let why = format!("a command has at most {LONGEST} bytes and ends with a line break; type: help");
            return answered(&mut to, &Err(why)).await;
        }
        Asked::Line(line) => line,
    };
    let Ok(_permit) = shells.try_acquire() else {
        let why = format!("{SHELLS} commands are running here already; end one, for example a db watch");
        return answered(&mut to, &Err(why)).await;
    };
    match Request::parse(&line) {
        Err(error) => answered(&mut to, &Err(error.to_string())).await,
        Ok(Request { command: Command::Watch(table), form }) => {
            watch(&mut from, &mut to, served, table, form).await
        }
        Ok(request) => {
            let subject = Arc::clone(&served.subject);
            let answer = tokio::task::spawn_blocking(move || epic_shell::answer(&subject, &request));
            let answer = answer.await.map_err(io::Error::other)?.map_err(|error| error.to_string());
            answered(&mut to, &answer).await
        }
    }
}

async fn asked(from: &mut OwnedReadHalf) -> io::Result<Asked> {
    let mut text = Vec::new();
    let mut buffer = [0; 512];
    match timeout(SILENCE, from.read(&mut buffer)).await {
        Err(_) | Ok(Ok(0)) => return Ok(Asked::Document),
        Ok(read) => text.extend_from_slice(&buffer[..read?]),
    }
    let rest = async {
        while !text.contains(&b'\n') && text.len() <= LONGEST {
            match from.read(&mut buffer).await? {
                0 => break,
                read => text.extend_from_slice(&buffer[..read]),
            }
        }
        io::Result::Ok(())
    };
    // What came is not a line yet.
    let Ok(read) = timeout(PATIENCE, rest).await else { return Ok(Asked::TooMuch) };
    read?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.len() > LONGEST {
        return Ok(Asked::TooMuch);
    }
    Ok(Asked::Line(String::from_utf8_lossy(line).into_owned()))
}

async fn answered(to: &mut OwnedWriteHalf, answer: &Result<String, String>) -> io::Result<()> {
    match answer {
        Ok(text) => {
            send(to, format!("{GREETING}ok\n").as_bytes()).await?;
            send(to, text.as_bytes()).await
        }
        // A line: its reader need not wait for the end, which it may not see if it sent more than was read.
        Err(text) => send(to, format!("{GREETING}error\n{text}\n").as_bytes()).await,
    }
}

async fn send(to: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    for chunk in bytes.chunks(CHUNK) {
        timeout(SLOW, to.write_all(chunk)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    Ok(())
}

async fn watch(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    served: &Served,
    table: TableId,
    form: Form,
) -> io::Result<()> {
    let (mut any, mut watching) = (served.reader.watch_any(), Watching::new(table, form));
    send(to, format!("{GREETING}ok\n").as_bytes()).await?;
    let mut nothing = [0; 64];
    loop {
        any.mark_unchanged();
        let text = watching.poll(served.reader.snapshot());
        send(to, text.as_bytes()).await?;
        tokio::select! {
            changed = any.changed() => if changed.is_err() { return Ok(()) },
            read = from.read(&mut nothing) => if read? == 0 { return Ok(()) },
        }
    }
}
