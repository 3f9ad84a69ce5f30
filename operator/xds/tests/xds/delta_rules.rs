//! Rules of the incremental protocol, one test each, as a scripted client sees them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use epic_xds::engine::{
    DeltaRequest, DeltaSession, EndpointRef, Kind, MAX_NAME_LENGTH, ProtocolError, Resource, Verdict, View,
};

/// A view of clusters, assignments and listeners; `name=content` each. Clusters need the assignment of their name.
pub(crate) fn view(generation: i64, clusters: &str, assignments: &str, listeners: &str) -> Arc<View> {
    let list = |kind: Kind, text: &str| -> Vec<Resource> {
        let entries = text.split_whitespace().filter_map(|entry| entry.split_once('='));
        entries
            .map(|(name, content)| {
                let resource = Resource::new(kind, name, format!("{kind} {content}").into_bytes());
                match kind {
                    Kind::Cluster => resource.needing(name),
                    Kind::Assignment => resource.holding(endpoints(content)),
                    Kind::Listener => resource.sending_to(destinations(name, content)),
                }
            })
            .collect()
    };
    let all = [(Kind::Cluster, clusters), (Kind::Assignment, assignments), (Kind::Listener, listeners)];
    Arc::new(View::new(generation, all.into_iter().flat_map(|(kind, text)| list(kind, text))))
}

/// An assignment `1+2` holds the endpoints 1 and 2, `-` holds none.
fn endpoints(content: &str) -> Vec<EndpointRef> {
    let names = content.split('+').filter(|name| *name != "-");
    names.map(|name| endpoint(name, 1)).collect()
}

/// A listener `1@a+b` sends to the clusters a and b; without that it sends to the one of its name.
fn destinations(name: &str, content: &str) -> Vec<String> {
    let names = content.split_once('@').map_or(name, |(_, names)| names);
    names.split('+').map(str::to_owned).collect()
}

fn endpoint(name: &str, generation: i64) -> EndpointRef {
    EndpointRef { object: format!("red/{name}").into(), uid: name.into(), generation }
}

/// A client that writes down what it gets.
struct Client {
    session: DeltaSession,
}

/// `subscribe` and `unsubscribe` in one list, names to give up with a `-` before them.
fn request(kind: Kind, names: &[&str]) -> DeltaRequest {
    let (unsubscribe, subscribe): (Vec<&str>, Vec<&str>) =
        names.iter().partition(|name| name.starts_with('-'));
    DeltaRequest {
        type_url: kind.type_url().to_owned(),
        subscribe: subscribe.into_iter().map(str::to_owned).collect(),
        unsubscribe: unsubscribe.into_iter().map(|name| name.trim_start_matches('-').to_owned()).collect(),
        ..DeltaRequest::default()
    }
}

impl Client {
    fn with(view: &Arc<View>) -> Self {
        let mut session = DeltaSession::new();
        session.set_view(Arc::clone(view));
        Self { session }
    }

    /// What the server sends now, as `cluster#1 +a -b`.
    fn read(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(response) = self.session.next_response() {
            let added = response.resources.iter().map(|r| format!("+{}", r.name));
            let removed = response.removed.iter().map(|name| format!("-{name}"));
            let names: Vec<String> = added.chain(removed).collect();
            lines.push(format!("{}#{} {}", response.kind, response.nonce, names.join(" ")));
        }
        lines
    }

    fn ask(&mut self, kind: Kind, names: &[&str]) -> Vec<String> {
        self.session.request(&request(kind, names)).unwrap();
        self.read()
    }

    fn answer(&mut self, kind: Kind, nonce: u64, error: Option<&str>) -> Verdict {
        let request =
            DeltaRequest { nonce: nonce.to_string(), error: error.map(str::to_owned), ..request(kind, &[]) };
        self.session.request(&request).unwrap().unwrap().verdict
    }

    fn ack(&mut self, kind: Kind, nonce: u64) -> Vec<String> {
        assert_eq!(self.answer(kind, nonce, None), Verdict::Acknowledged);
        self.read()
    }

    fn nack(&mut self, kind: Kind, nonce: u64) -> Vec<String> {
        assert_eq!(self.answer(kind, nonce, Some("refused")), Verdict::Rejected);
        self.read()
    }

    fn show(&mut self, view: &Arc<View>) -> Vec<String> {
        self.session.set_view(Arc::clone(view));
        self.read()
    }

    /// What the server sends when so much time has passed since the stream began.
    fn at(&mut self, seconds: u64) -> Vec<String> {
        self.session.advance(Duration::from_secs(seconds));
        self.read()
    }

    fn rejected(&self) -> Vec<String> {
        self.session.progress().rejections.keys().map(|(kind, name)| format!("{kind} {name}")).collect()
    }

