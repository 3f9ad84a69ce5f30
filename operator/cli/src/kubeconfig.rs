//! The kubeconfig of a tenant's client agents.
//!
//! One cluster, one user with a token, one context with the tenant's namespace: what `epic-agent client` reads, and
//! whose token it replaces. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epic_crds::well_known::SERVICE_ACCOUNT_CLIENT;
use serde::Serialize;

/// What goes into the file.
#[derive(Clone, Debug)]
pub struct Content {
    /// URL of the API server.
    pub server: String,
    /// Certificates that sign the API server's, in DER; empty: those of the client's system.
    pub authorities: Vec<Vec<u8>>,
    /// Name in the API server's certificate where it is not that of the URL.
    pub server_name: Option<String>,
    /// The tenant's namespace.
    pub namespace: String,
    /// The token.
    pub token: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct File<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    current_context: &'a str,
    clusters: [Named<'a, ClusterEntry<'a>>; 1],
    users: [Named<'a, UserEntry<'a>>; 1],
    contexts: [Named<'a, ContextEntry<'a>>; 1],
}

#[derive(Serialize)]
struct Named<'a, T> {
    name: &'a str,
    #[serde(flatten)]
    entry: T,
}

#[derive(Serialize)]
struct ClusterEntry<'a> {
    cluster: Cluster<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster<'a> {
    server: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authority_data: Option<String>,
}

#[derive(Serialize)]
struct UserEntry<'a> {
    user: User<'a>,
}

#[derive(Serialize)]
struct User<'a> {
    token: &'a str,
}

#[derive(Serialize)]
struct ContextEntry<'a> {
    context: Context<'a>,
}

#[derive(Serialize)]
struct Context<'a> {
    cluster: &'a str,
    user: &'a str,
    namespace: &'a str,
}

/// The file.
pub fn render(content: &Content) -> String {
    let cluster = "epic";
    let file = File {
        api_version: "v1",
        kind: "Config",
        current_context: &content.namespace,
        clusters: [Named {
            name: cluster,
            entry: ClusterEntry {
                cluster: Cluster {
                    server: &content.server,
                    tls_server_name: content.server_name.as_deref(),
                    certificate_authority_data: (!content.authorities.is_empty())
                        .then(|| STANDARD.encode(pem(&content.authorities))),
                },
            },
        }],
        users: [Named {
            name: SERVICE_ACCOUNT_CLIENT,
            entry: UserEntry { user: User { token: &content.token } },
        }],
        contexts: [Named {
            name: &content.namespace,
            entry: ContextEntry {
                context: Context { cluster, user: SERVICE_ACCOUNT_CLIENT, namespace: &content.namespace },
            },
        }],
    };
    serde_yaml::to_string(&file).expect("texts are YAML")
}

fn pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            server: "https://192.0.2.1:6443/".to_owned(),
            authorities: vec![b"not really a certificate, but more than forty-eight bytes".to_vec()],
            server_name: None,
            namespace: "epic-sample".to_owned(),
            token: "header.claims.signature".to_owned(),
        }
    }

    #[test]
    fn a_client_agent_finds_server_authority_token_and_namespace() {
        insta::assert_snapshot!(render(&content()), @r#"
apiVersion: v1
kind: Config
current-context: epic-sample
clusters:
- name: epic
  cluster:
    server: https://192.0.2.1:6443/
    certificate-authority-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCmJtOTBJSEpsWVd4c2VTQmhJR05sY25ScFptbGpZWFJsTENCaWRYUWdiVzl5WlNCMGFHRnVJR1p2Y25SNUxXVnAKWjJoMElHSjVkR1Z6Ci0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K
users:
- name: epic-client
  user:
    token: header.claims.signature
contexts:
- name: epic-sample
  context:
    cluster: epic
    user: epic-client
    namespace: epic-sample
"#);
    }

    #[test]
    fn without_an_authority_the_system_decides() {
        let content = Content {
            authorities: Vec::new(),
            server_name: Some("kubernetes.example.com".to_owned()),
            ..content()
        };
        insta::assert_snapshot!(render(&content), @r#"
apiVersion: v1
kind: Config
current-context: epic-sample
clusters:
- name: epic
  cluster:
    server: https://192.0.2.1:6443/
    tls-server-name: kubernetes.example.com
users:
- name: epic-client
  user:
    token: header.claims.signature
contexts:
- name: epic-sample
  context:
    cluster: epic
    user: epic-client
    namespace: epic-sample
"#);
    }

    #[test]
    fn a_kubernetes_client_reads_it() {
        let read = kube::config::Kubeconfig::from_yaml(&render(&content())).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("epic-sample"));
        let context = read.contexts[0].context.as_ref().unwrap();
        assert_eq!(context.namespace.as_deref(), Some("epic-sample"));
        assert_eq!(context.user.as_deref(), Some("epic-client"));
        assert!(read.auth_infos[0].auth_info.as_ref().unwrap().token.is_some());
    }
}
