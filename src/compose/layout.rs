//! From the files of a campaign to two plain templates: parts and layout put in place, Markdown and MJML turned into
//! HTML, styles inlined, the text part made. Handlebars expressions pass through untouched.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::compose::depth::{self, Excess};
use crate::compose::markdown::{self, Broken};
use crate::compose::scope::Context;
use crate::compose::shield::Shield;

/// How deep parts may include parts (H-04).
const DEPTH_MAX: usize = 10;
/// The most bytes a template may have once everything is in its place.
const EXPANDED_MAX: usize = 1024 * 1024;

/// What a body or a layout is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Markup {
    /// CommonMark.
    Markdown,
    /// MJML.
    Mjml,
    /// HTML.
    Html,
    /// Plain text.
    Text,
}

impl Markup {
    /// The markup a file's ending stands for.
    pub fn of(file: &str) -> Option<Markup> {
        match file.rsplit_once('.')?.1 {
            "md" => Some(Markup::Markdown),
            "mjml" => Some(Markup::Mjml),
            "html" => Some(Markup::Html),
            "txt" => Some(Markup::Text),
            _ => None,
        }
    }
}

/// A file with template text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name, for people.
    pub file: String,
    /// What it is written in.
    pub markup: Markup,
    /// What stands in it.
    pub text: String,
}

/// The content of a campaign as its files give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The body: Markdown, MJML or HTML.
    pub body: Source,
    /// The text part, when it is written by hand.
    pub text: Option<Source>,
    /// The layout around the body: HTML or MJML with `{{{content}}}`.
    pub layout: Option<Source>,
    /// The layout around the text part.
    pub text_layout: Option<Source>,
    /// The line that mail programs show behind the subject, a template.
    pub preheader: String,
    /// Whether style sheets become style attributes.
    pub inline_css: bool,
    /// The files of `templates/` by name, for `{{> part}}`.
    pub parts: BTreeMap<String, String>,
}

/// Both templates of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The HTML template.
    pub html: String,
    /// The text template.
    pub text: String,
}

/// Why a draft cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// `{{> part}}` names no file.
    #[error("{file}: there is no templates/{part}")]
    NoPart {
        /// The file that asks for it.
        file: String,
        /// The file it asks for.
        part: String,
    },
    /// Parts include each other without end, or grow too large.
    #[error("{file}: parts lie more than {DEPTH_MAX} deep in each other, or make more than {EXPANDED_MAX} bytes")]
    Endless {
        /// The file it began with.
        file: String,
    },
    /// Tags, quotes or lists lie too deep in each other.
    #[error("{file}: tags, quotes or lists lie more than {} deep in each other", depth::DEPTH_MAX)]
    TooDeep {
        /// The body, or the layout with the body in its place.
        file: String,
    },
    /// There is so much of something that putting it together would take minutes.
    #[error("{file}: there are too many {what}")]
    TooMany {
        /// The body, or the layout with the body in its place.
        file: String,
        /// What there is too much of.
        what: &'static str,
    },
    /// A block begins in one element of Markdown and ends in another.
    #[error(
        "{file}: `{block}` begins in one paragraph, list, quote or emphasis and ends in another: end it where it begins"
    )]
    Crossed {
        /// The body.
        file: String,
        /// The expression that begins the block.
        block: String,
    },
    /// A layout without a place for the body.
    #[error("{file}: a layout needs `{{{{{{content}}}}}}` where the body goes")]
    NoContent {
        /// The layout.
        file: String,
    },
    /// The MJML cannot be read.
    #[error("{file}: {message}")]
    Mjml {
        /// The outermost file.
        file: String,
        /// What is wrong, and at which text.
        message: String,
        /// The start of that text as it stands in some file; empty when it is not known.
        near: String,
    },
    /// The style sheet cannot be read.
    #[error("{file}: styles cannot be inlined: {message}")]
    Css {
        /// The body.
        file: String,
        /// What is wrong.
        message: String,
    },
}

impl Draft {
    /// Puts everything in its place.
    pub fn expand(&self) -> Result<Expanded, LayoutError> {
        let html = self.html(&self.preheader)?;
        let text = match (&self.text, &self.text_layout) {
            (Some(text), None) => self.include(text)?,
            (Some(text), Some(layout)) => fill(layout, &self.include(layout)?, &self.include(text)?)?,
            (None, Some(layout)) => fill(layout, &self.include(layout)?, &self.body_as_text()?)?,
            (None, None) => as_text(&self.html("")?),
        };
        Ok(Expanded { html, text })
    }