    /// A proxy that has taken all of `view`.
    fn settled(view: &Arc<View>) -> Self {
        let mut client = Client::with(view);
        let assignments: Vec<String> = view.of(Kind::Assignment).map(|r| r.name.to_string()).collect();
        let assignments: Vec<&str> = assignments.iter().map(String::as_str).collect();
        client.ask(Kind::Cluster, &[]);
        client.ask(Kind::Assignment, &assignments);
        client.ask(Kind::Listener, &[]);
        for (kind, nonce) in [(Kind::Cluster, 1), (Kind::Assignment, 2), (Kind::Listener, 3)] {
            assert_eq!(client.ack(kind, nonce), NOTHING);
        }
        assert_eq!(client.session.progress().configured, Some(view.revision()));
        client
    }
}

const NOTHING: [String; 0] = [];

#[test]
fn a_proxy_gets_clusters_then_assignments_then_listeners_and_nothing_after_its_last_answer() {
    let mut client = Client::with(&view(1, "a=1 b=1", "a=1 b=-", "a=1 b=1"));
    assert_eq!(client.ask(Kind::Cluster, &[]), ["cluster#1 +a +b"]);
    // Envoy asks for assignments before it answers for the clusters.
    assert_eq!(client.ask(Kind::Assignment, &["a", "b"]), ["assignment#2 +a +b"]);
    assert_eq!(client.ack(Kind::Cluster, 1), NOTHING);
    assert_eq!(client.ack(Kind::Assignment, 2), NOTHING);
    assert_eq!(client.ask(Kind::Listener, &[]), ["listener#3 +a +b"]);
    assert_eq!(client.session.progress().configured, None);
    assert_eq!(client.ack(Kind::Listener, 3), NOTHING);
    assert_eq!(client.session.progress().configured.unwrap().generation, 1);
}

#[test]
fn before_the_first_view_nothing_is_answered() {
    let mut client = Client { session: DeltaSession::new() };
    assert_eq!(client.ask(Kind::Cluster, &[]), NOTHING);
    assert_eq!(client.ask(Kind::Assignment, &["ghost"]), NOTHING);
    assert_eq!(client.show(&view(1, "a=1", "a=1", "")), ["cluster#1 +a", "assignment#2 -ghost"]);
}

#[test]
fn only_what_changed_is_sent() {
    let mut client = Client::settled(&view(1, "a=1 b=1", "a=1 b=1", "a=1 b=1"));
    assert_eq!(client.show(&view(1, "a=1 b=1", "a=1 b=2", "a=1 b=1")), ["assignment#4 +b"]);
    assert_eq!(client.show(&view(2, "a=1 b=1", "a=1 b=2", "a=2 b=1")), ["listener#5 +a"]);
    assert_eq!(client.show(&view(3, "a=1 b=1", "a=1 b=2", "a=2 b=1")), NOTHING);
}

#[test]
fn a_new_generation_with_the_same_content_is_configured_at_once() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    client.show(&view(2, "a=1", "a=2", "a=1"));
    assert_eq!(client.session.progress().configured.unwrap().generation, 2);
}

#[test]
fn an_acknowledgement_of_old_content_does_not_configure_a_new_generation() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    assert_eq!(client.show(&view(2, "a=1", "a=1", "a=2")), ["listener#4 +a"]);
    assert_eq!(client.show(&view(3, "a=1", "a=1", "a=3")), ["listener#5 +a"]);
    client.ack(Kind::Listener, 4);
    assert_eq!(client.session.progress().configured.unwrap().generation, 1);
    client.ack(Kind::Listener, 5);
    assert_eq!(client.session.progress().configured.unwrap().generation, 3);
}

#[test]
fn an_assignment_follows_its_cluster_changed_or_not() {
    let mut client = Client::settled(&view(1, "a=1 b=1", "a=1 b=1", ""));
    assert_eq!(client.show(&view(2, "a=2 b=1", "a=1 b=1", "")), ["cluster#4 +a", "assignment#5 +a"]);
}

#[test]
fn several_clusters_may_share_an_assignment() {
    let shared = |content: &str| {
        let cluster = |name: &str| Resource::new(Kind::Cluster, name, content.into()).needing("shared");
        let assignment = Resource::new(Kind::Assignment, "shared", b"x".to_vec());
        Arc::new(View::new(1, [cluster("a"), cluster("b"), assignment]))
    };
    let mut client = Client::with(&shared("1"));
    client.ask(Kind::Cluster, &[]);
    client.ask(Kind::Assignment, &["shared"]);
    assert_eq!(client.show(&shared("2")), ["cluster#3 +a +b", "assignment#4 +shared"]);
}

