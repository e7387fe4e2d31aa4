//! Where in HTML a contact's value may stand (H-03). Escaping makes it harmless in text and in attributes with quotes; here the
//! template is brought to hold it nowhere else: values of attributes get their quotes, what begins a link may lead to the web
//! or to mail alone, and a value in a style, in a script or between attributes is refused.

use std::sync::LazyLock;

use regex::Regex;

use crate::compose::scope::Urls;
use crate::compose::shield::{Kind, expressions, inner, kind};

/// Attributes that lead somewhere.
const LINKS: &[&str] = &[
    "href",
    "src",
    "action",
    "formaction",
    "background",
    "poster",
    "cite",
    "data",
    "longdesc",
    "lowsrc",
    "dynsrc",
    "xlink:href",
];
/// Attributes that lead to several places, with blanks or commas between.
const LISTS: &[&str] = &["srcset", "imagesrcset", "ping", "archive"];
/// Elements whose inside is no HTML.
const RAW: &[&str] = &["style", "script"];
/// What makes of `<!--` a mark behind which text goes on: the conditions of Outlook, and an end at once (HTML §13.2.5.43).
const OPEN: &[&str] = &["[if", "<!", ">", "->"];

/// A place where a value cannot stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misplaced {
    /// Where the value stands in the template, in octets.
    pub(crate) at: usize,
    /// What is wrong, and what to do.
    pub(crate) message: String,
}

/// The template with every value in a place where it is harmless. `constants` are words that are the same in every copy: they
/// and our own links may stand anywhere.
pub(crate) fn guard(template: &str, constants: &[(&'static str, String)]) -> Result<String, Misplaced> {
    let safe = String::with_capacity(template.len() + 64);
    let mut walk = Walk { constants, safe, place: Place::Text, blocks: Vec::new(), at: 0 };
    for found in expressions().find_iter(template) {
        walk.literal(&template[walk.at..found.start()])?;
        walk.at = found.start();
        walk.expression(found.as_str())?;
        walk.at = found.end();
    }
    walk.literal(&template[walk.at..])?;
    walk.end_bare_value()?;
    Ok(walk.safe)
}

/// Where the walk is.
enum Place {
    /// Between tags.
    Text,
    /// In a comment, but for those that Outlook reads.
    Comment,
    /// In an element whose inside is no HTML.
    Raw(&'static str),
    /// In a tag: its name, and the attribute whose name is being read.
    Tag { element: String, attribute: String },
    /// Behind the `=` of an attribute.
    Equals { element: String, attribute: String },
    /// In an attribute's value.
    Value(Value),
}

struct Value {
    element: String,
    attribute: String,
    /// What it ends with; a bare one ends with a blank or with its tag.
    quote: Option<char>,
    /// Whether it may still be empty here.
    begins: bool,
    /// Where it starts in the safe template, and how many blocks were open there.
    start: usize,
    blocks: usize,
    /// Whether something is filled in.
    is_filled: bool,
}

struct Walk<'c> {
    constants: &'c [(&'static str, String)],
    /// What is walked over, made safe.
    safe: String,
    place: Place,
    /// For every open block, whether the value it stands in could be empty where it was opened.
    blocks: Vec<bool>,
    /// How far the walk has come in the template.
    at: usize,
}

