//! Reference documents, one page a kind: columns, fields with their limits, rules, reasons.

use std::fmt::Write as _;

use serde_json::Value;

use crate::reason::Reason;
use crate::{
    AccountReason, AddressClaimReason, AddressPoolReason, EPICNodeReason, EndpointReason, EpicReason,
    LoadBalancerReason, ServiceGroupReason,
};

/// File name (without `.md`) and text.
pub(super) fn pages() -> Vec<(String, String)> {
    let definitions: Vec<Value> = crate::definitions()
        .into_iter()
        .map(|definition| serde_json::to_value(definition).expect("a definition is plain JSON"))
        .collect();
    let mut pages: Vec<(String, String)> = definitions.iter().map(kind_page).collect();
    pages.push(("README".to_owned(), index(&definitions)));
    pages.push(("access".to_owned(), access()));
    pages
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn schema(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn index(definitions: &[Value]) -> String {
    let mut page = "# API reference\n\nGroup `epic.acnodal.io`, version `v1`. Every kind is namespaced; `kubectl get epic-all -A` lists them all, and `kubectl explain <plural>.epic.acnodal.io` says what is said here.\n\n| kind | plural | short | what it is |\n| --- | --- | --- | --- |\n".to_owned();
    for definition in definitions {
        let names = &definition["spec"]["names"];
        let kind = text(names, "/kind");
        let short = names["shortNames"][0].as_str().map(|short| format!("`{short}`")).unwrap_or_default();
        let what = text(schema(definition), "/description");
        let _ = writeln!(
            page,
            "| [{kind}]({}.md) | `{}` | {short} | {} |",
            file_name(kind),
            text(names, "/plural"),
            cell(what)
        );
    }
    page.push_str("\nWho may read and write what: [access](access.md).\n");
    page
}

fn file_name(kind: &str) -> String {
    kind.to_lowercase()
}

fn kind_page(definition: &Value) -> (String, String) {
    let kind = text(definition, "/spec/names/kind");
    let schema = schema(definition);
    let mut page = format!("# {kind}\n\n{}\n", text(schema, "/description"));
    for part in ["spec", "status"] {
        if let Some(of) = schema.pointer(&format!("/properties/{part}")) {
            let mut rows = String::new();
            fields(&mut rows, part, of);
            if !rows.is_empty() {
                let _ = write!(
                    page,
                    "\n## {}\n\n{}\n\n| field | type | meaning |\n| --- | --- | --- |\n{rows}",
                    if part == "spec" { "Spec" } else { "Status" },
                    text(of, "/description")
                );
            }
        }
    }
    let mut rules = Vec::new();
    collect_rules(&mut rules, schema);
    if !rules.is_empty() {
        page.push_str("\n## Rules\n\nWhat the API server refuses beyond types and limits:\n\n");
        for rule in rules {
            let _ = writeln!(page, "- {rule}");
        }
    }
    page.push_str(
        "\n## Columns\n\nColumns marked *wide* show with `-o wide`.\n\n| column | meaning |\n| --- | --- |\n",
    );
    for column in
        definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array().into_iter().flatten()
    {
        let wide = if column["priority"].as_i64().unwrap_or_default() > 0 { " *(wide)*" } else { "" };
        let _ =
            writeln!(page, "| {}{wide} | {} |", text(column, "/name"), cell(text(column, "/description")));
    }
    page.push_str("\n## Reasons\n\nThe closed list of reasons in conditions, Events and metrics.\n\n| reason | meaning |\n| --- | --- |\n");
    for (reason, meaning) in reasons(kind) {
        let _ = writeln!(page, "| `{reason}` | {} |", cell(meaning));
    }
    (file_name(kind), page)
}

fn fields(rows: &mut String, path: &str, schema: &Value) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = schema["properties"].as_object() else { return };
    let mut names: Vec<&String> = properties.keys().collect();
    names.sort();
    for name in names {
        let field = &properties[name];
        let here = format!("{path}.{name}");
        let mut below = field;
        let mut shown = here.clone();
        if let Some(items) = field.get("items") {
            below = items;
            shown.push_str("[]");
        } else if let Some(values) = field.get("additionalProperties") {
            below = values;
            shown.push_str(".*");
        }
        let must = if required.contains(&name.as_str()) { ", required" } else { "" };
        let _ =
            writeln!(rows, "| `{here}` | {}{must} | {} |", type_of(field), cell(text(field, "/description")));
        if name != "conditions" {
            fields(rows, &shown, below);
        }
    }
}

fn type_of(field: &Value) -> String {
    let number = |key: &str| field.get(key).and_then(Value::as_f64).map(|number| number as i64);
    if field.get("x-kubernetes-int-or-string").is_some() {
        return "integer or string".to_owned();
    }
    if let Some(values) = field["enum"].as_array() {
        return values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match text(field, "/type") {
        "integer" => match (number("minimum"), number("maximum")) {
            (Some(low), Some(high)) => format!("integer, {low} to {high}"),
            (Some(low), None) => format!("integer, at least {low}"),
            _ => "integer".to_owned(),
        },
        "string" if text(field, "/format") == "date-time" => "time".to_owned(),
        "string" => number("maxLength").map_or("string".to_owned(), |most| format!("string, at most {most}")),
        "array" => {
            let of = type_of(&field["items"]);
            number("maxItems")
                .map_or(format!("list of {of}"), |most| format!("list of {of}; at most {most} items"))
        }
        "object" if field.get("additionalProperties").is_some() => {
            number("maxProperties").map_or("map".to_owned(), |most| format!("map, at most {most}"))
        }
        other => other.to_owned(),
    }
}

fn collect_rules(rules: &mut Vec<String>, schema: &Value) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = text(rule, "/message").to_owned();
        if !rules.contains(&message) {
            rules.push(message);
        }
    }
    if let Some(properties) = schema["properties"].as_object() {
        let mut names: Vec<&String> = properties.keys().collect();
        names.sort();
        for name in names {
            let field = &properties[name];
            for rule in field["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let message = format!("`{name}`: {}", text(rule, "/message"));
                if !rules.contains(&message) {
                    rules.push(message);
                }
            }
            for below in [field.get("items"), field.get("additionalProperties")].into_iter().flatten() {
                for rule in below["x-kubernetes-validations"].as_array().into_iter().flatten() {
                    let message = format!("each of `{name}`: {}", text(rule, "/message"));
                    if !rules.contains(&message) {
                        rules.push(message);
                    }
                }
                collect_below(rules, below);
            }
            collect_below(rules, field);
        }
    }
}

