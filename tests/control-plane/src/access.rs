//! Who a client is, and EPIC's definitions, roles and policies on the API server.

use epic_crds::well_known::{EPIC_NAMESPACE, SERVICE_ACCOUNT_NODE, SERVICE_ACCOUNT_OPERATOR, policy};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{Answer, ControlPlane, ControlPlaneError, Request, eventually};

/// Who a client is.
#[derive(Clone, Debug)]
pub enum Identity {
    /// The administrator, group `system:masters`.
    Admin,
    /// A user with groups, by impersonation.
    User {
        /// Name of the user.
        name: String,
        /// Groups besides `system:authenticated`.
        groups: Vec<String>,
    },
    /// A ServiceAccount, by impersonation.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Whoever a bearer token says.
    Token(String),
}

impl Identity {
    /// A user without groups.
    pub fn user(name: &str) -> Self {
        Self::User { name: name.to_owned(), groups: Vec::new() }
    }

    /// A ServiceAccount.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// EPIC's operator.
    pub fn operator() -> Self {
        Self::service_account(EPIC_NAMESPACE, SERVICE_ACCOUNT_OPERATOR)
    }

    /// EPIC's node agent, with a token that is bound to no node.
    pub fn unbound_node_agent() -> Self {
        Self::service_account(EPIC_NAMESPACE, SERVICE_ACCOUNT_NODE)
    }

    pub(crate) fn apply(&self, config: &mut Config) {
        let authenticated = "system:authenticated".to_owned();
        match self {
            Self::Admin => {}
            Self::User { name, groups } => {
                config.auth_info.impersonate = Some(name.clone());
                config.auth_info.impersonate_groups =
                    Some(groups.iter().cloned().chain([authenticated]).collect());
            }
            Self::ServiceAccount { namespace, name } => {
                config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{name}"));
                config.auth_info.impersonate_groups = Some(vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    authenticated,
                ]);
            }
            Self::Token(token) => {
                config.auth_info.client_certificate = None;
                config.auth_info.client_certificate_data = None;
                config.auth_info.client_key = None;
                config.auth_info.client_key_data = None;
                config.auth_info.token = Some(token.clone().into());
            }
        }
    }
}

impl ControlPlane {
    /// Installs EPIC's definitions and waits until the API serves them.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn install_definitions(&self) -> Result<(), ControlPlaneError> {
        let client = self.admin().await?;
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in epic_crds::definitions() {
            let name = definition.metadata.name.clone().unwrap_or_default();
            let parameters = PatchParams::apply("epic-tests").force();
            api.patch(&name, &parameters, &Patch::Apply(&definition)).await?;
        }
        for definition in epic_crds::definitions() {
            let name = definition.metadata.name.unwrap_or_default();
            let established = await_condition(api.clone(), &name, conditions::is_crd_established());
            tokio::time::timeout(crate::PATIENCE, established)
                .await
                .unwrap_or_else(|_| panic!("{name} is established"))
                .unwrap_or_else(|error| panic!("{name} is established: {error}"));
            // Established is a status; being served is what a client sees, a moment later.
            let plural = name.split('.').next().unwrap_or_default();
            let list = format!("/apis/{}/{plural}?limit=1", epic_crds::well_known::API_VERSION);
            eventually(&format!("{plural} being served"), || async {
                Request::get(&list).send(&client).await.is_ok().then_some(())
            })
            .await;
        }
        Ok(())
    }

    /// Installs namespace `epic`, EPIC's roles and admission policies, and waits until the policies act.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn install_access(&self) -> Result<(), ControlPlaneError> {
        let client = self.admin().await?;
        Request::apply(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": EPIC_NAMESPACE },
        }))
        .send(&client)
        .await
        .expect_ok();
        for object in epic_crds::manifest::rbac_objects().iter().chain(&epic_crds::manifest::policy_objects())
        {
            Request::apply(object).send(&client).await.expect_ok();
        }
        // The API server loads all policies together; the last one to be created is the last one to act.
        let operator = self.client(&Identity::operator()).await?;
        eventually("policies acting", || async {
            let answer = Request::create(&json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": { "name": "probe", "namespace": "default" },
            }))
            .dry_run()
            .send(&operator)
            .await;
            answer.message().contains(policy::OPERATOR_SCOPE).then_some(())
        })
        .await;
        Ok(())
    }
}

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();

/// The control plane that all tests of a binary share, with EPIC's definitions, roles and policies. Each test uses
/// namespaces and names of its own.
///
/// # Panics
/// When it cannot be had; the message says what to run.
pub async fn shared() -> &'static ControlPlane {
    SHARED
        .get_or_init(|| async {
            let control_plane = ControlPlane::start().unwrap_or_else(|error| panic!("{error}"));
            control_plane.install_definitions().await.expect("definitions are installed");
            control_plane.install_access().await.expect("roles and policies are installed");
            control_plane
        })
        .await
}

/// A token of a ServiceAccount, bound to an object (`{kind, apiVersion, name, uid}`) if one is given.
///
/// # Errors
/// What the API server answered.
pub async fn token(
    client: &Client,
    namespace: &str,
    service_account: &str,
    bound_to: Option<Value>,
) -> Result<String, Answer> {
    let mut spec = json!({ "audiences": [], "expirationSeconds": 3600 });
    if let Some(object) = bound_to {
        spec["boundObjectRef"] = object;
    }
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token");
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
    let answer = Request::post(&path, &body).send(client).await;
    match answer.body["status"]["token"].as_str() {
        Some(token) => Ok(token.to_owned()),
        None => Err(answer),
    }
}
