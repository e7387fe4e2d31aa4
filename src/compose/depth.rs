//! How deep things lie in each other in a text and how much of them there is, measured as the parsers see it that would go
//! down into it: what is too deep, or would take them minutes, is refused before they are asked (H-04).

use std::borrow::Cow;
use std::cell::{Ref, RefCell};
use std::rc::Rc;

use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::{StrTendril, TendrilSink};
use html5ever::{Attribute, QualName, local_name};
use htmlparser::{ElementEnd, Token, Tokenizer};

use crate::compose::layout::Markup;

/// The most tags, quotes or lists that may lie in each other. Letters in tables have twenty or thirty.
pub(super) const DEPTH_MAX: usize = 200;
/// The most attributes of one tag: parsers compare each with all before it.
const ATTRIBUTES_MAX: usize = 1000;
/// The most blanks and slashes in one tag or comment.
const GAPS_MAX: usize = 10_000;
/// The most selectors times elements: inlining asks each of each.
const SELECTIONS_MAX: usize = 20_000_000;
/// How many octets are parsed before it is asked what they hold.
const STRIDE: usize = 4096;

/// Elements that hold nothing and need no end (HTML §13.1.2).
const VOID: [&str; 14] =
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"];

/// Why a text is not parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// More than [`DEPTH_MAX`] things lie in each other somewhere.
    Deep,
    /// There is too much of this.
    Many(&'static str),
}

