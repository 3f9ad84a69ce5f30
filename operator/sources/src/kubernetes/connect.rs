//! A client of a cluster, from a kubeconfig.

use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig.
    #[error("cannot use the kubeconfig {path}: {source}; give one that kubectl --kubeconfig works with", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// What it says of the API server.
    #[error(
        "cannot set up the connection to the API server of {path}: {source}; look at server and certificates there",
        path = path.display()
    )]
    Client {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<kube::Error>,
    },
}

/// A client with the present context of a kubeconfig. Nothing is sent yet.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(path: &Path) -> Result<kates::Client, ConnectError> {
    let refused = |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(refused)?;
    let config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(refused)?;
    let client = kube::Client::try_from(config);
    let client =
        client.map_err(|source| ConnectError::Client { path: path.to_owned(), source: Box::new(source) })?;
    Ok(kates::Client::new(client))
}
