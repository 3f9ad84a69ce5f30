//! Whether a Lease is held.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;

/// Whether its holder renewed it within its duration.
pub fn is_fresh(lease: &Lease, now: Timestamp) -> bool {
    silent_for(lease, now).is_some_and(|seconds| seconds <= 0)
}

/// For how many seconds it has been over; negative while it is held. `None` where nobody ever held it.
pub fn silent_for(lease: &Lease, now: Timestamp) -> Option<i64> {
    let spec = lease.spec.as_ref()?;
    let duration = i64::from(spec.lease_duration_seconds.unwrap_or(40));
    let renewed = spec.renew_time.as_ref()?.0.as_second();
    Some(now.as_second() - renewed - duration)
}
