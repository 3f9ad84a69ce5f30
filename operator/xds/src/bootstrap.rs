//! What a proxy starts with: its bootstrap, the two SDS files, and its arguments.
//!
//! Pure: parameters in, text out, byte-equal for equal parameters, so a Deployment does not roll because of it. The
//! form was proved with the pinned Envoy; `bootstrap.yaml` beside this file says what each odd line is for.
//! Node id and cluster are arguments, not file content, so that one ConfigMap serves all pods of a LoadBalancer.

mod metrics;

use std::fmt;
use std::net::IpAddr;

use serde_yaml::Value;

pub use metrics::Level;

use crate::pki::SERVER_NAME;

/// Port of the xDS server.
pub const XDS_PORT: u16 = 18_000;
/// Port of a proxy's own listener for `/healthz` and `/stats/prometheus`. Static listeners lie below 10000, where the
/// slots begin.
pub const OPS_PORT: u16 = 9_901;
/// Longest a replaced listener keeps its connections, in seconds. A changed listener cuts its old ones after that.
pub const DRAIN_SECONDS: u32 = 3_600;
/// What the container of a proxy gets; the proxy's own limits follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Memory limit of the container, in bytes.
    pub memory: u64,
    /// Worker threads.
    pub concurrency: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { memory: 256 << 20, concurrency: 2 }
    }
}

impl Sizes {
    /// Heap at which the proxy takes no more connections, in bytes: five eighths of its memory. The rest is the kernel's,
    /// which counts sockets and their buffers too.
    pub fn max_heap_bytes(self) -> u64 {
        self.memory / 8 * 5
    }

    /// Most connections from clients. Measured with 9,000 idle ones in 256 MiB: 17.5 kB of heap and 5.7 kB of the kernel's
    /// memory each, beside 15 MB for none. What connections that stall take beyond it, the limit of the heap bounds.
    pub fn max_connections(self) -> u64 {
        (self.max_heap_bytes().saturating_sub(HEAP_OF_NONE) / HEAP_OF_A_CONNECTION).max(1)
    }
}

/// Heap of a proxy without connections, in bytes.
const HEAP_OF_NONE: u64 = 16 << 20;

/// Heap that is counted for a connection, in bytes.
const HEAP_OF_A_CONNECTION: u64 = 20 << 10;

/// Header of [`drain_path`], in milliseconds: how long the request is held when the proxy cannot tell.
pub const DRAIN_HEADER: &str = "x-envoy-fault-delay-request";

const TEMPLATE: &str = include_str!("bootstrap.yaml");
const DRAIN: &str = include_str!("drain.lua");

/// Path of the request that a proxy answers when it may end: no connection is left, or this many seconds have passed.
pub fn drain_path(seconds: i64) -> String {
    format!("/drain?seconds={seconds}")
}

/// Parameters of [`Bootstrap::files`] and [`Bootstrap::args`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// `<namespace>/<pod>`; in a pod template `$(POD_NAMESPACE)/$(POD_NAME)`, which the kubelet fills in.
    pub node_id: String,
    /// `<namespace>/<LoadBalancer>`: [`crate::Identity::cluster`].
    pub cluster: String,
    /// Address of the xDS server: the ClusterIP of Service `epic-xds`.
    pub xds_address: IpAddr,
    /// Port of the xDS server.
    pub xds_port: u16,
    /// Port of the listener for probes and metrics.
    pub ops_port: u16,
    /// What it may take.
    pub sizes: Sizes,
    /// What it counts.
    pub metrics: Level,
    /// Where things lie in the container.
    pub paths: Paths,
}

/// Where a proxy finds its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Folder of the files of [`Files`] (a ConfigMap).
    pub config: String,
    /// Folder of `ca.crt`, `tls.crt`, `tls.key` (a Secret).
    pub tls: String,
    /// Writable folder for the admin socket (an emptyDir).
    pub run: String,
}

impl Default for Paths {
    fn default() -> Self {
        Self { config: "/etc/envoy".into(), tls: "/etc/xds-tls".into(), run: "/run/envoy".into() }
    }
}

/// Content of the ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// [`Files::BOOTSTRAP`].
    pub bootstrap: String,
    /// [`Files::CERTIFICATE`]: names the client certificate and key.
    pub certificate: String,
    /// [`Files::AUTHORITY`]: names the authority, and the one server name that is trusted.
    pub authority: String,
}

impl Files {
    /// File name of the bootstrap.
    pub const BOOTSTRAP: &str = "bootstrap.yaml";
    /// File name of the SDS resource with the client certificate.
    pub const CERTIFICATE: &str = "sds-cert.yaml";
    /// File name of the SDS resource with the authority.
    pub const AUTHORITY: &str = "sds-ca.yaml";

