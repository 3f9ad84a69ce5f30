//! A right that the operator loses while it serves.

use epic_control_plane::{Request, eventually};
use serde_json::json;

use super::Cluster;
use super::operator::Operator;
use super::tenants::{endpoint, unconverged, until_nothing_is_left};

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/epic-operator";
const POOL: &str = "/apis/epic.acnodal.io/v1/namespaces/epic/addresspools/default";
const PODS: &str = "/api/v1/namespaces/epic-red/pods";

/// Until the right is back the operator goes on with the pools that it has read: it stays ready, so proxies find xDS, and
/// serves what comes meanwhile.
pub(crate) async fn a_right_that_is_taken_away_holds_up_only_what_needs_it(
    cluster: &Cluster,
    operator: &Operator,
) {
    let rules = Request::get(ROLE).send(&cluster.admin).await.expect_ok()["rules"].clone();
    let mut fewer = rules.clone();
    let all = fewer.as_array_mut().expect("rules");
    for resources in all.iter_mut().filter_map(|rule| rule["resources"].as_array_mut()) {
        resources.retain(|resource| resource != "addresspools");
    }
    all.retain(|rule| rule["resources"].as_array().is_none_or(|resources| !resources.is_empty()));
    Request::merge(ROLE, &json!({"rules": fewer})).send(&cluster.admin).await.expect_ok();
    // A watch that is open goes on without the right; the API server ends each within minutes, and here at once.
    cluster.control_plane.stop_api().expect("the API server ends");
    cluster.control_plane.start_api().expect("the API server starts");
    eventually("the API server answering", || async {
        Request::get("/readyz").send(&cluster.admin).await.is_ok().then_some(())
    })
    .await;
    eventually("the refusal being counted and told", || async {
        let told = operator.notices().await.is_some_and(|text| text.contains("addresspools"));
        (told && operator.refused_kinds().await == 1).then_some(())
    })
    .await;
    eventually("an Event on EPIC", || async {
        let path = "/apis/events.k8s.io/v1/namespaces/epic/events";
        let list = Request::get(path).send(&cluster.admin).await;
        let mut events = list.body["items"].as_array().into_iter().flatten();
        let tells =
            events.any(|event| event["reason"] == "KindRefused" && event["regarding"]["kind"] == "EPIC");
        tells.then_some(())
    })
    .await;

    let meanwhile = endpoint("epic-red", "meanwhile", "web", "10.244.0.5", "172.16.0.1");
    Request::create(&meanwhile).send(&cluster.admin).await.expect_ok();
    let list = Request::get(PODS).send(&cluster.admin).await.expect_ok();
    let pod = format!("{PODS}/{}", list["items"][0]["metadata"]["name"].as_str().expect("a pod"));
    Request::delete(&pod).send(&cluster.admin).await;
    eventually("the pod being gone", || async {
        (Request::get(&pod).send(&cluster.admin).await.code == 404).then_some(())
    })
    .await;
    until_nothing_is_left("what came meanwhile being served", || unconverged(&cluster.admin)).await;
    let notices = operator.notices().await.expect("the operator is ready all the while");
    assert!(notices.contains("addresspools"), "{notices}");
    assert!(operator.takes_proxies().await, "proxies that start find xDS");

    let wider = json!({"spec": {"addresses": ["192.0.2.0/28", "198.51.100.0/30"]}});
    Request::merge(POOL, &wider).send(&cluster.admin).await.expect_ok();
    Request::merge(ROLE, &json!({"rules": rules})).send(&cluster.admin).await.expect_ok();
    eventually("the pool being judged as it is now", || async {
        let found = Request::get(POOL).send(&cluster.admin).await.expect_ok();
        let conditions = found["status"]["conditions"].as_array()?;
        let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted")?;
        (accepted["observedGeneration"] == found["metadata"]["generation"]).then_some(())
    })
    .await;
    eventually("nothing being refused any more", || async {
        let told = operator.notices().await?.contains("addresspools");
        (!told && operator.refused_kinds().await == 0).then_some(())
    })
    .await;
}
