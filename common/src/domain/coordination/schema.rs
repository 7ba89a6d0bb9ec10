//! What an answer has to look like: JSON Schema, without anything from elsewhere. Expressions in patterns take time that grows with
//! the text alone.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Why an answer does not follow a schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    /// Where, as a JSON pointer into the answer.
    pub pointer: String,
    /// Why.
    pub detail: String,
}

/// Whether this is a schema that answers can be held against.
///
/// # Errors
/// What is wrong with it.
pub fn check(schema: &Value) -> Result<(), String> {
    compile(schema).map(drop)
}

/// Holds an answer against a schema.
///
/// # Errors
/// The first place where it does not fit. Nothing fits a schema that is none.
pub fn judge(schema: &Value, answer: &Value) -> Result<(), Unfit> {
    let validator = compile(schema).map_err(|detail| Unfit { pointer: String::new(), detail })?;
    validator.validate(answer).map_err(|error| Unfit {
        pointer: error.instance_path().to_string(),
        // Without the answer's own words, which may be long.
        detail: error.masked().to_string(),
    })
}

fn compile(schema: &Value) -> Result<Validator, String> {
    if !schema.is_object() {
        return Err("must be an object".to_owned());
    }
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
    options.build(schema).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_held_against_its_schema() {
        let schema = json!({
            "type": "object", "required": ["size"], "properties": {"size": {"enum": ["s", "m"]}, "name": {"pattern": "^a+$"}},
        });
        assert_eq!(check(&schema), Ok(()));
        assert_eq!(judge(&schema, &json!({"size": "m", "name": "aaa"})), Ok(()));
        let unfit = judge(&schema, &json!({"size": "a secret"})).expect_err("not one of them");
        assert_eq!(unfit.pointer, "/size");
        assert!(!unfit.detail.contains("a secret"), "{}", unfit.detail);
        assert_eq!(judge(&schema, &json!("m")).expect_err("no object").pointer, "");
    }

    #[test]
    fn a_schema_is_checked_before_anybody_is_asked() {
        for schema in
            [json!("string"), json!({"type": "strin"}), json!({"pattern": "(?=a)"}), json!({"$ref": "#/$defs/no"})]
        {
            assert!(check(&schema).is_err(), "{schema}");
        }
        assert!(check(&json!({"$ref": "https://example.org/schema.json"})).is_err(), "nothing is fetched");
    }

    #[test]
    fn one_that_names_itself_ends() {
        let tree = json!({"type": "object", "additionalProperties": {"$ref": "#"}});
        assert_eq!(judge(&tree, &json!({"a": {"b": {}}})), Ok(()));
        assert_eq!(judge(&tree, &json!({"a": {"b": 1}})).expect_err("a number").pointer, "/a/b");
        // Of these only that they end is asked.
        let _ = judge(&json!({"$ref": "#"}), &json!(1));
        let _ = judge(
            &json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            &json!(1),
        );
    }
}
