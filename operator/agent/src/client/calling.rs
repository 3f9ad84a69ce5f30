//! The hello caller of a client node as a task: calls EPIC nodes, writes `sources` and `remotes` once they answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epic_datapath::Maps;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::hello::caller::{Caller, Reached};
use crate::hello::{self, Outgoing, socket::Socket};
use crate::remotes;

/// Between two tries to bind the port.
const BIND_AGAIN: Duration = Duration::from_secs(1);
/// How long to sleep without tunnels.
const IDLE: Duration = Duration::from_secs(60);

/// The caller, its maps, and what wakes it.
#[derive(Clone, Debug)]
pub struct Calling {
    /// The state machine.
    pub caller: Arc<Mutex<Caller>>,
    /// The maps.
    pub maps: Arc<Maps>,
    /// Rung when the wanted tunnels changed.
    pub changed: Arc<Notify>,
}

impl Calling {
    /// Calls until `shutdown`. The port may change.
    pub async fn run(self, mut port: watch::Receiver<Option<u16>>, shutdown: CancellationToken) {
        loop {
            let number = *port.borrow_and_update();
            let bound = match number {
                // By whichever interface an EPIC node is reached, and that may change at any time.
                Some(number) => Some(Socket::bind((Ipv4Addr::UNSPECIFIED, number).into()).await),
                None => None,
            };
            let socket = match bound {
                Some(Ok(socket)) => socket,
                Some(Err(error)) => {
                    tracing::error!(%error, "cannot bind the GUE port; is another agent running?");
                    tokio::select! {
                        () = tokio::time::sleep(BIND_AGAIN) => continue,
                        () = shutdown.cancelled() => return,
                    }
                }
                None => {
                    tokio::select! {
                        changed = port.changed() => if changed.is_err() { return },
                        () = shutdown.cancelled() => return,
                    }
                    continue;
                }
            };
            tokio::select! {
                () = self.call(&socket) => {}
                changed = port.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn call(&self, socket: &Socket) {
        loop {
            let due = self.caller.lock().poll(hello::now());
            send(socket, &due).await;
            let pause = self.pause();
            tokio::select! {
                received = socket.receive() => match received {
                    Ok((from, bytes)) => {
                        let answers = self.take(from, &bytes);
                        send(socket, &answers).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the hello socket broke; opening another");
                        return;
                    }
                },
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    fn pause(&self) -> Duration {
        let deadline = self.caller.lock().deadline();
        deadline.map_or(IDLE, |at| Duration::from_nanos(at.saturating_sub(hello::now())))
    }

    fn take(&self, from: SocketAddr, bytes: &[u8]) -> Vec<Outgoing> {
        let mut caller = self.caller.lock();
        let (answers, reached) = caller.receive(from, bytes, hello::now());
        for Reached { tunnel, remote, source } in reached {
            match remotes::write(&self.maps, tunnel, &remote, &source, None) {
                Ok(()) => tracing::info!(tunnel, epic = %from, "the tunnel is up"),
                Err(error) => {
                    tracing::warn!(tunnel, %error, "a remote was not written; the next answer repeats it");
                    caller.not_written(tunnel);
                }
            }
        }
        answers
    }
}

async fn send(socket: &Socket, messages: &[Outgoing]) {
    for message in messages {
        socket.send(message).await;
    }
}