fn collect_below(rules: &mut Vec<String>, schema: &Value) {
    let own = schema.get("properties").map(|properties| serde_json::json!({ "properties": properties }));
    if let Some(own) = own {
        collect_rules(rules, &own);
    }
}

fn reasons(kind: &str) -> Vec<(&'static str, &'static str)> {
    fn of<R: Reason>() -> Vec<(&'static str, &'static str)> {
        R::ALL.iter().map(|(reason, meaning)| (reason.as_str(), *meaning)).collect()
    }
    match kind {
        "Account" => of::<AccountReason>(),
        "AddressClaim" => of::<AddressClaimReason>(),
        "AddressPool" => of::<AddressPoolReason>(),
        "EPIC" => of::<EpicReason>(),
        "EPICNode" => of::<EPICNodeReason>(),
        "Endpoint" => of::<EndpointReason>(),
        "LoadBalancer" => of::<LoadBalancerReason>(),
        "ServiceGroup" => of::<ServiceGroupReason>(),
        _ => Vec::new(),
    }
}

fn access() -> String {
    let mut page = "# Access\n\nRoles say who may use which verbs; admission policies say the rest. The files are `config/rbac` and `config/policy`.\n\n## Roles\n".to_owned();
    for object in super::rbac_objects() {
        let kind = text(&object, "/kind");
        if kind != "ClusterRole" && kind != "Role" {
            continue;
        }
        let _ = write!(
            page,
            "\n### {kind} {}\n\n{}\n\n| group | resources | names | verbs |\n| --- | --- | --- | --- |\n",
            text(&object, "/metadata/name"),
            text(&object, "/metadata/annotations/kubernetes.io~1description")
        );
        for rule in object["rules"].as_array().into_iter().flatten() {
            let list = |key: &str| {
                rule[key]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let group = list("apiGroups");
            let group = if group.is_empty() { "core".to_owned() } else { group };
            let _ = writeln!(
                page,
                "| {group} | {} | {} | {} |",
                list("resources"),
                list("resourceNames"),
                list("verbs")
            );
        }
    }
    page.push_str("\n## Admission policies\n");
    for object in super::policy_objects() {
        if text(&object, "/kind") != "ValidatingAdmissionPolicy" {
            continue;
        }
        let _ = write!(
            page,
            "\n### {}\n\n{}\n\nIt refuses with:\n\n",
            text(&object, "/metadata/name"),
            text(&object, "/metadata/annotations/kubernetes.io~1description")
        );
        for validation in object["spec"]["validations"].as_array().into_iter().flatten() {
            let _ = writeln!(page, "- {}", text(validation, "/message"));
        }
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}