    /// The HTML template with this preheader.
    fn html(&self, preheader: &str) -> Result<String, LayoutError> {
        let mut shield = Shield::default();
        let body = shield.cover(&self.include(&self.body)?);
        refuse_excess(&self.body.file, &body, self.body.markup)?;
        let (outer, whole, markup) = match &self.layout {
            None => (&self.body, content(&self.body, body, &shield)?, self.body.markup),
            Some(layout) => {
                let frame = self.include(layout)?.replace(PREHEADER, &escape_static(preheader));
                let content = content(&self.body, body, &shield)?;
                let filled = match (layout.markup, self.body.markup) {
                    (Markup::Mjml, Markup::Markdown | Markup::Html) => fill(layout, &frame, &shield.hide(content))?,
                    _ => fill(layout, &frame, &content)?,
                };
                (layout, shield.cover(&filled), layout.markup)
            }
        };
        let mut html = match markup {
            Markup::Mjml => {
                refuse_excess(&outer.file, &whole, markup)?;
                mjml(&outer.file, &whole)?
            }
            Markup::Markdown | Markup::Html | Markup::Text => whole,
        };
        html = shield.uncover(&html);
        if self.inline_css {
            html = hide_styles(&mut shield, &html);
        }
        html = shield.cover(&html);
        refuse_excess(&outer.file, &html, Markup::Html)?;
        if self.inline_css {
            html = inline_css(&self.body.file, &html)?;
        }
        Ok(shield.uncover(&html))
    }

    /// The body alone as text, for a text layout.
    fn body_as_text(&self) -> Result<String, LayoutError> {
        let alone = Draft { layout: None, ..self.clone() };
        Ok(as_text(&alone.html("")?))
    }

    /// The source with every `{{> part}}` replaced by the file of that name and of the source's own ending.
    fn include(&self, source: &Source) -> Result<String, LayoutError> {
        let ending = match source.markup {
            Markup::Markdown | Markup::Html => "html",
            Markup::Mjml => "mjml",
            Markup::Text => "txt",
        };
        self.include_in(&source.file, &source.text, ending, 0)
    }

    fn include_in(&self, file: &str, text: &str, ending: &str, depth: usize) -> Result<String, LayoutError> {
        let endless = || Err(LayoutError::Endless { file: file.to_owned() });
        let mut whole = String::with_capacity(text.len());
        let mut rest = 0;
        for found in PART.captures_iter(text) {
            let at = found.get(0).expect("the whole match");
            whole.push_str(&text[rest..at.start()]);
            rest = at.end();
            let part = format!("{}.{ending}", &found[1]);
            let Some(inner) = self.parts.get(&part) else {
                return Err(LayoutError::NoPart { file: file.to_owned(), part });
            };
            if depth == DEPTH_MAX {
                return endless();
            }
            whole.push_str(self.include_in(&part, inner, ending, depth + 1)?.trim_end());
            if whole.len() > EXPANDED_MAX {
                return endless();
            }
        }
        whole.push_str(&text[rest..]);
        Ok(whole)
    }
}

static PART: LazyLock<Regex> = LazyLock::new(|| fixed(r"\{\{>\s*([A-Za-z0-9_-]+)\s*\}\}"));

/// The parts that a text names, without their ending.
pub fn part_names(text: &str) -> impl Iterator<Item = &str> {
    PART.captures_iter(text).filter_map(|found| found.get(1)).map(|name| name.as_str())
}

const PREHEADER: &str = "{{preheader}}";

fn fixed(expression: &str) -> Regex {
    Regex::new(expression).expect("a fixed expression")
}

/// A covered body as HTML; MJML stays what it is.
fn content(body: &Source, covered: String, shield: &Shield) -> Result<String, LayoutError> {
    match body.markup {
        Markup::Markdown => {
            let html = markdown::to_html(&covered, shield).map_err(|why| match why {
                Broken::Excess(excess) => refused(&body.file, excess),
                Broken::Crossed(block) => LayoutError::Crossed { file: body.file.clone(), block },
            })?;
            refuse_excess(&body.file, &html, Markup::Html)?;
            Ok(html)
        }
        Markup::Mjml | Markup::Html | Markup::Text => Ok(covered),
    }
}

