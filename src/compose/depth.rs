//! How deep things lie in each other in a text, measured without going down into it: what is too deep is refused before a
//! parser is asked that would go down, or take minutes (H-04).

use crate::compose::layout::Markup;

/// The most tags, quotes or lists that may lie in each other. Letters in tables have twenty or thirty.
pub(super) const DEPTH_MAX: usize = 200;

/// Elements that hold nothing and need no end (HTML §13.1.2).
const VOID: [&str; 14] =
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"];
/// Elements that the next of their kind ends (HTML §13.2.6.4.7): they lie in each other only where others do.
const ENDED: [&str; 17] = [
    "html", "head", "body", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup", "caption",
    "option", "a",
];
/// Elements in which a tag with `/>` is its own end; elsewhere in HTML it is not (HTML §13.1.2.1).
const FOREIGN: [&str; 2] = ["svg", "math"];

/// Whether more than [`DEPTH_MAX`] things lie in each other somewhere in a text.
pub(super) fn is_too_deep(text: &str, markup: Markup) -> bool {
    match markup {
        Markup::Text => false,
        Markup::Markdown => text.lines().any(|line| containers(line) > DEPTH_MAX) || has_deep_tags(text, false),
        Markup::Html => has_deep_tags(text, false),
        Markup::Mjml => has_deep_tags(text, true),
    }
}

/// The quotes and list items that begin at the start of a line of Markdown.
fn containers(line: &str) -> usize {
    let mut begun = 0;
    let mut rest = line.trim_start();
    while let Some(inside) = behind_marker(rest) {
        begun += 1;
        rest = inside.trim_start();
    }
    begun
}

/// What follows the mark of a quote or list item at the start of a text.
fn behind_marker(text: &str) -> Option<&str> {
    if let Some(quoted) = text.strip_prefix('>') {
        return Some(quoted);
    }
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let item = match number.len() < text.len() {
        true => number.strip_prefix(['.', ')']),
        false => text.strip_prefix(['-', '+', '*']),
    };
    item.filter(|item| item.starts_with([' ', '\t']))
}

/// Whether tags lie too deep in each other; with `is_xml` a tag with `/>` is its own end everywhere. A tag that ends nothing is
/// passed over, as readers of HTML do.
fn has_deep_tags(text: &str, is_xml: bool) -> bool {
    let is_foreign = |open: &[&str]| is_xml || open.iter().any(|name| is_one_of(name, &FOREIGN));
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end..]);
            continue;
        }
        let name = rest.strip_prefix('/').unwrap_or(rest);
        let ends_name = |c: char| c.is_whitespace() || matches!(c, '>' | '/' | '<');
        let name = &name[..name.find(ends_name).unwrap_or(name.len())];
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let (tag, behind) = rest.split_at(rest.find('>').unwrap_or(rest.len()));
        if tag.starts_with('/') {
            let opened = open.iter().rposition(|opened| opened.eq_ignore_ascii_case(name));
            open.truncate(opened.unwrap_or(open.len()));
        } else if !(is_one_of(name, &VOID) || is_one_of(name, &ENDED) || tag.ends_with('/') && is_foreign(&open)) {
            open.push(name);
        }
        if open.len() > DEPTH_MAX {
            return true;
        }
        rest = behind;
    }
    false
}

fn is_one_of(name: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize, open: &str, close: &str) -> String {
        format!("{}x{}", open.repeat(depth), close.repeat(depth))
    }

    #[test]
    fn what_lies_too_deep_is_seen() {
        for (markup, open, close) in [
            (Markup::Html, "<div>", "</div>"),
            (Markup::Html, "<DIV class=x>", "</div>"),
            (Markup::Html, "<div/>", ""),
            (Markup::Html, "<table><tr><td>", "</td></tr></table>"),
            (Markup::Html, "<div></b>", ""),
            (Markup::Markdown, ">", ""),
            (Markup::Markdown, "> - 1. ", ""),
            (Markup::Markdown, "<b>", ""),
            (Markup::Mjml, "<mj-section>", "</mj-section>"),
        ] {
            assert!(is_too_deep(&nested(DEPTH_MAX + 1, open, close), markup), "{open}");
            assert!(!is_too_deep(&nested(DEPTH_MAX / 3, open, close), markup), "{open}");
        }
    }

    #[test]
    fn what_stands_side_by_side_is_not_deep() {
        for (markup, text) in [
            (Markup::Html, "<div><p>a<br>b<img src=x><a href=y>c</div>"),
            (Markup::Html, "<table><tr><td>a<tr><td>b</table><!-- <div> -->"),
            (Markup::Html, "<svg><path d=\"x\"/></svg> a < b <3"),
            (Markup::Markdown, "- a\n> b\n1. c\n* * *\n"),
            (Markup::Mjml, "<mj-divider/><mj-image src=\"x\" />"),
        ] {
            assert!(!is_too_deep(&text.repeat(3 * DEPTH_MAX), markup), "{text}");
        }
        assert!(!is_too_deep(&"<p>".repeat(9000), Markup::Html) && !is_too_deep(&">".repeat(9000), Markup::Text));
    }

    #[test]
    fn measuring_takes_time_by_length_alone() {
        let begun = tokio::time::Instant::now();
        for text in ["<", "<a", "<p>", "</p>", "<div></div>", "<!--", "> ", "1"] {
            is_too_deep(&text.repeat(300_000), Markup::Markdown);
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    }
}