    /// File names with their content.
    pub fn entries(&self) -> [(&'static str, &str); 3] {
        [
            (Self::BOOTSTRAP, &self.bootstrap),
            (Self::CERTIFICATE, &self.certificate),
            (Self::AUTHORITY, &self.authority),
        ]
    }
}

impl Bootstrap {
    /// A proxy with default paths, ports and limits.
    pub fn new(node_id: impl Into<String>, cluster: impl Into<String>, xds_address: IpAddr) -> Self {
        Self {
            node_id: node_id.into(),
            cluster: cluster.into(),
            xds_address,
            xds_port: XDS_PORT,
            ops_port: OPS_PORT,
            sizes: Sizes::default(),
            metrics: Level::default(),
            paths: Paths::default(),
        }
    }

    /// The same with these sizes.
    pub fn sized(self, sizes: Sizes) -> Self {
        Self { sizes, ..self }
    }

    /// The same, counting so much.
    pub fn counting(self, metrics: Level) -> Self {
        Self { metrics, ..self }
    }

    /// The files in `paths.config`.
    pub fn files(&self) -> Files {
        let config = |name: &str| format!("{}/{name}", self.paths.config);
        let tls = |name: &str| format!("{}/{name}", self.paths.tls);
        let admin = format!("{}/admin.sock", self.paths.run);
        let mut bootstrap = template();
        let monitors = "overload_manager.resource_monitors";
        let clusters = "static_resources.clusters";
        let endpoint = "load_assignment.endpoints.0.lb_endpoints.0.endpoint.address";
        let tls_context = format!("{clusters}.2.transport_socket.typed_config");
        let secrets = format!("{tls_context}.common_tls_context");
        for (path, value) in [
            ("admin.address.pipe.path".to_owned(), Value::from(admin.as_str())),
            (format!("{monitors}.0.typed_config.max_heap_size_bytes"), self.sizes.max_heap_bytes().into()),
            (
                format!("{monitors}.1.typed_config.max_active_downstream_connections"),
                self.sizes.max_connections().into(),
            ),
            (
                "static_resources.listeners.0.address.socket_address.port_value".to_owned(),
                self.ops_port.into(),
            ),
            (format!("{clusters}.0.{endpoint}.pipe.path"), admin.as_str().into()),
            (format!("{clusters}.1.{endpoint}.socket_address.port_value"), self.ops_port.into()),
            (
                "static_resources.listeners.0.filter_chains.0.filters.1.typed_config.http_filters.1.typed_config.default_source_code.inline_string".to_owned(),
                DRAIN.into(),
            ),
            (format!("{clusters}.2.{endpoint}.socket_address.address"), self.xds_address.to_string().into()),
            (format!("{clusters}.2.{endpoint}.socket_address.port_value"), self.xds_port.into()),
            (format!("{tls_context}.sni"), SERVER_NAME.into()),
            (
                format!("{secrets}.tls_certificate_sds_secret_configs.0.sds_config.path_config_source.path"),
                config(Files::CERTIFICATE).into(),
            ),
            (
                format!("{secrets}.validation_context_sds_secret_config.sds_config.path_config_source.path"),
                config(Files::AUTHORITY).into(),
            ),
        ] {
            *at(&mut bootstrap, &path) = value;
        }
        match self.metrics {
            Level::Basic => {
                *at(&mut bootstrap, "stats_config.stats_matcher.inclusion_list.patterns") =
                    metrics::patterns();
                let scrape = "static_resources.listeners.0.filter_chains.0.filters.1.typed_config.route_config.virtual_hosts.0.routes.0";
                let route = at(&mut bootstrap, &format!("{scrape}.route"));
                put(route, "prefix_rewrite", metrics::scrape_path().into());
            }
            Level::Full => *at(&mut bootstrap, "stats_config") = mapping(&[]),
        }
        Files {
            bootstrap: text(&bootstrap),
            certificate: text(&secret(
                "xds-client",
                "tls_certificate",
                &[
                    ("certificate_chain", file(&tls("tls.crt"))),
                    ("private_key", file(&tls("tls.key"))),
                    ("watched_directory", directory(&self.paths.tls)),
                ],
            )),
            authority: text(&secret(
                "xds-ca",
                "validation_context",
                &[
                    ("trusted_ca", file(&tls("ca.crt"))),
                    ("watched_directory", directory(&self.paths.tls)),
                    (
                        "match_typed_subject_alt_names",
                        Value::Sequence(vec![mapping(&[
                            ("san_type", "DNS".into()),
                            ("matcher", mapping(&[("exact", SERVER_NAME.into())])),
                        ])]),
                    ),
                ],
            )),
        }
    }

