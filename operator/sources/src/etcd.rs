//! etcd: services from the keys under a prefix. `PREFIX/shop/web` is service `shop/web`; its value is one entry of a state
//! file, YAML or JSON, whose name is that of the key.
//!
//! Keys are listed at a revision and watched from the next one on. Whatever ends the watch (a lost connection, a member without
//! a leader, a compaction of what was next) leads to another list; until then the rows stay as they are.
//! Guarantees: the first whole list completes the source, in one transaction with its rows. A transaction of etcd is never
//! taken in part. A value that is not understood leaves its service as it was, is named in [`State`], and holds nothing else
//! up. A key that is deleted takes its service with it.
//! Assumption: one of these in a process, since a list removes what this source has beside it.
//! What it does not do: TLS and users. Who reaches etcd's port reads and writes; let that be loopback or a network of one's own.

mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use epic_lb::{Initializer, ServiceName, Source, WriteTxn, Writer};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::file::Entry;
use crate::{Origin, Rows};
use wire::{KeyValue, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse};

/// How long it waits before it lists again.
pub const RETRY: Duration = Duration::from_secs(1);
/// Keys that are listed at a time; a value has at most 1.5 MiB, unless etcd is told otherwise.
pub const PAGE: u16 = 256;
/// Greatest message, that of etcd's own client.
const GREATEST: usize = i32::MAX as usize;
/// How long etcd may take to connect, to begin an answer, and to answer a ping.
const PATIENCE: Duration = Duration::from_secs(10);

/// By key, why its value is not in force.
pub type Refused = BTreeMap<Arc<str>, Arc<str>>;

/// What a key says; `None`: it was deleted.
type Said = Option<Result<Rows, String>>;

/// How it stands with etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The revision up to which everything under the prefix is in the tables; `None` before the first list.
    pub revision: Option<i64>,
    /// Keys whose value is not in force, and why.
    pub refused: Refused,
    /// Why etcd is not followed right now.
    pub error: Option<Arc<str>>,
}

/// Why there is no such source.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address of etcd; write http://HOST:PORT (there is no TLS)")]
pub struct AddressError(String);

/// Follows the keys under a prefix.
#[derive(Debug)]
pub struct Etcd {
    endpoint: Endpoint,
    prefix: String,
    state: watch::Sender<State>,
}