#[test]
fn removals_come_last_and_listeners_go_before_their_clusters() {
    let mut client = Client::settled(&view(1, "a=1 b=1", "a=1 b=1", "a=1 b=1"));
    let next = view(2, "b=2 c=1", "b=1 c=1", "b=2 c=1");
    assert_eq!(
        client.show(&next),
        [
            "cluster#4 +b +c",
            "assignment#5 +b",
            "listener#6 +b +c",
            "listener#7 -a",
            "cluster#8 -a",
            "assignment#9 -a"
        ]
    );
    assert_eq!(client.ask(Kind::Assignment, &["c", "-a"]), ["assignment#10 +c"]);
}

#[test]
fn an_emptied_assignment_is_sent_as_an_assignment() {
    let mut client = Client::settled(&view(1, "a=1", "a=1+2", "a=1"));
    assert_eq!(client.show(&view(1, "a=1", "a=-", "a=1")), ["assignment#4 +a"]);
}

#[test]
fn a_missing_name_is_told_to_be_missing_and_sent_when_it_appears() {
    let mut client = Client::with(&view(1, "", "", ""));
    assert_eq!(client.ask(Kind::Assignment, &["a"]), ["assignment#1 -a"]);
    client.ack(Kind::Assignment, 1);
    assert_eq!(client.show(&view(1, "", "a=1", "")), ["assignment#2 +a"]);
    assert_eq!(client.show(&view(1, "", "", "")), ["assignment#3 -a"]);
    assert_eq!(client.show(&view(1, "", "a=1", "")), ["assignment#4 +a"]);
}

#[test]
fn a_name_asked_for_again_is_answered_again() {
    let mut client = Client::with(&view(1, "", "a=1", ""));
    assert_eq!(client.ask(Kind::Assignment, &["a", "b"]), ["assignment#1 +a", "assignment#2 -b"]);
    assert_eq!(client.ask(Kind::Assignment, &["a"]), ["assignment#3 +a"]);
    assert_eq!(client.ask(Kind::Assignment, &["b"]), ["assignment#4 -b"]);
    assert_eq!(client.ask(Kind::Assignment, &["-a"]), NOTHING);
    assert_eq!(client.ask(Kind::Assignment, &["a"]), ["assignment#5 +a"]);
    assert_eq!(client.ask(Kind::Assignment, &["a", "-a"]), ["assignment#6 +a"]);
}

#[test]
fn names_given_up_are_not_updated_and_there_is_no_way_back_to_the_wildcard() {
    for kind in Kind::MAKE {
        let one = |content: &str| {
            let names = ["a", "b"].map(|name| Resource::new(kind, name, content.into()));
            Arc::new(View::new(1, names))
        };
        let mut client = Client::with(&one("1"));
        assert_eq!(client.ask(kind, &["a", "b"]), [format!("{kind}#1 +a +b")]);
        assert_eq!(client.ask(kind, &["-a"]), NOTHING);
        assert_eq!(client.show(&one("2")), [format!("{kind}#2 +b")]);
        assert_eq!(client.ask(kind, &["-b"]), NOTHING);
        assert_eq!(client.ask(kind, &[]), NOTHING);
        assert_eq!(client.show(&one("3")), NOTHING);
    }
}

#[test]
fn wildcard_and_names_add_up() {
    let mut client = Client::with(&view(1, "a=1 b=1", "", ""));
    assert_eq!(client.ask(Kind::Cluster, &[]), ["cluster#1 +a +b"]);
    assert_eq!(client.ask(Kind::Cluster, &["a", "x"]), ["cluster#2 +a", "cluster#3 -x"]);
    assert_eq!(client.ask(Kind::Cluster, &["-*"]), NOTHING);
    assert_eq!(client.show(&view(1, "a=2 b=2", "", "")), ["cluster#4 +a"]);
    assert_eq!(client.ask(Kind::Cluster, &["*"]), ["cluster#5 +b"]);
}

#[test]
fn a_name_given_up_under_the_wildcard_is_answered_with_what_it_is() {
    let mut client = Client::with(&view(1, "a=1", "", ""));
    client.ask(Kind::Cluster, &["*", "a", "x"]);
    assert_eq!(client.ask(Kind::Cluster, &["-a", "-x", "-ghost"]), ["cluster#3 +a", "cluster#4 -x"]);
}

#[test]
fn stale_and_foreign_nonces_are_ignored_but_their_subscriptions_are_not() {
    let mut client = Client::with(&view(1, "", "a=1 b=1", ""));
    client.ask(Kind::Assignment, &["a"]);
    client.ack(Kind::Assignment, 1);
    for nonce in ["1", "99", "x", "-1"] {
        let stale = DeltaRequest {
            nonce: nonce.to_owned(),
            error: Some("late".into()),
            ..request(Kind::Assignment, &["b"])
        };
        let event = client.session.request(&stale).unwrap().unwrap();
        assert_eq!(event.verdict, Verdict::Stale);
        assert_eq!(client.read().len(), 1, "{nonce}");
    }
    // A nonce of another type settles nothing here.
    client.ask(Kind::Cluster, &[]);
    assert_eq!(client.answer(Kind::Cluster, 2, None), Verdict::Stale);
    assert!(client.rejected().is_empty());
}

