//! Markdown with handlebars blocks in it becomes HTML in which every block begins and ends in the same element: the rest of a
//! letter is the same for whoever meets its condition and for whoever does not.

use std::collections::HashMap;
use std::sync::LazyLock;

use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd};
use regex::Regex;

use crate::compose::depth::{self, Excess};
use crate::compose::shield::Shield;

/// How many tags one end of a block may be moved over, to each side.
const STEPS_MAX: usize = 2 * depth::DEPTH_MAX;
/// The most cells that all tables of a letter may have.
const CELLS_MAX: usize = 50_000;
/// Elements that begin a block of HTML wherever a line of Markdown begins with them (CommonMark §4.6).
const BLOCKS: &str = "address article aside base basefont blockquote body caption center col colgroup dd details dialog dir \
    div dl dt fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html iframe legend li \
    link main menu menuitem nav noframes ol optgroup option p param pre script search section style summary table tbody td \
    textarea tfoot th thead title tr track ul";

/// Why a text cannot become HTML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// Quotes, lists or emphases lie too deep in each other, or there is too much of something.
    Excess(Excess),
    /// This expression begins a block that does not end in the element it begins in.
    Crossed(String),
}

/// The HTML of a covered text.
pub(super) fn to_html(covered: &str, shield: &Shield) -> Result<String, Broken> {
    let marked = in_lines(covered);
    let mut letter = Letter::default();
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    for event in Parser::new_ext(&marked, options) {
        letter.add(event);
        if letter.cells > CELLS_MAX {
            return Err(Broken::Excess(Excess::Many("cells in tables")));
        }
    }
    let elements = Elements::of(&letter.events)?;
    settle(&mut letter, &elements, shield)?;
    let mut html = String::with_capacity(marked.len() * 3 / 2);
    pulldown_cmark::html::push_html(&mut html, letter.into_events());
    Ok(html)
}

/// A block in its comment, or in a line of text: there it stands between marks of punctuation, beside which emphasis begins
/// and ends as beside a blank, and which may stand in an address.
static MARK: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?:<!--|‖)(zqslot(\d+)zq)(?:-->|‖)"));

/// Covered Markdown in which the blocks of lines that hold text as well are words of that text: a line that begins with a
/// comment would be no Markdown up to its end. Blocks that stand alone, or with elements of HTML, stay comments.
fn in_lines(covered: &str) -> String {
    let line = |line: &str| match is_markdown(&MARK.replace_all(line, "")) {
        true => MARK.replace_all(line, "‖${1}‖").into_owned(),
        false => line.to_owned(),
    };
    covered.split_inclusive('\n').map(line).collect()
}

/// Whether a line holds more than the marks of quotes and list items, and does not begin with an element of HTML.
fn is_markdown(line: &str) -> bool {
    static LINE: LazyLock<Regex> = LazyLock::new(|| fixed(r"^(?:\s|>|(?:[-+*]|\d+[.)])(?:\s|$))*(</?[A-Za-z0-9]+)?"));
    let Some(found) = LINE.captures(line) else { return true };
    match found.get(1) {
        Some(tag) => {
            let name = tag.as_str().trim_start_matches(['<', '/']);
            !BLOCKS.split_whitespace().any(|block| block.eq_ignore_ascii_case(name))
        }
        None => found[0].len() < line.len(),
    }
}

fn fixed(expression: &str) -> Regex {
    Regex::new(expression).expect("a fixed expression")
}

/// A letter in two layers: what Markdown makes, and the blocks between.
#[derive(Default)]
struct Letter<'m> {
    events: Vec<Event<'m>>,
    /// In the order in which they stand.
    marks: Vec<Mark>,
    /// In how many pictures and blocks of code the events are that come next: their insides are text alone.
    plain: usize,
    /// How many cells of tables there are: every row gets as many as the first has, written or not.
    cells: usize,
}

/// One expression of a block.
struct Mark {
    /// Which of the shield's.
    number: usize,
    /// The event that it stands before.
    at: usize,
    /// As it is written, with the blanks behind it.
    text: String,
}