impl Walk<'_> {
    fn literal(&mut self, text: &str) -> Result<(), Misplaced> {
        let mut rest = text;
        while !rest.is_empty() {
            rest = match self.place {
                Place::Text => self.text(rest),
                Place::Comment => self.through(rest, &["-->", "--!>"]),
                Place::Raw(element) => self.raw(rest, element),
                Place::Tag { .. } => self.tag(rest),
                Place::Equals { .. } => self.equals(rest),
                Place::Value(_) => self.value(rest)?,
            };
        }
        Ok(())
    }

    /// Takes so many octets over as they are; gives what follows them.
    fn take<'t>(&mut self, rest: &'t str, octets: usize) -> &'t str {
        self.safe.push_str(&rest[..octets]);
        &rest[octets..]
    }

    /// Takes everything over up to the end of the first of these marks, behind which text begins.
    fn through<'t>(&mut self, rest: &'t str, marks: &[&str]) -> &'t str {
        let ends = marks.iter().filter_map(|mark| Some(rest.find(mark)? + mark.len()));
        let Some(end) = ends.min() else { return self.take(rest, rest.len()) };
        self.place = Place::Text;
        self.take(rest, end)
    }

    fn text<'t>(&mut self, rest: &'t str) -> &'t str {
        let before = rest.find('<').unwrap_or(rest.len());
        let rest = self.take(rest, before);
        let name = rest.strip_prefix("</").or(rest.strip_prefix('<')).unwrap_or_default();
        let comment = rest.strip_prefix("<!--");
        if comment.is_some_and(|inside| !OPEN.iter().any(|start| inside.starts_with(start))) {
            self.place = Place::Comment;
            return self.take(rest, 4);
        }
        if rest.starts_with("<!") || rest.starts_with("<?") {
            return self.through(rest, &[">"]);
        }
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return self.take(rest, rest.len().min(1));
        }
        let end = name.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/')).unwrap_or(name.len());
        let element = if rest.starts_with("</") { String::new() } else { name[..end].to_ascii_lowercase() };
        self.place = Place::Tag { element, attribute: String::new() };
        self.take(rest, rest.len() - name.len() + end)
    }

    fn raw<'t>(&mut self, rest: &'t str, element: &str) -> &'t str {
        let mark = format!("</{element}");
        let found = rest.as_bytes().windows(mark.len()).position(|some| some.eq_ignore_ascii_case(mark.as_bytes()));
        if found.is_some() {
            self.place = Place::Text;
        }
        self.take(rest, found.unwrap_or(rest.len()))
    }

    fn tag<'t>(&mut self, rest: &'t str) -> &'t str {
        let Place::Tag { element, attribute } = &mut self.place else { unreachable!("asked in a tag") };
        let c = rest.chars().next().unwrap_or_default();
        match c {
            '>' => {
                self.place = RAW.iter().find(|raw| **raw == element.as_str()).map_or(Place::Text, |raw| Place::Raw(raw))
            }
            '=' => {
                let attribute = attribute.trim_end().to_owned();
                self.place = Place::Equals { element: std::mem::take(element), attribute };
            }
            '/' => attribute.clear(),
            c if c.is_whitespace() => attribute.push(' '),
            c => {
                // the name before this blank had no value
                if attribute.ends_with(' ') {
                    attribute.clear();
                }
                attribute.push(c.to_ascii_lowercase());
            }
        }
        self.take(rest, c.len_utf8())
    }

    fn equals<'t>(&mut self, rest: &'t str) -> &'t str {
        let c = rest.chars().next().unwrap_or_default();
        match c {
            '"' | '\'' => {
                let rest = self.take(rest, 1);
                self.begin_value(Some(c));
                rest
            }
            c if c.is_whitespace() => self.take(rest, c.len_utf8()),
            _ => {
                self.begin_value(None);
                rest
            }
        }
    }

    fn begin_value(&mut self, quote: Option<char>) {
        let Place::Equals { element, attribute } = &mut self.place else { unreachable!("asked behind an `=`") };
        let (element, attribute) = (std::mem::take(element), std::mem::take(attribute));
        let (start, blocks) = (self.safe.len(), self.blocks.len());
        let value = Value { element, attribute, quote, begins: true, start, blocks, is_filled: false };
        self.place = Place::Value(value);
    }

    fn value<'t>(&mut self, rest: &'t str) -> Result<&'t str, Misplaced> {
        let Place::Value(value) = &mut self.place else { unreachable!("asked in a value") };
        let quote = value.quote;
        let end = match quote {
            Some(quote) => rest.find(quote),
            None => rest.find(|c: char| c.is_whitespace() || c == '>'),
        };
        let inside = &rest[..end.unwrap_or(rest.len())];
        value.begins &= inside.trim().is_empty();
        if LISTS.contains(&value.attribute.as_str()) {
            value.begins |= inside.ends_with(|c: char| c.is_whitespace() || c == ',');
        }
        let behind = self.take(rest, inside.len());
        match (end, quote) {
            (None, _) => Ok(behind),
            (Some(_), None) => self.end_bare_value().map(|()| behind),
            (Some(_), Some(quote)) => {
                let Place::Value(value) = &mut self.place else { unreachable!("as above") };
                self.place = Place::Tag { element: std::mem::take(&mut value.element), attribute: String::new() };
                Ok(self.take(behind, quote.len_utf8()))
            }
        }
    }

    /// Puts quotes around a bare value in which something is filled in: its blanks would begin attributes.
    fn end_bare_value(&mut self) -> Result<(), Misplaced> {
        let Place::Value(Value { element, attribute, quote: None, start, blocks, is_filled, .. }) = &mut self.place
        else {
            return Ok(());
        };
        let (element, attribute) = (std::mem::take(element), std::mem::take(attribute));
        if *is_filled {
            let (start, is_whole) = (*start, *blocks == self.blocks.len());
            let written = self.safe.split_off(start);
            let outside = expressions().replace_all(&written, "");
            if !is_whole || outside.contains(['"', '\'']) {
                return self.misplaced(format!("write quotes around the whole value of `{attribute}`"));
            }
            self.safe.push_str(&format!("\"{written}\""));
        }
        self.place = Place::Tag { element, attribute: String::new() };
        Ok(())
    }

    fn expression(&mut self, text: &str) -> Result<(), Misplaced> {
        let inner = inner(text);
        match kind(inner) {
            Kind::Nothing => {}
            Kind::Prints => return self.print(text, inner),
            Kind::Opens => self.blocks.push(matches!(&self.place, Place::Value(value) if value.begins)),
            // what a block printed before, or did not, is not known here
            Kind::Otherwise => self.begin_as(self.blocks.last().copied()),
            Kind::Closes => {
                let before = self.blocks.pop();
                self.begin_as(before);
            }
        }
        self.safe.push_str(text);
        Ok(())
    }

    fn begin_as(&mut self, before: Option<bool>) {
        if let (Place::Value(value), Some(before)) = (&mut self.place, before) {
            value.begins = before;
        }
    }

    fn print(&mut self, text: &str, inner: &str) -> Result<(), Misplaced> {
        if matches!(self.place, Place::Equals { .. }) {
            self.begin_value(None);
        }
        let is_ours = self.is_ours(inner);
        let mut printed = std::borrow::Cow::Borrowed(text);
        match &mut self.place {
            Place::Text if self.safe.ends_with(['<']) || self.safe.ends_with("</") => {
                return self.misplaced("no value can be the name of a tag".to_owned());
            }
            Place::Text | Place::Comment => {}
            Place::Raw(_) if is_ours => {}
            Place::Raw(element) => {
                let message = format!("no value can stand in <{element}>: write what depends on it as {{{{#if …}}}}");
                return self.misplaced(message);
            }
            Place::Tag { element, .. } => {
                let message = format!("no value can stand between the attributes of <{element}>");
                return self.misplaced(message);
            }
            Place::Equals { .. } => unreachable!("a value has begun"),
            Place::Value(value) => {
                let name = &value.attribute;
                if !is_ours && (name == "style" || name == "srcdoc" || name.starts_with("on")) {
                    let message = format!("no value can stand in `{name}`: write what depends on it as {{{{#if …}}}}");
                    return self.misplaced(message);
                }
                if !is_ours && value.element == "meta" && name == "content" {
                    let message = "no value can stand in the `content` of <meta>: it can lead a reader away";
                    return self.misplaced(message.to_owned());
                }
                let is_list = LISTS.contains(&name.as_str());
                if !is_ours && !value.begins && is_list && !is_encoded(inner) {
                    let message = format!("within a link in `{name}` a value must be written as {{{{url …}}}}");
                    return self.misplaced(message);
                }
                if !is_ours && value.begins && (is_list || LINKS.contains(&name.as_str())) {
                    printed = linked(text, inner).into();
                }
                (value.begins, value.is_filled) = (false, true);
            }
        }
        self.safe.push_str(&printed);
        Ok(())
    }

    /// Whether an expression prints a word of ours: one that is the same in every copy, or a sealed link.
    fn is_ours(&self, inner: &str) -> bool {
        Urls::WORDS.contains(&inner) || self.constants.iter().any(|(word, _)| *word == inner)
    }

    fn misplaced<T>(&self, message: String) -> Result<T, Misplaced> {
        Err(Misplaced { at: self.at, message })
    }
}

