//! The generated files of the repository are what the types say.

use std::collections::BTreeSet;
use std::path::PathBuf;

use epic_crds::manifest;

fn root() -> PathBuf {
    PathBuf::from(env!("EPIC_CHECKOUT"))
}

#[test]
fn the_tree_holds_what_the_types_generate() {
    let stale: Vec<String> = manifest::files()
        .into_iter()
        .filter(|(path, contents)| std::fs::read_to_string(root().join(path)).ok().as_ref() != Some(contents))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(stale, Vec::<String>::new(), "run `make generate`");
}

#[test]
fn generated_folders_hold_nothing_else() {
    let generated: BTreeSet<String> = manifest::files().into_keys().collect();
    for folder in manifest::FOLDERS {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(generated.contains(&format!("{folder}/{name}")), "{folder}/{name} is not generated");
        }
    }
}

#[test]
fn generating_twice_gives_the_same() {
    assert_eq!(manifest::files(), manifest::files());
}

#[test]
fn a_definition_stays_under_60_kilobytes() {
    for definition in epic_crds::definitions() {
        let size = serde_json::to_vec(&definition).unwrap().len();
        assert!(size < 60_000, "{:?} has {size} bytes", definition.metadata.name);
    }
    for (path, text) in manifest::files() {
        assert!(!path.contains("/crd/") || text.len() < 60_000, "{path} has {} bytes", text.len());
    }
}

/// What makes an API server warn, a rule too dear, or a field impossible to bound.
#[test]
fn every_list_map_string_and_number_is_bounded() {
    fn walk(path: &str, schema: &serde_json::Value, wrong: &mut Vec<String>) {
        let has = |key: &str| schema.get(key).is_some();
        let bounded = match schema["type"].as_str() {
            Some("string") => has("maxLength") || has("enum") || schema["format"] == "date-time",
            Some("array") => has("maxItems"),
            Some("integer") => has("minimum") && (has("maximum") || path.ends_with("observedGeneration")),
            Some("object") => !has("additionalProperties") || has("maxProperties"),
            Some("boolean") => true,
            _ => has("x-kubernetes-int-or-string") && has("maxLength"),
        };
        let known_format = !has("format") || schema["format"] == "date-time";
        if !bounded || !known_format || has("nullable") {
            wrong.push(path.to_owned());
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), field, wrong);
        }
        for below in ["items", "additionalProperties"] {
            if has(below) {
                walk(&format!("{path}[]"), &schema[below], wrong);
            }
        }
    }
    let mut wrong = Vec::new();
    for definition in epic_crds::definitions() {
        let value = serde_json::to_value(definition).unwrap();
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            if schema["properties"].get(part).is_some() {
                let path = format!("{}.{part}", value["spec"]["names"]["kind"].as_str().unwrap());
                walk(&path, &schema["properties"][part], &mut wrong);
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_chart_keeps_definitions_on_uninstall_and_is_otherwise_the_same() {
    for (path, text) in manifest::files() {
        let Some(name) = path.strip_prefix("charts/epic/files/crd/") else { continue };
        let keep = "  annotations:\n    helm.sh/resource-policy: keep\n";
        assert!(text.contains(keep), "{path}");
        assert_eq!(text.replace(keep, ""), manifest::files()[&format!("config/crd/{name}")], "{path}");
    }
}