    /// Arguments of the `envoy` program.
    pub fn args(&self) -> Vec<String> {
        let pairs: [(&str, &dyn fmt::Display); 6] = [
            ("-c", &format!("{}/{}", self.paths.config, Files::BOOTSTRAP)),
            ("--service-node", &self.node_id),
            ("--service-cluster", &self.cluster),
            ("--concurrency", &self.sizes.concurrency),
            ("--drain-time-s", &DRAIN_SECONDS),
            ("--file-flush-interval-msec", &1_000),
        ];
        let mut args: Vec<String> =
            pairs.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.to_string()]).collect();
        args.push("--disable-hot-restart".to_owned());
        args
    }
}

#[expect(
    clippy::expect_used,
    reason = "the template is part of the program; every test of this file reads it"
)]
fn template() -> Value {
    serde_yaml::from_str(TEMPLATE).expect("bootstrap.yaml is YAML")
}

/// The value at a dotted path of the template; numbers are positions in lists.
#[expect(clippy::expect_used, reason = "paths are constants into a template that is part of the program")]
fn at<'a>(root: &'a mut Value, path: &str) -> &'a mut Value {
    let mut value = root;
    for step in path.split('.') {
        value = match value {
            Value::Sequence(list) => step.parse::<usize>().ok().and_then(|i| list.get_mut(i)),
            Value::Mapping(map) => map.get_mut(step),
            _ => None,
        }
        .expect("the template has this path");
    }
    value
}

/// Adds an entry to a mapping of the template.
#[expect(
    clippy::expect_used,
    reason = "what is added to is a mapping of a template that is part of the program"
)]
fn put(mapping: &mut Value, key: &str, value: Value) {
    mapping.as_mapping_mut().expect("the template has a mapping here").insert(key.into(), value);
}

#[expect(clippy::expect_used, reason = "values of strings and numbers always serialise")]
fn text(value: &Value) -> String {
    serde_yaml::to_string(value).expect("a value can be written as YAML")
}

fn mapping(entries: &[(&str, Value)]) -> Value {
    Value::Mapping(entries.iter().map(|(key, value)| (Value::from(*key), value.clone())).collect())
}

fn file(path: &str) -> Value {
    mapping(&[("filename", path.into())])
}

fn directory(path: &str) -> Value {
    mapping(&[("path", path.into())])
}

fn secret(name: &str, field: &str, content: &[(&str, Value)]) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let secret = mapping(&[("@type", kind.into()), ("name", name.into()), (field, mapping(content))]);
    mapping(&[("resources", Value::Sequence(vec![secret]))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Bootstrap {
        Bootstrap::new("$(POD_NAMESPACE)/$(POD_NAME)", "epic-red/web", [10, 96, 0, 17].into())
    }

    #[test]
    fn a_proxy_starts_with_these_files() {
        let files = web().files();
        insta::assert_snapshot!("bootstrap", files.bootstrap);
        insta::assert_snapshot!("sds_certificate", files.certificate);
        insta::assert_snapshot!("sds_authority", files.authority);
    }

    #[test]
    fn a_proxy_starts_with_these_arguments() {
        insta::assert_snapshot!(web().args().join("\n"));
    }

    #[test]
    fn no_value_of_the_template_is_left_open() {
        let text = web().files().bootstrap;
        assert!(
            !text.contains("''") && !text.contains("\"\"") && !text.contains(": 0\n") && !text.contains("[]"),
            "{text}"
        );
    }

    #[test]
    fn limits_follow_from_the_memory_of_the_container() {
        for (mebibytes, heap, connections) in [(64, 40, 1_228), (256, 160, 7_372), (4_096, 2_560, 130_252)] {
            let sizes = Sizes { memory: mebibytes << 20, concurrency: 3 };
            assert_eq!((sizes.max_heap_bytes() >> 20, sizes.max_connections()), (heap, connections));
            let bootstrap = web().sized(sizes);
            let text = bootstrap.files().bootstrap;
            assert!(text.contains(&format!("max_heap_size_bytes: {}", heap << 20)), "{text}");
            assert!(text.contains(&format!("max_active_downstream_connections: {connections}")), "{text}");
            assert!(bootstrap.args().join(" ").contains("--concurrency 3"));
        }
    }

    #[test]
    fn all_is_counted_where_that_is_asked_for() {
        let text = web().counting(Level::Full).files().bootstrap;
        assert!(!text.contains("stats_matcher") && !text.contains(&*metrics::scrape_path()), "{text}");
    }

    #[test]
    fn an_ipv6_address_of_the_server_is_taken_as_it_is() {
        let bootstrap = Bootstrap { xds_address: "fd00::10".parse().unwrap(), ..web() };
        assert!(bootstrap.files().bootstrap.contains("fd00::10"));
    }
}
