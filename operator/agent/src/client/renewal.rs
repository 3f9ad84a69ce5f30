//! The agent's own token: time-bound, renewed by the agent, written back into its kubeconfig.
//!
//! The kubeconfig holds a token of the ServiceAccount `epic-client`. At half of its life the agent asks for another
//! one of the same length (TokenRequest, which its role allows for this one account), uses it from then on, and
//! replaces the kubeconfig by rename. An agent that was off for longer than the token lasts needs a new kubeconfig:
//! `epicctl account kubeconfig`. A kubeconfig without a token of that kind (a certificate, an exec plug-in) is left
//! alone.

use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use epic_crds::well_known::SERVICE_ACCOUNT_CLIENT;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::client::{Body, ClientBuilder};
use kube::{Api, Config};
use serde_yaml::Value;
use tokio_util::sync::CancellationToken;
use tower::util::MapRequestLayer;

use crate::connect;
use crate::metrics::chain;

/// At most between two looks at the clock.
const LOOK: Duration = Duration::from_secs(60);
/// Before a failed renewal is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// No token is asked for that lasts shorter: the API server's own limit.
const SHORTEST: i64 = 600;

/// Why the token cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot {what} the kubeconfig {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// Its content.
    #[error("cannot change the token in the kubeconfig {path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A token that is no header value.
    #[error("the token is not one")]
    Token,
}

/// When a token was made and when it ends, in seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// `iat`.
    pub from: i64,
    /// `exp`.
    pub to: i64,
}

impl Life {
    /// Reads the claims of a token, without checking its signature: only the API server can. `None` for tokens that
    /// do not end.
    pub fn of(token: &str) -> Option<Self> {
        let claims = token.split('.').nth(1)?;
        let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let (from, to) = (claims.get("iat")?.as_i64()?, claims.get("exp")?.as_i64()?);
        (to > from).then_some(Self { from, to })
    }

    /// How long it lasts, in seconds.
    pub fn seconds(self) -> i64 {
        self.to - self.from
    }

    /// How long to sleep before looking at the clock again; zero when half of it is over and it is to be renewed. Never
    /// long: timers stand still while the host is suspended, and the clock may be set meanwhile.
    pub fn pause(self, now: i64) -> Duration {
        let due = self.from + self.seconds() / 2;
        Duration::from_secs(u64::try_from(due - now).unwrap_or(0)).min(LOOK)
    }
}

/// A connection whose token can be replaced.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub kube: kube::Client,
    /// Namespace of the kubeconfig's context.
    pub namespace: String,
    kubeconfig: PathBuf,
    token: Option<String>,
    header: Arc<ArcSwapOption<HeaderValue>>,
}

fn bearer(token: &str) -> Result<Arc<HeaderValue>, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Error::Token)?;
    value.set_sensitive(true);
    Ok(Arc::new(value))
}

/// Connects with the kubeconfig. Its token, if it has one, is ours to replace from then on.
///
/// # Errors
/// The kubeconfig is unreadable or lacks something.
pub async fn connect(kubeconfig: &Path) -> Result<Connection, super::Error> {
    let mut config: Config = connect::config(Some(kubeconfig)).await?;
    let document = read(kubeconfig)?;
    let token = current_token(&document).map(str::to_owned);
    let header = Arc::new(ArcSwapOption::empty());
    if let Some(token) = &token {
        header.store(Some(bearer(token)?));
        config.auth_info.token = None;
    }
    let namespace = config.default_namespace.clone();
    let held = Arc::clone(&header);
    let authorize = MapRequestLayer::new(move |mut request: http::Request<Body>| {
        if let Some(value) = &*held.load() {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::clone(value));
        }
        request
    });
    let builder = ClientBuilder::try_from(config).map_err(connect::Error::from)?;
    let kube = builder.with_layer(&authorize).build();
    Ok(Connection { kube, namespace, kubeconfig: kubeconfig.to_owned(), token, header })
}

