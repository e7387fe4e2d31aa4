//! A real browser, chromium without a screen, driven over its own protocol by two pipes. It runs no scripts of pages.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::peers::wait_for;

/// An open page.
pub struct Browser {
    child: Child,
    commands: File,
    answers: BufReader<File>,
    session: Option<String>,
    last: u64,
}

/// How wide and high a window is, in CSS pixels.
#[derive(Debug, Clone, Copy)]
pub enum Window {
    /// A desk's.
    Desk,
    /// A phone's.
    Phone,
}

impl Browser {
    /// Starts it with a profile in `scratch`; scripts are off.
    pub fn start(scratch: &Path, window: Window) -> Browser {
        let pipes = ["commands", "answers"].map(|name| scratch.join(format!("chromium-{name}")));
        for pipe in &pipes {
            let _ = fs::remove_file(pipe);
            assert!(Command::new("mkfifo").arg(pipe).status().expect("mkfifo runs").success());
        }
        // the shell waits for the other end of each pipe before it becomes the browser
        let script = "exec chromium --headless --no-sandbox --disable-gpu --disable-background-networking \
                      --remote-debugging-pipe --user-data-dir=\"$1\" 3<\"$2\" 4>\"$3\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(scratch.join("chromium-profile")).args(&pipes);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("a shell");
        let commands = OpenOptions::new().write(true).open(&pipes[0]).expect("the pipe to chromium");
        let answers = BufReader::new(File::open(&pipes[1]).expect("the pipe from chromium"));
        let mut browser = Browser { child, commands, answers, session: None, last: 0 };
        let target = browser.tell("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.tell("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser.tell("Emulation.setScriptExecutionDisabled", json!({"value": true}));
        let (width, mobile) = match window {
            Window::Desk => (1200, false),
            Window::Phone => (360, true),
        };
        let metrics = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": mobile});
        browser.tell("Emulation.setDeviceMetricsOverride", metrics);
        browser
    }

    /// Goes to a page.
    pub fn open(&mut self, url: &str) {
        let gone = self.tell("Page.navigate", json!({"url": url}));
        assert_eq!(gone["errorText"], Value::Null, "{url}");
        self.wait_for("body");
    }

    /// Clicks on the element that a selector names, as a finger would: at its middle.
    pub fn click(&mut self, selector: &str) {
        let node = self.wait_for(selector);
        self.tell("DOM.scrollIntoViewIfNeeded", json!({"nodeId": node}));
        let quad = self.tell("DOM.getBoxModel", json!({"nodeId": node}))["model"]["border"].clone();
        let at = |index: usize| quad[index].as_f64().expect("a coordinate");
        let (x, y) = ((at(0) + at(4)) / 2.0, (at(1) + at(5)) / 2.0);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.tell("Input.dispatchMouseEvent", event);
        }
    }

    /// Types into the element that a selector names.
    pub fn write(&mut self, selector: &str, text: &str) {
        let node = self.wait_for(selector);
        self.tell("DOM.focus", json!({"nodeId": node}));
        self.tell("Input.insertText", json!({"text": text}));
    }

    /// The HTML of the page as it is now.
    pub fn page(&mut self) -> String {
        let root = self.root();
        let html = self.tell("DOM.getOuterHTML", json!({"nodeId": root}))["outerHTML"].clone();
        html.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page says this.
    pub fn wait_until_it_says(&mut self, words: &str) {
        wait_for(&format!("a page that says {words:?}"), || self.page().contains(words));
    }

    /// How much wider than the window the page is, in pixels.
    pub fn overflow(&mut self) -> f64 {
        let metrics = self.tell("Page.getLayoutMetrics", json!({}));
        let width = |what: &str, of: &str| metrics[what][of].as_f64().expect("a width");
        width("cssContentSize", "width") - width("cssLayoutViewport", "clientWidth")
    }

    fn root(&mut self) -> Value {
        self.tell("DOM.getDocument", json!({}))["root"]["nodeId"].clone()
    }

    fn wait_for(&mut self, selector: &str) -> Value {
        let mut node = Value::Null;
        wait_for(&format!("{selector} on the page"), || {
            let root = self.root();
            node = self.tell("DOM.querySelector", json!({"nodeId": root, "selector": selector}))["nodeId"].clone();
            node.as_u64().is_some_and(|number| number > 0)
        });
        node
    }

    /// Sends a command and gives its result; null for one that a page on its way could not answer.
    fn tell(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).expect("chromium listens");
        loop {
            let mut answer = Vec::new();
            let read = self.answers.read_until(0, &mut answer).expect("chromium answers");
            assert!(read > 0, "chromium has ended");
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            if answer["id"] == self.last {
                return answer["result"].clone();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
