//! The agent's socket: the document for who asks nothing, answers of the shell for who sends a line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use epic_agent::inspect::{self, Served, ShellError, View};
use epic_lb::{EpicNode, MapKey, MapValue, Progress, Snapshot, Writer};
use epic_reconciler::MapError;
use epic_shell::{Side, Subject};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

struct Tables(Writer, Side);

impl Subject for Tables {
    type Side = Side;
    fn tables(&self) -> Arc<Snapshot> {
        self.0.snapshot()
    }
    fn progress(&self) -> Progress {
        Progress::default()
    }
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        Err(MapError::Failed("these maps cannot be read".to_owned()))
    }
    fn side(&self) -> &Side {
        &self.1
    }
}

/// A socket that is served, with tables behind it.
struct Agent {
    writer: Writer,
    socket: PathBuf,
    shutdown: CancellationToken,
    // Dropped last: it ends the tasks.
    _runtime: Runtime,
}

impl Agent {
    fn new(name: &str) -> Self {
        let socket = std::env::temp_dir().join(format!("epic-shell-{}-{name}", std::process::id())).join("s");
        let (writer, shutdown) = (Writer::new(), CancellationToken::new());
        let served = Served {
            view: Arc::new(|| View { name: "node1".to_owned(), ..View::default() }),
            subject: Arc::new(Tables(writer.clone(), Side::Client)),
            reader: writer.reader(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(inspect::serve(socket.clone(), served, shutdown.clone()));
        let agent = Self { writer, socket, shutdown, _runtime: runtime };
        let deadline = std::time::Instant::now() + DEADLINE;
        while UnixStream::connect(&agent.socket).is_err() {
            assert!(std::time::Instant::now() < deadline, "no socket");
            std::thread::yield_now();
        }
        agent
    }

    fn node(&self, number: u32, name: &str) {
        let mut txn = self.writer.write();
        txn.upsert_node(EpicNode::new(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), name));
        txn.commit();
    }

    fn open(&self, line: &str) -> BufReader<UnixStream> {
        let mut stream = connect(&self.socket);
        stream.write_all(line.as_bytes()).expect("a line is sent");
        BufReader::new(stream)
    }

    fn ask(&self, line: &str) -> Result<String, ShellError> {
        let mut out = Vec::new();
        inspect::ask(line, std::slice::from_ref(&self.socket), &mut out)?;
        Ok(String::from_utf8(out).expect("an answer is text"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _ = self.socket.parent().map(std::fs::remove_dir_all);
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the socket listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is set");
    stream
}

fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line comes");
    line
}

#[test]
fn who_asks_nothing_gets_the_document() {
    let agent = Agent::new("document");
    let only_reads = connect(&agent.socket);
    let ends_its_side = connect(&agent.socket);
    ends_its_side.shutdown(Shutdown::Write).unwrap();
    for mut stream in [only_reads, ends_its_side] {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(serde_json::from_str::<View>(&text).unwrap().name, "node1");
    }
}

#[test]
fn a_line_is_answered_and_an_error_is_told_as_one() {
    let agent = Agent::new("line");
    agent.node(1, "one");
    assert_eq!(agent.ask("db show nodes").unwrap(), "ADDRESS   NAME\n10.0.0.1  one\n");
    assert!(agent.ask("db show nodes -o json").unwrap().contains(r#""name": "one""#));
    let errors = ["db show node", "lb-maps dump", "selection 192.0.2.7:80"].map(|line| agent.ask(line));
    let texts = errors.map(|error| error.unwrap_err().to_string());
    assert!(texts[0].starts_with("no table is named \"node\""), "{texts:?}");
    assert_eq!(texts[1], "the maps cannot be read: these maps cannot be read");
    assert_eq!(texts[2], "no service has 192.0.2.7:80; type: db prefix frontends 192.0.2.7");
}

#[test]
fn many_lines_are_carried_out_one_after_the_other() {
    let agent = Agent::new("lines");
    agent.node(1, "one");
    let lines = "# a comment\n\ndb prefix nodes 10.\nnonsense\ndb initialized\nexit\nhealth\n";
    let mut out = Vec::new();
    let sockets = std::slice::from_ref(&agent.socket);
    assert_eq!(inspect::read_lines(lines.as_bytes(), None, sockets, &mut out).unwrap(), 1);
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with("ADDRESS   NAME\n10.0.0.1  one\nerror: \"nonsense\" is no command"), "{out}");
    assert!(out.ends_with("every source has listed\n"), "{out}");
}

#[test]
fn without_an_agent_the_error_names_the_sockets() {
    let nowhere = [PathBuf::from("/nonexistent/node.sock"), PathBuf::from("/nonexistent/client.sock")];
    let error = inspect::ask("health", &nowhere, &mut Vec::new()).unwrap_err().to_string();
    assert_eq!(
        error,
        "no agent answers on /nonexistent/node.sock, /nonexistent/client.sock; is it running? epic-agent maps dump \
         reads the maps without it"
    );
}

#[test]
fn a_question_without_an_end_is_refused() {
    let agent = Agent::new("endless");
    let mut answer = agent.open(&"x".repeat(5_000));
    assert_eq!(line(&mut answer), "epic-shell 1 error\n");
    assert!(line(&mut answer).starts_with("a command has at most 4096 bytes"));
}

#[test]
fn a_watched_table_is_streamed_change_by_change() {
    let agent = Agent::new("watch");
    agent.node(1, "one");
    let mut watch = agent.open("db watch nodes\n");
    let lines = [line(&mut watch), line(&mut watch), line(&mut watch)];
    assert_eq!(lines, ["epic-shell 1 ok\n", "  ADDRESS   NAME\n", "+ 10.0.0.1  one\n"]);
    agent.node(1, "two");
    assert_eq!(line(&mut watch), "~ 10.0.0.1  two\n");
    watch.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(line(&mut watch), "", "it ends when the client ends its side");
}

#[test]
fn a_reader_that_takes_nothing_delays_nobody() {
    let agent = Agent::new("slow");
    let mut txn = agent.writer.write();
    txn.set_nodes((0..20_000u32).map(|n| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        EpicNode::new(address.into(), format!("a node with a long name, so that much is to be sent: {n}"))
    }));
    txn.commit();
    // More than a socket holds is on its way to each of them, and none reads.
    let slow: Vec<_> = (0..4).map(|_| agent.open("db show nodes\n")).collect();
    assert!(agent.ask("db get nodes 10.0.0.7").unwrap().contains(": 7"));
    agent.node(1, "changed");
    assert!(agent.ask("db get nodes 10.0.0.1").unwrap().contains("changed"));
    drop(slow);
}

#[test]
fn only_so_many_commands_run_at_once() {
    let agent = Agent::new("many");
    let mut watches: Vec<_> = (0..8).map(|_| agent.open("db watch nodes\n")).collect();
    for watch in &mut watches {
        assert_eq!(line(watch), "epic-shell 1 ok\n");
    }
    let refused = agent.ask("health").unwrap_err().to_string();
    assert!(refused.starts_with("8 commands are running here already"), "{refused}");
    drop(watches);
    let deadline = std::time::Instant::now() + DEADLINE;
    while agent.ask("health").is_err() {
        assert!(std::time::Instant::now() < deadline, "the watches did not end");
        std::thread::yield_now();
    }
}
