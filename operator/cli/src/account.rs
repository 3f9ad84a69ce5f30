//! `account kubeconfig`: a token for a tenant's client agents, in the file that they read.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use epic_crds::condition::READY;
use epic_crds::well_known::{EPIC_NAMESPACE, SERVICE_ACCOUNT_CLIENT, tenant_namespace};
use epic_crds::{Account, Duration, HasConditions as _};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client, Config, ResourceExt as _};

use crate::api::{self, is_not_found};
use crate::kubeconfig::{Content, render};

/// The API server gives no shorter token.
const SHORTEST: u64 = 600;

/// Flags of `account kubeconfig`.
#[derive(Clone, Debug, Args)]
pub struct KubeconfigArguments {
    /// Name of the account.
    pub name: String,
    /// How long the token lasts. The agent renews it at half of that; one that was off for longer needs a new file.
    #[arg(long, default_value = "24h", value_parser = seconds)]
    pub duration: i64,
    /// URL under which client nodes reach the API server. Absent: the one of the kubeconfig in use.
    #[arg(long)]
    pub server: Option<String>,
    /// Writes the file, readable by its owner alone, instead of printing it.
    #[arg(long, short)]
    pub file: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<i64, String> {
    let duration = Duration(text.to_owned()).parse().map_err(|error| error.to_string())?;
    match i64::try_from(duration.as_secs()) {
        Ok(seconds) if duration.as_secs() >= SHORTEST => Ok(seconds),
        _ => Err("a token lasts at least 10m".to_owned()),
    }
}

/// Why there is no kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// No such Account.
    #[error("there is no account {name:?}{}", known(.accounts))]
    NoAccount {
        /// Its name.
        name: String,
        /// Those that are there.
        accounts: Vec<String>,
    },
    /// The tenant's namespace or its ServiceAccount is not there.
    #[error("account {name:?} has no ServiceAccount epic-client in namespace {namespace} yet: {why}")]
    NotReady {
        /// Name of the Account.
        name: String,
        /// Where it is expected.
        namespace: String,
        /// What the Account says.
        why: String,
    },
    /// The caller does not verify the API server.
    #[error(
        "this context does not verify the API server's certificate, so its authority is not known; a tenant's token must not go to whoever answers: use a context with a certificate-authority"
    )]
    Unverified,
    /// The answer holds no token.
    #[error("the API server answered without a token")]
    NoToken,
    /// The file.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The answer.
        source: std::io::Error,
    },
}

impl Error {
    /// There is no account `name` among those that are there.
    pub fn unknown(name: &str, those: &[Account]) -> Self {
        let accounts: BTreeSet<String> = those.iter().map(|account| account.name_any()).collect();
        Self::NoAccount { name: name.to_owned(), accounts: accounts.into_iter().collect() }
    }
}

fn known(accounts: &[String]) -> String {
    if accounts.is_empty() {
        "; there is none at all (kubectl explain accounts.epic.acnodal.io)".to_owned()
    } else {
        format!("; there are: {}", accounts.join(", "))
    }
}

/// A kubeconfig, and what to know about it.
#[derive(Clone, Debug)]
pub struct Made {
    /// The file's content.
    pub text: String,
    /// For people.
    pub note: String,
}

/// Makes the kubeconfig.
///
/// # Errors
/// [`Error`].
pub async fn kubeconfig(
    client: &Client,
    config: &Config,
    arguments: &KubeconfigArguments,
) -> Result<Made, Error> {
    let name = arguments.name.as_str();
    let account = find(client, name).await?;
    let status = account.status.as_ref();
    let namespace =
        status.and_then(|status| status.namespace.clone()).unwrap_or_else(|| tenant_namespace(name));
    let (authorities, server) = authority(config, arguments)?;

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(arguments.duration),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let asked = accounts.create_token_request(SERVICE_ACCOUNT_CLIENT, &PostParams::default(), &request).await;
    let answer = match asked {
        Ok(answer) => answer,
        Err(error) if is_not_found(&error) => {
            return Err(Error::NotReady { name: name.to_owned(), namespace, why: readiness(&account) });
        }
        Err(error) => {
            let what = format!("make a token of ServiceAccount {namespace}/{SERVICE_ACCOUNT_CLIENT}");
            return Err(api::Error::call(what, error).into());
        }
    };
    let status = answer.status.ok_or(Error::NoToken)?;
    let token = status.token.filter(|token| !token.is_empty()).ok_or(Error::NoToken)?;
    let until = status.expiration_timestamp.map(|time| time.0.to_string()).unwrap_or_default();
    let text = render(&Content {
        server,
        authorities,
        server_name: config.tls_server_name.clone(),
        namespace: namespace.clone(),
        token,
    });
    let note = format!(
        "epicctl: for client nodes of account {name} (namespace {namespace}); the token lasts until {until}, a running agent renews it"
    );
    Ok(Made { text, note })
}

async fn find(client: &Client, name: &str) -> Result<Account, Error> {
    // The one in `epic` wins.
    for namespace in [EPIC_NAMESPACE.to_owned(), tenant_namespace(name)] {
        let api: Api<Account> = Api::namespaced(client.clone(), &namespace);
        let found = api.get_opt(name).await;
        if let Some(account) =
            found.map_err(|error| api::Error::call(format!("read account {namespace}/{name}"), error))?
        {
            return Ok(account);
        }
    }
    let listed = api::list::<Account>(client, None).await;
    match listed {
        Ok(listed) => Err(Error::unknown(name, &listed.items)),
        Err(error) => Err(api::Error::call("list accounts", error).into()),
    }
}

/// Authorities and server for the file.
fn authority(config: &Config, arguments: &KubeconfigArguments) -> Result<(Vec<Vec<u8>>, String), Error> {
    let authorities = config.root_cert.clone().unwrap_or_default();
    if config.accept_invalid_certs && authorities.is_empty() {
        return Err(Error::Unverified);
    }
    let server = arguments.server.clone().unwrap_or_else(|| config.cluster_url.to_string());
    Ok((authorities, server))
}

fn readiness(account: &Account) -> String {
    match account.condition(READY) {
        Some(ready) => format!("{} ({})", ready.message, ready.reason),
        None => "the operator has not looked at the account; is it running? (epicctl get)".to_owned(),
    }
}

/// Writes the file so that nobody else ever can read it.
///
/// # Errors
/// [`Error::Write`].
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let refused = |source| Error::Write { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let next = path.with_file_name(name);
    // One that is left over may be readable by others.
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next).map_err(refused)?;
    file.write_all(text.as_bytes()).map_err(refused)?;
    file.sync_all().map_err(refused)?;
    std::fs::rename(&next, path).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_everywhere_else() {
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("1h30m"), Ok(5_400));
        assert!(seconds("5m").is_err());
        assert!(seconds("1d").is_err());
    }

    #[test]
    fn an_unknown_account_is_answered_with_those_that_exist() {
        let error = Error::NoAccount {
            name: "sampel".to_owned(),
            accounts: vec!["other".to_owned(), "sample".to_owned()],
        };
        assert_eq!(error.to_string(), "there is no account \"sampel\"; there are: other, sample");
    }
}
