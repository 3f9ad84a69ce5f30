//! Another xDS authority takes the place of the one there is, while operators come and go.

use std::collections::BTreeMap;
use std::time::SystemTime;

use epic_control_plane::{Request, eventually};
use epic_controllers::authority;
use epic_crds::well_known::{
    ANNOTATION_AUTHORITY_ROTATED, ANNOTATION_ROTATE_AUTHORITY, LABEL_LOAD_BALANCER, SECRET_XDS_AUTHORITY,
};
use epic_xds::authority::{Authorities, Step};
use epic_xds::pki;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Cluster;
use super::history::History;
use super::operator::Operator;

/// Where the Secrets of the tenant's proxies are.
pub(crate) const SECRETS: &str = "/api/v1/namespaces/epic-red/secrets";
const AUTHORITY: &str = "/api/v1/namespaces/epic/secrets/epic-xds-ca";

/// The Secrets with which the tenant's proxies identify themselves.
pub(crate) async fn proxies_secrets(cluster: &Cluster) -> Vec<Value> {
    let path = format!("{SECRETS}?labelSelector={LABEL_LOAD_BALANCER}");
    let list = Request::get(&path).send(&cluster.admin).await.expect_ok();
    list["items"].as_array().cloned().unwrap_or_default()
}

async fn authorities(cluster: &Cluster) -> (Authorities, Secret) {
    let found = Request::get(AUTHORITY).send(&cluster.admin).await.expect_ok();
    let secret: Secret = serde_json::from_value(found).expect("a Secret");
    (authority::read(&secret).expect("an authority"), secret)
}

/// Whether a Secret of proxies is signed and trusts as the authorities say.
fn follows(secret: &Secret, authorities: &Authorities) -> bool {
    let text = |entry: &str| {
        let bytes = secret.data.iter().flatten().find(|(name, _)| *name == entry);
        bytes.map(|(_, bytes)| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    text("ca.crt") == authorities.trusted
        && pki::is_current(&text("tls.crt"), &authorities.signing.certificate, SystemTime::now())
}

/// Asked for as `epicctl authority rotate` does. Each step is followed by the operator's end: another one finds in the Secret
/// how far the change is. Judged by what the API server saw.
pub(crate) async fn an_authority_is_replaced_step_by_step_whoever_goes_on_with_it(
    cluster: &Cluster,
    mut operator: Operator,
) {
    let history = History::record(&cluster.admin).await;
    let (before, _) = authorities(cluster).await;
    let asked = json!({"metadata": {"annotations": {ANNOTATION_ROTATE_AUTHORITY: "now"}}});
    Request::merge(AUTHORITY, &asked).send(&cluster.admin).await.expect_ok();
    let mut seen = before.version();
    let after = loop {
        let (found, secret) = eventually("the next step", || async {
            let (found, secret) = authorities(cluster).await;
            (found.version() != seen).then_some((found, secret))
        })
        .await;
        if found.step() == Step::Idle {
            assert!(secret.annotations().contains_key(ANNOTATION_AUTHORITY_ROTATED), "it says when");
            assert!(!secret.annotations().contains_key(ANNOTATION_ROTATE_AUTHORITY), "and asks no more");
            break found;
        }
        seen = found.version();
        operator.kill();
        operator = Operator::start_serving(cluster).await;
    };
    eventually("the proxies having their last files", || async {
        let secrets = proxies_secrets(cluster).await.into_iter();
        let mut secrets = secrets.filter_map(|secret| serde_json::from_value(secret).ok());
        secrets.all(|secret| follows(&secret, &after)).then_some(())
    })
    .await;
    assert_steps(&history, &before, &after);
}

/// Asserts that each step was taken once, in order, and only when all proxies' Secrets were as the one before says.
fn assert_steps(history: &History, before: &Authorities, after: &Authorities) {
    let mut steps = vec![before.clone()];
    let mut given: BTreeMap<String, Secret> = BTreeMap::new();
    for event in history.events().into_iter().filter(|event| event.kind == "Secret" && !event.deleted) {
        let secret = serde_json::to_value(event.object.as_ref()).expect("an object");
        let secret: Secret = serde_json::from_value(secret).expect("a Secret");
        if secret.labels().contains_key(LABEL_LOAD_BALANCER) {
            given.insert(secret.name_any(), secret);
        } else if secret.name_any() == SECRET_XDS_AUTHORITY {
            let found = authority::read(&secret).expect("an authority");
            let last = steps.last().expect("the first one");
            if found == *last {
                continue;
            }
            if last.step() != Step::Idle {
                let late = given.iter().filter(|(_, secret)| !follows(secret, last));
                let late: Vec<&String> = late.map(|(name, _)| name).collect();
                assert!(late.is_empty(), "{late:?} lack what {:?} says", last.step());
                assert!(!given.is_empty(), "nobody was given what {:?} says", last.step());
            }
            steps.push(found);
        }
    }
    let taken: Vec<Step> = steps.iter().map(Authorities::step).collect();
    assert_eq!(taken, [Step::Idle, Step::TrustBoth, Step::ChangeLeaves, Step::Idle]);
    let signs = |index: usize| &steps[index].signing.certificate;
    assert!(signs(1) == signs(0) && signs(2) != signs(1) && signs(3) == signs(2));
    assert_eq!(steps.last(), Some(after));
    assert_eq!(after.trusted.trim(), after.signing.certificate.trim(), "the old one is trusted no more");
}
