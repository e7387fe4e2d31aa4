//! Covers handlebars expressions while other languages are worked on: each becomes a word that Markdown, MJML, CSS
//! inliners and text makers leave alone, and comes back as it was.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Finds handlebars expressions in a text, comments among them.
pub(crate) fn expressions() -> &'static Regex {
    static EXPRESSION: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?s)\{\{!--.*?--\}\}|\{\{\{.*?\}\}\}|\{\{.*?\}\}"));
    &EXPRESSION
}

/// The expressions covered so far.
#[derive(Debug, Default)]
pub(crate) struct Shield {
    covered: Vec<String>,
}

impl Shield {
    /// `text` with every expression replaced by a word. Block expressions outside of tags become comments, because
    /// HTML allows those between table rows and Markdown does not wrap them into paragraphs.
    pub(crate) fn cover(&mut self, text: &str) -> String {
        static BLOCK: LazyLock<Regex> = LazyLock::new(|| fixed(r"^\{\{~?\s*(?:[#/^!]|else\b)"));
        let mut covered = String::with_capacity(text.len());
        let mut rest = 0;
        for found in expressions().find_iter(text) {
            covered.push_str(&text[rest..found.start()]);
            rest = found.end();
            let word = self.hide(found.as_str().to_owned());
            match BLOCK.is_match(found.as_str()) && !is_in_tag(&covered) {
                true => covered.push_str(&format!("<!--{word}-->")),
                false => covered.push_str(&word),
            }
        }
        covered.push_str(&text[rest..]);
        covered
    }

    /// The word that stands for `text` from now on.
    pub(crate) fn hide(&mut self, text: String) -> String {
        self.covered.push(text);
        format!("zqslot{}zq", self.covered.len() - 1)
    }

    /// Whether a word that stands for something is in `text`.
    pub(crate) fn is_covered(text: &str) -> bool {
        text.contains("zqslot")
    }

    /// `text` with every word replaced by what it stands for, those inside others too.
    pub(crate) fn uncover(&self, text: &str) -> String {
        self.uncover_below(self.covered.len(), text)
    }

    /// Only words made before `end`: what was covered can hold no later ones, so that this comes to an end.
    fn uncover_below(&self, end: usize, text: &str) -> String {
        static WORD: LazyLock<Regex> = LazyLock::new(|| fixed(r"<!--zqslot(\d+)zq-->|zqslot(\d+)zq"));
        let back = |found: &Captures<'_>| {
            let number = found.get(1).or(found.get(2)).and_then(|number| number.as_str().parse::<usize>().ok());
            match number.filter(|number| *number < end).and_then(|number| Some((number, self.covered.get(number)?))) {
                Some((number, text)) => self.uncover_below(number, text),
                None => found[0].to_owned(),
            }
        };
        WORD.replace_all(text, back).into_owned()
    }
}

/// Covered Markdown in which the blocks of lines that hold text as well are words of that text: a line that begins with a
/// comment would be no Markdown up to its end. Blocks that stand alone stay comments.
pub(crate) fn in_lines(covered: &str) -> String {
    let line = |line: &str| match has_text(&COMMENT.replace_all(line, "")) {
        true => COMMENT.replace_all(line, "<zqslot${1}zq>").into_owned(),
        false => line.to_owned(),
    };
    covered.split_inclusive('\n').map(line).collect()
}

/// HTML made of what [`in_lines`] gave, with comments again.
pub(crate) fn out_of_lines(html: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| fixed(r"<zqslot(\d+)zq>"));
    TAG.replace_all(html, "<!--zqslot${1}zq-->").into_owned()
}

static COMMENT: LazyLock<Regex> = LazyLock::new(|| fixed(r"<!--zqslot(\d+)zq-->"));

/// Whether a line of Markdown holds more than the marks of quotes and list items.
fn has_text(line: &str) -> bool {
    static MARKS: LazyLock<Regex> = LazyLock::new(|| fixed(r"^(?:\s|>|(?:[-+*]|\d+[.)])(?:\s|$))*$"));
    !MARKS.is_match(line)
}

fn fixed(expression: &str) -> Regex {
    Regex::new(expression).expect("a fixed expression")
}

/// Whether the text ends inside a tag.
fn is_in_tag(text: &str) -> bool {
    text.rfind('<').is_some_and(|open| !text[open..].contains('>') && !text[open..].starts_with("<!--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_comes_back_as_it_was() {
        for text in [
            "a {{b}} {{{c}}} {{!-- d }} --}} {{#if e}}f{{else}}g{{/if}} <a href=\"{{#if h}}i{{/if}}\">",
            "{{zqslot0zq}} zqslot7zq {{ zqslot1zq }}",
            "{{ not closed",
        ] {
            let mut shield = Shield::default();
            let covered = shield.cover(text);
            assert!(!covered.contains("}}"), "{covered}");
            assert_eq!(shield.uncover(&covered), text);
        }
    }

    #[test]
    fn blocks_become_comments_where_comments_may_stand() {
        let covered = Shield::default().cover("{{#each a}}<td title=\"{{#if b}}\">{{/each}}");
        assert_eq!(covered, "<!--zqslot0zq--><td title=\"zqslot1zq\"><!--zqslot2zq-->");
    }
}