impl<'m> Letter<'m> {
    fn add(&mut self, event: Event<'m>) {
        match event {
            // they print nothing
            Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) => {}
            Event::Start(tag) => {
                self.cells += usize::from(tag == Tag::TableCell);
                self.plain += usize::from(matches!(tag, Tag::Image { .. } | Tag::CodeBlock(_)));
                self.events.push(Event::Start(with_words(tag)));
            }
            Event::End(tag) => {
                self.plain -= usize::from(matches!(tag, TagEnd::Image | TagEnd::CodeBlock));
                self.events.push(Event::End(tag));
            }
            Event::Code(text) => self.events.push(Event::Code(words(text))),
            Event::Text(text) | Event::InlineHtml(text) if self.plain > 0 => self.events.push(Event::Text(words(text))),
            Event::Text(text) => self.split(&text, |rest| Event::Text(rest.to_owned().into())),
            Event::Html(html) | Event::InlineHtml(html) => match MARK.replace_all(&html, "").trim() {
                "" => self.split(&html, |rest| Event::Html(rest.to_owned().into())),
                _ => self.events.push(Event::Html(MARK.replace_all(&html, "<!--${1}-->").into_owned().into())),
            },
            other => self.events.push(other),
        }
    }

    /// Adds a text and the blocks in it.
    fn split(&mut self, text: &str, event: impl Fn(&str) -> Event<'m>) {
        let mut rest = text;
        while let Some(found) = MARK.captures(rest) {
            let whole = found.get(0).expect("the whole match");
            if whole.start() > 0 {
                self.events.push(event(&rest[..whole.start()]));
            }
            let number = found[2].parse().unwrap_or(usize::MAX);
            self.marks.push(Mark { number, at: self.events.len(), text: format!("<!--{}-->", &found[1]) });
            rest = &rest[whole.end()..];
        }
        match self.marks.last_mut() {
            Some(last) if rest.trim().is_empty() && last.at == self.events.len() => last.text.push_str(rest),
            _ => self.events.push(event(rest)),
        }
    }

    fn into_events(self) -> impl Iterator<Item = Event<'m>> {
        let mut marks = self.marks.into_iter().peekable();
        let mut events = self.events.into_iter().enumerate().peekable();
        std::iter::from_fn(move || {
            let next = events.peek().map_or(usize::MAX, |(at, _)| *at);
            match marks.next_if(|mark| mark.at <= next) {
                Some(mark) => Some(Event::Html(mark.text.into())),
                None => events.next().map(|(_, event)| event),
            }
        })
    }
}

