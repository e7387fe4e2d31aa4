//! What templates may call beside handlebars' own `if`, `unless`, `each`, `with` and comparisons:
//! `{{default city "your town"}}`, `{{upper x}}`, `{{lower x}}`, `{{trim x}}`, `{{url x}}` (one component of a URL),
//! `{{link x}}` (a whole URL, refused unless it leads to the web or to mail) and `{{date x "%-d %B %Y"}}`.

use handlebars::{Context, Handlebars, Helper, HelperDef, RenderContext, RenderError, RenderErrorReason, ScopedJson};
use serde_json::Value;

use crate::compose::scope::{as_link, as_text, percent_encoded};

/// The helpers by name, all of them and handlebars' own.
pub(crate) const KNOWN: &[&str] = &[
    "default", "upper", "lower", "trim", "url", "link", "date", "if", "unless", "each", "with", "lookup", "eq", "ne",
    "gt", "gte", "lt", "lte", "and", "or", "not", "len",
];

/// Whether handlebars has a helper of that name; besides those that templates may call there is `raw`.
pub(crate) fn is_helper(name: &str) -> bool {
    KNOWN.contains(&name) || name == "raw"
}

/// Puts our helpers into a registry, and takes out the one that writes to the log.
pub(crate) fn register(registry: &mut Handlebars<'_>) {
    registry.unregister_helper("log");
    registry.register_helper("default", Box::new(Fallback));
    registry.register_helper("upper", Box::new(OfText(|text, _| Ok(text.to_uppercase()))));
    registry.register_helper("lower", Box::new(OfText(|text, _| Ok(text.to_lowercase()))));
    registry.register_helper("trim", Box::new(OfText(|text, _| Ok(text.trim().to_owned()))));
    registry.register_helper("url", Box::new(OfText(|text, _| Ok(percent_encoded(text)))));
    registry.register_helper("link", Box::new(OfText(|text, _| link(text))));
    registry.register_helper("date", Box::new(OfText(date)));
}

/// The message for a value that may not be a link.
pub(crate) fn no_link(value: &str) -> String {
    let shown: String = value.chars().take(60).collect();
    format!("`{shown}` is no web or mail address; a link may lead nowhere else")
}

fn link(text: &str) -> Result<String, String> {
    as_link(text).map(str::to_owned).ok_or_else(|| no_link(text))
}

/// `{{date x "%-d %B %Y"}}`; without a format as in `23 November 2026`. Dates are `2026-11-23`, with or without a time behind
/// them.
fn date(text: &str, format: Option<&str>) -> Result<String, String> {
    let format = format.unwrap_or("%-d %B %Y");
    let day = text.trim().get(..10).unwrap_or(text);
    let day: jiff::civil::Date = day.parse().map_err(|_| format!("`{day}` is no date; write it as 2026-11-23"))?;
    jiff::fmt::strtime::format(format, day).map_err(|why| format!("date format `{format}`: {why}"))
}

fn refuse(message: String) -> RenderError {
    RenderErrorReason::Other(message).into()
}

/// The first argument as text; missing and empty values are missing, in strict mode an error.
fn first<'a>(call: &'a Helper<'_>) -> Option<std::borrow::Cow<'a, str>> {
    let given = call.param(0)?;
    as_text(given.value()).filter(|text| !text.trim().is_empty())
}

fn missing(call: &Helper<'_>, registry: &Handlebars<'_>) -> Result<ScopedJson<'static>, RenderError> {
    match registry.strict_mode() {
        true => {
            let field = call.param(0).and_then(|given| given.relative_path().cloned());
            Err(RenderErrorReason::MissingVariable(field).into())
        }
        false => Ok(ScopedJson::Derived(Value::from(""))),
    }
}

/// `{{default x "y"}}`: x, or y where x is missing or empty; in strict mode no error.
struct Fallback;

impl HelperDef for Fallback {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        call: &Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        if let Some(text) = first(call) {
            return Ok(ScopedJson::Derived(Value::from(text.into_owned())));
        }
        match call.param(1).and_then(|other| as_text(other.value())) {
            Some(text) => Ok(ScopedJson::Derived(Value::from(text.into_owned()))),
            None => missing(call, registry),
        }
    }
}

/// A helper that turns one text into another; it is told its second parameter as well.
struct OfText(fn(&str, Option<&str>) -> Result<String, String>);

impl HelperDef for OfText {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        call: &Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let Some(text) = first(call) else { return missing(call, registry) };
        let how = call.param(1).and_then(|how| how.value().as_str());
        Ok(ScopedJson::Derived(Value::from((self.0)(&text, how).map_err(refuse)?)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(template: &str, expected: Result<&str, &str>) {
        let mut registry = Handlebars::new();
        registry.set_strict_mode(true);
        register(&mut registry);
        let data = json!({"city": "Köln", "day": "2026-03-09 12:00:00", "empty": " ", "site": "javascript:x", "n": 3});
        match (registry.render_template(template, &data), expected) {
            (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{template}"),
            (Err(why), Err(part)) => assert!(why.to_string().contains(part), "{template}: {why}"),
            (got, expected) => panic!("{template}: {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn helpers_do_what_their_names_say() {
        check("{{upper city}} {{lower city}} {{url city}}", Ok("KÖLN köln K%C3%B6ln"));
        check("{{default nobody \"you\"}} {{default empty \"you\"}} {{default city \"you\"}}", Ok("you you Köln"));
        check("{{default nobody city}} {{upper n}}", Ok("Köln 3"));
        check("{{date day}}, {{date day \"%d.%m.%Y\"}}", Ok("9 March 2026, 09.03.2026"));
    }

    #[test]
    fn helpers_refuse_what_they_cannot_use() {
        check("{{upper nobody}}", Err("nobody"));
        check("{{upper empty}}", Err("empty"));
        check("{{date city}}", Err("is no date"));
        check("{{date day \"%Q%!\"}}", Err("date format"));
        check("{{link site}}", Err("no web or mail address"));
        check("{{default nobody}}", Err("nobody"));
    }
}
