//! Contacts that nobody would want, and one whom everybody would.

/// Values for a contact's name, town and note: each is harmless as a value, and none may become more than that.
pub const VALUES: &[&str] = &[
    // headers and envelopes
    "x\r\nBcc: eve@evil.example",
    "x\nSubject: owned",
    "x\rTo: eve@evil.example",
    "x\r\n\r\n<b>a body</b>",
    "x%0d%0aBcc: eve@evil.example",
    "x\u{2028}Bcc: eve@evil.example\u{2029}",
    "x\u{85}Bcc: eve@evil.example",
    "=?utf-8?Q?x=0D=0ABcc:_eve@evil.example?=",
    "=?utf-8?B?eA0KQmNjOiBlQGV2aWwuZXhhbXBsZQ==?= ü",
    "\"quoted\\\" <eve@evil.example>, \"",
    "Müller, Hans (Dr.) <eve@evil.example>;",
    // second messages
    "x\n.\nMAIL FROM:<eve@evil.example>\nRCPT TO:<mallory@evil.example>\nDATA\nowned",
    "x\n.\r\nMAIL FROM:<eve@evil.example>\r\n",
    "x\r\n.\nMAIL FROM:<eve@evil.example>\r\n",
    "x\r.\rMAIL FROM:<eve@evil.example>\r",
    "x\r\n.\rMAIL FROM:<eve@evil.example>\r\n",
    "x\r\n.\r\nMAIL FROM:<eve@evil.example>\r\nRCPT TO:<mallory@evil.example>\r\nDATA\r\nowned\r\n.\r\n",
    ".",
    "..\r\n.\r\n..",
    "From eve\r\n--=_a\r\nContent-Type: text/html\r\n\r\n<script>",
    // markup
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "x onclick=alert(1) y",
    "--><script>alert(1)</script><!--",
    "</title></style><script>alert(1)</script>",
    "&lt;script&gt;&#60;script&#62;",
    "<![endif]--><script>",
    // templates
    "{{email}} {{{postal_address}}} {{#each this}}{{@key}}{{/each}}",
    "{{> newsletter}} {{lookup this \"email\"}} zqslot0zq <!--zqslot0zq-->",
    // spreadsheets
    "=cmd|'/C calc'!A0",
    "+49 30",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "x;=1+1",
    "\n=1+1",
    // terminals
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "\u{9b}31m\u{9d}0;owned\u{9c}",
    "\u{1b}[8mhidden",
    "\u{202e}gnp.exe\u{2066}\u{61c}\u{200f}",
    "a\u{8}\u{8}b\u{7f}",
    "x\nnext: touch owned",
    // shells, records, paths
    "$(touch owned) `touch owned` ; touch owned",
    "'; DROP TABLE contacts; --",
    "\" OR \"1\"=\"1",
    "../../../../etc/passwd",
];

/// Places for a contact's link that it must not lead to: such a copy cannot be printed, and nobody gets it.
pub const LINKS: &[&str] = &[
    "https://evil.example/\u{1b}[2J\u{9b}31m",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    " \tjavascript:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:msgbox(1)",
    "file:///etc/passwd",
    "//evil.example/",
    "https://evil.example/ onclick=alert(1)",
    "https://evil.example/\r\nSet-Cookie: a=b",
];

/// Addresses that are addresses, however they look; all are mailed.
pub const ADDRESSES: &[&str] = &[
    "a|touch${IFS}owned@h.example",
    "`touch`@h.example",
    "'or'1'='1@h.example",
    "--to=owned@h.example",
    "-rf@h.example",
    "{{name}}@h.example",
    "x%0d%0aRSET@h.example",
    "=1+1@h.example",
    "\"<script>alert(1)</script>\"@h.example",
    "\"a\\\"b> SIZE=1\"@h.example",
    "\"x y\"@h.example",
    "a@[192.0.2.1]",
];

/// Cells for the address that hold none.
pub const NO_ADDRESSES: &[&str] = &[
    "x@h.example\r\nRCPT TO:<eve@evil.example>",
    "x@h.example\nBcc: eve@evil.example",
    "x@h.example\rDATA",
    "x@h.example> SIZE=1",
    "x@h.example,eve@evil.example",
    "\"x\r\n\"@h.example",
    "\u{1b}[2J@h.example",
    "x\u{9b}31m@h.example",
    "x@h.example\u{202e}.x",
    "<x@h.example>,<eve@evil.example>",
];

/// Headers of further columns.
pub const COLUMNS: &[&str] = &["\u{1b}[2Jcol", "=1+1", "it's $(touch owned)", "<script>", "'; DROP TABLE contacts; --"];

/// Whom nothing is wrong with: every other copy has the shape of this one's.
pub const ADA: &str = "ada@h.example";
/// Whom the host refuses.
pub const REFUSED: &str = "refused@h.example";

/// The address of whoever has the value or the link of this number.
pub fn with_value(number: usize) -> String {
    format!("value-{number}@h.example")
}

pub fn with_link(number: usize) -> String {
    format!("link-{number}@h.example")
}

/// Everybody who is mailed.
pub fn mailed() -> Vec<String> {
    let values = (0..VALUES.len()).map(with_value);
    let addresses = ADDRESSES.iter().map(|address| (*address).to_owned());
    values.chain(addresses).chain([ADA.to_owned()]).collect()
}

/// All of them as CSV, those without an address at the end.
pub fn csv() -> String {
    let site = "https://shop.example/";
    let mut rows: Vec<Vec<&str>> = vec![[&["email", "name", "city", "site", "note"], COLUMNS].concat()];
    let values: Vec<String> = (0..VALUES.len()).map(with_value).collect();
    let links: Vec<String> = (0..LINKS.len()).map(with_link).collect();
    for (address, value) in values.iter().zip(VALUES) {
        rows.push([&[address.as_str(), value, value, site, value][..], &vec![*value; COLUMNS.len()]].concat());
    }
    for (address, link) in links.iter().zip(LINKS) {
        rows.push(vec![address, "Ada", "London", link, "-"]);
    }
    for address in ADDRESSES.iter().chain(&[ADA, REFUSED]).chain(NO_ADDRESSES) {
        rows.push(vec![address, "Ada", "London", site, "-"]);
    }
    let line = |row: Vec<&str>| {
        let cells: Vec<String> = row.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        cells.join(",") + "\r\n"
    };
    rows.into_iter().map(line).collect()
}
