//! What the sources must not do: build statements of the record from values.

use std::path::Path;

/// The names that may stand in a statement's text: fixed words, and numbers of places for values. `condition.sql` is made
/// of nothing else by `store/condition.rs`, whatever a segment asks for.
const FIXED: &[&str] = &[
    "LAUNCH",
    "SIGNUP",
    "BARRED",
    "SUBSCRIBED",
    "places",
    "column",
    "what.is_left",
    "pages + 20",
    "which",
    "condition.sql",
];

#[test]
fn no_statement_of_the_record_is_built_from_a_value() {
    let statement = regex::Regex::new(r#"(?s)format!\(\s*"((?:[^"\\]|\\.)*)"((?:,[^;]*?)?)\)"#).unwrap();
    let sql =
        regex::Regex::new(r"\b(?:SELECT|INSERT|UPDATE|DELETE|VALUES|WHERE|ORDER BY|PRAGMA|VACUUM|ATTACH)\b").unwrap();
    let named = regex::Regex::new(r"\{([a-zA-Z_]\w*)").unwrap();
    for entry in std::fs::read_dir(Path::new("src/store")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for found in statement.captures_iter(&text).filter(|found| sql.is_match(&found[1])) {
            let given = found[2]
                .trim_start_matches(',')
                .split(',')
                .map(|word| word.trim().trim_end_matches('('))
                .filter(|word| !word.is_empty());
            let given: Vec<&str> =
                named.captures_iter(&found[1]).map(|name| name.get(1).unwrap().as_str()).chain(given).collect();
            for name in given {
                assert!(FIXED.contains(&name), "{}: `{name}` stands in a statement: bind it", path.display());
            }
        }
    }
}
