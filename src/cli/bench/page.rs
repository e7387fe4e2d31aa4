//! What was measured as one self-contained page: the charts are SVG drawn here, nothing is loaded and nothing runs.

use std::fmt::Write;

use crate::cli::bench::Row;

/// The width of a bar that fills its row, in the drawing's own units.
const WIDTH: f64 = 620.0;
/// Where bars begin: names stand before it.
const LEFT: f64 = 190.0;
/// The height of one row.
const LINE: f64 = 30.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2330;--soft:#5d6675;--line:#dfe3ea;--one:#2b6cb0;--two:#90b4da}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#a3acba;--line:#39404d;--one:#6ea8e0;--two:#3d5f86}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);max-width:56rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.2rem .9rem .2rem 0;border-bottom:1px solid var(--line);text-align:right}
td:first-child,th:first-child{text-align:left}p,th{color:var(--soft);font-weight:400}
svg{width:100%;height:auto}text{fill:var(--ink);font-size:14px}.one{fill:var(--one)}.two{fill:var(--two)}";

/// One bar: its name, its parts in their order, and what is written behind it.
pub(super) struct Bar {
    pub name: String,
    pub parts: Vec<f64>,
    pub value: String,
}

/// The page: what was measured in a sentence, the figures, and charts with their titles.
pub(super) fn page(about: &str, rows: &[Row], charts: &[(&str, Vec<Bar>)]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>mailshot bench</title>\n<style>{STYLE}</style>\n\
         <h1>What this machine sends</h1>\n<p>{}</p>\n",
        escaped(about)
    );
    for (title, bars) in charts {
        let _ = write!(page, "<h2>{}</h2>\n{}", escaped(title), chart(bars));
    }
    page.push_str("<h2>All figures</h2>\n<table>\n<tr><th><th>median<th>least<th>most\n");
    for row in rows {
        let [median, least, most] = row.figures();
        let _ = writeln!(page, "<tr><td>{}<td>{median}<td>{least}<td>{most}", escaped(row.name.trim()));
    }
    page.push_str("</table>\n</html>\n");
    page
}

/// Bars below each other, the longest as wide as there is room.
fn chart(bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.parts.iter().sum()).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = format!("<svg viewBox=\"0 0 1000 {}\" role=\"img\">\n", LINE * bars.len() as f64);
    for (at, bar) in bars.iter().enumerate() {
        let (top, mut x) = (LINE * at as f64, LEFT);
        let _ = writeln!(svg, "<text x=\"0\" y=\"{}\">{}</text>", top + 19.0, escaped(&bar.name));
        for (part, tone) in bar.parts.iter().zip(["one", "two"]) {
            let width = part / longest * WIDTH;
            let _ = writeln!(
                svg,
                "<rect class=\"{tone}\" x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"20\"/>",
                top + 4.0
            );
            x += width;
        }
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\">{}</text>", x + 8.0, top + 19.0, escaped(&bar.value));
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values_and_words_stay_words() {
        let bar = |name: &str, parts: &[f64]| Bar { name: name.into(), parts: parts.to_vec(), value: "µs".into() };
        let charts = [("CPU", vec![bar("a<b", &[100.0, 50.0]), bar("b", &[75.0])])];
        let rows = [Row { name: "messages per second", digits: 0, values: vec![3.0, 1.0, 2.4] }];
        let page = page("to & fro", &rows, &charts);
        for part in [
            "to &amp; fro",
            "a&lt;b",
            "class=\"one\" x=\"190.0\" y=\"4\" width=\"413.3\"",
            "class=\"two\" x=\"603.3\" y=\"4\" width=\"206.7\"",
            "class=\"one\" x=\"190.0\" y=\"34\" width=\"310.0\"",
            "<tr><td>messages per second<td>2<td>1<td>3",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }
}
