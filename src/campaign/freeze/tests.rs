//! Folders that become editions, and folders that do not.

use super::*;
use crate::base::CampaignName;

const DEFINITION: &str = "subject = \"Hi\"\nfrom = \"News <news@example.com>\"\nlists = [\"news\"]\n";
const FOOTER: &str = "{{postal_address}} <a href=\"{{unsubscribe_url}}\">Unsubscribe</a>";

/// Freezes a campaign whose workspace has these files; `campaign.toml` gets `keys` added.
fn freeze(keys: &str, files: &[(&str, &str)]) -> Result<Edition, Error> {
    let workspace = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = workspace.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let folder = workspace.path().join("campaigns/c");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(FILE), format!("{DEFINITION}{keys}")).unwrap();
    let settings = Settings::default();
    Campaign::load(workspace.path(), &CampaignName::parse("c").unwrap())?.freeze(workspace.path(), &settings)
}

#[test]
fn markdown_layout_images_and_attachments_become_one_edition() {
    let layout = format!("<html><body>{{{{{{content}}}}}}<img src=\"cid:logo.png\">{FOOTER}</body></html>");
    let files = [
        ("campaigns/c/body.md", "# Hello {{name}}"),
        ("campaigns/c/img/logo.png", "PNG"),
        ("campaigns/c/terms.pdf", "PDF"),
        ("templates/plain.html", layout.as_str()),
    ];
    let keys = "template = \"plain\"\ninline = [\"img/logo.png\"]\nattachments = [\"terms.pdf\"]\n";
    let edition = freeze(keys, &files).unwrap();
    let id = edition.inline[0].content_id.clone().unwrap();
    assert!(edition.html.contains("<h1>Hello {{name}}</h1>") && edition.html.contains(&format!("\"cid:{id}\"")));
    assert!(id.ends_with("@example.com") && edition.attachments[0].media_type == "application/pdf");
    assert_eq!(edition.bounce_domain, "bounce.example.com");
    assert_eq!((edition.sender_id.as_str(), edition.mailto_domain.as_str()), ("examplecom", "bounce.example.com"));
    assert_eq!(edition.hash(), freeze(keys, &files).unwrap().hash());
    assert_ne!(edition.hash(), freeze(&format!("{keys}in_doubt = \"hold\"\n"), &files).unwrap().hash());
}

#[test]
fn folders_that_make_no_message_are_refused() {
    let told = |keys: &str, files: &[(&str, &str)]| freeze(keys, files).unwrap_err().to_string();
    assert!(told("", &[]).ends_with("there is no body"));
    let two = [("campaigns/c/body.md", "x"), ("campaigns/c/body.html", "x")];
    assert!(told("", &two).ends_with("there is more than one body"));
    assert!(told("", &[("campaigns/c/body.md", "x")]).contains("needs a layout"));
    let html = ("campaigns/c/body.html", "x");
    assert_eq!(told("template = \"none\"\n", &[html]), "there is no templates/none.mjml or templates/none.html");
    let both = [html, ("templates/t.html", "{{{content}}}"), ("templates/t.mjml", "<mjml/>")];
    assert!(told("template = \"t\"\n", &both).contains("more than one"));
    for file in ["../c/campaign.toml", "/etc/passwd", "gone.pdf"] {
        assert!(told(&format!("attachments = [\"{file}\"]\n"), &[html]).contains("there is no file"), "{file}");
    }
}

#[cfg(unix)]
#[test]
fn links_of_the_file_system_lead_nowhere_but_to_campaigns_and_templates() {
    use std::os::unix::fs::symlink;
    let html = format!("<p>x</p>{FOOTER}");
    for (link, keys) in [
        ("campaigns/c/terms.pdf", "attachments = [\"terms.pdf\"]\n"),
        ("campaigns/c/logo.png", "inline = [\"logo.png\"]\n"),
        ("campaigns/c/files/terms.pdf", "attachments = [\"files/terms.pdf\"]\n"),
        ("campaigns/c/body.txt", ""),
        ("templates/part.html", ""),
    ] {
        let workspace = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = workspace.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("state/keys/seal.keys", "secret");
        write("campaigns/shared/known.txt", "shared");
        write("templates/plain.html", "{{{content}}}");
        write("campaigns/c/campaign.toml", &format!("{DEFINITION}{keys}"));
        write("campaigns/c/body.html", &html);
        let path = workspace.path().join(link);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let freeze = || {
            let name = CampaignName::parse("c").unwrap();
            Campaign::load(workspace.path(), &name).unwrap().freeze(workspace.path(), &Settings::default())
        };
        symlink(workspace.path().join("campaigns/shared/known.txt"), &path).unwrap();
        assert!(freeze().is_ok(), "{link}");
        std::fs::remove_file(&path).unwrap();
        symlink(workspace.path().join("state/keys/seal.keys"), &path).unwrap();
        let told = freeze().unwrap_err().to_string();
        assert!(told.contains("leads out of campaigns/ and templates/"), "{link}: {told}");
        // a folder in between
        std::fs::remove_file(&path).unwrap();
        if let Some((folder, "terms.pdf")) = link.rsplit_once('/').filter(|(folder, _)| folder.ends_with("files")) {
            std::fs::remove_dir(workspace.path().join(folder)).unwrap();
            write("state/keys/terms.pdf", "secret");
            symlink(workspace.path().join("state/keys"), workspace.path().join(folder)).unwrap();
            assert!(freeze().unwrap_err().to_string().contains("leads out of"), "{link}");
        }
    }
}

