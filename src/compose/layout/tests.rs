//! Layouts, parts and markups: expressions come through whole, words come out right.

use super::*;

fn source(file: &str, text: &str) -> Source {
    Source { file: file.into(), markup: Markup::of(file).unwrap(), text: text.into() }
}

fn draft(file: &str, body: &str) -> Draft {
    Draft {
        body: source(file, body),
        text: None,
        layout: None,
        text_layout: None,
        preheader: String::new(),
        inline_css: false,
        parts: BTreeMap::new(),
    }
}

#[test]
fn markdown_keeps_expressions_whole() {
    let body = "# Hi {{default name \"a & b\"}}\n\nSee [here]({{unsubscribe_url}}) & *now*.\n\n{{#if city}}\nIn **{{city}}**.\n{{/if}}\n";
    let expanded = draft("body.md", body).expand().unwrap();
    assert_eq!(
        expanded.html,
        "<h1>Hi {{default name \"a & b\"}}</h1>\n<p>See <a href=\"{{unsubscribe_url}}\">here</a> &amp; <em>now</em>.</p>\n\
         {{#if city}}\n<p>In <strong>{{city}}</strong>.</p>\n{{/if}}\n"
    );
    assert!(
        expanded.text.starts_with("Hi {{default name \"a & b\"}}\n\nSee here ({{unsubscribe_url}}) & now."),
        "{}",
        expanded.text
    );
    assert!(expanded.text.contains("{{#if city}}") && expanded.text.contains("{{/if}}"));
}

#[test]
fn a_line_of_markdown_may_begin_with_a_block() {
    for (body, html) in [
        (
            "{{#if name}}Dear {{name}}{{else}}Dear friend{{/if}},\n\nnext",
            "<p>{{#if name}}Dear {{name}}{{else}}Dear friend{{/if}},</p>\n<p>next</p>\n",
        ),
        ("{{#if name}}**bold**{{/if}} and more", "<p>{{#if name}}<strong>bold</strong>{{/if}} and more</p>\n"),
        (
            "- {{#if name}}**b**{{/if}}\n- c",
            "<ul>\n<li>{{#if name}}<strong>b</strong>{{/if}}</li>\n<li>c</li>\n</ul>\n",
        ),
        ("> {{#if a}}_x_{{/if}}", "<blockquote>\n<p>{{#if a}}<em>x</em>{{/if}}</p>\n</blockquote>\n"),
        (
            "{{#if a}}\n*x*\n{{else}}\n*y*\n{{/if}}",
            "{{#if a}}\n<p><em>x</em></p>\n{{else}}\n<p><em>y</em></p>\n{{/if}}",
        ),
        ("- {{#if a}}\n  *x*\n  {{/if}}", "<ul>\n<li>{{#if a}}\n<em>x</em>{{/if}}</li>\n</ul>\n"),
    ] {
        let expanded = draft("body.md", body).expand().unwrap();
        assert_eq!(expanded.html, html);
    }
}

#[test]
fn layouts_take_body_parts_and_preheader() {
    let mut draft = draft("body.md", "Hello {{name}}\n\n{{> footer}}");
    draft.layout = Some(source(
        "news.html",
        "<html><head><title>x</title></head><body><i>{{preheader}}</i>{{{content}}}{{> footer}}</body></html>",
    ));
    draft.preheader = "News & more for {{default name \"<you>\"}}".into();
    draft.parts.insert("footer.html".into(), "<p>{{postal_address}}</p>\n".into());
    let expanded = draft.expand().unwrap();
    assert_eq!(
        expanded.html,
        "<html><head><title>x</title></head><body><i>News &amp; more for {{default name \"<you>\"}}</i><p>Hello {{name}}</p>\n\
         <p>{{postal_address}}</p><p>{{postal_address}}</p></body></html>"
    );
    assert!(!expanded.text.contains("News") && expanded.text.starts_with("Hello {{name}}\n"), "{}", expanded.text);
    draft.text_layout = Some(source("news.txt", "{{content}}\n-- \n{{postal_address}}\n"));
    assert_eq!(draft.expand().unwrap().text, "Hello {{name}}\n\n{{postal_address}}\n-- \n{{postal_address}}\n");
    draft.text = Some(source("body.txt", "By hand, {{name}}"));
    assert_eq!(draft.expand().unwrap().text, "By hand, {{name}}\n-- \n{{postal_address}}\n");
}

