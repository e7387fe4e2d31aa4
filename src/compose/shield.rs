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
        let mut place = Place::Text;
        let mut rest = 0;
        for found in expressions().find_iter(text) {
            let before = &text[rest..found.start()];
            place = place.behind(before);
            covered.push_str(before);
            rest = found.end();
            let word = self.hide(found.as_str().to_owned());
            match BLOCK.is_match(found.as_str()) && place == Place::Text {
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

    /// What the word of this number stands for.
    pub(crate) fn stands_for(&self, number: usize) -> &str {
        &self.covered[number]
    }

    /// The numbers of the expressions that make each block that is closed, outer blocks before those in them.
    pub(crate) fn blocks(&self) -> Vec<Vec<usize>> {
        let (mut open, mut closed): (Vec<Vec<usize>>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
        for (number, text) in self.covered.iter().enumerate() {
            match kind(inner(text)) {
                Kind::Opens => open.push(vec![number]),
                Kind::Otherwise => open.last_mut().into_iter().for_each(|block| block.push(number)),
                Kind::Closes => {
                    let block = open.pop().map(|mut block| {
                        block.push(number);
                        block
                    });
                    closed.extend(block);
                }
                Kind::Nothing | Kind::Prints => {}
            }
        }
        closed.sort_unstable();
        closed
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

/// What an expression does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It says nothing, or takes in a part.
    Nothing,
    /// It begins a block.
    Opens,
    /// What follows it stands instead of what is before it in its block.
    Otherwise,
    /// It ends a block.
    Closes,
    /// It prints a value.
    Prints,
}

/// What stands in the braces of an expression.
pub(crate) fn inner(text: &str) -> &str {
    text.trim_start_matches('{').trim_end_matches('}').trim_matches('~').trim()
}

/// What an expression does, by what stands in its braces.
pub(crate) fn kind(inner: &str) -> Kind {
    match inner.chars().next() {
        Some('!' | '>') => Kind::Nothing,
        Some('#') => Kind::Opens,
        Some('^') if inner.len() > 1 => Kind::Opens,
        Some('^') => Kind::Otherwise,
        Some('/') => Kind::Closes,
        _ if inner.split_whitespace().next() == Some("else") => Kind::Otherwise,
        _ => Kind::Prints,
    }
}

fn fixed(expression: &str) -> Regex {
    Regex::new(expression).expect("a fixed expression")
}

/// Where in HTML, or in Markdown, a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    Comment,
    Tag,
    /// In the value of an attribute that ends with this mark.
    Value(char),
}

impl Place {
    /// The place at the end of a text that begins in this one.
    fn behind(self, text: &str) -> Place {
        let (mut place, mut rest) = (self, text);
        loop {
            let Some((next, behind)) = place.step(rest) else { return place };
            (place, rest) = (next, behind);
        }
    }

    /// The next place that a text leads to, and the text from there; `None` when it ends before.
    fn step(self, text: &str) -> Option<(Place, &str)> {
        match self {
            Place::Text => {
                let behind = &text[text.find('<')? + 1..];
                let next = match behind.strip_prefix("!--") {
                    Some(inside) if inside.starts_with(['>']) || inside.starts_with("->") => Place::Text,
                    Some(_) => Place::Comment,
                    None if behind.is_empty() || behind.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') => {
                        Place::Tag
                    }
                    None => Place::Text,
                };
                Some((next, behind))
            }
            Place::Comment => {
                let end = text.find("--").map(|at| at + 2)?;
                let behind = text[end..].trim_start_matches('-');
                let is_end = behind.starts_with('>') || behind.starts_with("!>");
                Some((if is_end { Place::Text } else { Place::Comment }, behind))
            }
            Place::Tag => {
                let at = text.find(['>', '<', '"', '\''])?;
                let behind = &text[at + 1..];
                match &text[at..=at] {
                    ">" => Some((Place::Text, behind)),
                    "<" => Some((Place::Text, &text[at..])),
                    quote if text[..at].trim_end().ends_with('=') => {
                        Some((Place::Value(quote.chars().next().unwrap_or('"')), behind))
                    }
                    _ => Some((Place::Tag, behind)),
                }
            }
            // a value that goes on behind an empty line is none: its mark was a mark of the text
            Place::Value(quote) => {
                let end = text.find(quote).map(|at| (at, Place::Tag));
                let gap = text.find("\n\n").map(|at| (at, Place::Text));
                let (at, next) = [end, gap].into_iter().flatten().min_by_key(|(at, _)| *at)?;
                Some((next, &text[at + 1..]))
            }
        }
    }
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
        let covered = |before: &str| Shield::default().cover(&format!("{before}{{{{#if a}}}}"));
        for before in [
            "<a title=\"b > ",
            "<a title = 'b \"> ",
            "<https://x.example/",
            "<!-- <b> ",
            "<!--- <!-- -- > ",
            "</a ",
            "<a\n\n",
        ] {
            assert_eq!(covered(before), format!("{before}zqslot0zq"), "inside");
        }
        for before in [
            "a < b ",
            "it's <b>",
            "<!-- -->",
            "<!-->",
            "<!--->",
            "<!-- --!>",
            "<!-- --->",
            "a <b=\"c\n\nd",
            "<a b='c'>",
            "<3 ",
        ] {
            assert_eq!(covered(before), format!("{before}<!--zqslot0zq-->"), "outside");
        }
    }

    #[test]
    fn covering_takes_time_by_length_alone() {
        let begun = tokio::time::Instant::now();
        for (start, text) in
            [("<a ", "{{#if a}}"), ("<!-- ", "--{{#if a}}"), ("<a b=\"", "'{{#if a}}"), ("", "<a b='{{#if a}}")]
        {
            Shield::default().cover(&format!("{start}{}", text.repeat(100_000)));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    }
}
