//! Blocks of handlebars in Markdown come through wherever they stand, and leave the letter around them whole.

use super::*;

fn html(text: &str) -> Result<String, Broken> {
    let mut shield = Shield::default();
    let covered = shield.cover(text);
    to_html(&covered, &shield).map(|html| shield.uncover(&html))
}

#[test]
fn a_block_comes_through_in_addresses_titles_pictures_and_code() {
    for (text, expected) in [
        (
            "[go](https://x.example/{{#if a}}y{{/if}})",
            "<p><a href=\"https://x.example/{{#if a}}y{{/if}}\">go</a></p>\n",
        ),
        (
            "[go]({{#if a}}https://a.example/{{else}}https://b.example/{{/if}})",
            "<p><a href=\"{{#if a}}https://a.example/{{else}}https://b.example/{{/if}}\">go</a></p>\n",
        ),
        (
            "[go](<{{#if a}}https://a.example/{{/if}}> '{{#if a}}t{{/if}}')",
            "<p><a href=\"{{#if a}}https://a.example/{{/if}}\" title=\"{{#if a}}t{{/if}}\">go</a></p>\n",
        ),
        ("[go]({{site}}{{#if a}}?a{{/if}})", "<p><a href=\"{{site}}{{#if a}}?a{{/if}}\">go</a></p>\n"),
        (
            "[go][x]\n\n[x]: https://x.example/{{#if a}}y{{/if}} \"t {{#if a}}z{{/if}}\"",
            "<p><a href=\"https://x.example/{{#if a}}y{{/if}}\" title=\"t {{#if a}}z{{/if}}\">go</a></p>\n",
        ),
        (
            "![{{#if a}}a *b*{{/if}}](https://x.example/{{#if a}}i{{/if}}.png)",
            "<p><img src=\"https://x.example/{{#if a}}i{{/if}}.png\" alt=\"{{#if a}}a b{{/if}}\" /></p>\n",
        ),
        (
            "<https://x.example/{{#if a}}y{{/if}}>",
            "<p><a href=\"https://x.example/{{#if a}}y{{/if}}\">https://x.example/{{#if a}}y{{/if}}</a></p>\n",
        ),
        ("`{{#if a}}<x>{{/if}}` code", "<p><code>{{#if a}}&lt;x&gt;{{/if}}</code> code</p>\n"),
        (
            "```{{#if a}}x{{/if}}\n{{#if a}}y{{/if}}\n```",
            "<pre><code class=\"language-{{#if a}}x{{/if}}\">{{#if a}}y{{/if}}\n</code></pre>\n",
        ),
        ("```\n{{#if a}}\ny\n{{/if}}\n```", "<pre><code>{{#if a}}\ny\n{{/if}}\n</code></pre>\n"),
        ("    {{#if a}}x{{/if}}", "<pre><code>{{#if a}}x{{/if}}</code></pre>\n"),
        (
            "[{{#if a}}*x*{{/if}}](https://x.example/)",
            "<p><a href=\"https://x.example/\">{{#if a}}<em>x</em>{{/if}}</a></p>\n",
        ),
        (
            "{{#if a}}**\"x\"**{{/if}} and *{{#if a}}y{{/if}}*",
            "<p>{{#if a}}<strong>\"x\"</strong>{{/if}} and <em>{{#if a}}y{{/if}}</em></p>\n",
        ),
        (
            "<a href=\"https://x.example/{{#if a}}y{{/if}}\" title=\"a > {{#if a}}b{{/if}}\">{{#if a}}**q**{{/if}}</a>",
            "<p><a href=\"https://x.example/{{#if a}}y{{/if}}\" title=\"a > {{#if a}}b{{/if}}\">{{#if a}}<strong>q</strong>{{/if}}</a></p>\n",
        ),
        ("{{#if a}}<div class=\"b\">{{/if}}\n\n*x*", "{{#if a}}<div class=\"b\">{{/if}}\n<p><em>x</em></p>\n"),
        (
            "<table><tr>{{#each a}}<td>{{this}}</td>{{/each}}</tr></table>",
            "<table><tr>{{#each a}}<td>{{this}}</td>{{/each}}</tr></table>",
        ),
    ] {
        assert_eq!(html(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn a_block_ends_in_the_element_it_begins_in() {
    for (text, expected) in [
        ("{{#if a}}Dear VIP,\n{{/if}}\nrest", "{{#if a}}\n<p>Dear VIP,</p>\n{{/if}}\n<p>rest</p>\n"),
        (
            "{{#if a}}Dear VIP,\n\nmore{{/if}}\n\nrest",
            "{{#if a}}\n<p>Dear VIP,</p>\n<p>more</p>\n{{/if}}\n<p>rest</p>\n",
        ),
        (
            "- one\n- {{#if a}}two\n{{/if}}\n\nrest",
            "<ul>\n<li>one</li>\n{{#if a}}\n<li>two</li>\n{{/if}}\n</ul>\n<p>rest</p>\n",
        ),
        (
            "x\n\n> {{#if a}}quote\n{{/if}}\n\nrest",
            "<p>x</p>\n{{#if a}}\n<blockquote>\n<p>quote</p>\n</blockquote>\n{{/if}}\n<p>rest</p>\n",
        ),
        ("x {{#if a}}y\n{{else}}\nz\n{{/if}}\nrest", "<p>x {{#if a}}y{{else}}\n</p>\n<p>z{{/if}}\n</p>\n<p>rest</p>\n"),
        ("1. {{#if a}}x\n2. y{{/if}}", "{{#if a}}\n<ol>\n<li>x</li>\n<li>y</li>\n</ol>\n{{/if}}"),
        ("{{#if a}}{{#if b}}x\n{{/if}}\n{{/if}}\ny", "{{#if a}}{{#if b}}\n<p>x</p>\n{{/if}}\n{{/if}}\n<p>y</p>\n"),
        ("x {{#if a}}y\n\nz{{/if}} end", "<p>x {{#if a}}y</p>\n<p>z{{/if}} end</p>\n"),
        ("*{{#if a}}x* y{{/if}}", "{{#if a}}\n<p><em>x</em> y</p>\n{{/if}}"),
        ("{{#if a}}\nx\n\ny {{/if}} end", "<p>{{#if a}}\nx</p>\n<p>y {{/if}} end</p>\n"),
        ("{{#if a}}{{else}}x\n{{/if}}", "<p>{{#if a}}{{else}}x{{/if}}</p>\n"),
    ] {
        assert_eq!(html(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn a_block_that_cannot_end_where_it_begins_is_refused() {
    for text in ["x {{#if a}}y\n\n- z{{/if}}", "- x {{#if a}}y\n\nz{{/if}} end", "*x {{#if a}}y* z{{/if}}"] {
        assert_eq!(html(text), Err(Broken::Crossed("{{#if a}}".into())), "{text}");
    }
    // what holds no element of Markdown's own is as its writer wants it
    for text in [
        "{{#if a}}<div>{{/if}}\n\nx\n\n{{#if a}}</div>{{/if}}",
        "<div>{{#if a}}</div>\n\n*x*\n\n{{/if}}",
        "x {{/if}} y",
        "{{#if a}}x",
    ] {
        assert!(html(text).is_ok(), "{text}");
    }
}

#[test]
fn what_lies_too_deep_is_refused() {
    for text in [">".repeat(300) + "x", "1. ".repeat(150) + "x"] {
        assert!(html(&text) == Err(Broken::Excess(Excess::Deep)));
    }
}

#[test]
fn blocks_take_time_by_length_alone() {
    let begun = tokio::time::Instant::now();
    for text in [
        "{{#if a}}x\n{{/if}}\n\n",
        "- {{#if a}}x\n{{/if}}\n",
        "-\n",
        "{{#if a}}\n{{/if}}\n",
        "*{{#if a}}x* y{{/if}} ",
        "{{#if a}}",
    ] {
        assert!(html(&text.repeat(20_000)).is_ok(), "{text}");
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(30));
}