#[test]
fn one_answer_settles_all_earlier_ones() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    client.show(&view(2, "a=2", "a=1", "a=1"));
    client.show(&view(3, "a=3", "a=1", "a=1"));
    // Envoy withholds answers for clusters while one of them warms, then sends them all.
    assert_eq!(client.ack(Kind::Cluster, 6), NOTHING);
    assert_eq!(client.session.progress().configured.unwrap().generation, 3);
    assert_eq!(client.answer(Kind::Cluster, 4, None), Verdict::Stale);
}

#[test]
fn a_refused_resource_is_not_sent_again_until_it_changes_and_the_last_good_form_stays() {
    let good = view(1, "a=1", "a=1", "a=1");
    let mut client = Client::settled(&good);
    assert_eq!(client.show(&view(2, "a=1", "a=1", "a=bad")), ["listener#4 +a"]);
    assert_eq!(client.nack(Kind::Listener, 4), NOTHING);
    assert_eq!(client.rejected(), ["listener a"]);
    assert_eq!(client.session.progress().configured, Some(good.revision()));
    assert_eq!(client.show(&view(3, "a=1", "a=2", "a=bad")), ["assignment#5 +a"]);
    assert_eq!(client.rejected(), ["listener a"]);
    // Back to what the client has: nothing to send, nothing refused.
    assert_eq!(client.show(&view(4, "a=1", "a=2", "a=1")), NOTHING);
    assert!(client.rejected().is_empty());
    assert_eq!(client.show(&view(5, "a=1", "a=2", "a=5")), ["listener#6 +a"]);
    client.ack(Kind::Listener, 6);
    assert_eq!(client.session.progress().configured.unwrap().generation, 5);
}

#[test]
fn a_refused_resource_is_offered_again_by_itself_and_counts_as_refused_until_it_is_taken() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    client.show(&view(2, "a=1", "a=1", "a=taken"));
    client.nack(Kind::Listener, 4);
    assert_eq!(client.session.next_offer(), Some(Duration::from_secs(5)));
    assert_eq!(client.at(4), NOTHING);
    client.session.set_view(view(3, "a=1", "a=1", "a=taken b=1"));
    client.session.advance(Duration::from_secs(5));
    assert_eq!(client.read(), ["listener#5 +b", "listener#6 +a"]);
    assert_eq!(client.rejected(), ["listener a"]);
    client.ack(Kind::Listener, 5);
    assert_eq!(client.at(3_600), NOTHING, "nothing is offered twice before it was answered");
    client.ack(Kind::Listener, 6);
    assert!(client.rejected().is_empty());
    assert_eq!(client.session.progress().configured.unwrap().generation, 3);
    assert_eq!(client.session.next_offer(), None);
}

#[test]
fn what_is_refused_for_good_costs_a_bounded_number_of_responses_in_an_hour() {
    let refused: Vec<String> = (0..10).map(|n| format!("n{n}=bad")).collect();
    let mut client = Client::with(&view(1, "", "", &refused.join(" ")));
    client.session.request(&request(Kind::Listener, &[])).unwrap();
    let (mut now, mut offers) = (Duration::ZERO, 0);
    while now < Duration::from_secs(3_600) {
        while let Some(response) = client.session.next_response() {
            if response.again {
                offers += 1;
                assert_eq!(response.resources.len(), 1);
            }
            client.answer(Kind::Listener, response.nonce, Some("cannot bind"));
        }
        now = client.session.next_offer().expect("it is offered again");
        assert!(client.session.advance(now));
    }
    assert_eq!(offers, 10 * 16, "after 5, 10, 20, 40, 80, 160 s, then every 300 s");
    assert_eq!(client.rejected().len(), 10);
}

#[test]
fn what_was_refused_and_changes_is_offered_at_once_and_its_waits_begin_anew() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    client.show(&view(2, "a=1", "a=1", "a=bad"));
    client.nack(Kind::Listener, 4);
    assert_eq!(client.at(5), ["listener#5 +a"]);
    client.nack(Kind::Listener, 5);
    assert_eq!(client.session.next_offer(), Some(Duration::from_secs(15)));
    assert_eq!(client.show(&view(3, "a=1", "a=1", "a=worse")), ["listener#6 +a"]);
    client.nack(Kind::Listener, 6);
    assert_eq!(client.session.next_offer(), Some(Duration::from_secs(10)));
}

