//! Starting and stopping the processes through `hack/control-plane`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::access::Identity;

/// The control plane cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// There is no folder for its state.
    #[error("no folder for a control plane")]
    Folder(#[source] std::io::Error),
    /// The script cannot be run.
    #[error("cannot run {0}")]
    Script(PathBuf, #[source] std::io::Error),
    /// The script failed.
    #[error("no control plane; `make tools` builds its programs. hack/control-plane {action} said:\n{said}")]
    Failed {
        /// What it was asked to do.
        action: String,
        /// What it printed.
        said: String,
    },
    /// Its kubeconfig cannot be used.
    #[error("the kubeconfig of the control plane cannot be used")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A client or a request failed.
    #[error("a request to the control plane failed")]
    Client(#[from] kube::Error),
}

/// A running control plane. Dropping it ends its processes and removes its state.
pub struct ControlPlane {
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// Starts one with EPIC's definitions; it answers requests when this returns (about four seconds).
    ///
    /// # Errors
    /// When its programs are not built or do not start; the message says what to run.
    pub fn start() -> Result<Self, ControlPlaneError> {
        let folder = tempfile::Builder::new()
            .prefix("epic-control-plane-")
            .tempdir()
            .map_err(ControlPlaneError::Folder)?;
        let this = Self { folder };
        // The owner makes it go down with this process, however that ends.
        let definitions = Path::new(env!("EPIC_CHECKOUT")).join("config/crd");
        let (owner, definitions) = (std::process::id().to_string(), definitions.display().to_string());
        this.script(&["up", "--owner", &owner, "--definitions", &definitions])?;
        Ok(this)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Ends the API server; etcd and what it stores stay.
    ///
    /// # Errors
    /// When the script fails.
    pub fn stop_api(&self) -> Result<(), ControlPlaneError> {
        self.script(&["stop-api"])
    }

    /// Starts the API server again, at the same address.
    ///
    /// # Errors
    /// When the script fails.
    pub fn start_api(&self) -> Result<(), ControlPlaneError> {
        self.script(&["start-api"])
    }

    /// A client of the administrator (group `system:masters`), for the current runtime.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn admin(&self) -> Result<Client, ControlPlaneError> {
        self.client(&Identity::Admin).await
    }

    /// A client with this identity, for the current runtime. It does not try again by itself.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self, identity: &Identity) -> Result<Client, ControlPlaneError> {
        Ok(Client::try_from(self.config(identity).await?)?)
    }

    /// The configuration of such a client.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn config(&self, identity: &Identity) -> Result<Config, ControlPlaneError> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        identity.apply(&mut config);
        Ok(config)
    }

    fn script(&self, arguments: &[&str]) -> Result<(), ControlPlaneError> {
        let script = Path::new(env!("EPIC_CHECKOUT")).join("hack/control-plane");
        // Into a file, because processes that it starts would hold a pipe open.
        let said = self.folder.path().with_extension("said");
        let output = std::fs::File::create(&said).map_err(ControlPlaneError::Folder)?;
        let errors = output.try_clone().map_err(ControlPlaneError::Folder)?;
        let status = Command::new(&script)
            .args(arguments)
            .arg("--dir")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .status()
            .map_err(|error| ControlPlaneError::Script(script, error))?;
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        let _ = std::fs::remove_file(&said);
        if status.success() {
            Ok(())
        } else {
            Err(ControlPlaneError::Failed { action: arguments.join(" "), said: text })
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Err(error) = self.script(&["down"]) {
            eprintln!("{error}");
        }
    }
}