impl Etcd {
    /// Of an etcd at `http://HOST:PORT`; the receiver tells how it stands. A slash is put behind the prefix if it has none.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn new(address: &str, prefix: &str) -> Result<(Self, watch::Receiver<State>), AddressError> {
        let endpoint = Endpoint::from_shared(address.to_owned()).ok();
        let endpoint = endpoint.filter(|endpoint| endpoint.uri().scheme_str() == Some("http"));
        let endpoint = endpoint.ok_or_else(|| AddressError(address.to_owned()))?;
        let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE).keep_alive_timeout(PATIENCE);
        let (state, receiver) = watch::channel(State::default());
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        Ok((Self { endpoint: endpoint.http2_keep_alive_interval(PATIENCE), prefix, state }, receiver))
    }

    /// The first key that is not under the prefix: a slash is followed by a zero.
    fn end(&self) -> Vec<u8> {
        format!("{}0", self.prefix.trim_end_matches('/')).into_bytes()
    }

    async fn follow(&self, writer: &Writer, listed: &mut Option<Initializer>) -> Result<Infallible, Status> {
        let mut client = Grpc::new(self.endpoint.connect_lazy()).max_decoding_message_size(GREATEST);
        let revision = self.list(&mut client, writer, listed).await?;
        let (key, range_end) = (self.prefix.clone().into_bytes(), self.end());
        let create = WatchCreateRequest { key, range_end, start_revision: revision + 1 };
        // etcd ends a watch whose requests end.
        let requests =
            tokio_stream::once(WatchRequest { create: Some(create) }).chain(tokio_stream::pending());
        let mut request = tonic::Request::new(requests);
        // A member without a leader learns nothing new; without this it would not say so.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let answers = client.streaming(request, PathAndQuery::from_static(wire::WATCH), codec).await?;
        let mut answers = answers.into_inner();
        loop {
            let ended = || Status::unavailable("the watch ended");
            let answer = answers.message().await?.ok_or_else(ended)?;
            if answer.canceled {
                return Err(Status::aborted(match answer.compact_revision {
                    0 => answer.cancel_reason,
                    first => format!("what came next is compacted up to revision {first}"),
                }));
            }
            self.put_changes(writer, &answer);
        }
    }

    /// Takes all keys as they are at one revision; says which.
    async fn list(
        &self,
        client: &mut Grpc<Channel>,
        writer: &Writer,
        listed: &mut Option<Initializer>,
    ) -> Result<i64, Status> {
        let (mut revision, mut values) = (0, Vec::<KeyValue>::new());
        let mut key = self.prefix.clone().into_bytes();
        loop {
            let request = RangeRequest { key, range_end: self.end(), limit: PAGE.into(), revision };
            client.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let codec = ProstCodec::<RangeRequest, RangeResponse>::default();
            let path = PathAndQuery::from_static(wire::RANGE);
            let answer = client.unary(tonic::Request::new(request), path, codec).await?.into_inner();
            if revision == 0 {
                revision = answer.header.unwrap_or_default().revision;
            }
            values.extend(answer.kvs);
            match values.last() {
                Some(last) if answer.more => key = [last.key.as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        // Read first: a transaction keeps other writers waiting.
        let names: BTreeSet<ServiceName> = values.iter().filter_map(|kv| self.name_of(&kv.key)).collect();
        let read: Vec<(&KeyValue, Said)> = values.iter().map(|kv| (kv, Some(self.read(kv)))).collect();
        let mut refused = Refused::new();
        let mut txn = writer.write();
        txn.retain_services(|name| names.contains(name));
        read.into_iter().for_each(|(kv, said)| self.put(&mut txn, &mut refused, &kv.key, said));
        if let Some(listed) = listed.take() {
            txn.complete(&listed);
        }
        txn.commit();
        tracing::info!(prefix = %self.prefix, keys = values.len(), revision, "etcd is listed");
        self.state.send_replace(State { revision: Some(revision), refused, error: None });
        Ok(revision)
    }

    fn put_changes(&self, writer: &Writer, answer: &WatchResponse) {
        let changed = answer.events.iter().filter_map(|event| Some((event.kind, event.kv.as_ref()?)));
        let read = |(kind, kv)| (kv, (kind != wire::DELETE).then(|| self.read(kv)));
        let changed: Vec<(&KeyValue, Said)> = changed.map(read).collect();
        // What says that the watch was created changes nothing.
        let Some((last, _)) = changed.last() else { return };
        let revision = Some(last.mod_revision);
        let mut refused = self.state.borrow().refused.clone();
        let mut txn = writer.write();
        changed.into_iter().for_each(|(kv, said)| self.put(&mut txn, &mut refused, &kv.key, said));
        txn.commit();
        self.state.send_replace(State { revision, refused, error: None });
    }

    fn put(&self, txn: &mut WriteTxn<'_>, refused: &mut Refused, key: &[u8], said: Said) {
        let text: Arc<str> = String::from_utf8_lossy(key).into();
        refused.remove(&text);
        match (said, self.name_of(key)) {
            (Some(Ok(rows)), _) => rows.write(txn),
            (Some(Err(why)), _) => {
                tracing::warn!(key = %text, why, "a value in etcd is not in force");
                refused.insert(text, why.into());
            }
            (None, Some(name)) => drop(txn.delete_service_and_frontends(&name)),
            (None, None) => {}
        }
    }

    fn read(&self, kv: &KeyValue) -> Result<Rows, String> {
        let Some(name) = self.name_of(&kv.key) else {
            return Err(format!("a key has the form {}namespace/name", self.prefix));
        };
        let text = std::str::from_utf8(&kv.value).map_err(|error| format!("it is no text: {error}"))?;
        let rows = Entry::parse(text).map_err(|error| error.to_string())?.rows();
        rows.filter(|rows| rows.service.name == name)
            .ok_or_else(|| format!("it is of another service than its key; write name: {name}"))
    }

    fn name_of(&self, key: &[u8]) -> Option<ServiceName> {
        ServiceName::parse(std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?)
    }
}

impl Origin for Etcd {
    const SOURCE: Source = Source::KeyValue;

    fn name(&self) -> String {
        format!("etcd {}{}", self.endpoint.uri(), self.prefix.trim_start_matches('/'))
    }

    async fn run(self, writer: Writer, listed: Initializer, stop: CancellationToken) {
        let mut listed = Some(listed);
        loop {
            let Err(error) = tokio::select! {
                ended = self.follow(&writer, &mut listed) => ended,
                () = stop.cancelled() => return,
            };
            // tonic says "transport error"; why is at the end of the chain.
            let cause = std::iter::successors(error.source(), |&cause| cause.source()).last();
            let why = cause.map_or_else(|| error.message().to_owned(), ToString::to_string);
            let said = format!("{} is not followed ({:?}): {why}", self.endpoint.uri(), error.code());
            let said: Arc<str> = said.into();
            if self.state.borrow().error.as_ref() != Some(&said) {
                tracing::warn!(error = %said, "etcd is listed again; its services are kept until then");
                self.state.send_modify(|state| state.error = Some(said));
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
