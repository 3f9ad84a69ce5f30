//! YAML that does not depend on how other crates configure serde_json: keys are sorted, whole numbers are integers.

use serde_json::Value;

/// One YAML document; `apiVersion`, `kind` and `metadata` come first, all other keys in alphabetical order.
pub(super) fn print(value: &Value) -> String {
    serde_yaml::to_string(&ordered(value)).expect("JSON is YAML")
}

fn ordered(value: &Value) -> serde_yaml::Value {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_by_key(|key| (rank(key), key.as_str()));
            let mut mapping = serde_yaml::Mapping::new();
            for key in keys {
                mapping.insert(key.as_str().into(), ordered(&fields[key]));
            }
            mapping.into()
        }
        Value::Array(items) => serde_yaml::Value::Sequence(items.iter().map(ordered).collect()),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.as_i64().is_none() && float.fract() == 0.0 => (float as i64).into(),
            _ => number.as_i64().map_or_else(|| number.as_f64().unwrap_or_default().into(), Into::into),
        },
        Value::String(text) => text.as_str().into(),
        Value::Bool(value) => (*value).into(),
        Value::Null => serde_yaml::Value::Null,
    }
}

fn rank(key: &str) -> u8 {
    match key {
        "apiVersion" => 0,
        "kind" => 1,
        "metadata" => 2,
        "name" => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_and_whole_numbers_have_no_point() {
        let text = print(
            &json!({ "spec": { "maximum": 65535.0, "b": 1, "a": [true] }, "kind": "K", "apiVersion": "v1" }),
        );
        assert_eq!(text, "apiVersion: v1\nkind: K\nspec:\n  a:\n  - true\n  b: 1\n  maximum: 65535\n");
    }
}