/// A text in which blocks are bare words: no comment can stand there.
fn words(text: CowStr<'_>) -> CowStr<'_> {
    match MARK.is_match(&text) {
        true => MARK.replace_all(&text, "${1}").into_owned().into(),
        false => text,
    }
}

/// A tag whose attributes hold blocks as bare words.
fn with_words(tag: Tag<'_>) -> Tag<'_> {
    match tag {
        Tag::Link { link_type, dest_url, title, id } => {
            Tag::Link { link_type, dest_url: words(dest_url), title: words(title), id }
        }
        Tag::Image { link_type, dest_url, title, id } => {
            Tag::Image { link_type, dest_url: words(dest_url), title: words(title), id }
        }
        Tag::CodeBlock(CodeBlockKind::Fenced(language)) => Tag::CodeBlock(CodeBlockKind::Fenced(words(language))),
        other => other,
    }
}

/// Which element every place of a letter is in.
struct Elements {
    /// The element before every event, and the one at the end.
    around: Vec<usize>,
    /// Every element; the first is the letter itself.
    all: Vec<Element>,
    /// Whether an end of a block may be moved over an event.
    passable: Vec<bool>,
}

/// An element of a letter.
struct Element {
    parent: usize,
    depth: usize,
    /// The same for elements of one kind in elements of the same kinds.
    path: usize,
}

impl Elements {
    fn of(events: &[Event<'_>]) -> Result<Elements, Broken> {
        let mut elements =
            Elements { around: vec![0], all: vec![Element { parent: 0, depth: 0, path: 0 }], passable: vec![] };
        let mut paths: HashMap<(usize, TagEnd), usize> = HashMap::new();
        let (mut inside, mut pictures) = (0, 0_usize);
        for event in events {
            pictures += usize::from(matches!(event, Event::Start(Tag::Image { .. })));
            elements.passable.push(pictures == 0 && is_passable(event));
            match event {
                Event::Start(tag) => {
                    let Element { depth, path, .. } = elements.all[inside];
                    let next = paths.len() + 1;
                    let path = *paths.entry((path, tag.to_end())).or_insert(next);
                    elements.all.push(Element { parent: inside, depth: depth + 1, path });
                    inside = elements.all.len() - 1;
                    if depth == depth::DEPTH_MAX {
                        return Err(Broken::Excess(Excess::Deep));
                    }
                }
                Event::End(tag) => {
                    pictures -= usize::from(*tag == TagEnd::Image);
                    inside = elements.all[inside].parent;
                }
                _ => {}
            }
            elements.around.push(inside);
        }
        Ok(elements)
    }

    /// The places to which an end of a block may be moved from its own without passing any text, those places nearest first:
    /// each with the element it is in. They lie between the ends before and behind it.
    fn places(&self, marks: &[Mark], mark: usize) -> Vec<(usize, usize)> {
        let at = marks[mark].at;
        let first = mark.checked_sub(1).map_or(0, |before| marks[before].at);
        let last = marks.get(mark + 1).map_or(self.passable.len(), |behind| behind.at);
        let to_left = (first..at).rev().take_while(|event| self.passable[*event]).take(STEPS_MAX);
        let to_right = (at..last).take_while(|event| self.passable[*event]).map(|event| event + 1).take(STEPS_MAX);
        let places = std::iter::once(at).chain(to_left).chain(to_right);
        places.map(|place| (place, self.around[place])).collect()
    }
}

/// Whether an event prints tags or blanks alone. The head of a table ends with more than its own tag.
fn is_passable(event: &Event<'_>) -> bool {
    match event {
        Event::Start(tag) => !matches!(tag, Tag::TableHead),
        Event::End(tag) => !matches!(tag, TagEnd::TableHead | TagEnd::Image),
        Event::Text(text) | Event::Html(text) => text.trim().is_empty(),
        Event::SoftBreak => true,
        _ => false,
    }
}

/// Moves the ends of blocks over the tags beside them until each block begins and ends in one element; elements of one kind
/// do as well, because then what is left out ends as much as it begins.
fn settle(letter: &mut Letter<'_>, elements: &Elements, shield: &Shield) -> Result<(), Broken> {
    let stands: HashMap<usize, usize> = letter.marks.iter().enumerate().map(|(at, mark)| (mark.number, at)).collect();
    for block in shield.blocks() {
        let ends: Option<Vec<usize>> = block.iter().map(|number| stands.get(number).copied()).collect();
        // an attribute or an element of HTML has the rest of it
        let Some(ends) = ends else { continue };
        let element = |mark: &Mark| elements.around[mark.at];
        let path = |element: usize| elements.all[element].path;
        let inside: Vec<usize> = ends.iter().map(|end| element(&letter.marks[*end])).collect();
        if inside.iter().all(|other| *other == inside[0]) {
            continue;
        }
        let places: Vec<Vec<(usize, usize)>> = ends.iter().map(|end| elements.places(&letter.marks, *end)).collect();
        let goal = common(&places, |element| element, elements);
        let goal = goal.or_else(|| {
            let is_even = inside.iter().all(|other| path(*other) == path(inside[0]));
            if is_even {
                Some(ends.iter().map(|end| letter.marks[*end].at).collect())
            } else {
                common(&places, path, elements)
            }
        });
        let Some(goal) = goal else { return Err(Broken::Crossed(shield.stands_for(block[0]).to_owned())) };
        ends.iter().zip(goal).for_each(|(end, at)| letter.marks[*end].at = at);
    }
    Ok(())
}

/// For each of these ends of a block a place, all of them in elements that are the same by `key`, in as few others as can be.
fn common(places: &[Vec<(usize, usize)>], key: impl Fn(usize) -> usize, elements: &Elements) -> Option<Vec<usize>> {
    let nearest = |wanted: usize, places: &[(usize, usize)]| {
        places.iter().find(|(_, element)| key(*element) == wanted).map(|(place, _)| *place)
    };
    let (first, others) = places.split_first()?;
    let mut depths: Vec<(usize, usize)> =
        first.iter().map(|(_, element)| (elements.all[*element].depth, key(*element))).collect();
    depths.sort_unstable();
    depths.dedup();
    depths
        .into_iter()
        .find_map(|(_, wanted)| std::iter::once(first).chain(others).map(|places| nearest(wanted, places)).collect())
}

#[cfg(test)]
mod tests;
