//! A workspace with a campaign that puts contacts' values wherever a template may, and the real binary in it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::people;

const CAMPAIGN: &str = r#"
subject = "Hello {{name}} of {{city}}"
from = "News for {{city}} <news@example.com>"
reply_to = "answers@example.com"
lists = ["news"]

[headers]
X-City = "{{city}}"
X-Note = "{{#if note}}{{upper note}}{{/if}}"
"#;

/// Text, attributes with and without quotes, comments, and links with the value in every place.
const HTML: &str = r#"<!doctype html>
<html><head><title>{{city}}</title></head><body>
<!-- {{note}} --><!--[if mso]><p title="{{note}}">{{note}}</p><![endif]-->
<!--[if !mso]><!--><p title={{note}} lang="{{name}}">{{note}} <a href="{{site}}">zero</a></p><!--<![endif]-->
<p title="{{name}}" class='{{city}}' lang={{note}}>{{note}}</p>
<table><tr><td align={{ city }} {{#if name}}title="{{name}}"{{/if}}>{{upper note}}</td></tr></table>
<a href="{{site}}">one</a> <a href='{{ site }}'>two</a> <a href={{site}}>three</a> <a href="{{trim site}}">four</a>
<a href="{{#if city}}{{site}}{{else}}https://shop.example/{{/if}}">five</a> <a href="{{lookup this "site"}}">six</a>
<a href="https://shop.example/?q={{url city}}&amp;n={{city}}">seven</a>
<img src="https://shop.example/{{url note}}.png" alt="{{note}}">
<p>{{postal_address}} <a href="{{unsubscribe_url}}">Unsubscribe</a></p>
</body></html>
"#;

const TEXT: &str = "{{name}}\n{{city}}\n.\n.{{note}}\n{{note}}\n\n{{postal_address}}\n{{unsubscribe_url}}\n";

/// A workspace in a folder of its own.
pub struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// With the hostile contacts on the list `news`.
    pub fn set() -> Scene {
        let scene = Scene { folder: tempfile::tempdir().unwrap() };
        scene.ran(&["init"]);
        for name in ["hostile", "chunks"] {
            scene.write(&format!("campaigns/{name}/campaign.toml"), CAMPAIGN);
            scene.write(&format!("campaigns/{name}/body.html"), HTML);
            scene.write(&format!("campaigns/{name}/body.txt"), TEXT);
        }
        scene.write("people.csv", &people::csv());
        scene
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
    }

    /// The path of a file in the workspace.
    pub fn at(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
        command.arg("-C").arg(self.path()).args(arguments).env_clear().stdin(Stdio::null());
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// Runs it; it must end well, or with something to look at.
    pub fn ran(&self, arguments: &[&str]) -> Output {
        let output = self.output(arguments);
        let (code, words) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
        assert!(matches!(code, Some(0 | 4)), "{arguments:?} ended with {code:?}: {words}");
        output
    }

    /// Takes the contacts in, with refused rows in `rejects.csv`.
    pub fn import(&self) -> Output {
        let (people, rejects) = (self.at("people.csv"), self.at("rejects.csv"));
        let unusual = ["--allow-quoted", "--allow-literal"];
        self.ran(&[&["import", &people, "--list", "news", "--rejects", &rejects], &unusual[..]].concat())
    }
}