#[test]
fn a_listener_waits_while_its_cluster_is_refused_and_the_client_has_no_form_of_it() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    let next = view(2, "a=1 b=bad", "a=1 b=1", "a=1");
    assert_eq!(client.show(&next), ["cluster#4 +b"]);
    client.nack(Kind::Cluster, 4);
    let next = view(3, "a=1 b=bad", "a=1 b=1", "a=2@a+b c=1@a");
    assert_eq!(client.show(&next), ["listener#5 +c"], "the form in force goes on");
    client.ack(Kind::Listener, 5);
    assert_ne!(client.session.progress().configured.map(|r| r.generation), Some(3));
    assert_eq!(client.at(5), ["cluster#6 +b"]);
    assert_eq!(client.ack(Kind::Cluster, 6), ["listener#7 +a"]);
    // A cluster of which the client keeps an earlier form keeps nobody waiting.
    client.show(&view(4, "a=bad b=bad", "a=1 b=1", "a=2@a+b c=1@a"));
    client.nack(Kind::Cluster, 8);
    let next = view(5, "a=bad b=bad", "a=1 b=1", "a=3@a+b c=1@a");
    assert_eq!(client.show(&next), ["listener#10 +a"]);
}

#[test]
fn a_cluster_stays_while_the_listener_that_is_held_on_to_sends_to_it() {
    let mut client = Client::settled(&view(1, "a=1 b=1", "a=1 b=1", "l=1@a"));
    client.show(&view(2, "a=1 b=1", "a=1 b=1", "l=bad@b"));
    client.nack(Kind::Listener, 4);
    let next = view(3, "b=1", "b=1", "l=bad@b");
    assert_eq!(client.show(&next), NOTHING, "the last good form sends to a");
    assert_eq!(client.at(5), ["listener#5 +l"]);
    assert_eq!(client.ack(Kind::Listener, 5), ["cluster#6 -a", "assignment#7 -a"]);
}

#[test]
fn a_listener_never_overtakes_its_cluster_for_want_of_room() {
    let mut client = Client::settled(&view(1, "a=0", "a=0", "a=0"));
    for n in 1..=64 {
        client.session.set_view(view(1, &format!("a={n}"), "a=0", "a=0"));
        assert_eq!(client.read().len(), 2, "the cluster and the assignment behind it");
        client.session.request(&request(Kind::Assignment, &[])).unwrap();
        let nonce = 3 + 2 * n;
        assert_eq!(client.answer(Kind::Assignment, nonce, None), Verdict::Acknowledged);
    }
    // Envoy withholds its answers for clusters, so there is no room for another one; endpoints go on.
    let next = view(2, "a=64 b=1", "a=1 b=1", "a=0 b=1");
    assert_eq!(client.show(&next), ["assignment#132 +a"]);
    assert_eq!(client.ack(Kind::Cluster, 130), ["cluster#133 +b", "listener#134 +b"]);
}

#[test]
fn a_client_that_never_answers_keeps_no_bodies_and_what_it_keeps_is_counted() {
    let many = |generation: i64| {
        let body = format!("assignment {generation}").into_bytes();
        let endpoints: Vec<_> = (0..1_000).map(|n| endpoint(&n.to_string(), generation)).collect();
        Arc::new(View::new(1, [Resource::new(Kind::Assignment, "a", body).holding(endpoints)]))
    };
    let mut client = Client::with(&many(0));
    assert_eq!(client.ask(Kind::Assignment, &["a"]), ["assignment#1 +a"]);
    let bodies: Vec<_> = (1..200)
        .map(|generation| {
            let view = many(generation);
            let body = Arc::downgrade(&view.get(Kind::Assignment, "a").unwrap().body);
            client.show(&view);
            body
        })
        .collect();
    let alive = bodies.iter().filter(|body| body.strong_count() > 0).count();
    assert_eq!(alive, 1, "that of the present view");
    let kept = client.session.kept_bytes();
    assert!((64 * 1_000 * size_of::<EndpointRef>()..8 << 20).contains(&kept), "{kept}");
    client.ack(Kind::Assignment, 64);
    client.ack(Kind::Assignment, 65);
    assert!(client.session.kept_bytes() < 1_000, "{}", client.session.kept_bytes());
}

#[test]
fn assignments_are_level_when_all_that_were_asked_for_are_acknowledged() {
    let first = view(1, "a=1", "a=1", "a=1");
    let mut client = Client::settled(&first);
    assert_eq!(client.session.assigned(), Some(first.assignments()));
    let second = view(1, "a=1", "a=2", "a=1");
    client.show(&second);
    assert_eq!(client.session.assigned(), Some(first.assignments()));
    client.ack(Kind::Assignment, 4);
    assert_eq!(client.session.assigned(), Some(second.assignments()));
}