/// Refuses what would lead a parser too deep, or hold it for too long.
fn refuse_excess(file: &str, text: &str, markup: Markup) -> Result<(), LayoutError> {
    depth::measure(text, markup).map_err(|excess| refused(file, excess))
}

fn refused(file: &str, excess: Excess) -> LayoutError {
    let file = file.to_owned();
    match excess {
        Excess::Deep => LayoutError::TooDeep { file },
        Excess::Many(what) => LayoutError::TooMany { file, what },
    }
}

/// The layout with the body in its place.
fn fill(layout: &Source, frame: &str, content: &str) -> Result<String, LayoutError> {
    static CONTENT: LazyLock<Regex> = LazyLock::new(|| fixed(r"\{\{\{\s*content\s*\}\}\}|\{\{\s*content\s*\}\}"));
    if !CONTENT.is_match(frame) {
        return Err(LayoutError::NoContent { file: layout.file.clone() });
    }
    Ok(CONTENT.replace(frame, |_: &Captures<'_>| content.trim_end()).into_owned())
}

/// A template for HTML from one for plain text: what stands outside of expressions is escaped.
fn escape_static(template: &str) -> String {
    let mut shield = Shield::default();
    let covered = shield.cover(template).replace("<!--", "").replace("-->", "");
    shield.uncover(&Context::Html.escape(&covered))
}

fn mjml(file: &str, covered: &str) -> Result<String, LayoutError> {
    use mrml::prelude::parser::Error;
    let wrong = |message: String| LayoutError::Mjml { file: file.to_owned(), message, near: String::new() };
    let parsed = mrml::parse(covered).map_err(|why| match &why {
        Error::UnexpectedElement { position, .. }
        | Error::UnexpectedToken { position, .. }
        | Error::MissingAttribute { position, .. }
        | Error::InvalidAttribute { position, .. }
        | Error::InvalidFormat { position, .. } => {
            let shown: String = covered.get(position.start..).unwrap_or_default().chars().take(60).collect();
            let shown = shown.lines().next().unwrap_or_default().trim();
            let near = shown.split("zqslot").next().unwrap_or_default().to_owned();
            let message = format!("broken MJML at `{shown}`: {why}");
            LayoutError::Mjml { file: file.to_owned(), message, near }
        }
        Error::ParserError { source, .. } => wrong(format!("broken MJML: {source}")),
        other => wrong(format!("broken MJML: {other}")),
    })?;
    // no web fonts: a reader's program would fetch them from a third party
    let options = mrml::prelude::render::RenderOptions { fonts: Default::default(), ..Default::default() };
    parsed.element.render(&options).map_err(|why| wrong(why.to_string()))
}

/// The tags of MJML that there are.
const MJML_TAGS: [&str; 34] = [
    "mj-accordion",
    "mj-accordion-element",
    "mj-accordion-text",
    "mj-accordion-title",
    "mj-all",
    "mj-attributes",
    "mj-body",
    "mj-breakpoint",
    "mj-button",
    "mj-carousel",
    "mj-carousel-image",
    "mj-class",
    "mj-column",
    "mj-divider",
    "mj-font",
    "mj-group",
    "mj-head",
    "mj-hero",
    "mj-image",
    "mj-include",
    "mj-navbar",
    "mj-navbar-link",
    "mj-preview",
    "mj-raw",
    "mj-section",
    "mj-social",
    "mj-social-element",
    "mj-spacer",
    "mj-style",
    "mj-table",
    "mj-text",
    "mj-title",
    "mj-wrapper",
    "mjml",
];

/// A tag that looks like one of MJML and is none: it would be passed on as it stands, and its content shown nowhere as meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownTag {
    /// Where its name stands, in octets.
    pub at: std::ops::Range<usize>,
    /// Its name.
    pub name: String,
    /// The known tag that looks most like it.
    pub nearest: Option<&'static str>,
}

/// The first unknown tag in a text of MJML.
pub fn unknown_tag(text: &str) -> Option<UnknownTag> {
    static TAG: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?s)<!--.*?-->|</?\s*(mj[A-Za-z0-9_:.-]*)"));
    let unknown = |name: &regex::Match<'_>| !MJML_TAGS.contains(&name.as_str());
    let name = TAG.captures_iter(text).filter_map(|found| found.get(1)).find(unknown)?;
    let distance = |known: &&str| strsim::damerau_levenshtein(name.as_str(), known);
    let nearest = MJML_TAGS.into_iter().min_by_key(distance).filter(|known| distance(known) <= known.len() / 3);
    Some(UnknownTag { at: name.range(), name: name.as_str().to_owned(), nearest })
}