/// Renews until `shutdown`.
pub async fn run(mut connection: Connection, namespace: String, shutdown: CancellationToken) {
    loop {
        let Some(life) = connection.token.as_deref().and_then(Life::of) else {
            tracing::info!("the kubeconfig has no token that ends; there is nothing to renew");
            return;
        };
        let pause = life.pause(Timestamp::now().as_second());
        if !pause.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(pause) => continue,
                () = shutdown.cancelled() => return,
            }
        }
        match renew(&connection, &namespace, life.seconds()).await {
            Ok(token) => {
                if let Err(error) = keep(&connection, &token) {
                    // It is in use all the same; only a restart after the old one's end would miss it.
                    tracing::error!(error = chain(&error), "the new token is not in the kubeconfig");
                }
                tracing::info!("renewed the token");
                connection.token = Some(token);
            }
            Err(why) => {
                tracing::warn!(why, "the token was not renewed; trying again");
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }
}

async fn renew(connection: &Connection, namespace: &str, seconds: i64) -> Result<String, String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(connection.kube.clone(), namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(seconds.max(SHORTEST)),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(SERVICE_ACCOUNT_CLIENT, &PostParams::default(), &request)
        .await
        .map_err(|error| chain(&error))?;
    let token = answer.status.and_then(|status| status.token).filter(|token| Life::of(token).is_some());
    token.ok_or_else(|| "the API server answered without a token".to_owned())
}

fn keep(connection: &Connection, token: &str) -> Result<(), Error> {
    connection.header.store(Some(bearer(token)?));
    let path = &connection.kubeconfig;
    let mut document = read(path)?;
    replace_token(&mut document, token)
        .map_err(|why| Error::Content { path: path.clone(), why: why.to_owned() })?;
    let text = serde_yaml::to_string(&document)
        .map_err(|error| Error::Content { path: path.clone(), why: error.to_string() })?;
    replace(path, text.as_bytes()).map_err(|source| Error::File {
        what: "replace",
        path: path.clone(),
        source,
    })
}

fn read(path: &Path) -> Result<Value, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        what: "read",
        path: path.to_owned(),
        source,
    })?;
    serde_yaml::from_str(&text)
        .map_err(|error| Error::Content { path: path.to_owned(), why: error.to_string() })
}

/// Name of the user of the current context.
fn current_user(document: &Value) -> Option<&str> {
    let current = document.get("current-context")?.as_str()?;
    let contexts = document.get("contexts")?.as_sequence()?;
    let context =
        contexts.iter().find(|context| context.get("name").and_then(Value::as_str) == Some(current))?;
    context.get("context")?.get("user")?.as_str()
}

/// The token of the current context's user.
pub fn current_token(document: &Value) -> Option<&str> {
    let name = current_user(document)?;
    let users = document.get("users")?.as_sequence()?;
    let user = users.iter().find(|user| user.get("name").and_then(Value::as_str) == Some(name))?;
    user.get("user")?.get("token")?.as_str()
}

/// Puts a token in the place of the one of the current context's user; everything else stays.
///
/// # Errors
/// There is no such place.
pub fn replace_token(document: &mut Value, token: &str) -> Result<(), &'static str> {
    let name = current_user(document).ok_or("it has no current context with a user")?.to_owned();
    let users = document.get_mut("users").and_then(Value::as_sequence_mut).ok_or("it has no users")?;
    let user = users.iter_mut().find(|user| user.get("name").and_then(Value::as_str) == Some(&name));
    let fields = user.and_then(|user| user.get_mut("user")).ok_or("its user has no entry")?;
    let held = fields.get_mut("token").ok_or("its user has no token")?;
    *held = Value::String(token.to_owned());
    Ok(())
}

/// Replaces a file so that readers find the old or the new content, with the mode it had and never wider than 0600
/// while it is written.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write as _;
    let mode = std::fs::metadata(path)?.permissions().mode();
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let next = path.with_file_name(name);
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(content)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}