/// Whether an expression prints a component of an address, which holds no blank and no comma.
fn is_encoded(inner: &str) -> bool {
    inner.split_once(char::is_whitespace).is_some_and(|(word, _)| word == "url")
}

/// An expression whose value may be nothing but a whole address on the web or of mail.
fn linked(text: &str, inner: &str) -> String {
    static NAME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"^(?:[^\s\[\]()"'=]|\[[^\]]*\])+$"#).expect("a fixed expression"));
    let word = inner.split_whitespace().next().unwrap_or_default();
    let guarded = match word {
        // a component of an address holds no colon
        "link" | "url" if word.len() < inner.len() => return text.to_owned(),
        _ if NAME.is_match(inner) => format!("link {inner}"),
        _ => format!("link ({inner})"),
    };
    let (open, close) =
        (if text.contains("{~") { "{{~" } else { "{{" }, if text.contains("~}") { "~}}" } else { "}}" });
    format!("{open}{guarded}{close}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(template: &str) -> Result<String, String> {
        let constants = [("postal_address", String::new())];
        guard(template, &constants).map_err(|misplaced| misplaced.message)
    }

    fn same(template: &str) {
        assert_eq!(guarded(template).as_deref(), Ok(template));
    }

    #[test]
    fn text_comments_and_quoted_attributes_stay_as_they_are() {
        for template in [
            "<p title=\"{{a}}\" lang='{{b}}' hidden>{{c}} < {{d}} {{{e}}} {{!-- f --}}</p>",
            "<!-- <a {{a}} --><!doctype html><title>{{a}}</title>",
            "<p style=\"color:{{#if vip}}red{{else}}blue{{/if}}\">{{#each items}}<i class=\"{{this}}\">{{@index}}</i>{{/each}}",
            "<style>p { color: red } {{#if vip}}b { color: blue }{{/if}}</style>{{a}}",
            "<a href=\"https://x.example/{{a}}?b={{url b}}\">{{a}}</a>",
            "<a href=\"{{unsubscribe_url}}\" style=\"x{{view_url}}\">{{postal_address}}</a>",
            "<a href=\"{{link a}}\"><img src=\"{{url a}}\">",
            "<a href=\"{{#if a}}https://a.example/{{a}}{{else}}https://b.example/{{/if}}\">",
            "<td width=1 {{#if a}}class=\"b\"{{/if}}>{{a}}",
            "<br/><img alt=\"\"/>{{a}}</",
            "a {{b",
        ] {
            same(template);
        }
    }

    #[test]
    fn what_begins_a_link_leads_to_the_web_or_to_mail() {
        for (template, expected) in [
            ("<a href=\"{{a}}\">", "<a href=\"{{link a}}\">"),
            ("<A HREF = '{{~ [b c] ~}}'>", "<A HREF = '{{~link [b c]~}}'>"),
            ("<a href=\"{{trim a}}\">", "<a href=\"{{link (trim a)}}\">"),
            ("<a href=\"{{lookup this \"a\"}}\">", "<a href=\"{{link (lookup this \"a\")}}\">"),
            ("<a href=\"{{this.a}}{{b}}\">", "<a href=\"{{link this.a}}{{b}}\">"),
            (
                "<a href=\"{{#if a}}{{a}}{{else}}{{b}}{{/if}}\">",
                "<a href=\"{{#if a}}{{link a}}{{else}}{{link b}}{{/if}}\">",
            ),
            ("<a href=\"{{#if a}}x{{/if}}{{b}}\">", "<a href=\"{{#if a}}x{{/if}}{{link b}}\">"),
            ("<a href=\" {{a}}\">", "<a href=\" {{link a}}\">"),
            ("<img src='{{a}}'><td background=\"{{b}}\">", "<img src='{{link a}}'><td background=\"{{link b}}\">"),
            (
                "<!--[if mso]><v:image src=\"{{a}}\"/><![endif]-->{{b}}",
                "<!--[if mso]><v:image src=\"{{link a}}\"/><![endif]-->{{b}}",
            ),
            (
                "<!--[if !mso]><!--><a href=\"{{a}}\" title={{b}}><!--<![endif]-->{{c}}",
                "<!--[if !mso]><!--><a href=\"{{link a}}\" title=\"{{b}}\"><!--<![endif]-->{{c}}",
            ),
            (
                "<img srcset=\"{{a}} 2x, {{b}},https://x.example/{{url c}} 3x\">",
                "<img srcset=\"{{link a}} 2x, {{link b}},https://x.example/{{url c}} 3x\">",
            ),
            ("<!---><a href=\"{{a}}\"> -->", "<!---><a href=\"{{link a}}\"> -->"),
            ("<!-- {{a}} --!><a href=\"{{b}}\"> -->", "<!-- {{a}} --!><a href=\"{{link b}}\"> -->"),
            (
                "{{#if a}}<a href=\"{{a}}\">{{/if}}<b title=\"{{a}}\">",
                "{{#if a}}<a href=\"{{link a}}\">{{/if}}<b title=\"{{a}}\">",
            ),
        ] {
            assert_eq!(guarded(template).as_deref(), Ok(expected), "{template}");
            same(expected);
        }
    }

    #[test]
    fn a_bare_value_gets_its_quotes() {
        for (template, expected) in [
            ("<td align={{a}}>", "<td align=\"{{a}}\">"),
            ("<td class=x-{{ a }}-{{b}} id=c>", "<td class=\"x-{{ a }}-{{b}}\" id=c>"),
            ("<a href={{a}}>", "<a href=\"{{link a}}\">"),
            // a slash that touches a bare value is part of it
            ("<img src={{ a }}/>", "<img src=\"{{link a}}/\">"),
            ("<a href=https://x.example/{{a}}/>", "<a href=\"https://x.example/{{a}}/\">"),
            ("<td title={{default a \"b c\"}}>", "<td title=\"{{default a \"b c\"}}\">"),
            ("<td align={{a}}", "<td align=\"{{a}}\""),
        ] {
            assert_eq!(guarded(template).as_deref(), Ok(expected), "{template}");
            same(expected);
        }
    }

    #[test]
    fn where_no_escaping_helps_a_value_is_refused_with_its_place() {
        for (template, at, words) in [
            ("<p style=\"color:{{a}}\">", 16, "`style`"),
            ("<!--[if !mso]><!--><p style=\"{{a}}\"><!--<![endif]-->", 29, "`style`"),
            ("<p STYLE='{{#if b}}{{a}}{{/if}}'>", 19, "`style`"),
            ("<p onclick=\"go('{{a}}')\">", 16, "`onclick`"),
            ("<p style=\"{{click_url_0}}\">", 10, "`style`"),
            ("<meta http-equiv=\"refresh\" content=\"0;url={{a}}\">", 42, "`content` of <meta>"),
            ("<META content='{{a}}' http-equiv=refresh>", 15, "`content` of <meta>"),
            ("<img srcset=\"https://x.example/{{a}} 2x\">", 31, "{{url …}}"),
            ("<iframe srcdoc=\"{{a}}\">", 16, "`srcdoc`"),
            ("<style>p { color: {{a}} }</style>", 18, "<style>"),
            ("<script>x = \"{{a}}\"</script>", 13, "<script>"),
            ("<p {{a}}>", 3, "between the attributes of <p>"),
            ("<p data-{{a}}=\"x\">", 8, "between the attributes of <p>"),
            ("<{{a}}>", 1, "name of a tag"),
            ("</{{a}}>", 2, "name of a tag"),
            ("<p class={{#if a}}{{b}}{{/if}}>", 30, "quotes around the whole value of `class`"),
            ("<p class=a\"{{b}}>", 16, "quotes around the whole value of `class`"),
        ] {
            let misplaced = guard(template, &[]).unwrap_err();
            assert!(misplaced.message.contains(words), "{template}: {}", misplaced.message);
            assert_eq!(misplaced.at, at, "{template}");
        }
    }
}
