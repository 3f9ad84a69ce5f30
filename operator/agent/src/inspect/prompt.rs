//! `epic-agent shell`: sends lines to a running agent and prints its answers.

use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use epic_shell::{Command, Request};

use super::socket::GREETING;

/// How long an agent may take to answer: a check of very many maps takes its time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often an agent is asked again that took us for one who asks nothing, because the line came late.
const ATTEMPTS: usize = 5;
/// Bytes of the line that an answer begins with.
const LONGEST_GREETING: u64 = 64;

/// Why a command was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// No agent.
    #[error("no agent answers on {0}; is it running? epic-agent maps dump reads the maps without it")]
    NoAgent(String),
    /// Something else answered.
    #[error("the agent does not know this command; is it of the same version as this program?")]
    OtherVersion,
    /// The agent went away.
    #[error("the agent did not answer: {0}")]
    Silent(io::Error),
    /// What it answered.
    #[error("{0}")]
    Refused(String),
    /// Standard output.
    #[error("cannot print: {0}")]
    Print(io::Error),
}

/// Sends one command to the first of these sockets that somebody serves, and prints the answer as it comes.
///
/// # Errors
/// [`ShellError`]; its text says what to do.
pub fn ask(line: &str, sockets: &[PathBuf], out: &mut impl Write) -> Result<(), ShellError> {
    let request = Request::parse(line).map_err(|error| ShellError::Refused(error.to_string()))?;
    if request.command == Command::Help {
        return out.write_all(epic_shell::help().as_bytes()).map_err(ShellError::Print);
    }
    let ends = !matches!(request.command, Command::Watch(_));
    for _ in 0..ATTEMPTS {
        let mut stream = connect(sockets)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(ShellError::Silent)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        stream.write_all(format!("{}\n", words.join(" ")).as_bytes()).map_err(ShellError::Silent)?;
        let mut answer = BufReader::new(stream);
        let mut greeting = String::new();
        (&mut answer).take(LONGEST_GREETING).read_line(&mut greeting).map_err(ShellError::Silent)?;
        match greeting.trim_end().strip_prefix(GREETING) {
            Some("ok") => {
                if !ends {
                    answer.get_ref().set_read_timeout(None).map_err(ShellError::Silent)?;
                }
                return copy(&mut answer, out);
            }
            Some("error") => {
                let mut text = String::new();
                answer.read_line(&mut text).map_err(ShellError::Silent)?;
                return Err(ShellError::Refused(text.trim_end().to_owned()));
            }
            _ => {}
        }
    }
    Err(ShellError::OtherVersion)
}

fn connect(sockets: &[PathBuf]) -> Result<UnixStream, ShellError> {
    let found = sockets.iter().find_map(|socket| UnixStream::connect(socket).ok());
    let names = || sockets.iter().map(|socket| socket.display().to_string()).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| ShellError::NoAgent(names()))
}

/// Prints as it comes; a reader that has seen enough (`head`) is no error.
fn copy(answer: &mut impl BufRead, out: &mut impl Write) -> Result<(), ShellError> {
    loop {
        let bytes = answer.fill_buf().map_err(ShellError::Silent)?;
        if bytes.is_empty() {
            return Ok(());
        }
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(ShellError::Print)?,
        }
        let taken = bytes.len();
        answer.consume(taken);
    }
}

/// Carries out commands line by line until the input ends or says `exit`. With a prompt for people, errors are told and
/// forgotten; without one the number of those that failed is returned.
///
/// # Errors
/// If the input cannot be read or nothing can be printed.
pub fn read_lines(
    mut input: impl BufRead,
    prompt: Option<&str>,
    sockets: &[PathBuf],
    out: &mut impl Write,
) -> io::Result<usize> {
    let mut failed = 0;
    loop {
        if let Some(prompt) = prompt {
            write!(out, "{prompt}")?;
            out.flush()?;
        }
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(failed);
        }
        match line.trim() {
            "" => {}
            comment if comment.starts_with('#') => {}
            "exit" | "quit" => return Ok(failed),
            line => {
                if let Err(error) = ask(line, sockets, out) {
                    failed += usize::from(prompt.is_none());
                    writeln!(out, "error: {error}")?;
                }
            }
        }
    }
}
