use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use epic_lb::Link;

use super::renewal::{Life, current_token, replace_token};
use super::ways;
use crate::desired::client::NoWay;

#[test]
fn a_way_that_is_lost_stays_and_one_where_epic_cannot_attach_does_not() {
    let address = "198.51.100.1".parse().unwrap();
    let link = Link { ifindex: 3, mtu: 1_500, local: "172.16.0.9".parse().unwrap() };
    let lost = || [(address, Err(NoWay::Route("unreachable".to_owned())))].into();
    let held = ways::after([(address, Ok(link))].into(), lost());
    assert_eq!(held, [(address, Ok(link))].into());
    assert_eq!(ways::unsupported(&held), None);
    let tunnelled = ways::after(held, [(address, Err(NoWay::NotEthernet("wg0".to_owned())))].into());
    let why = ways::unsupported(&tunnelled).unwrap();
    assert!(why.contains("EPIC node 198.51.100.1: its route leaves by wg0"), "{why}");
    assert_eq!(ways::after(tunnelled, lost()), lost(), "what was lost then is not taken up again");
}

fn token(claims: &str) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

#[test]
fn a_token_is_renewed_at_half_its_life() {
    let life = Life::of(&token(r#"{"iat": 1000, "exp": 4600}"#)).unwrap();
    assert_eq!(life.seconds(), 3600);
    assert_eq!(life.pause(2799), Duration::from_secs(1));
    assert_eq!(life.pause(2800), Duration::ZERO);
    assert_eq!(life.pause(5000), Duration::ZERO, "one that is over is tried at once");
}

#[test]
fn a_host_that_was_suspended_renews_its_token_within_a_minute_of_waking() {
    let life = Life::of(&token(r#"{"iat": 1000, "exp": 4600}"#)).unwrap();
    // The clock at each look, by what was slept for and what the host was away for in between.
    let renewed_after = |away: &[i64]| {
        let (mut now, mut looks) = (1000, away.iter());
        loop {
            match life.pause(now) {
                Duration::ZERO => return now,
                pause => {
                    assert!(pause <= Duration::from_secs(60), "{pause:?}");
                    now += i64::try_from(pause.as_secs()).unwrap() + looks.next().unwrap_or(&0);
                }
            }
        }
    };
    assert_eq!(renewed_after(&[]), 2800);
    assert_eq!(renewed_after(&[0, 2600]), 3720, "suspended for longer than was left to wait");
    assert_eq!(renewed_after(&[-500, 0, 1000]), 2800, "a clock that was set back, then right");
}

#[test]
fn a_token_that_does_not_end_is_not_renewed() {
    for text in ["opaque", &token("{}"), &token(r#"{"iat": 5, "exp": 5}"#), "a.b.c"] {
        assert_eq!(Life::of(text), None, "{text}");
    }
}

const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: mine
contexts:
- name: other
  context: {cluster: c, user: somebody}
- name: mine
  context: {cluster: c, user: agent, namespace: epic-red}
users:
- name: somebody
  user: {token: theirs}
- name: agent
  user: {token: old, extra: kept}
";

#[test]
fn only_the_token_of_the_current_user_is_replaced() {
    let mut document = serde_yaml::from_str(KUBECONFIG).unwrap();
    assert_eq!(current_token(&document), Some("old"));
    replace_token(&mut document, "new").unwrap();
    assert_eq!(current_token(&document), Some("new"));
    let text = serde_yaml::to_string(&document).unwrap();
    assert!(text.contains("theirs") && text.contains("kept") && !text.contains("old"), "{text}");
}

#[test]
fn a_kubeconfig_with_a_certificate_has_no_token_to_replace() {
    let text = KUBECONFIG.replace("token: old, ", "");
    let mut document = serde_yaml::from_str(&text).unwrap();
    assert_eq!(current_token(&document), None);
    assert!(replace_token(&mut document, "new").is_err());
}
