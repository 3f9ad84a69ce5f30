//! The API server: connecting, reading lists whose objects may be unreadable, and errors that say what to do.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

/// How long the API server may take to answer a call.
const ANSWER: Duration = Duration::from_secs(30);
/// Objects of one page.
const PAGE: u32 = 500;

/// Which API server, and as who.
#[derive(Clone, Debug, Default, Args)]
pub struct Connection {
    /// Kubeconfig. Absent: as kubectl finds it.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig. Absent: its current one.
    #[arg(long, global = true)]
    pub context: Option<String>,
}

impl Connection {
    /// Reads the kubeconfig, or what a pod finds in its file system.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`], [`Error::Infer`].
    pub async fn config(&self) -> Result<Config, Error> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match (&self.kubeconfig, &self.context) {
            (Some(path), _) => {
                let unusable = |source| Error::Kubeconfig { path: path.display().to_string(), source };
                let file = Kubeconfig::read_from(path).map_err(unusable)?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(unusable)?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options)
                .await
                .map_err(|source| Error::Kubeconfig { path: "that kubectl uses".to_owned(), source })?,
            (None, None) => Config::infer().await?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(ANSWER);
        config.write_timeout = Some(ANSWER);
        Ok(config)
    }
}

/// A client.
///
/// # Errors
/// The configuration lacks something.
pub fn client(config: Config) -> Result<Client, Error> {
    Client::try_from(config).map_err(|source| Error::call("set up the connection", source))
}

/// Why the API server could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be read or lacks something.
    #[error("cannot use the kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// Neither a kubeconfig nor the files of a pod.
    #[error("cannot find an API server: {0}; give --kubeconfig, or set KUBECONFIG")]
    Infer(#[from] kube::config::InferConfigError),
    /// A call failed.
    #[error("cannot {what}: {}", explain(.source))]
    Call {
        /// What was tried, for people.
        what: String,
        /// The answer.
        source: kube::Error,
    },
}

impl Error {
    /// A call that failed.
    pub fn call(what: impl Into<String>, source: kube::Error) -> Self {
        Self::Call { what: what.into(), source }
    }
}

/// The answer, and what to do about it.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let hint = match status.code {
                401 => "; the credentials of this context are not valid (any more)",
                403 => "; ask for this right, or use a context that has it",
                404 if status.message.contains("could not find the requested resource") => {
                    "; EPIC's definitions are not installed in this cluster"
                }
                _ => "",
            };
            format!("{}{hint}", status.message)
        }
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
            text
        }
    }
}

/// Whether the API server refused this caller.
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// Whether the object or its kind is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Objects of one kind, with those apart that this program cannot read.
#[derive(Clone, Debug)]
pub struct Listed<K> {
    /// The objects.
    pub items: Vec<K>,
    /// `namespace/name: why` of what could not be read.
    pub unreadable: Vec<String>,
    /// uids of what could not be read.
    pub unreadable_uids: Vec<String>,
    /// resourceVersion of the list.
    pub revision: String,
}

impl<K> Default for Listed<K> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            unreadable: Vec::new(),
            unreadable_uids: Vec::new(),
            revision: String::new(),
        }
    }
}

/// Lists a kind, in a namespace or everywhere, page by page. One object that does not parse does not hide the others.
///
/// # Errors
/// What the API server answered.
pub async fn list<K>(client: &Client, namespace: Option<&str>) -> Result<Listed<K>, kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut listed = Listed::default();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await?;
        listed.revision = page.metadata.resource_version.unwrap_or_default();
        for object in page.items {
            let name = format!(
                "{}/{}",
                object.metadata.namespace.as_deref().unwrap_or_default(),
                object.metadata.name.as_deref().unwrap_or_default()
            );
            let uid = object.metadata.uid.clone();
            match serde_json::to_value(object).and_then(serde_json::from_value) {
                Ok(object) => listed.items.push(object),
                Err(error) => {
                    listed.unreadable.push(format!("{name}: {error}"));
                    listed.unreadable_uids.extend(uid);
                }
            }
        }
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => parameters = parameters.continue_token(&next),
            _ => return Ok(listed),
        }
    }
}
