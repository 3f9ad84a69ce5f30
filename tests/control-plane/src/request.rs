//! Requests as they are on the wire, with what typed clients hide: the status code, the warnings, the whole answer.

use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// A request to the API server.
#[derive(Clone, Debug)]
pub struct Request {
    method: http::Method,
    path: String,
    content_type: &'static str,
    accept: &'static str,
    parameters: Vec<String>,
    body: Option<Value>,
}

/// What the API server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status code; 0 when there was no answer.
    pub code: u16,
    /// `Warning` headers.
    pub warnings: Vec<String>,
    /// The object or the Status.
    pub body: Value,
}

/// An object of one of EPIC's kinds.
pub fn object(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": epic_crds::well_known::API_VERSION,
        "kind": kind,
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    })
}

const JSON: &str = "application/json";

impl Request {
    fn new(method: http::Method, path: &str, body: Option<Value>) -> Self {
        Self { method, path: path.to_owned(), content_type: JSON, accept: JSON, parameters: Vec::new(), body }
    }

    /// GET of a path, which may have parameters.
    pub fn get(path: &str) -> Self {
        Self::new(http::Method::GET, path, None)
    }

    /// DELETE of a path.
    pub fn delete(path: &str) -> Self {
        Self::new(http::Method::DELETE, path, None)
    }

    /// With these options of a deletion. They count instead of the path's parameters.
    pub fn with_options(self, options: &Value) -> Self {
        Self { body: Some(options.clone()), ..self }
    }

    /// POST to a path.
    pub fn post(path: &str, body: &Value) -> Self {
        Self::new(http::Method::POST, path, Some(body.clone()))
    }

    /// Creates an object, under strict field validation.
    pub fn create(object: &Value) -> Self {
        Self::new(http::Method::POST, &collection(object), Some(object.clone()))
            .with("fieldValidation=Strict")
    }

    /// Replaces an object, or with a subresource (`status`) that, under strict field validation.
    pub fn replace(object: &Value, subresource: &str) -> Self {
        let path = [path_of(object), subresource.to_owned()].join("/");
        Self::new(http::Method::PUT, path.trim_end_matches('/'), Some(object.clone()))
            .with("fieldValidation=Strict")
    }

    /// Applies an object server-side, under strict field validation.
    pub fn apply(object: &Value) -> Self {
        Self {
            content_type: "application/apply-patch+yaml",
            ..Self::new(http::Method::PATCH, &path_of(object), Some(object.clone()))
        }
        .with("fieldManager=epic-tests")
        .with("force=true")
        .with("fieldValidation=Strict")
    }

    /// Applies an object server-side as this field manager, and takes nothing from another one.
    pub fn apply_as(manager: &str, object: &Value) -> Self {
        Self {
            content_type: "application/apply-patch+yaml",
            ..Self::new(http::Method::PATCH, &path_of(object), Some(object.clone()))
        }
        .with(&format!("fieldManager={manager}"))
        .with("fieldValidation=Strict")
    }

    /// Merges a patch into what lies at the path (RFC 7386).
    pub fn merge(path: &str, patch: &Value) -> Self {
        Self {
            content_type: "application/merge-patch+json",
            ..Self::new(http::Method::PATCH, path, Some(patch.clone()))
        }
        .with("fieldValidation=Strict")
    }

    /// Merges a patch by the keys of lists, as kubectl does with core kinds.
    pub fn strategic(path: &str, patch: &Value) -> Self {
        Self {
            content_type: "application/strategic-merge-patch+json",
            ..Self::new(http::Method::PATCH, path, Some(patch.clone()))
        }
        .with("fieldValidation=Strict")
    }

    /// Asks for the table that kubectl prints.
    pub fn as_table(mut self) -> Self {
        self.accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        self
    }

    /// Judged but not stored.
    pub fn dry_run(self) -> Self {
        self.with("dryRun=All")
    }

    fn with(mut self, parameter: &str) -> Self {
        self.parameters.push(parameter.to_owned());
        self
    }

    /// Sends it. Every failure is an [`Answer`] too.
    pub async fn send(self, client: &Client) -> Answer {
        let mut uri = self.path.clone();
        for parameter in &self.parameters {
            uri.push(if uri.contains('?') { '&' } else { '?' });
            uri.push_str(parameter);
        }
        let body = self.body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = http::Request::builder()
            .method(self.method)
            .uri(uri)
            .header(http::header::CONTENT_TYPE, self.content_type)
            .header(http::header::ACCEPT, self.accept)
            .body(Body::from(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Answer::none(&error),
        };
        let response = match client.send(request).await {
            Ok(response) => response,
            Err(error) => return Answer::none(&error),
        };
        let code = response.status().as_u16();
        let warnings = response
            .headers()
            .get_all(http::header::WARNING)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let body = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Answer::none(&error),
        };
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Answer { code, warnings, body }
    }
}

impl Answer {
    fn none(error: &dyn std::error::Error) -> Self {
        Self { code: 0, warnings: Vec::new(), body: Value::String(error.to_string()) }
    }

    /// Whether the request succeeded.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The message of a refusal; empty for success.
    pub fn message(&self) -> &str {
        if self.is_ok() {
            return "";
        }
        self.body["message"].as_str().or(self.body.as_str()).unwrap_or_default()
    }

    /// The object.
    ///
    /// # Panics
    /// When the request was refused.
    #[track_caller]
    pub fn expect_ok(self) -> Value {
        assert!(self.is_ok(), "refused with {}: {}", self.code, self.message());
        self.body
    }

    /// The message of the refusal.
    ///
    /// # Panics
    /// When the request was not refused, or for another reason than one that says `because`.
    #[track_caller]
    pub fn expect_refused(self, because: &str) -> String {
        assert!(!self.is_ok(), "accepted, though it should be refused because of {because:?}");
        assert!(
            self.message().contains(because),
            "refused because of {:?} and not {because:?}",
            self.message()
        );
        self.message().to_owned()
    }
}

/// The path of the collection of an object's kind.
fn collection(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let plural = plural(object["kind"].as_str().unwrap_or_default());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{version}/{plural}"),
    }
}

/// The path of an object.
pub(crate) fn path_of(object: &Value) -> String {
    format!("{}/{}", collection(object), object["metadata"]["name"].as_str().unwrap_or_default())
}

/// Plural of a kind by English rules, which is enough for the kinds of Kubernetes and of EPIC.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    if let Some(stem) = kind.strip_suffix('y') {
        format!("{stem}ies")
    } else if kind.ends_with('s') {
        format!("{kind}es")
    } else {
        format!("{kind}s")
    }
}

impl Request {
    /// The path of an object, for requests that take one.
    pub fn path_of(object: &Value) -> String {
        path_of(object)
    }
}