#[test]
fn of_several_the_refused_one_is_found_and_the_others_get_through() {
    let mut client = Client::with(&view(1, "a=1 b=1 c=bad d=1", "", ""));
    assert_eq!(client.ask(Kind::Cluster, &[]), ["cluster#1 +a +b +c +d"]);
    assert_eq!(client.nack(Kind::Cluster, 1), ["cluster#2 +a +b", "cluster#3 +c +d"]);
    assert_eq!(client.ack(Kind::Cluster, 2), NOTHING);
    assert_eq!(client.nack(Kind::Cluster, 3), ["cluster#4 +c", "cluster#5 +d"]);
    assert_eq!(client.nack(Kind::Cluster, 4), NOTHING);
    assert_eq!(client.ack(Kind::Cluster, 5), NOTHING);
    assert_eq!(client.rejected(), ["cluster c"]);
    // When it changes it comes by itself, so that it does not take others along.
    assert_eq!(client.show(&view(2, "a=2 b=1 c=2 d=1", "", "")), ["cluster#6 +a", "cluster#7 +c"]);
}

#[test]
fn what_may_have_been_applied_from_a_refused_response_is_removed_all_the_same() {
    let mut client = Client::with(&view(1, "", "", "a=1 b=bad"));
    assert_eq!(client.ask(Kind::Listener, &[]), ["listener#1 +a +b"]);
    assert_eq!(client.show(&view(2, "", "", "a=bad b=bad")), ["listener#2 +a"]);
    assert_eq!(client.show(&view(3, "", "", "b=bad")), ["listener#3 -a"]);
    let mut client = Client::with(&view(1, "", "", "a=1 b=bad"));
    client.ask(Kind::Listener, &[]);
    client.show(&view(2, "", "", "a=bad b=bad"));
    // Envoy has applied `a=1` although it refused the response.
    assert_eq!(client.nack(Kind::Listener, 1), ["listener#3 +b"]);
    assert_eq!(client.nack(Kind::Listener, 2), NOTHING);
    assert_eq!(client.show(&view(3, "", "", "b=bad")), ["listener#4 -a"]);
}

#[test]
fn a_refusal_after_a_removal_falls_back_to_nothing() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    assert_eq!(client.show(&view(2, "a=1", "a=1", "")), ["listener#4 -a"]);
    assert_eq!(client.show(&view(3, "a=1", "a=1", "a=bad")), ["listener#5 +a"]);
    assert_eq!(client.ack(Kind::Listener, 4), NOTHING);
    assert_eq!(client.nack(Kind::Listener, 5), NOTHING);
    assert_eq!(client.show(&view(4, "a=1", "a=1", "a=1")), ["listener#6 +a"]);
}

#[test]
fn a_refusal_of_what_was_sent_once_more_since_leaves_the_decision_to_the_later_answer() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    assert_eq!(client.show(&view(2, "a=1", "a=1", "a=bad")), ["listener#4 +a"]);
    assert_eq!(client.show(&view(3, "a=1", "a=1", "a=2")), ["listener#5 +a"]);
    assert_eq!(client.show(&view(4, "a=1", "a=1", "a=bad")), ["listener#6 +a"]);
    assert_eq!(client.nack(Kind::Listener, 4), NOTHING);
    assert_eq!(client.ack(Kind::Listener, 5), NOTHING);
    assert_eq!(client.nack(Kind::Listener, 6), NOTHING);
    assert_eq!(client.rejected(), ["listener a"]);
    assert_eq!(client.show(&view(5, "a=1", "a=1", "a=1")), ["listener#7 +a"], "it has the second form");
}

#[test]
fn a_new_name_refused_accepted_and_refused_again_is_removed_all_the_same() {
    let mut client = Client::settled(&view(1, "a=1", "a=1", "a=1"));
    client.show(&view(2, "a=1", "a=1", "a=1 b=bad"));
    client.show(&view(3, "a=1", "a=1", "a=1 b=2"));
    assert_eq!(client.show(&view(4, "a=1", "a=1", "a=1 b=bad")), ["listener#6 +b"]);
    client.nack(Kind::Listener, 4);
    client.ack(Kind::Listener, 5);
    client.nack(Kind::Listener, 6);
    assert_eq!(client.show(&view(5, "a=1", "a=1", "a=1")), ["listener#7 -b"]);
}

#[test]
fn an_answer_about_what_was_given_up_since_is_no_form_to_fall_back_to() {
    let mut client = Client::with(&view(1, "", "a=1", ""));
    assert_eq!(client.ask(Kind::Assignment, &["a"]), ["assignment#1 +a"]);
    assert_eq!(client.ask(Kind::Assignment, &["-a"]), NOTHING);
    client.show(&view(2, "", "a=bad", ""));
    assert_eq!(client.ask(Kind::Assignment, &["a"]), ["assignment#2 +a"]);
    assert_eq!(client.ack(Kind::Assignment, 1), NOTHING);
    assert_eq!(client.nack(Kind::Assignment, 2), NOTHING);
    assert_eq!(client.show(&view(3, "", "a=1", "")), ["assignment#3 +a"]);
}

