//! Words as a shell takes them: commands that are suggested get pasted, and strangers' names stand in them.

use std::borrow::Cow;

/// A text as one word of a shell, in quotes where it needs them.
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./@%+=:,".contains(c);
    // zsh takes `=x` for the path of a program
    match !text.is_empty() && !text.starts_with('=') && text.chars().all(is_plain) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("'{}'", text.replace('\'', "'\\''"))),
    }
}

/// As [`shell_word`], for the last word of a command: never taken for an option.
pub fn shell_argument(text: &str) -> Cow<'_, str> {
    match text.starts_with('-') {
        true => Cow::Owned(format!("-- {}", shell_word(text))),
        false => shell_word(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_and_does_nothing() {
        for (text, word) in [
            ("ada@example.org", "ada@example.org"),
            ("", "''"),
            ("my news", "'my news'"),
            ("it's", "'it'\\''s'"),
            ("a|touch${IFS}b@x", "'a|touch${IFS}b@x'"),
            ("`touch`@x", "'`touch`@x'"),
            ("=ls", "'=ls'"),
            ("~", "'~'"),
            ("-x", "-x"),
        ] {
            assert_eq!(shell_word(text), word);
        }
        assert_eq!(shell_argument("--to=x@y"), "-- --to=x@y");
        assert_eq!(shell_argument("a b"), "'a b'");
    }
}
