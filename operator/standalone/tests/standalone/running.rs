//! A running `epic-lb`, and its surroundings: a state file, backends, somebody who asks for health.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// As long may anything take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// A folder with a state file.
pub(crate) struct StateFile {
    _folder: TempDir,
    pub(crate) path: PathBuf,
}

impl StateFile {
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the state file");
        let file = Self { path: folder.path().join("services.yaml"), _folder: folder };
        file.replace(text);
        file
    }

    /// Replaces the file as a whole.
    pub(crate) fn replace(&self, text: &str) {
        let beside = self.path.with_extension("next");
        fs::write(&beside, text).expect("a file beside the state file");
        fs::rename(&beside, &self.path).expect("the state file");
    }
}

fn program(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epic-lb"));
    command.arg("--state").arg(state).env_remove("EPIC_LOG").env_remove("KUBECONFIG");
    command
}

/// Runs one command and waits for the end.
pub(crate) fn run(state: &Path, arguments: &[&str]) -> Output {
    program(state).args(arguments).stdin(Stdio::null()).output().expect("epic-lb runs")
}

/// A program that goes on, with pipes for commands and answers.
pub(crate) struct Running {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    log: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is no matter.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Running {
    pub(crate) fn start(state: &Path, arguments: &[&str]) -> Self {
        let mut child = program(state)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("epic-lb runs");
        let input = child.stdin.take().expect("a pipe for commands");
        let lines = lines_of(child.stdout.take().expect("a pipe for answers"));
        let log = lines_of(child.stderr.take().expect("a pipe for the log"));
        Self { child, input, lines, log }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).expect("epic-lb takes a command");
    }

    /// What a command answers, line by line.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        // An answer ends where that of a command begins which cannot be understood.
        self.say(command);
        self.say("end-of-answer");
        let mut answer = String::new();
        loop {
            let line = self.lines.recv_timeout(LONG).expect("epic-lb answers");
            if line.starts_with("error: \"end-of-answer\"") {
                return answer;
            }
            answer += &line;
            answer.push('\n');
        }
    }

    /// The same as JSON.
    pub(crate) fn ask_json(&mut self, command: &str) -> Value {
        let answer = self.ask(&format!("{command} -o json"));
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{command}: {error}: {answer}"))
    }

    /// Asks until the answer is as wanted.
    pub(crate) fn until(&mut self, command: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LONG;
        loop {
            // What is not there yet is an error, which is no JSON.
            let answer = self.ask(&format!("{command} -o json"));
            let answer = serde_json::from_str(&answer).unwrap_or(Value::String(answer));
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{command} still answers {answer:#}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for a line of the log with this text.
    pub(crate) fn logs(&self, text: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                self.log.recv_timeout(left).unwrap_or_else(|_| panic!("no line of the log has {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Begins a watch, which goes on until [`Running::ask`].
    pub(crate) fn watch(&mut self, command: &str) {
        self.say(command);
    }

    /// Waits for a line of the answer with these texts.
    pub(crate) fn prints(&self, texts: &[&str]) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line has {texts:?}"));
            if texts.iter().all(|text| line.contains(text)) {
                return line;
            }
        }
    }

    /// Ends the input and waits for the end; whether it was a success.
    pub(crate) fn end(mut self) -> bool {
        self.say("exit");
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().expect("epic-lb can be waited for") {
                return status.success();
            }
            assert!(Instant::now() < deadline, "epic-lb does not end");
            std::thread::sleep(PAUSE);
        }
    }
}

/// Something that listens on loopback: connections are taken by the kernel, nobody needs to accept them.
pub(crate) struct Backend {
    listener: Option<TcpListener>,
    pub(crate) address: SocketAddr,
}

impl Backend {
    /// On an address of its own, so that no other test takes the port while it is closed.
    pub(crate) fn new(last: u8) -> Self {
        // Other processes of this test have other addresses.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = IpAddr::from(Ipv4Addr::new(127, high | 1, low, last));
        let listener = TcpListener::bind((address, 0)).expect("an address of loopback");
        let address = listener.local_addr().expect("a bound address");
        Self { listener: Some(listener), address }
    }

    pub(crate) fn die(&mut self) {
        self.listener = None;
    }

    pub(crate) fn come_back(&mut self) {
        let deadline = Instant::now() + LONG;
        while self.listener.is_none() {
            match TcpListener::bind(self.address) {
                Ok(listener) => self.listener = Some(listener),
                Err(error) => assert!(Instant::now() < deadline, "cannot listen again: {error}"),
            }
        }
    }

    /// As a member of the state file.
    pub(crate) fn member(&self, more: &str) -> String {
        format!("{{ address: {}, port: {}{more} }}", self.address.ip(), self.address.port())
    }
}

/// A port of loopback that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// Status and body of a GET; `None` if nobody listens.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// Asks until the status is the wanted one; its body.
pub(crate) fn get_until(port: u16, path: &str, wanted: u16) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        let answer = get(port, path);
        match answer {
            Some((status, body)) if status == wanted => return body,
            _ => assert!(
                Instant::now() < deadline,
                "port {port} {path} still answers {answer:?}, not {wanted}"
            ),
        }
        std::thread::sleep(PAUSE);
    }
}
