//! Bad input, generated from the schemas of EPIC's kinds: every field without its value, beyond its bounds, of another
//! type, with what is no value of it, and huge.
//!
//! The fields are walked as the API server has them, so a new one is covered as soon as it is in a definition. What is
//! well-formed and still wrong, because it names something of somebody else's, no schema can tell: [`FOREIGN`] says what
//! becomes of it, and [`is_reference`] which fields must be in that table.

use serde_json::{Map, Value, json};

/// So much more than a list, a map or a text may have, that it is seen whether size alone does harm. Fewer bytes than a
/// request may have, or it would be refused for that.
const HUGE: usize = 2000;
/// The same for texts.
const HUGE_TEXT: usize = 20_000;

/// One step from an object to a field of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A property.
    Name(String),
    /// The first item of a list.
    Item,
    /// The one entry of a map.
    Entry,
}

/// A field of a kind.
#[derive(Clone, Debug)]
pub struct Field {
    /// How to get there, `spec` or `status` first.
    pub path: Vec<Step>,
    /// Its schema.
    pub schema: Value,
    /// Whether the object that holds it must have it.
    pub required: bool,
}

/// A field with a value that it must not have.
#[derive(Clone, Debug)]
pub struct Case {
    /// The field as the API server names it in a refusal.
    pub field: String,
    /// What is wrong.
    pub what: &'static str,
    /// `spec` or `status` of an object that is wrong there.
    pub object: Value,
    /// The words of the refusal, all of them.
    pub words: Vec<String>,
}

/// Every field below `spec` and `status`.
pub fn fields(schema: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        let below = &schema["properties"][part];
        if below.is_object() {
            walk(below, &[Step::Name(part.to_owned())], &mut found);
        }
    }
    found
}

fn walk(schema: &Value, path: &[Step], found: &mut Vec<Field>) {
    let mut further = |step: Step, schema: &Value, required: bool| {
        let path: Vec<Step> = path.iter().cloned().chain([step]).collect();
        found.push(Field { path: path.clone(), schema: schema.clone(), required });
        walk(schema, &path, found);
    };
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let required = schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
        further(Step::Name(name.clone()), below, required);
    }
    if schema["items"].is_object() {
        further(Step::Item, &schema["items"], false);
    }
    if schema["additionalProperties"].is_object() {
        further(Step::Entry, &schema["additionalProperties"], false);
    }
}

