//! What a proxy writes about each connection, and about which of them.

use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, OrFilter, ResponseFlagFilter, RuntimeFilter,
};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::Any;
use epic_model::edge;
use prost::Message;

use super::wire;

/// What is logged of every connection, one JSON object a line. `alias` is what Envoy dialled, `endpoint` what stands
/// behind it. A connection failed only if `flags` holds one of [`FAILED`].
const FIELDS: [(&str, &str); 13] = [
    ("log", "access"),
    ("time", "%START_TIME%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("alias", "%UPSTREAM_HOST%"),
    ("endpoint", "%UPSTREAM_METADATA(epic:address)%"),
    ("name", "%UPSTREAM_HOST_NAME%"),
    ("rx", "%BYTES_RECEIVED%"),
    ("tx", "%BYTES_SENT%"),
    ("ms", "%DURATION%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("fail", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
];

/// Flags of a connection that no endpoint took: all attempts used, no endpoint there, a circuit breaker. `UF` alone is no
/// failure: it stays when a later attempt succeeded.
const FAILED: [&str; 3] = ["URX", "UH", "UO"];

const STDOUT: &str = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";

/// The logs of a listener.
pub(super) fn logs(wanted: edge::AccessLog) -> Vec<AccessLog> {
    match wanted {
        edge::AccessLog::All => vec![stdout(None)],
        edge::AccessLog::Sampled(percent) => vec![stdout(Some(sampled(percent)))],
        edge::AccessLog::Off => Vec::new(),
    }
}

fn stdout(filter: Option<AccessLogFilter>) -> AccessLog {
    let stdout = wire::StdoutAccessLog {
        log_format: Some(wire::SubstitutionFormatString { json_format: Some(wire::Struct::of(FIELDS)) }),
    };
    AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        filter,
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: STDOUT.to_owned(),
            value: stdout.encode_to_vec(),
        })),
    }
}

/// Connections that failed, and so many percent of the others.
fn sampled(percent: u8) -> AccessLogFilter {
    let failed = filter(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
        flags: FAILED.map(str::to_owned).to_vec(),
    }));
    if percent == 0 {
        return failed;
    }
    let share = filter(FilterSpecifier::RuntimeFilter(RuntimeFilter {
        // Required, and never set: proxies have no runtime layer that could.
        runtime_key: "epic.access_log".to_owned(),
        percent_sampled: Some(FractionalPercent {
            numerator: percent.into(),
            denominator: DenominatorType::Hundred.into(),
        }),
        // A TCP connection has no request ID to draw from.
        use_independent_randomness: true,
    }));
    filter(FilterSpecifier::OrFilter(OrFilter { filters: vec![failed, share] }))
}

fn filter(specifier: FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter { filter_specifier: Some(specifier) }
}
