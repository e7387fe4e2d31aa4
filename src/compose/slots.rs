//! One text of a message, compiled: static pieces and slots where a template only names fields, else handlebars itself.
//! The only file that knows handlebars' inner form of a template.

use handlebars::template::{HelperTemplate, Parameter, Template as Parsed, TemplateElement};
use handlebars::{Context as Data, Handlebars, Path, RenderError, RenderErrorReason, TemplateErrorReason};
use serde_json::Value;

use crate::compose::helpers;
use crate::compose::scope::{Context, Scope, as_link, percent_encoded};
use crate::compose::shield::expressions;
use crate::compose::template::{OUTPUT_MAX, Part};
use crate::compose::{Error, Missing, PrintError};

/// Blocks inside blocks that a template may have (H-04).
const DEPTH_MAX: usize = 10;

/// How deep the parser may be led: more than any text holds, and little to its stack.
const PARSED_MAX: usize = 100;
/// The most expressions times octets of one text: the parser counts the lines before every expression.
const LABOUR_MAX: usize = 200_000_000;

/// A stretch of a compiled text.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// The same in every copy.
    Static(String),
    /// Filled in.
    Slot { field: String, via: Via, otherwise: Option<String> },
}

/// What is done to a slot's value before it is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    Plain,
    Link,
    Url,
}

/// What a text wants a field for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// To show it, or to ask whether it is there.
    Any,
    /// A link leads where it says.
    Link,
    /// It is written as a date.
    Date,
}