impl Field {
    /// Its name as the API server writes it.
    pub fn name(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Name(name) if text.is_empty() => text.push_str(name),
                Step::Name(name) => text.extend([".", name]),
                Step::Item => text.push_str("[0]"),
                Step::Entry => text.extend([".", ENTRY]),
            }
        }
        text
    }

    /// Whether it lies in the spec.
    pub fn is_of_spec(&self) -> bool {
        self.path.first() == Some(&Step::Name("spec".to_owned()))
    }

    fn text(&self, key: &str) -> &str {
        self.schema[key].as_str().unwrap_or_default()
    }

    fn is_int_or_string(&self) -> bool {
        self.schema["x-kubernetes-int-or-string"] == true
    }

    /// Values that it must not have: what is wrong, the value (`None`: absent), and words of the refusal besides its
    /// name.
    fn bad_values(&self) -> Vec<(&'static str, Option<Value>, &'static str)> {
        let number = |key: &str| self.schema[key].as_i64();
        let length = |key: &str| self.schema[key].as_u64().and_then(|most| usize::try_from(most).ok());
        let mut bad: Vec<(&'static str, Option<Value>, &'static str)> = Vec::new();
        if self.required {
            bad.push(("absent", None, "Required value"));
        }
        match self.text("type") {
            _ if self.is_int_or_string() => {
                bad.push(("of another type", Some(json!({"a": 1})), ""));
                bad.push(("below its minimum", Some(json!(0)), ""));
                bad.push(("above its maximum", Some(json!(65_536)), ""));
                bad.push(("no value of it", Some(json!("No such/port")), ""));
                bad.push(("huge", Some(json!("a".repeat(HUGE_TEXT))), ""));
            }
            "integer" => {
                if let Some(least) = number("minimum") {
                    bad.push(("below its minimum", Some(json!(least - 1)), "greater than or equal to"));
                }
                if let Some(most) = number("maximum") {
                    bad.push(("above its maximum", Some(json!(most + 1)), "less than or equal to"));
                }
                bad.push(("of another type", Some(json!("seven")), "of type"));
                bad.push(("no value of it", Some(json!(1.5)), "of type"));
                match number("maximum") {
                    Some(_) => bad.push(("huge", Some(json!(i64::MAX)), "less than or equal to")),
                    None => bad.push(("huge", Some(json!(1e30)), "of type")),
                }
            }
            "boolean" => {
                bad.push(("of another type", Some(json!("yes")), "of type"));
                bad.push(("huge", Some(json!("y".repeat(HUGE_TEXT))), "of type"));
            }
            "string" => {
                if length("minLength").is_some_and(|least| least > 0) {
                    bad.push(("below its minimum", Some(json!("")), ""));
                }
                if let Some(most) = length("maxLength") {
                    bad.push(("above its maximum", Some(json!("a".repeat(most + 1))), ""));
                }
                bad.push(("of another type", Some(json!(7)), "of type"));
                let most = length("maxLength").unwrap_or(0);
                bad.push(("huge", Some(json!("a".repeat(most + HUGE_TEXT))), ""));
                if !self.is_free_text() {
                    bad.push(("no value of it", Some(json!("\u{7} Not/a:value ")), ""));
                }
            }
            "array" => {
                let item = sample(&self.schema["items"]);
                if length("minItems").is_some_and(|least| least > 0) {
                    bad.push(("below its minimum", Some(json!([])), "at least"));
                }
                if let Some(most) = length("maxItems") {
                    bad.push(("above its maximum", Some(vec![item.clone(); most + 1].into()), "at most"));
                }
                bad.push(("of another type", Some(json!("text")), "of type"));
                let most = length("maxItems").unwrap_or(0);
                bad.push(("huge", Some(vec![item; most + HUGE].into()), "at most"));
            }
            "object" => {
                bad.push(("of another type", Some(json!("text")), "of type"));
                let many = |count: usize, value: &Value| -> Value {
                    (0..count)
                        .map(|number| (format!("k{number}"), value.clone()))
                        .collect::<Map<_, _>>()
                        .into()
                };
                match length("maxProperties") {
                    Some(most) => {
                        let value = sample(&self.schema["additionalProperties"]);
                        bad.push(("above its maximum", Some(many(most + 1, &value)), "at most"));
                        bad.push(("huge", Some(many(HUGE, &value)), "at most"));
                    }
                    // The strict decoder names the fields, not the object that they are in.
                    None => bad.push(("huge", Some(many(100, &json!(1))), "unknown field")),
                }
            }
            _ => {}
        }
        bad
    }

    /// Whether any text of its length is a value of it.
    fn is_free_text(&self) -> bool {
        ["pattern", "format", "enum", "x-kubernetes-validations"]
            .iter()
            .all(|key| self.schema.get(key).is_none())
    }

    /// All of its cases, in an object that is otherwise as right as can be.
    pub fn cases(&self, root: &Value) -> Vec<Case> {
        let field = self.name();
        let words = |word: &str| match word {
            "unknown field" => vec![word.to_owned(), format!("{field}.k0")],
            "" => vec![field.clone()],
            word => vec![field.clone(), word.to_owned()],
        };
        let case = |(what, value, word): (&'static str, Option<Value>, &'static str)| Case {
            field: field.clone(),
            what,
            object: placed(root, &self.path, value.as_ref()),
            words: words(word),
        };
        self.bad_values().into_iter().map(case).collect()
    }
}

/// Key of the one entry of a map.
const ENTRY: &str = "k";

/// An object of this schema with nothing but what must be there, and the way to the path; there stands the value.
fn placed(schema: &Value, path: &[Step], value: Option<&Value>) -> Value {
    let (mut object, schema) = (required_of(schema), schema);
    let Some((step, rest)) = path.split_first() else { return value.cloned().unwrap_or_default() };
    let below = |schema: &Value| {
        if rest.is_empty() { value.cloned() } else { Some(placed(schema, rest, value)) }
    };
    match step {
        Step::Name(name) => {
            let value = below(&schema["properties"][name]);
            if let Some(object) = object.as_object_mut() {
                match value {
                    Some(value) => object.insert(name.clone(), value),
                    None => object.remove(name),
                };
            }
            object
        }
        Step::Item => below(&schema["items"]).map_or_else(|| json!([]), |value| json!([value])),
        Step::Entry => {
            below(&schema["additionalProperties"]).map_or_else(|| json!({}), |value| json!({ENTRY: value}))
        }
    }
}

/// An object with all that its schema requires and nothing else.
fn required_of(schema: &Value) -> Value {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.map(|name| (name.to_owned(), sample(&schema["properties"][name]))).collect::<Map<_, _>>().into()
}