/// The first tag of MJML that is opened and not closed, or closed and not open: where its name stands, and which.
pub fn unpaired_tag(text: &str) -> Option<(std::ops::Range<usize>, &str)> {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| fixed(r#"(?s)<!--.*?-->|<(/?)(mj[A-Za-z0-9-]*)(?:"[^"]*"|'[^']*'|[^'">])*?(/?)>"#));
    let mut open: Vec<regex::Match<'_>> = Vec::new();
    for found in TAG.captures_iter(text) {
        let Some(name) = found.get(2) else { continue };
        match (&found[1], &found[3]) {
            ("/", _) if open.last().is_some_and(|last| last.as_str() == name.as_str()) => drop(open.pop()),
            ("/", _) => {
                let is_open = open.iter().any(|one| one.as_str() == name.as_str());
                let wrong = open.pop().filter(|_| is_open).unwrap_or(name);
                return Some((wrong.range(), wrong.as_str()));
            }
            (_, "/") => {}
            _ => open.push(name),
        }
    }
    open.pop().map(|last| (last.range(), last.as_str()))
}

/// HTML in which style sheets that hold expressions are hidden: what depends on the contact stays in a sheet of its own.
fn hide_styles(shield: &mut Shield, html: &str) -> String {
    static SHEET: LazyLock<Regex> =
        LazyLock::new(|| fixed(r"(?is)<!--(?:-?>|.*?--!?>)|<style(?:\s[^>]*)?>.*?</style\s*>"));
    let hide = |found: &Captures<'_>| match found[0].starts_with("<!--") || !found[0].contains("{{") {
        true => found[0].to_owned(),
        false => format!("<!--{}-->", shield.hide(found[0].to_owned())),
    };
    SHEET.replace_all(html, hide).into_owned()
}

fn inline_css(file: &str, html: &str) -> Result<String, LayoutError> {
    let inliner = css_inline::CSSInliner::options().keep_at_rules(true).load_remote_stylesheets(false).build();
    inliner.inline(html).map_err(|why| LayoutError::Css { file: file.to_owned(), message: why.to_string() })
}

/// A text template from an HTML one: expressions keep their order, head, styles and comments go.
fn as_text(html: &str) -> String {
    static UNSEEN: LazyLock<Regex> =
        LazyLock::new(|| fixed(r"(?is)<head\b.*?</head>|<style\b.*?</style>|<script\b.*?</script>|<!--.*?-->"));
    static BLANKS: LazyLock<Regex> = LazyLock::new(|| fixed(r"[ \t]+\n"));
    static GAPS: LazyLock<Regex> = LazyLock::new(|| fixed(r"\n{3,}"));
    static CELLS: LazyLock<Regex> = LazyLock::new(|| fixed(r#"</t[dh]><t[dh](?: style="[^"]*")?>"#));
    // what makes the text would leave tags and references in these as they are
    static VERBATIM: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?is)<pre\b[^>]*>(.*?)</pre\s*>"));
    let mut shield = Shield::default();
    let seen = UNSEEN.replace_all(html, "");
    let seen = CELLS.replace_all(&seen, " | ");
    let covered = shield.cover(&seen).replace("<!--", "").replace("-->", "");
    let lines = |found: &Captures<'_>| {
        format!("<p>{}</p>", found[1].trim_end().replace("\n\n", "</p><p>").replace('\n', "<br>"))
    };
    let text = nanohtml2text::html2text(&VERBATIM.replace_all(&covered, lines)).replace("\r\n", "\n");
    let text = GAPS.replace_all(&BLANKS.replace_all(&text, "\n"), "\n\n").into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    shield.uncover(&format!("{}\n", lines.join("\n").trim()))
}

#[cfg(test)]
mod tests;