/// How a text is printed.
enum Form {
    Pieces(Vec<Piece>),
    Handlebars(Box<Handlebars<'static>>),
}

/// One compiled text.
pub(crate) struct Slots {
    part: Part,
    context: Context,
    missing: Missing,
    form: Form,
    fields: Vec<(String, Use)>,
}

impl Slots {
    /// Compiles `source` for its place. `constants` are words that are the same in every copy.
    pub(crate) fn compile(
        part: Part,
        source: &str,
        missing: Missing,
        constants: &[(&'static str, String)],
    ) -> Result<Slots, Error> {
        let context = part.context();
        let mut parsed = parse(part, source)?;
        let mut seen = Seen { part, whole: true, fields: Vec::new() };
        seen.walk(&parsed, 0)?;
        name_fields(&mut parsed);
        let form = match pieces(&parsed, context, constants) {
            Some(pieces) => Form::Pieces(pieces),
            None => Form::Handlebars(Box::new(registry(parsed, context, missing))),
        };
        Ok(Slots { part, context, missing, form, fields: seen.fields })
    }

    /// The part this is a text of.
    pub(crate) fn part(&self) -> Part {
        self.part
    }

    /// Every field the text names, our own words included, each once with what it is wanted for.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, Use)> {
        self.fields.iter().map(|(field, wanted)| (field.as_str(), *wanted))
    }

    /// Whether printing needs the values as one object.
    pub(crate) fn needs_object(&self) -> bool {
        matches!(self.form, Form::Handlebars(_))
    }

    /// Prints the text for one copy. `object` is [`Scope::object`] where [`Slots::needs_object`] says so.
    pub(crate) fn print(&self, scope: &Scope<'_>, object: &Data) -> Result<String, PrintError> {
        let text = match &self.form {
            Form::Pieces(pieces) => self.fill(pieces, scope)?,
            Form::Handlebars(registry) => self.render(registry, object)?,
        };
        if text.len() > OUTPUT_MAX {
            return Err(PrintError::TooLong { part: self.part });
        }
        Ok(text)
    }

    fn fill(&self, pieces: &[Piece], scope: &Scope<'_>) -> Result<String, PrintError> {
        let fixed: usize =
            pieces.iter().map(|piece| if let Piece::Static(text) = piece { text.len() } else { 64 }).sum();
        let mut text = String::with_capacity(fixed);
        for piece in pieces {
            match piece {
                Piece::Static(same) => text.push_str(same),
                Piece::Slot { field, via, otherwise } => match (scope.text(field), otherwise) {
                    (Some(value), _) => self.put(*via, &value, &mut text)?,
                    (None, Some(value)) => self.put(*via, value, &mut text)?,
                    (None, None) if self.missing == Missing::Default => {}
                    (None, None) => return Err(PrintError::MissingField { part: self.part, field: field.clone() }),
                },
            }
        }
        Ok(text)
    }

    fn put(&self, via: Via, value: &str, to: &mut String) -> Result<(), PrintError> {
        match via {
            Via::Plain => self.context.push(value, to),
            Via::Url => self.context.push(&percent_encoded(value), to),
            Via::Link => match as_link(value) {
                Some(link) => self.context.push(link, to),
                None => return Err(PrintError::Render { part: self.part, message: helpers::no_link(value) }),
            },
        }
        Ok(())
    }

    fn render(&self, registry: &Handlebars<'_>, object: &Data) -> Result<String, PrintError> {
        let mut limited = Limited(Vec::new());
        match registry.render_with_context_to_write(TEXT, object, &mut limited) {
            Ok(()) => Ok(String::from_utf8(limited.0).expect("handlebars writes whole strings")),
            Err(why) => Err(self.rule(&why)),
        }
    }

    fn rule(&self, why: &RenderError) -> PrintError {
        match why.reason() {
            RenderErrorReason::MissingVariable(field) => {
                let field = field.as_deref().map(|raw| plain_name(raw).unwrap_or_else(|| raw.to_owned()));
                PrintError::MissingField { part: self.part, field: field.unwrap_or_else(|| "?".into()) }
            }
            RenderErrorReason::IOError(_) => PrintError::TooLong { part: self.part },
            other => PrintError::Render { part: self.part, message: other.to_string() },
        }
    }
}

/// Refuses a file of a template that could not be compiled once everything is in its place. Parts (`{{> name}}`) and
/// `{{{content}}}` may still stand in it.
pub(crate) fn inspect(part: Part, source: &str) -> Result<(), Error> {
    Seen { part, whole: false, fields: Vec::new() }.walk(&parse(part, source)?, 0)
}

fn parse(part: Part, source: &str) -> Result<Parsed, Error> {
    refuse_depth(part, source)?;
    Parsed::compile(source).map_err(|why| {
        let message = match why.reason() {
            TemplateErrorReason::InvalidSyntax(_) => {
                "this is no handlebars expression, or a block is not closed".into()
            }
            other => other.to_string(),
        };
        Error::Template { part, line: why.pos().map(|(line, _)| line), message }
    })
}

/// Refuses what would lead the parser too deep, or hold it for long; what is less deep and still too deep is found in what it gives.
fn refuse_depth(part: Part, source: &str) -> Result<(), Error> {
    let mut blocks = 0_usize;
    for (number, found) in expressions().find_iter(source).enumerate() {
        let inner = found.as_str().trim_start_matches('{').trim_start_matches('~').trim_start();
        match inner.chars().next() {
            Some('#') => blocks += 1,
            Some('^') if !inner[1..].trim_start_matches('~').starts_with('}') => blocks += 1,
            Some('/') => blocks = blocks.saturating_sub(1),
            _ => {}
        }
        let is_comment = inner.starts_with('!');
        if blocks > PARSED_MAX || !is_comment && inner.matches(['(', '[', '{']).count() > PARSED_MAX {
            let line = Some(source[..found.start()].matches('\n').count() + 1);
            let message = format!("blocks or expressions lie more than {DEPTH_MAX} deep in each other");
            return Err(Error::Template { part, line, message });
        }
        if number.saturating_mul(source.len()) > LABOUR_MAX {
            let message = format!("a text of {} bytes with more than {number} expressions is too long", source.len());
            return Err(Error::Template { part, line: None, message });
        }
    }
    Ok(())
}

/// Puts brackets around fields that stand alone and have the name of a helper (`{{url}}` becomes `{{[url]}}`): handlebars would
/// call the helper, and with nothing.
fn name_fields(parsed: &mut Parsed) {
    for element in &mut parsed.elements {
        match element {
            TemplateElement::Expression(call) if call.params.is_empty() && call.hash.is_empty() => {
                let name = call.name.as_name().filter(|name| helpers::is_helper(name));
                if let Some(field) = name.and_then(|name| Path::parse(&format!("[{name}]")).ok()) {
                    call.name = Parameter::Path(field);
                }
            }
            TemplateElement::HelperBlock(call) => {
                [&mut call.template, &mut call.inverse].into_iter().flatten().for_each(name_fields);
            }
            _ => {}
        }
    }
}

/// The one name templates have in their registry.
const TEXT: &str = "text";

/// A registry of its own per text: escaping and strictness belong to the place (H-03).
fn registry(parsed: Parsed, context: Context, missing: Missing) -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(missing != Missing::Default);
    registry.register_escape_fn(move |value| context.escape(value));
    helpers::register(&mut registry);
    registry.register_template(TEXT, parsed);
    registry
}

/// A buffer that refuses to grow beyond [`OUTPUT_MAX`].
struct Limited(Vec<u8>);

impl std::io::Write for &mut Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_MAX {
            return Err(std::io::Error::other("output limit"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The template as pieces and slots; `None` when it does more than name fields.
fn pieces(parsed: &Parsed, context: Context, constants: &[(&'static str, String)]) -> Option<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(parsed.elements.len());
    for element in &parsed.elements {
        let piece = match element {
            TemplateElement::RawString(text) => Piece::Static(text.clone()),
            TemplateElement::Comment(_) => continue,
            TemplateElement::Expression(call) => slot(call)?,
            _ => return None,
        };
        let constant = |field: &str| constants.iter().find(|(word, _)| *word == field);
        let piece = match &piece {
            Piece::Slot { field, via, .. } => match (constant(field), via) {
                (Some((_, value)), Via::Plain) => Piece::Static(context.escape(value)),
                (Some(_), _) => return None,
                (None, _) => piece,
            },
            Piece::Static(_) => piece,
        };
        match (pieces.last_mut(), piece) {
            (Some(Piece::Static(before)), Piece::Static(text)) => before.push_str(&text),
            (_, piece) => pieces.push(piece),
        }
    }
    Some(pieces)
}

/// `{{field}}`, `{{default field "text"}}`, `{{link field}}` and `{{url field}}` as a slot.
fn slot(call: &HelperTemplate) -> Option<Piece> {
    if call.block || !call.hash.is_empty() {
        return None;
    }
    let plain = |field, via| Some(Piece::Slot { field, via, otherwise: None });
    match (call.name.as_name()?, call.params.as_slice()) {
        (_, []) => plain(field_name(&call.name)?, Via::Plain),
        ("link", [field]) => plain(field_name(field)?, Via::Link),
        ("url", [field]) => plain(field_name(field)?, Via::Url),
        ("default", [field, Parameter::Literal(Value::String(text))]) if !text.trim().is_empty() => {
            Some(Piece::Slot { field: field_name(field)?, via: Via::Plain, otherwise: Some(text.clone()) })
        }
        _ => None,
    }
}

/// The field a parameter names at the top level; `[Last Name]` without its brackets.
fn field_name(parameter: &Parameter) -> Option<String> {
    plain_name(parameter.as_name()?)
}

fn plain_name(raw: &str) -> Option<String> {
    let name = raw.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(raw);
    let simple = name.len() < raw.len() || name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    (simple && name != "this" && !name.contains([']', '['])).then(|| name.to_owned())
}

/// What a template uses, collected and refused where it may not be.
struct Seen {
    part: Part,
    /// Whether everything is in its place.
    whole: bool,
    fields: Vec<(String, Use)>,
}

impl Seen {
    fn walk(&mut self, parsed: &Parsed, depth: usize) -> Result<(), Error> {
        for (at, element) in parsed.elements.iter().enumerate() {
            let line = parsed.mapping.get(at).map(|place| place.0);
            let wrong = |message: String| Err(Error::Template { part: self.part, line, message });
            match element {
                TemplateElement::RawString(_) | TemplateElement::Comment(_) => {}
                TemplateElement::Expression(call) | TemplateElement::HelperBlock(call) if depth < DEPTH_MAX => {
                    self.call(call, Use::Any, line, depth)?;
                }
                TemplateElement::Expression(_) | TemplateElement::HelperBlock(_) => {
                    return wrong(format!("blocks lie more than {DEPTH_MAX} deep in each other"));
                }
                TemplateElement::HtmlExpression(call) if !self.whole && call.name.as_name() == Some("content") => {}
                TemplateElement::PartialExpression(_) if !self.whole => {}
                TemplateElement::HtmlExpression(_) => {
                    return wrong(
                        "`{{{…}}}` and `{{&…}}` would print a contact's value unescaped; write `{{…}}`".into(),
                    );
                }
                _ => return wrong("parts and decorators must be plain names of files in templates/".into()),
            }
        }
        Ok(())
    }

    /// `wanted`: what the value of the call is wanted for.
    fn call(&mut self, call: &HelperTemplate, wanted: Use, line: Option<usize>, depth: usize) -> Result<(), Error> {
        let name = call.name.as_name().unwrap_or_default();
        if call.block || !call.params.is_empty() || !call.hash.is_empty() {
            if !helpers::KNOWN.contains(&name) {
                let message = format!("there is no helper `{name}`; there are {}", helpers::KNOWN.join(", "));
                return Err(Error::Template { part: self.part, line, message });
            }
        } else {
            self.name(&call.name, wanted);
        }
        let wanted = match name {
            "link" => Use::Link,
            "date" => Use::Date,
            _ => wanted,
        };
        if let ("lookup", [whose, Parameter::Literal(Value::String(field))]) = (name, call.params.as_slice())
            && matches!(whose.as_name(), Some("this" | "." | ".." | "@root"))
        {
            self.note(field.clone(), wanted);
        }
        for parameter in call.params.iter().chain(call.hash.values()) {
            self.parameter(parameter, wanted, line, depth)?;
        }
        for inner in [&call.template, &call.inverse].into_iter().flatten() {
            self.walk(inner, depth + 1)?;
        }
        Ok(())
    }

    fn parameter(
        &mut self,
        parameter: &Parameter,
        wanted: Use,
        line: Option<usize>,
        depth: usize,
    ) -> Result<(), Error> {
        match parameter {
            Parameter::Subexpression(inner) => match inner.as_element() {
                TemplateElement::Expression(call) if depth < DEPTH_MAX => self.call(call, wanted, line, depth + 1),
                _ => {
                    let message = format!("expressions lie more than {DEPTH_MAX} deep in each other");
                    Err(Error::Template { part: self.part, line, message })
                }
            },
            Parameter::Literal(_) => Ok(()),
            _ => {
                self.name(parameter, wanted);
                Ok(())
            }
        }
    }

    /// Notes the field a parameter names, from whatever depth.
    fn name(&mut self, parameter: &Parameter, wanted: Use) {
        let Some(mut path) = parameter.as_name() else { return };
        while let Some(rest) =
            ["this.", "this/", "./", "../", "@root.", "@root/"].iter().find_map(|up| path.strip_prefix(up))
        {
            path = rest;
        }
        if let Some(field) = plain_name(path) {
            self.note(field, wanted);
        }
    }

    /// What a field is wanted for in one place holds for all: a link or a date can be shown as well.
    fn note(&mut self, field: String, wanted: Use) {
        match self.fields.iter_mut().find(|(known, _)| *known == field) {
            Some((_, known)) if *known == Use::Any => *known = wanted,
            Some(_) => {}
            None => self.fields.push((field, wanted)),
        }
    }
}
