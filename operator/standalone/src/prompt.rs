//! Commands, from standard input or from the command line, and their answers on standard output.
//!
//! `db watch` goes on until the next line, an interrupt (Ctrl-C) or the end of the input.

use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;

use epic_lb::TableId;
use epic_shell::{Command, Form, Request, Subject as _, Watching, answer};
use tokio::sync::mpsc;

use crate::live::Live;

/// Answers commands.
#[derive(Debug)]
pub(crate) struct Prompt {
    live: Arc<Live>,
    /// How to print, whatever a command says.
    output: Option<String>,
}

/// What ended a watch.
enum Ended {
    Line(String),
    Interrupt,
    Input,
}

impl Prompt {
    pub(crate) fn new(live: &Arc<Live>, output: Option<String>) -> Self {
        Self { live: Arc::clone(live), output }
    }

    /// Carries out these commands; returns how many were not answered.
    ///
    /// # Errors
    /// If nothing can be printed.
    pub(crate) async fn run(&mut self, commands: &[String]) -> io::Result<usize> {
        let mut failed = 0;
        // No line ends a watch.
        let (_open, mut lines) = mpsc::channel(1);
        for command in commands {
            match self.parsed(command) {
                Ok(Request { command: Command::Watch(table), form }) => {
                    self.watch(table, form, &mut lines).await?;
                }
                Ok(request) => failed += usize::from(!self.answer(request).await?),
                Err(error) => {
                    failed += 1;
                    print(&format!("error: {error}\n"))?;
                }
            }
        }
        Ok(failed)
    }

    /// Carries out what is read until the input ends or says `exit`. With a prompt errors are told and forgotten; without one
    /// the number of commands that were not answered is returned.
    ///
    /// # Errors
    /// If nothing can be printed.
    pub(crate) async fn read_lines(&mut self, prompt: Option<&str>) -> io::Result<usize> {
        let mut lines = lines()?;
        let (mut failed, mut next) = (0, None);
        loop {
            let line = match next.take() {
                Some(line) => line,
                None => {
                    print(prompt.unwrap_or_default())?;
                    let Some(line) = line_or_interrupt(&mut lines).await else { break };
                    line
                }
            };
            match line.trim() {
                "" => {}
                comment if comment.starts_with('#') => {}
                "exit" | "quit" => break,
                line => match self.parsed(line) {
                    Ok(Request { command: Command::Watch(table), form }) => {
                        match self.watch(table, form, &mut lines).await? {
                            Ended::Line(line) => next = Some(line),
                            Ended::Interrupt => print("\n")?,
                            Ended::Input => break,
                        }
                    }
                    Ok(request) => failed += usize::from(!self.answer(request).await?),
                    Err(error) => {
                        failed += 1;
                        print(&format!("error: {error}\n"))?;
                    }
                },
            }
        }
        Ok(if prompt.is_some() { 0 } else { failed })
    }

    fn parsed(&self, line: &str) -> Result<Request, epic_shell::ParseError> {
        match &self.output {
            // Of two the later counts.
            Some(output) => Request::parse(&format!("{line} -o {output}")),
            None => Request::parse(line),
        }
    }

    /// Prints the answer; says whether there was one.
    async fn answer(&self, request: Request) -> io::Result<bool> {
        let live = Arc::clone(&self.live);
        // A check of very many entries takes its time, and probes go on meanwhile.
        let answered = tokio::task::spawn_blocking(move || answer(&*live, &request)).await?;
        match answered {
            Ok(text) => print(&text).map(|()| true),
            Err(error) => print(&format!("error: {error}\n")).map(|()| false),
        }
    }

    async fn watch(
        &self,
        table: TableId,
        form: Form,
        lines: &mut mpsc::Receiver<String>,
    ) -> io::Result<Ended> {
        let (mut any, mut watching) = (self.live.reader.watch_any(), Watching::new(table, form));
        loop {
            any.mark_unchanged();
            print(&watching.poll(self.live.tables()))?;
            tokio::select! {
                changed = any.changed() => if changed.is_err() { return Ok(Ended::Input) },
                line = lines.recv() => return Ok(line.map_or(Ended::Input, Ended::Line)),
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted?;
                    return Ok(Ended::Interrupt);
                }
            }
        }
    }
}

/// Lines of standard input, from a thread of its own: reading cannot be broken off.
fn lines() -> io::Result<mpsc::Receiver<String>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    eprintln!("epic-lb: cannot read standard input: {error}; it ends here");
                    return;
                }
            };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The next line; `None` at the end, or when the program is to end.
async fn line_or_interrupt(lines: &mut mpsc::Receiver<String>) -> Option<String> {
    tokio::select! {
        line = lines.recv() => line,
        _ = tokio::signal::ctrl_c() => None,
    }
}

/// Prints at once; whoever has seen enough (`head`) ends the program.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