#[test]
fn mjml_becomes_html_with_its_expressions() {
    let body = "<mjml><mj-body><mj-section><mj-column><mj-text>Hi {{default name \"x\"}}</mj-text>\
        <mj-button href=\"{{unsubscribe_url}}\">Go</mj-button></mj-column></mj-section></mj-body></mjml>";
    let html = draft("body.mjml", body).expand().unwrap().html;
    assert!(html.contains("Hi {{default name \"x\"}}") && html.contains("href=\"{{unsubscribe_url}}\""), "{html}");
    assert!(!html.contains("zqslot"));

    let mut markdown = draft("body.md", "Hello<br>{{name}} & *you*");
    let frame = "<mjml><mj-body><mj-section><mj-column><mj-text>{{{content}}}</mj-text></mj-column></mj-section></mj-body></mjml>";
    markdown.layout = Some(source("news.mjml", frame));
    let html = markdown.expand().unwrap().html;
    assert!(html.contains("<p>Hello<br>{{name}} &amp; <em>you</em></p>"), "{html}");
}

#[test]
fn styles_move_into_attributes_and_loops_stay_in_their_table() {
    let body = "<html><head><style>td { color: red } @media (max-width: 9px) { td { color: blue } }</style></head><body>\
        <table><tbody>{{#each items}}<tr><td title=\"{{this}}\">{{this}}</td></tr>{{/each}}</tbody></table></body></html>";
    let mut draft = draft("body.html", body);
    draft.inline_css = true;
    let html = draft.expand().unwrap().html;
    assert!(html.contains("<tbody>{{#each items}}<tr><td title=\"{{this}}\" style=\"color: red"), "{html}");
    assert!(html.contains("</tr>{{/each}}</tbody>") && html.contains("@media"), "{html}");
}

#[test]
fn a_style_sheet_that_depends_on_the_contact_stays_a_sheet() {
    let sheet = "<style>{{#if vip}}b { color: {{colour}} }{{/if}}</style>";
    let body = format!("<!-- <style>{{{{a}}}}</style> --><style>p {{ color: red }}</style>{sheet}<p>x</p>");
    let html = Draft { inline_css: true, ..draft("body.html", &body) }.expand().unwrap().html;
    assert!(html.contains(sheet) && html.contains("<!-- <style>{{a}}</style> -->"), "{html}");
    assert!(html.contains("<p style=\"color: red;\">x</p>") && html.matches("<style>").count() == 2, "{html}");
}

#[test]
fn what_would_take_minutes_is_refused() {
    let many = |file: &str, body: &str| Draft { inline_css: true, ..draft(file, body) }.expand();
    let attributes: String = (0..150_000).map(|number| format!("a{number} ")).collect();
    for (file, body) in [
        ("body.html", format!("<p {attributes}>x</p>")),
        ("body.md", format!("{}\n{}\n{}", "|a".repeat(20_000), "|-".repeat(20_000), "|a\n".repeat(10_000))),
    ] {
        assert!(matches!(many(file, &body), Err(LayoutError::TooMany { .. })), "{file}");
    }
}