/// Refuses what would lead a parser too deep, or hold it for too long.
pub(super) fn measure(text: &str, markup: Markup) -> Result<(), Excess> {
    match markup {
        Markup::Text => Ok(()),
        Markup::Markdown if text.lines().any(|line| containers(line) > DEPTH_MAX) => Err(Excess::Deep),
        Markup::Markdown => Ok(()),
        Markup::Html => measure_html(text),
        Markup::Mjml => measure_mjml(text),
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

/// MJML is XML but for void elements: a tag ends what its own kind of tag began, and whatever else lies there.
fn measure_mjml(text: &str) -> Result<(), Excess> {
    let (mut depth, mut is_void) = (0_usize, false);
    // what cannot be read any further is refused with its reason by the parser of MJML
    for token in Tokenizer::from(text).map_while(Result::ok) {
        match token {
            Token::ElementStart { local, .. } => is_void = VOID.contains(&local.as_str()),
            Token::ElementEnd { end: ElementEnd::Open, .. } if !is_void => depth += 1,
            Token::ElementEnd { end: ElementEnd::Close(..), .. } => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(Excess::Deep);
        }
    }
    Ok(())
}

/// HTML is built without its texts, a stride at a time.
fn measure_html(text: &str) -> Result<(), Excess> {
    let tree = Rc::new(RefCell::new(Tree::default()));
    let mut parser = html5ever::parse_document(Builder(Rc::clone(&tree)), html5ever::ParseOpts::default());
    let (mut rest, mut built, mut gaps) = (text, 0, 0);
    while !rest.is_empty() {
        let (stride, behind) = rest.split_at(rest.ceil_char_boundary(STRIDE));
        parser.process(StrTendril::from_slice(stride));
        rest = behind;
        let tree = tree.borrow();
        tree.excess.map_or(Ok(()), Err)?;
        // nothing comes of a tag or comment before its end
        gaps = match tree.built == built {
            true => gaps + stride.bytes().filter(|byte| byte.is_ascii_whitespace() || *byte == b'/').count(),
            false => 0,
        };
        built = tree.built;
        if gaps > GAPS_MAX {
            return Err(Excess::Many("words in one tag or comment"));
        }
    }
    parser.finish();
    let tree = tree.borrow();
    tree.excess.map_or(Ok(()), Err)?;
    match (1..tree.nodes.len()).any(|node| tree.is_too_deep(node)) {
        true => Err(Excess::Deep),
        false => Ok(()),
    }
}

/// The elements of a text of HTML; the first stands for the text itself.
struct Tree {
    nodes: Vec<Node>,
    /// How many selectors there are in style sheets.
    selectors: usize,
    /// How many things were built, texts and comments among them.
    built: usize,
    excess: Option<Excess>,
}

struct Node {
    name: QualName,
    parent: Option<usize>,
    /// What was put into it, also what lies elsewhere by now.
    children: Vec<usize>,
}

impl Default for Tree {
    fn default() -> Tree {
        let mut tree = Tree { nodes: Vec::new(), selectors: 0, built: 0, excess: None };
        tree.add(QualName::new(None, html5ever::ns!(html), local_name!("")));
        tree
    }
}

impl Tree {
    fn add(&mut self, name: QualName) -> usize {
        self.nodes.push(Node { name, parent: None, children: Vec::new() });
        self.built += 1;
        if self.nodes.len().saturating_mul(self.selectors) > SELECTIONS_MAX {
            self.excess = Some(Excess::Many("selectors in style sheets for so many elements"));
        }
        self.nodes.len() - 1
    }

    fn put(&mut self, node: usize, parent: usize) {
        self.nodes[node].parent = Some(parent);
        self.nodes[parent].children.push(node);
        if self.is_too_deep(node) {
            self.excess = Some(Excess::Deep);
        }
    }

    fn put_text(&mut self, text: &str, parent: usize) {
        self.built += 1;
        if self.nodes[parent].name.local == local_name!("style") {
            self.selectors += text.bytes().filter(|byte| matches!(byte, b'{' | b',')).count();
        }
    }

    fn is_too_deep(&self, node: usize) -> bool {
        std::iter::successors(Some(node), |inner| self.nodes[*inner].parent).nth(DEPTH_MAX + 1).is_some()
    }
}

/// Builds the tree for the parser.
struct Builder(Rc<RefCell<Tree>>);

impl TreeSink for Builder {
    type Handle = usize;
    type Output = ();
    type ElemName<'a> = Ref<'a, QualName>;

    fn finish(self) {}

    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> usize {
        0
    }

    fn elem_name<'a>(&'a self, node: &'a usize) -> Ref<'a, QualName> {
        Ref::map(self.0.borrow(), |tree| &tree.nodes[*node].name)
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> usize {
        let mut tree = self.0.borrow_mut();
        if attributes.len() > ATTRIBUTES_MAX {
            tree.excess = Some(Excess::Many("attributes of one tag"));
        }
        tree.add(name)
    }

    fn create_comment(&self, _: StrTendril) -> usize {
        self.0.borrow_mut().add(QualName::new(None, html5ever::ns!(), local_name!("")))
    }

    fn create_pi(&self, target: StrTendril, _: StrTendril) -> usize {
        self.create_comment(target)
    }

    fn append(&self, parent: &usize, child: NodeOrText<usize>) {
        let mut tree = self.0.borrow_mut();
        match child {
            NodeOrText::AppendNode(node) => tree.put(node, *parent),
            NodeOrText::AppendText(text) => tree.put_text(&text, *parent),
        }
    }

    fn append_based_on_parent_node(&self, element: &usize, before: &usize, child: NodeOrText<usize>) {
        let parent = self.0.borrow().nodes[*element].parent;
        self.append(&parent.unwrap_or(*before), child);
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    fn get_template_contents(&self, node: &usize) -> usize {
        *node
    }

    fn same_node(&self, one: &usize, other: &usize) -> bool {
        one == other
    }

    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &usize, child: NodeOrText<usize>) {
        let parent = self.0.borrow().nodes[*sibling].parent;
        self.append(&parent.unwrap_or(0), child);
    }

    fn add_attrs_if_missing(&self, _: &usize, _: Vec<Attribute>) {}

    fn remove_from_parent(&self, node: &usize) {
        self.0.borrow_mut().nodes[*node].parent = None;
    }

    fn reparent_children(&self, node: &usize, parent: &usize) {
        let mut tree = self.0.borrow_mut();
        for child in std::mem::take(&mut tree.nodes[*node].children) {
            if tree.nodes[child].parent == Some(*node) {
                tree.put(child, *parent);
            }
        }
    }
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
            (Markup::Html, "<table><tr><td></div>", ""),
            (Markup::Html, "<div></b>", ""),
            (Markup::Html, "<b><div></b>", ""),
            (Markup::Html, "<div><img alt='>' title='</div>'>", ""),
            (Markup::Html, "<div><style></div></style>", ""),
            (Markup::Html, "<!--><b>", ""),
            (Markup::Html, "<!---><b>", ""),
            (Markup::Html, "<!-- --!><b>", ""),
            (Markup::Markdown, ">", ""),
            (Markup::Markdown, "> - 1. ", ""),
            (Markup::Mjml, "<mj-section>", "</mj-section>"),
            (Markup::Mjml, "<p>", ""),
            (Markup::Mjml, "<td title='/>'>", ""),
            (Markup::Mjml, "<!--[if mso]><li>", ""),
        ] {
            assert_eq!(measure(&nested(DEPTH_MAX + 1, open, close), markup), Err(Excess::Deep), "{open}");
            assert_eq!(measure(&nested(DEPTH_MAX / 5, open, close), markup), Ok(()), "{open}");
        }
        for (start, open) in [("<svg>", "<a>"), ("<math>", "<caption>"), ("<p>", "<b></p>x<p>"), ("", "<p><i></p>y")] {
            let text: String = (0..300).map(|number| open.replace('>', &format!(" id={number}>"))).collect();
            assert_eq!(measure(&format!("{start}{text}"), Markup::Html), Err(Excess::Deep), "{start}{open}");
        }
    }

    #[test]
    fn what_stands_side_by_side_is_not_deep() {
        for (markup, text) in [
            (Markup::Html, "<div><p>a<br>b<img src=x><a href=y>c</div>"),
            (Markup::Html, "<table><tr><td>a<tr><td><b>b</table><!-- <div> -->"),
            (Markup::Html, "<svg><path d=\"x\"/></svg> a < b <3"),
            (Markup::Html, "<p>"),
            (Markup::Html, "<p><font color=red>a</p>"),
            (Markup::Markdown, "- a\n> b\n1. c\n* * *\n"),
            (Markup::Mjml, "<mj-divider/><mj-image src=\"x\" /><br><!-- <div> -->"),
            (Markup::Text, ">"),
        ] {
            assert_eq!(measure(&text.repeat(3 * DEPTH_MAX), markup), Ok(()), "{text}");
        }
    }

    #[test]
    fn too_much_of_one_thing_is_refused() {
        let numbered = |count: usize, text: &str| -> String {
            (0..count).map(|number| text.replace('#', &number.to_string())).collect()
        };
        let rules = numbered(20_000, "p b:not(.a#) i{color:red}");
        for text in [
            format!("<p {}>", numbered(1100, "a# ")),
            format!("<p {}>", numbered(150_000, "a#=/")),
            format!("<style>{rules}</style>{}", "<p><b><i>x</i></b></p>".repeat(10_000)),
        ] {
            assert!(matches!(measure(&text, Markup::Html), Err(Excess::Many(_))), "{}", &text[..40]);
        }
        let picture =
            format!("<img src=\"data:image/png;base64,{}\"><!-- {} -->", "aB/".repeat(9_000), "a ".repeat(9_000));
        assert_eq!(measure(&picture, Markup::Html), Ok(()));
    }

    #[test]
    fn measuring_takes_time_by_length_alone() {
        let begun = tokio::time::Instant::now();
        for text in ["<", "<a", "<p>", "</p>", "<div></div>", "<!--", "<b><div></b>", "<div>", "<a b=\"", "<p><b></p>x"]
        {
            for markup in [Markup::Html, Markup::Mjml] {
                let _ = measure(&text.repeat(100_000), markup);
            }
        }
        for text in ["> ", "1"] {
            let _ = measure(&text.repeat(300_000), Markup::Markdown);
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(30));
    }
}