#[test]
fn broken_templates_are_shown_in_the_file_they_stand_in() {
    let place = |files: &[(&str, &str)], keys: &str| match freeze(keys, files).unwrap_err() {
        Error::Place { file, place: Some(place), .. } => (
            file.name().rsplit('/').next().unwrap().to_owned(),
            file.inner()[place.offset()..place.offset() + place.len()].to_owned(),
        ),
        other => panic!("{other:?}"),
    };
    let body = [("campaigns/c/body.html", "one\n{{shout name}}\nthree")];
    assert_eq!(place(&body, ""), ("body.html".into(), "{{shout name}}".into()));
    let layout = [("campaigns/c/body.html", "x"), ("templates/t.html", "a\nb\n{{{content}}} {{{name}}}")];
    assert_eq!(place(&layout, "template = \"t\"\n"), ("t.html".into(), "{{{content}}} {{{name}}}".into()));
}

#[test]
fn sender_ids_keep_their_length() {
    let id = |set, domain: &str| sender_id(set, &Domain::parse(domain).unwrap());
    assert_eq!(id(None, "x.de").unwrap(), "xde00");
    assert_eq!(id(None, "a-very-long-name.example.com").unwrap(), "averylongnameex");
    assert_eq!(id(Some("mysender"), "x.de").unwrap(), "mysender");
    for bad in ["abcd", "a:bcdef", "sixteencharacters"] {
        assert!(id(Some(bad), "x.de").is_err());
    }
}

#[test]
fn a_tag_that_mjml_does_not_have_is_shown_where_it_stands() {
    let body = "<mj-section>\n  <mj-column>\n    <mj-txt>Hello {{name}}</mj-txt>\n  </mj-column>\n</mj-section>\n";
    let layout = "<mjml><mj-body>{{> head}}{{{content}}}</mj-body></mjml>";
    let head = "<mj-section>\n<mj-colum><mj-text>x</mj-text></mj-colum></mj-section>";
    let whole = "<mj-section><mj-column><mj-text>x</mj-text></mj-column></mj-section>";
    for (body, head, file, line, help) in
        [(body, whole, "body.mjml", 3, "<mj-text>"), (whole, head, "head.mjml", 2, "<mj-column>")]
    {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "campaigns/c/campaign.toml",
                "subject = \"x\"\nfrom = \"a@example.com\"\nlists = [\"news\"]\ntemplate = \"l\"\n",
            ),
            ("campaigns/c/body.mjml", body),
            ("templates/l.mjml", layout),
            ("templates/head.mjml", head),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let campaign = Campaign::load(folder.path(), &crate::base::CampaignName::parse("c").unwrap()).unwrap();
        let Err(Error::Place { message, file: shown, place, help: told }) =
            campaign.freeze(folder.path(), &Settings::default())
        else {
            panic!("{file}: accepted, or without its place");
        };
        let text = if file == "body.mjml" { body } else { head };
        let before = &text[..place.unwrap().offset()];
        assert!(shown.name().ends_with(file) && message.contains("broken MJML"), "{message}");
        assert_eq!(before.matches('\n').count() + 1, line, "{file}");
        assert!(told.unwrap().contains(help), "{file}");
    }
}

#[test]
fn a_tag_that_is_not_closed_is_found() {
    for (text, found) in [
        ("<mjml><mj-body></mj-body></mjml>", None),
        ("<mj-section><mj-column a=\"x>y\"><mj-text/></mj-section>", Some("mj-column")),
        ("<mj-section></mj-column></mj-section>", Some("mj-column")),
        ("<!-- <mj-text> --><mj-section>", Some("mj-section")),
    ] {
        assert_eq!(crate::compose::unpaired_tag(text).map(|(_, name)| name), found, "{text}");
    }
}