/// A value that a field of this schema may have.
fn sample(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return json!(80);
    }
    match schema["type"].as_str().unwrap_or_default() {
        "integer" => json!(schema["minimum"].as_i64().unwrap_or(1).max(1)),
        "boolean" => json!(true),
        "string" => text_of(schema).into(),
        "array" => match schema["minItems"].as_u64().unwrap_or(0) {
            0 => json!([]),
            _ => json!([sample(&schema["items"])]),
        },
        _ => required_of(schema),
    }
}

fn text_of(schema: &Value) -> &'static str {
    let rules = schema["x-kubernetes-validations"].to_string();
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    if schema["format"] == "date-time" {
        return "2026-01-01T00:00:00Z";
    }
    match () {
        () if rules.contains("family() == 6") => "fd00::/64",
        () if rules.contains("isCIDR") => "192.0.2.0/24",
        () if rules.contains("isIP") || pattern == "^[0-9a-f:.]+$" => "192.0.2.7",
        () if pattern.contains("(h|m|s|ms)") => "5s",
        () if pattern.starts_with("^/") => "/a",
        () if pattern == "^[0-9]+$" => "1",
        () => "a",
    }
}

/// Whether values of a field of the spec name something else: an object, a tenant, an address, a network, an
/// interface, an image.
pub fn is_reference(field: &Field) -> bool {
    let pattern = field.text("pattern");
    let rules = field.schema["x-kubernetes-validations"].to_string();
    let names =
        ["^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "^[^\\s]+$", "^[^\\s/:]+$"];
    field.is_of_spec()
        && field.text("type") == "string"
        && (names.contains(&pattern) || rules.contains("isIP") || rules.contains("isCIDR"))
}

/// What becomes of a value that is well-formed and names something that is not there, or not for whoever names it.
#[derive(Clone, Copy, Debug)]
pub enum Judged {
    /// The condition of this type of the object itself is False (`Overlaps`: True), with this reason and words what to
    /// do. Shown with a running operator, each by this value.
    Told {
        /// The value.
        value: &'static str,
        /// The condition.
        condition: &'static str,
        /// Its reason.
        reason: &'static str,
    },
    /// Somebody else than the operator judges it, or it is judged elsewhere; by this test.
    By(&'static str),
    /// It harms nobody, for this reason.
    Harmless(&'static str),
}

const fn told(value: &'static str, condition: &'static str, reason: &'static str) -> Judged {
    Judged::Told { value, condition, reason }
}

/// Every reference in a spec: kind, field, and what becomes of a foreign value.
///
/// The values are those of the world that the cluster test `bad_input` makes: tenant `red`, who writes them; tenant
/// `blue` with a LoadBalancer, and with a pool and a group that admit nobody else; one node.
pub const FOREIGN: &[(&str, &str, Judged)] = &[
    (
        "Account",
        "spec.client-networks[0]",
        Judged::Harmless("it narrows who may call in for the tenant, and nobody else"),
    ),
    (
        "Account",
        "spec.subjects[0].namespace",
        Judged::Harmless("RBAC knows no such ServiceAccount, so nobody gets a right"),
    ),
    ("AddressClaim", "spec.address", Judged::By("a_claim_is_named_after_its_address")),
    (
        "AddressClaim",
        "spec.owner.name",
        Judged::Harmless(
            "the operator releases a claim whose owner is not there or does not have the address",
        ),
    ),
    ("AddressClaim", "spec.owner.namespace", Judged::Harmless("as the name of the owner")),
    (
        "AddressClaim",
        "spec.pool",
        Judged::Harmless(
            "administrators alone write claims; nobody announces the address, and its owner says so",
        ),
    ),
    (
        "AddressPool",
        "spec.accounts[0]",
        Judged::Harmless("an Account that does not exist takes no address; it may come later"),
    ),
    ("AddressPool", "spec.addresses[0]", told("192.168.77.101/32", "Accepted", "ProtectedAddress")),
    (
        "EPIC",
        "spec.alias-addresses.ipv4",
        Judged::By("ranges_are_immutable_once_used, and the values of epic/validate.rs"),
    ),
    (
        "EPIC",
        "spec.alias-addresses.ipv6",
        Judged::By("ranges_are_immutable_once_used, and the values of epic/validate.rs"),
    ),
    (
        "EPIC",
        "spec.envoy-image",
        Judged::By("proxy/trouble.rs: the LoadBalancers name the image that cannot be had"),
    ),
    (
        "EPIC",
        "spec.gue.interfaces.public",
        Judged::By("agent/src/node/interfaces.rs: EPICNode Ready=False, InterfaceNotFound"),
    ),
    (
        "EPIC",
        "spec.gue.interfaces.public-match.names[0]",
        Judged::By("agent/src/node/interfaces.rs: EPICNode Ready=False, InterfaceNotFound"),
    ),
    (
        "EPIC",
        "spec.gue.interfaces.public-match.subnets[0]",
        Judged::By("agent/src/node/interfaces.rs: EPICNode Ready=False, InterfaceNotFound"),
    ),
    (
        "EPIC",
        "spec.gue.interfaces.underlay-match.names[0]",
        Judged::By("agent/src/node/interfaces.rs: EPICNode Ready=False, InterfaceNotFound"),
    ),
    (
        "EPIC",
        "spec.gue.interfaces.underlay-match.subnets[0]",
        Judged::By("agent/src/node/interfaces.rs: EPICNode Ready=False, InterfaceNotFound"),
    ),
    (
        "EPIC",
        "spec.gue.interfaces.underlay",
        Judged::By("agent/src/node/interfaces.rs: EPICNode Ready=False, InterfaceNotFound"),
    ),
    ("EPIC", "spec.protected-addresses[0]", Judged::Harmless("it forbids more")),
    (
        "EPIC",
        "spec.proxies.image-pull-secrets[0]",
        Judged::By("tenant/pull.rs: Ready says PullSecretNotFound and how to make one; nothing is copied"),
    ),
    (
        "EPIC",
        "spec.proxies.priority-class-name",
        Judged::By("proxy/trouble.rs: the LoadBalancers say what refuses their pods; those that run go on"),
    ),
    (
        "EPIC",
        "spec.proxy-addresses.ipv4",
        Judged::By("ranges_are_immutable_once_used, and the values of epic/validate.rs"),
    ),
    (
        "EPIC",
        "spec.proxy-addresses.ipv6",
        Judged::By("ranges_are_immutable_once_used, and the values of epic/validate.rs"),
    ),
    (
        "EPIC",
        "spec.scraper-networks[0]",
        Judged::Harmless(
            "administrators alone write it; it admits to answers of one port, which tells no tenant's secret",
        ),
    ),
    (
        "EPIC",
        "spec.untunnelled-networks[0]",
        Judged::Harmless("administrators alone write it; what EPIC protects stays refused"),
    ),
    ("Endpoint", "spec.address", told("192.0.2.1", "Accepted", "AddressRefused")),
    ("Endpoint", "spec.load-balancer", told("of-blue", "Accepted", "LoadBalancerNotFound")),
    (
        "Endpoint",
        "spec.node-address",
        Judged::Harmless(
            "it is an identity, and no route: what it stands for is learned from who says hello with the tenant's own keys",
        ),
    ),
    (
        "Endpoint",
        "spec.port.name",
        Judged::Harmless(
            "it is compared with ports of the same tenant; where nothing leads there the Endpoint says NoMatchingPort",
        ),
    ),
    ("LoadBalancer", "spec.alt-address", told("2001:db8::7", "Accepted", "NotSupportedYet")),
    ("LoadBalancer", "spec.backup.load-balancer", told("sorry", "Accepted", "NotSupportedYet")),
    ("LoadBalancer", "spec.public-address", told("192.0.2.1", "Programmed", "AddressTaken")),
    (
        "LoadBalancer",
        "spec.public-ports[0].name",
        Judged::Harmless("it is what Endpoints name; one that none names has no Endpoint"),
    ),
    ("LoadBalancer", "spec.service-group", told("blues", "Accepted", "GroupNotAdmitted")),
    ("LoadBalancer", "spec.source-ranges[0]", told("198.51.100.0/24", "Accepted", "NotSupportedYet")),
    (
        "ServiceGroup",
        "spec.accounts[0]",
        Judged::Harmless("an Account that does not exist has no LoadBalancer; it may come later"),
    ),
    ("ServiceGroup", "spec.address-pools[0]", told("blues", "Accepted", "PoolNotAdmitted")),
    (
        "ServiceGroup",
        "spec.client.proxy-protocol.trusted-networks[0]",
        Judged::Harmless(
            "whoever lies there says for whom he connects, to the LoadBalancers of this group alone",
        ),
    ),
    (
        "ServiceGroup",
        "spec.envoy-image",
        Judged::By("a_private_group_names_no_image; proxy/trouble.rs for one that cannot be had"),
    ),
    (
        "ServiceGroup",
        "spec.proxies.image-pull-secrets[0]",
        Judged::By("tenant/pull.rs: Ready says PullSecretNotFound and how to make one; nothing is copied"),
    ),
    (
        "ServiceGroup",
        "spec.proxies.priority-class-name",
        Judged::By("proxy/trouble.rs: the LoadBalancers say what refuses their pods; those that run go on"),
    ),
];