#[test]
fn what_crossed_a_wildcard_given_up_and_wanted_again_is_removed_all_the_same() {
    let mut client = Client::with(&view(1, "a=1", "", ""));
    assert_eq!(client.ask(Kind::Cluster, &["*"]), ["cluster#1 +a"]);
    assert_eq!(client.ask(Kind::Cluster, &["-*"]), NOTHING);
    client.show(&view(2, "a=bad", "", ""));
    assert_eq!(client.ask(Kind::Cluster, &["*"]), ["cluster#2 +a"]);
    // The client may have read the first response only now, and taken `a=1` from it.
    assert_eq!(client.ack(Kind::Cluster, 1), NOTHING);
    assert_eq!(client.nack(Kind::Cluster, 2), NOTHING);
    assert_eq!(client.show(&view(3, "", "", "")), ["cluster#3 -a"]);
}

#[test]
fn a_client_that_refuses_everything_gets_a_bounded_number_of_responses() {
    let names: Vec<String> = (0..100).map(|n| format!("n{n}=bad")).collect();
    let mut client = Client::with(&view(1, &names.join(" "), "", ""));
    client.session.request(&request(Kind::Cluster, &[])).unwrap();
    let mut responses = 0;
    while let Some(response) = client.session.next_response() {
        responses += 1;
        client.answer(Kind::Cluster, response.nonce, Some("no"));
    }
    assert!(responses < 200, "{responses}");
    assert_eq!(client.rejected().len(), 100);
}

#[test]
fn a_reconnected_client_gets_what_changed_and_what_is_gone_and_nothing_else() {
    let before = view(1, "a=1 b=1 c=1", "a=1 b=1 c=1", "a=1 b=1 c=1");
    let after = view(2, "a=1 b=2", "a=1 b=1", "a=1 b=1");
    let mut client = Client::with(&after);
    let kept = |kind: Kind, names: &[&str]| DeltaRequest {
        initial_versions: before.of(kind).map(|r| (r.name.to_string(), r.version.to_string())).collect(),
        ..request(kind, names)
    };
    client.session.request(&kept(Kind::Cluster, &[])).unwrap();
    assert_eq!(client.read(), ["cluster#1 +b", "cluster#2 -c"]);
    // `b` warms again, so its assignment is sent although the client has it.
    client.session.request(&kept(Kind::Assignment, &["a", "b", "c"])).unwrap();
    assert_eq!(client.read(), ["assignment#3 +b", "assignment#4 -c"]);
    client.session.request(&kept(Kind::Listener, &[])).unwrap();
    assert_eq!(client.read(), ["listener#5 -c"]);
}

#[test]
fn a_client_that_moves_to_another_replica_gets_nothing_and_counts_as_configured() {
    let same = view(7, "a=1", "a=1+2", "a=1");
    let mut client = Client { session: DeltaSession::new() };
    for (kind, names) in [(Kind::Cluster, &[][..]), (Kind::Assignment, &["a"]), (Kind::Listener, &[])] {
        let versions = same.of(kind).map(|r| (r.name.to_string(), r.version.to_string())).collect();
        client.session.request(&DeltaRequest { initial_versions: versions, ..request(kind, names) }).unwrap();
    }
    assert_eq!(client.show(&same), NOTHING);
    assert_eq!(client.session.progress().configured, Some(same.revision()));
    assert_eq!(*client.session.progress().endpoints, endpoints("1+2").into_iter().collect::<BTreeSet<_>>());
}

#[test]
fn versions_that_we_did_not_make_are_replaced() {
    let mut client = Client::with(&view(1, "a=1", "", ""));
    let initial = [("a".to_owned(), "v1".to_owned())].into();
    client
        .session
        .request(&DeltaRequest { initial_versions: initial, ..request(Kind::Cluster, &[]) })
        .unwrap();
    assert_eq!(client.read(), ["cluster#1 +a"]);
}

#[test]
fn endpoints_count_as_held_when_their_assignment_is_acknowledged() {
    let mut client = Client::settled(&view(1, "a=1", "a=-", "a=1"));
    let held = |client: &Client| -> Vec<String> {
        client.session.progress().endpoints.iter().map(|e| e.object.to_string()).collect()
    };
    client.show(&view(1, "a=1", "a=1+2", "a=1"));
    assert!(held(&client).is_empty());
    client.ack(Kind::Assignment, 4);
    assert_eq!(held(&client), ["red/1", "red/2"]);
    client.show(&view(1, "a=1", "a=2", "a=1"));
    client.ack(Kind::Assignment, 5);
    assert_eq!(held(&client), ["red/2"]);
}

