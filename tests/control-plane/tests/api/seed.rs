//! The objects of the original EPIC, as it printed them.

use epic_control_plane::Request;
use serde_json::Value;

use crate::{admin, namespace};

/// The printed objects with resourceVersion and uid taken out.
const PRINTED: &str = r"
apiVersion: epic.acnodal.io/v1
kind: EPIC
metadata:
  name: epic
  namespace: epic
spec: {}
status:
  current-group-id: 1
  current-tunnel-id: 4
---
apiVersion: epic.acnodal.io/v1
kind: Account
metadata:
  name: sample
  namespace: epic
spec:
  group-id: 1
status:
  current-service-id: 3
---
apiVersion: epic.acnodal.io/v1
kind: LoadBalancer
metadata:
  name: sample-acnodal
  namespace: epic-sample
spec:
  service-id: 1
  public-address: 192.168.77.2
  public-ports:
  - nodePort: 30390
    port: 8888
    protocol: TCP
    targetPort: 8080
  service-group: sample
status:
  gue-tunnel-endpoints:
    192.168.1.16:
      epic-address: 192.168.1.40
      epic-port:
        appProtocol: gue
        port: 6080
        protocol: UDP
      tunnel-id: 2
    192.168.1.25:
      epic-address: 192.168.1.40
      epic-port:
        appProtocol: gue
        port: 6080
        protocol: UDP
      tunnel-id: 1
  proxy-ifindex: 16
  proxy-ifname: veth67060f1f
---
apiVersion: epic.acnodal.io/v1
kind: Endpoint
metadata:
  name: d2e08096-a3e4-4d1f-8555-d1641c7fa9ed
  namespace: epic-sample
spec:
  address: 10.244.1.5
  load-balancer: sample2-acnodal
  node-address: 192.168.1.25
  port:
    name: second
    port: 8080
    protocol: TCP
status:
  group-id: 1
  service-id: 3
  proxy-ifindex: 20
  tunnel-id: 4
";

/// Every object of a YAML text.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    use serde_json::value::Value;
    text.split("\n---\n")
        .map(|part| serde_yaml::from_str(part).expect("YAML"))
        .filter(|object: &Value| !object.is_null())
        .collect()
}

#[tokio::test]
async fn the_printed_objects_apply_and_their_status_reads_back_unchanged() {
    let _singleton = crate::rules::SINGLETON.lock().await;
    let client = admin().await;
    namespace("epic-sample", true).await;
    for printed in objects(PRINTED) {
        let mut wanted = printed.clone();
        wanted.as_object_mut().unwrap().remove("status");
        let applied = Request::apply(&wanted).send(&client).await;
        assert_eq!(applied.warnings, Vec::<String>::new(), "{wanted}");
        let mut stored = applied.expect_ok();
        assert_eq!(stored["spec"], printed["spec"]);

        stored["status"] = printed["status"].clone();
        let put = Request::replace(&stored, "status").send(&client).await;
        assert_eq!(put.warnings, Vec::<String>::new(), "{wanted}");
        put.expect_ok();
        let read = Request::get(&Request::path_of(&printed)).send(&client).await.expect_ok();
        assert_eq!(read["status"], printed["status"]);
        assert_eq!(read["spec"], printed["spec"]);
    }
    for printed in objects(PRINTED) {
        Request::delete(&Request::path_of(&printed)).send(&client).await.expect_ok();
    }
}

#[tokio::test]
async fn the_printed_objects_are_read_and_written_by_the_types_without_loss() {
    fn same<T: serde::Serialize + serde::de::DeserializeOwned>(printed: &Value) {
        let typed: T = serde_json::from_value(printed.clone()).unwrap();
        assert_eq!(&serde_json::to_value(typed).unwrap(), printed);
    }
    for printed in objects(PRINTED) {
        match printed["kind"].as_str().unwrap() {
            "EPIC" => same::<epic_crds::EPIC>(&printed),
            "Account" => same::<epic_crds::Account>(&printed),
            "LoadBalancer" => same::<epic_crds::LoadBalancer>(&printed),
            "Endpoint" => same::<epic_crds::Endpoint>(&printed),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn the_samples_apply_without_a_warning() {
    let _singleton = crate::rules::SINGLETON.lock().await;
    let client = admin().await;
    let samples = std::path::Path::new(env!("EPIC_CHECKOUT")).join("config/samples");
    let mut found = Vec::new();
    for folder in ["platform", "tenants/sample", "tenants/other"] {
        let mut files: Vec<_> =
            std::fs::read_dir(samples.join(folder)).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        for file in files {
            found.extend(objects(&std::fs::read_to_string(file).unwrap()));
        }
    }
    assert!(found.len() >= 10, "{} samples", found.len());
    for name in ["epic-sample", "epic-other"] {
        namespace(name, true).await;
    }
    for sample in found {
        let applied = Request::apply(&sample).dry_run().send(&client).await;
        assert_eq!(applied.warnings, Vec::<String>::new(), "{sample}");
        assert_eq!(applied.expect_ok()["spec"], sample["spec"]);
    }
}
