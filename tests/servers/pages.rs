//! The pages as a person meets them: in a real browser that runs no scripts, at the width of a desk and of a phone.

use std::fs;
use std::path::Path;

use crate::browser::{Browser, Window};
use crate::peers::{SmtpSink, free_port, listens, wait_for};
use crate::workspace::{Stayer, Workspace};

/// Characters of a token.
const TOKEN: usize = 33;

/// A workspace that serves its pages, and a sink for what it sends.
struct Site {
    workspace: Workspace,
    sink: SmtpSink,
    url: String,
    _serve: Stayer,
}

impl Site {
    fn open() -> Site {
        let mut workspace = Workspace::new();
        let sink = SmtpSink::start(workspace.scratch());
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        workspace.set("LINKS__BASE_URL", &url);
        workspace.set("WEB__LISTEN", format!("127.0.0.1:{port}"));
        workspace.set("SIGNUP__LISTS", "news");
        workspace.set("SIGNUP__FROM", "letters@example.com");
        workspace.set("SIGNUP__VIA", format!("smtp://127.0.0.1:{}", sink.port));
        workspace.people(1, &["one.example"]);
        let serve = workspace.stay(&["serve"]);
        wait_for("the pages", || listens(port));
        Site { workspace, sink, url, _serve: serve }
    }

    /// Where a contact stands on the list.
    fn status(&self, address: &str) -> String {
        let contact = self.workspace.ask(&["contacts", "show", address]);
        contact["lists"][0]["status"].as_str().unwrap_or_default().to_owned()
    }
}

/// The token behind a mark in the newest message that has one.
fn token(messages: &[impl AsRef<Path>], mark: &str) -> String {
    let texts = messages.iter().map(|file| fs::read_to_string(file).expect("a message"));
    let found = texts.filter_map(|text| Some(text.split_once(mark)?.1.get(..TOKEN)?.to_owned())).last();
    found.unwrap_or_else(|| panic!("no message has {mark}"))
}

pub fn leave_choose_and_join() {
    let site = Site::open();
    let reader = "person0@one.example";
    site.workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", site.sink.port)]);
    wait_for("the letter", || !site.sink.messages().is_empty());
    let token = token(&site.sink.messages(), "/u/");
    for window in [Window::Desk, Window::Phone] {
        let mut browser = Browser::start(site.workspace.scratch(), window);
        leave_and_come_back(&site, &mut browser, &token, reader);
        choose(&site, &mut browser, &token, reader);
    }
    join(&site, &mut Browser::start(site.workspace.scratch(), Window::Phone), "reader@two.example");
}

fn leave_and_come_back(site: &Site, browser: &mut Browser, token: &str, reader: &str) {
    browser.open(&format!("{}/u/{token}", site.url));
    browser.wait_until_it_says("Leave this list?");
    assert!(browser.overflow() <= 0.0, "the page is wider than its window");
    assert_eq!(site.status(reader), "subscribed", "looking changes nothing");
    browser.click("form button.main");
    browser.wait_until_it_says("You have left");
    assert_eq!(site.status(reader), "unsubscribed");
    browser.click("form[action$=undo] button");
    browser.wait_until_it_says("Welcome back");
    assert_eq!(site.status(reader), "subscribed");
}

fn choose(site: &Site, browser: &mut Browser, token: &str, reader: &str) {
    browser.open(&format!("{}/p/{token}", site.url));
    browser.wait_until_it_says("Your letters");
    assert!(browser.overflow() <= 0.0, "the page is wider than its window");
    for status in ["unsubscribed", "subscribed"] {
        browser.click("input[name=list]");
        browser.click("form button.main");
        wait_for(status, || site.status(reader) == status);
        browser.wait_until_it_says("Saved.");
    }
    browser.click("form[action$=pause] button");
    browser.wait_until_it_says("nothing comes before");
    browser.click("form[action$=resume] button");
    browser.wait_until_it_says("your letters come again");
}

fn join(site: &Site, browser: &mut Browser, reader: &str) {
    let before = site.sink.messages().len();
    browser.open(&format!("{}/s/news", site.url));
    browser.write("#email", reader);
    assert!(browser.overflow() <= 0.0, "the page is wider than its window");
    browser.click("form button.main");
    browser.wait_until_it_says("look into your mailbox");
    assert_eq!(site.status(reader), "pending");
    wait_for("the request to confirm", || site.sink.messages().len() > before);
    let token = token(&site.sink.messages(), "/confirm/");
    browser.open(&format!("{}/confirm/{token}", site.url));
    browser.wait_until_it_says("Join news?");
    assert_eq!(site.status(reader), "pending", "looking changes nothing");
    browser.click("form button.main");
    browser.wait_until_it_says("You are on news");
    assert_eq!(site.status(reader), "subscribed");
}
