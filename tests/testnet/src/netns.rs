//! Network namespaces for tests: made by a thread, held by a file descriptor, gone with the process.
//!
//! Nothing has a name in the file system, so a killed test leaves nothing behind and tests cannot collide. Commands
//! and threads are put into a namespace by `setns`; `/proc/sys/net` then shows that namespace's settings. The mount
//! namespace stays the host's, so the bpffs is the same everywhere.
//!
//! Needs root. Without it every test that uses this fails and says so.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

/// Fails the test with a sentence that says what to do, unless it runs as root.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and needs root: run it as root, for example `sudo -E make test`"
    );
}

/// A network namespace. Clones share it; it ends with the last clone and the last process in it.
#[derive(Clone)]
pub struct Netns {
    label: String,
    file: Arc<File>,
}

impl Netns {
    /// Makes a namespace with `lo` up. `label` appears in failures only.
    pub fn new(label: &str) -> Self {
        require_root();
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare a network namespace");
            File::open("/proc/thread-self/ns/net").expect("open the new namespace")
        });
        let file = made.join().expect("the thread that makes a namespace");
        let netns = Self { label: label.to_owned(), file: Arc::new(file) };
        netns.ip("link set lo up");
        netns.sysctl("net/ipv6/conf/all/accept_dad", "0");
        netns
    }

    /// The namespace a process is in. `label` appears in failures only.
    pub fn of_process(label: &str, pid: u32) -> Self {
        require_root();
        let path = format!("/proc/{pid}/ns/net");
        let file = File::open(&path).unwrap_or_else(|error| panic!("{label}: cannot open {path}: {error}"));
        Self { label: label.to_owned(), file: Arc::new(file) }
    }

    /// What `ip link set … netns` takes for this namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `ip ARGUMENTS` in the namespace and returns its output.
    pub fn ip(&self, arguments: &str) -> String {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        self.command("ip", &arguments)
    }

    /// Runs several `ip` commands, a line each, by one process.
    pub fn ip_batch(&self, lines: &str) {
        self.feed("ip", &["-batch", "-"], lines);
    }

    /// Runs a program to its end; fails the test when the program fails.
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = self
            .prepare(program, arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("could not run {program}: {error}"));
        assert!(
            output.status.success(),
            "in {}: {program} {}: {}",
            self.label,
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a program with this text as its input; fails the test when the program fails.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) {
        let mut child = self
            .prepare(program, arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not run {program}: {error}"));
        let mut pipe = child.stdin.take().expect("a piped input");
        pipe.write_all(input.as_bytes()).expect("write to the program");
        drop(pipe);
        let output = child.wait_with_output().expect("wait for the program");
        assert!(
            output.status.success(),
            "in {}: {program} {}: {}\n{input}",
            self.label,
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn prepare(&self, program: &str, arguments: &[&str]) -> Command {
        let file = Arc::clone(&self.file);
        let mut command = Command::new(program);
        command.args(arguments);
        // SAFETY: between fork and exec only the system call `setns` is made.
        unsafe {
            command.pre_exec(move || Ok(setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        command
    }

    /// Sets `/proc/sys/PATH` of the namespace.
    pub fn sysctl(&self, path: &str, value: &str) {
        let file = format!("/proc/sys/{path}");
        self.run(|| {
            std::fs::write(&file, value).unwrap_or_else(|error| panic!("write {value} to {file}: {error}"));
        });
    }

    /// Runs `work` on a thread in the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let done = scope.spawn(|| {
                self.enter();
                work()
            });
            done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs asynchronous `work` in the namespace, on a runtime of its own whose only thread is there, and fails the
    /// test when it takes longer than `limit`.
    pub fn run_async<F: Future>(&self, limit: Duration, work: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        self.run(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { tokio::time::timeout(limit, work()).await.expect("in time") })
        })
    }

    /// Starts a thread in the namespace.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let netns = self.clone();
        thread::spawn(move || {
            netns.enter();
            work()
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter a namespace of this test");
    }
}

/// Connects two namespaces by a veth pair, both ends up.
pub fn veth(left: &Netns, left_name: &str, right: &Netns, right_name: &str) {
    left.ip(&format!("link add {left_name} type veth peer name {right_name} netns {}", right.path()));
    left.ip(&format!("link set {left_name} up"));
    right.ip(&format!("link set {right_name} up"));
}