#[test]
fn what_cannot_be_put_together_is_named() {
    let told = |draft: &Draft| draft.expand().unwrap_err().to_string();
    assert_eq!(told(&draft("body.html", "{{> nobody}}")), "body.html: there is no templates/nobody.html");
    let mut endless = draft("body.html", "{{> a}}");
    endless.parts.insert("a.html".into(), "{{> b}}".into());
    endless.parts.insert("b.html".into(), "x{{> a}}{{> a}}".into());
    assert!(told(&endless).contains("deep"));
    let mut hollow = draft("body.html", "x");
    hollow.layout = Some(source("news.html", "<html></html>"));
    assert_eq!(told(&hollow), "news.html: a layout needs `{{{content}}}` where the body goes");
    let broken = told(&draft("body.mjml", "<mjml><mj-body><mj-section></mj-body></mjml>"));
    assert!(broken.starts_with("body.mjml: broken MJML"), "{broken}");
}

#[test]
fn a_table_in_markdown_keeps_its_rows_as_text() {
    let text = draft("body.md", "| a | b |\n|---|--:|\n| {{c}} | d |\n| e | f |\n").expand().unwrap().text;
    assert_eq!(text, "a | b\n{{c}} | d\ne | f\n");
}

#[test]
fn code_in_markdown_is_text_without_tags() {
    let text = draft("body.md", "x\n\n```\n{{#if a}}\ny <z> & w\n{{/if}}\n\nv\n```\n\n`{{#if a}}q{{/if}}` end")
        .expand()
        .unwrap()
        .text;
    assert_eq!(text, "x\n\n{{#if a}}\ny <z> & w\n{{/if}}\n\nv\n\n{{#if a}}q{{/if}} end\n");
}

#[test]
fn what_lies_too_deep_is_refused_before_it_is_parsed() {
    let begun = tokio::time::Instant::now();
    let div = |depth: usize| format!("{}x{}", "<div>".repeat(depth), "</div>".repeat(depth));
    let sections = |depth: usize| {
        let (open, close) = ("<mj-section><mj-column>".repeat(depth), "</mj-column></mj-section>".repeat(depth));
        format!("<mjml><mj-body>{open}<mj-text>x</mj-text>{close}</mj-body></mjml>")
    };
    let text = |inside: &str| {
        let frame = "<mjml><mj-body><mj-section><mj-column><mj-text>";
        format!("{frame}{inside}</mj-text></mj-column></mj-section></mj-body></mjml>")
    };
    let raw = |depth: usize| format!("<mjml><mj-body><mj-raw>{}</mj-raw></mj-body></mjml>", div(depth));
    for (file, text) in [
        ("body.html", div(100_000)),
        ("body.md", ">".repeat(50_000)),
        ("body.md", "- ".repeat(50_000)),
        ("body.md", format!("*a {}", div(50_000))),
        ("body.mjml", sections(3000)),
        ("body.mjml", raw(3000)),
        ("body.md", "1. ".repeat(300) + "x"),
        ("body.md", "<b>".repeat(20_000)),
        ("body.html", format!("<!-->{}", "<b>".repeat(200_000))),
        ("body.html", format!("<svg>{}", "<a>".repeat(200_000))),
        ("body.mjml", text(&"<p>".repeat(20_000))),
        ("body.mjml", text(&"<!--[if mso]><td>".repeat(20_000))),
    ] {
        let refused = Draft { inline_css: true, ..draft(file, &text) }.expand();
        assert_eq!(refused, Err(LayoutError::TooDeep { file: file.into() }));
    }
    let mut letter = draft("body.md", &"<b>".repeat(20_000));
    letter.layout = Some(source("news.mjml", &text("{{{content}}}")));
    assert_eq!(letter.expand(), Err(LayoutError::TooDeep { file: "body.md".into() }));
    // what is just not too deep is no trouble to any parser
    let most = depth::DEPTH_MAX - 10;
    for (file, text) in [
        ("body.html", div(most)),
        ("body.md", ">".repeat(most)),
        ("body.md", "- ".repeat(most / 2)),
        ("body.mjml", sections(most / 2)),
        ("body.mjml", raw(most)),
    ] {
        let done = Draft { inline_css: true, ..draft(file, &text) }.expand();
        assert!(matches!(done, Ok(_) | Err(LayoutError::Mjml { .. } | LayoutError::TooDeep { .. })), "{file}");
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
}