/// The same assignment, made of another generation of its object.
fn edited(content: &str, generation: i64) -> Arc<View> {
    let body = format!("assignment {content}").into_bytes();
    let assignment = Resource::new(Kind::Assignment, "a", body).holding([endpoint("1", generation)]);
    let cluster = Resource::new(Kind::Cluster, "a", b"cluster 1".to_vec()).needing("a");
    Arc::new(View::new(1, [cluster, assignment]))
}

fn held_generations(client: &Client) -> Vec<i64> {
    client.session.progress().endpoints.iter().map(|endpoint| endpoint.generation).collect()
}

#[test]
fn an_edited_endpoint_counts_as_held_when_the_assignment_made_of_the_edit_is_acknowledged() {
    let mut client = Client::settled(&view(1, "a=1", "a=-", ""));
    client.show(&edited("old", 1));
    client.ack(Kind::Assignment, 4);
    assert_eq!(held_generations(&client), [1]);
    client.show(&edited("new", 2));
    assert_eq!(held_generations(&client), [1]);
    client.ack(Kind::Assignment, 5);
    assert_eq!(held_generations(&client), [2]);
}

#[test]
fn an_edit_that_changes_no_byte_is_held_without_a_new_acknowledgement() {
    let mut client = Client::settled(&view(1, "a=1", "a=-", ""));
    client.show(&edited("same", 1));
    client.ack(Kind::Assignment, 4);
    assert_eq!(client.show(&edited("same", 2)), NOTHING);
    assert_eq!(held_generations(&client), [2]);
}

#[test]
fn an_edit_back_to_what_was_held_counts_only_when_nothing_else_is_under_way() {
    let mut client = Client::settled(&view(1, "a=1", "a=-", ""));
    client.show(&edited("old", 1));
    client.ack(Kind::Assignment, 4);
    assert_eq!(client.show(&edited("new", 2)), ["assignment#5 +a"]);
    assert_eq!(client.show(&edited("old", 3)), ["assignment#6 +a"]);
    assert_eq!(held_generations(&client), [1], "the client may be taking the second form just now");
    client.ack(Kind::Assignment, 5);
    assert_eq!(held_generations(&client), [2]);
    client.ack(Kind::Assignment, 6);
    assert_eq!(held_generations(&client), [3]);
}

#[test]
fn a_refused_edit_is_not_held() {
    let mut client = Client::settled(&view(1, "a=1", "a=-", ""));
    client.show(&edited("old", 1));
    client.ack(Kind::Assignment, 4);
    client.show(&edited("bad", 2));
    client.nack(Kind::Assignment, 5);
    assert_eq!(held_generations(&client), [1]);
}

#[test]
fn a_client_that_never_answers_gets_the_latest_when_it_does() {
    let mut client = Client::settled(&view(1, "", "a=0", "a=1"));
    let mut sent = 0;
    for n in 1..=1_000 {
        sent += client.show(&view(1, "", &format!("a={n}"), "a=1")).len();
    }
    assert_eq!(sent, 64);
    // Any answer makes room, and what was superseded meanwhile is not made up for.
    assert_eq!(client.ack(Kind::Assignment, 4), ["assignment#68 +a"]);
    assert_eq!(client.ack(Kind::Assignment, 68), NOTHING);
}

#[test]
fn a_request_that_breaks_the_protocol_says_what_is_wrong() {
    let mut client = Client::with(&view(1, "", "", ""));
    let other = DeltaRequest { type_url: "type.googleapis.com/other".into(), ..DeltaRequest::default() };
    assert_eq!(client.session.request(&other), Err(ProtocolError::UnknownType(other.type_url.clone())));
    let long = "x".repeat(MAX_NAME_LENGTH + 1);
    assert_eq!(
        client.session.request(&request(Kind::Assignment, &[&long])),
        Err(ProtocolError::LongName(MAX_NAME_LENGTH + 1))
    );
    let many: Vec<String> = (0..200_001).map(|n| n.to_string()).collect();
    let many = DeltaRequest { subscribe: many, ..request(Kind::Assignment, &[]) };
    assert_eq!(client.session.request(&many), Err(ProtocolError::TooManyNames));
}

#[test]
fn a_reconnect_with_a_hundred_thousand_names_is_accepted() {
    let mut client = Client::with(&view(1, "", "", ""));
    let names: Vec<String> = (0..100_000).map(|n| format!("cluster-{n}")).collect();
    let initial = names.iter().map(|name| (name.clone(), "0123456789abcdef".to_owned())).collect();
    let request =
        DeltaRequest { subscribe: names, initial_versions: initial, ..request(Kind::Assignment, &[]) };
    client.session.request(&request).unwrap();
    assert_eq!(client.session.next_response().unwrap().removed.len(), 100_000);
}
