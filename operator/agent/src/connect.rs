//! The connection to the API server.

use std::path::Path;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Why there is no connection.
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
    #[error("cannot find an API server: {0}; give --kubeconfig, or run as a pod")]
    Infer(#[from] kube::config::InferConfigError),
    /// The client could not be built.
    #[error("cannot set up the connection to the API server: {0}")]
    Client(#[from] kube::Error),
}

/// Reads a kubeconfig, or what a pod finds in its file system.
///
/// # Errors
/// [`Error::Kubeconfig`], [`Error::Infer`].
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, Error> {
    let Some(path) = kubeconfig else { return Ok(Config::infer().await?) };
    let refused = |source| Error::Kubeconfig { path: path.display().to_string(), source };
    let file = Kubeconfig::read_from(path).map_err(refused)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(refused)
}
