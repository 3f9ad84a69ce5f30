//! Objects of Kubernetes in, tables out: a file of objects each, and its golden tables beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use epic_lb::{Here, Source, Writer};
use epic_sources::file::Document;
use epic_sources::kubernetes::{HostPorts, Made, Scope, apply, rows, rows_of_pod};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize as _;

use crate::support::tables;

/// Services, slices and Pods of a file of YAML documents.
fn objects(text: &str) -> (Vec<Service>, Vec<EndpointSlice>, Vec<Pod>) {
    let (mut services, mut slices, mut pods) = (Vec::new(), Vec::new(), Vec::new());
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document).unwrap();
        match value.get("kind").and_then(|kind| kind.as_str()) {
            Some("Service") => services.push(serde_yaml::from_value(value).unwrap()),
            Some("EndpointSlice") => slices.push(serde_yaml::from_value(value).unwrap()),
            Some("Pod") => pods.push(serde_yaml::from_value(value).unwrap()),
            other => panic!("a document of kind {other:?}"),
        }
    }
    (services, slices, pods)
}

/// What a comment `# key: value` of the file says.
fn told<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(key)?.strip_prefix(": "))
}

#[test]
fn every_file_of_objects_gives_its_tables() {
    let folder = Path::new(env!("EPIC_CHECKOUT")).join("operator/sources/tests/sources/kubernetes");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let scope = Scope {
            class: told(&text, "class").map(str::to_owned),
            node_addresses: told(&text, "node-address")
                .map(|text| text.parse().unwrap())
                .into_iter()
                .collect(),
            host_ports: match told(&text, "host-ports-of") {
                Some("all") => HostPorts::Everywhere,
                Some(node) => HostPorts::Node(node.to_owned()),
                None => HostPorts::Off,
            },
        };
        let (services, slices, pods) = objects(&text);
        let writer = Writer::new().for_source(Source::Kubernetes);
        let mut txn = writer.write();
        let of_services = services.iter().map(|service| {
            let of = |slice: &&EndpointSlice| {
                let labels = slice.metadata.labels.as_ref().unwrap();
                Some(&labels["kubernetes.io/service-name"]) == service.metadata.name.as_ref()
                    && slice.metadata.namespace == service.metadata.namespace
            };
            let metadata = &service.metadata;
            let name = epic_lb::ServiceName::new(
                metadata.namespace.as_deref().unwrap(),
                metadata.name.as_deref().unwrap(),
            );
            (name, rows(service, slices.iter().filter(of), &scope))
        });
        let of_pods = pods.iter().map(|pod| {
            let name = format!("{}:host-ports", pod.metadata.name.as_deref().unwrap());
            let name = epic_lb::ServiceName::new(pod.metadata.namespace.as_deref().unwrap(), name);
            (name, rows_of_pod(pod, &scope))
        });
        let (mut wanted, mut refused) = (Vec::new(), String::new());
        for (name, Made { rows, refused: why }) in of_services.chain(of_pods) {
            let lines = why.iter().map(|why| format!("{name}: {why}\n"));
            refused.extend(lines);
            wanted.push((name, rows));
        }
        apply(&mut txn, wanted);
        txn.commit();
        let here = Here { node: Some("n1"), zone: Some("a"), cluster: None };
        let mut text = tables(&writer, here);
        if !refused.is_empty() {
            text = format!("{text}== refused\n{refused}");
        }
        insta::assert_snapshot!(file.file_stem().unwrap().to_string_lossy().into_owned(), text);
    }
}

#[test]
fn the_annotation_of_a_health_check_has_the_form_of_the_state_file() {
    let check =
        "{http: {path: /healthz, host: web.example}, port: 9000, interval: 2s, unhealthy-threshold: 5}";
    let text = format!(
        "
kind: Service
apiVersion: v1
metadata: {{name: web, namespace: shop, uid: u1, annotations: {{epic.acnodal.io/health-check: \"{check}\"}}}}
spec: {{type: ClusterIP, clusterIP: 10.96.0.7, ports: [{{port: 80}}]}}
"
    );
    let (services, ..) = objects(&text);
    let made = rows(&services[0], [], &Scope::default());
    let document =
        Document::parse(&format!("services: [{{name: shop/web, health-check: {check}}}]")).unwrap();
    assert_eq!(made.refused, None);
    assert_eq!(made.rows.unwrap().service.edge, document.rows()[0].service.edge);
}

#[test]
fn a_service_that_is_deleted_or_of_no_concern_any_more_leaves_nothing() {
    let text = "
kind: Service
apiVersion: v1
metadata: {name: web, namespace: shop, uid: u1}
spec: {type: ClusterIP, clusterIP: 10.96.0.7, ports: [{port: 80}]}
";
    let (services, ..) = objects(text);
    let writer = Writer::new().for_source(Source::Kubernetes);
    let name = epic_lb::ServiceName::new("shop", "web");
    let put = |service: &Service| {
        let mut txn = writer.write();
        apply(&mut txn, [(name.clone(), rows(service, [], &Scope::default()).rows)]);
        txn.commit();
        writer.snapshot().frontends.len()
    };
    assert_eq!(put(&services[0]), 1);
    let mut external = services[0].clone();
    external.spec.as_mut().unwrap().type_ = Some("ExternalName".to_owned());
    assert_eq!(put(&external), 0);
    let left: BTreeMap<_, _> = writer.snapshot().services.iter().map(|row| (row.name.clone(), ())).collect();
    assert!(left.is_empty());
}
