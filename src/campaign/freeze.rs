//! Freezing: a campaign's files and the settings become one edition.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use toml::Spanned;

use crate::base::Domain;
use crate::campaign::definition::{FILE, place};
use crate::campaign::files::{Roots, media_type, read_asset, read_text, templates};
use crate::campaign::{Campaign, Error};
use crate::compose::{self, Asset, Draft, Edition, FromField, Markup, Part, Source, Template, Tracking};
use crate::config::Settings;

impl Campaign {
    /// Reads body, layout and files, and freezes them with what the settings add. What could not be printed for anybody
    /// is refused; what should not be sent is for [`compose::proof`] to say.
    pub fn freeze(&self, workspace: &Path, settings: &Settings) -> Result<Edition, Error> {
        let parts = templates(&workspace.join("templates"), &self.roots)?;
        let draft = self.draft(parts)?;
        self.inspect(workspace, &draft)?;
        let expanded = draft.expand().map_err(|why| self.place_layout(workspace, &draft, why))?;
        let inline = self.assets(&self.definition.inline, true)?;
        let html = inline.iter().fold(expanded.html, |html, asset| {
            let id = asset.content_id.as_deref().unwrap_or_default();
            html.replace(&format!("cid:{}", asset.name), &format!("cid:{id}"))
        });
        let domain = self.from.address.domain();
        let bounce = settings.sender.bounce_domain.clone().unwrap_or_else(|| format!("bounce.{domain}"));
        let tracking = Tracking {
            opens: self.definition.tracking.opens,
            clicks: self.definition.tracking.clicks,
            consent: settings.links.tracking_consent.into(),
        };
        let links = match tracking.clicks {
            true => compose::trackable(&html, &expanded.text, &settings.links.base_url),
            false => Vec::new(),
        };
        let edition = Edition {
            format: Edition::FORMAT,
            campaign: self.name().to_string(),
            subject: self.definition.subject.get_ref().clone(),
            from: FromField { name: self.from.name.clone(), address: self.from.address.to_string() },
            reply_to: self.definition.reply_to.as_ref().map(|address| address.get_ref().trim().to_owned()),
            headers: self.headers(),
            html,
            text: expanded.text,
            attachments: self.assets(&self.definition.attachments, false)?,
            inline,
            lists: self.lists().map(str::to_owned).collect(),
            postal_address: settings.sender.postal_address.trim().to_owned(),
            base_url: settings.links.base_url.clone(),
            mailto_domain: settings.links.mailto_domain.clone().unwrap_or_else(|| bounce.clone()),
            bounce_domain: bounce,
            sender_id: sender_id(settings.sender.feedback_id.as_deref(), domain)?,
            missing: self.definition.missing,
            in_doubt: self.definition.in_doubt,
            tracking,
            links,
        };
        Template::compile(&edition).map_err(|why| self.refused(why))?;
        Ok(edition)
    }

    fn headers(&self) -> Vec<(String, String)> {
        let plain =
            |(name, value): (&Spanned<String>, &Spanned<String>)| (name.get_ref().clone(), value.get_ref().clone());
        self.definition.headers.iter().map(plain).collect()
    }

    /// The content as the files give it.
    fn draft(&self, parts: BTreeMap<String, String>) -> Result<Draft, Error> {
        let body = self.body()?;
        let layout = self.definition.template.as_ref().map(|name| self.layout(name, &parts)).transpose()?;
        if layout.is_none() && body.markup == Markup::Markdown {
            return Err(Error::Folder {
                path: self.folder.join(FILE),
                message: "a body in Markdown needs a layout around it".into(),
                help: "name one of templates/, as in template = \"newsletter\"".into(),
            });
        }
        let by_hand = self.folder.join("body.txt");
        let text = by_hand.is_file().then(|| source(&by_hand, &self.roots)).transpose()?;
        let text_layout = layout.as_ref().and_then(|layout| {
            let name = format!("{}.txt", layout.file.rsplit_once('.').map_or("", |(stem, _)| stem));
            Some(Source { markup: Markup::Text, text: parts.get(&name)?.clone(), file: name })
        });
        let preheader = self.definition.preheader.as_ref().map(|text| text.get_ref().clone()).unwrap_or_default();
        Ok(Draft { body, text, layout, text_layout, preheader, inline_css: self.definition.inline_css, parts })
    }

    /// The one body of the folder.
    fn body(&self) -> Result<Source, Error> {
        let found: Vec<PathBuf> = ["body.md", "body.mjml", "body.html"]
            .iter()
            .map(|name| self.folder.join(name))
            .filter(|p| p.is_file())
            .collect();
        let wrong = |message: &str, help: &str| {
            Err(Error::Folder { path: self.folder.clone(), message: message.into(), help: help.into() })
        };
        match found.as_slice() {
            [one] => source(one, &self.roots),
            [] => wrong("there is no body", "write body.md, body.mjml or body.html"),
            _ => wrong("there is more than one body", "keep one of body.md, body.mjml and body.html"),
        }
    }

    /// The layout that `template` names: with its ending, or without when only one file has that name.
    fn layout(&self, name: &Spanned<String>, parts: &BTreeMap<String, String>) -> Result<Source, Error> {
        let wanted = name.get_ref();
        let fits = |file: &&String| {
            let markup = Markup::of(file);
            matches!(markup, Some(Markup::Mjml | Markup::Html))
                && (*file == wanted || file.rsplit_once('.').is_some_and(|(stem, _)| stem == wanted))
        };
        let found: Vec<&String> = parts.keys().filter(fits).collect();
        match found.as_slice() {
            [file] => Ok(Source {
                file: (*file).clone(),
                markup: Markup::of(file).expect("filtered by its markup"),
                text: parts[*file].clone(),
            }),
            [] => Err(self.place(
                name.span(),
                format!("there is no templates/{wanted}.mjml or templates/{wanted}.html"),
                "a template is the name of a file in templates/, without its ending",
            )),
            _ => Err(self.place(
                name.span(),
                format!("templates/ has more than one `{wanted}`"),
                "write the name with its ending, .mjml or .html",
            )),
        }
    }

    /// Refuses broken handlebars in the file it stands in, with its line.
    fn inspect(&self, workspace: &Path, draft: &Draft) -> Result<(), Error> {
        let part = |markup| if markup == Markup::Text { Part::Text } else { Part::Html };
        let mut files: Vec<(PathBuf, Part, &str)> = Vec::new();
        for source in [Some(&draft.body), draft.text.as_ref()].into_iter().flatten() {
            files.push((self.folder.join(&source.file), part(source.markup), &source.text));
        }
        for source in [draft.layout.as_ref(), draft.text_layout.as_ref()].into_iter().flatten() {
            files.push((workspace.join("templates").join(&source.file), part(source.markup), &source.text));
        }
        let parts = included(draft).into_iter().map(|(name, text)| (workspace.join("templates").join(name), text));
        for (path, text) in files.iter().map(|(path, _, text)| (path.clone(), *text)).chain(parts) {
            let is_mjml = path.extension().is_some_and(|ending| ending == "mjml");
            if let Some(tag) = is_mjml.then(|| compose::unknown_tag(text)).flatten() {
                let message = format!("broken MJML: there is no tag <{}>", tag.name);
                let help = tag.nearest.map(|known| format!("did you mean <{known}>?")).unwrap_or_default();
                return Err(place(&path, text, tag.at, message, &help));
            }
        }
        for (path, part, text) in files {
            if let Err(compose::Error::Template { line, message, .. }) = compose::inspect(part, text) {
                return Err(place(&path, text, line_span(text, line), message, ""));
            }
        }
        Ok(())
    }

    /// Broken MJML at the place it came from, where that can be found.
    fn place_layout(&self, workspace: &Path, draft: &Draft, why: compose::LayoutError) -> Error {
        let compose::LayoutError::Mjml { message, near, .. } = &why else { return why.into() };
        let templates = workspace.join("templates");
        let body = (self.folder.join(&draft.body.file), draft.body.text.as_str());
        let layout = draft.layout.as_ref().map(|layout| (templates.join(&layout.file), layout.text.as_str()));
        let included = included(draft);
        let parts = included.iter().map(|(name, text)| (templates.join(name), *text));
        let files: Vec<(PathBuf, &str)> = std::iter::once(body).chain(layout).chain(parts).collect();
        let unpaired = files.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "mjml"));
        let unpaired = unpaired.filter_map(|(path, text)| {
            let (at, name) = compose::unpaired_tag(text)?;
            let message = format!("broken MJML: <{name}> is not opened and closed in pairs");
            Some(place(path, text, at, message, "write the tag that is missing, or take this one out"))
        });
        let named = files.iter().filter_map(|(path, text)| {
            let at = text.find(near.as_str()).filter(|_| !near.is_empty())?;
            let help = "mind what may stand in what: sections hold columns, columns hold text";
            Some(place(path, text, at..at + near.len(), message.clone(), help))
        });
        unpaired.chain(named).next().unwrap_or_else(|| why.into())
    }

    fn assets(&self, names: &[Spanned<String>], inline: bool) -> Result<Vec<Asset>, Error> {
        names.iter().map(|name| self.asset(name, inline)).collect()
    }

    fn asset(&self, name: &Spanned<String>, inline: bool) -> Result<Asset, Error> {
        let relative = Path::new(name.get_ref());
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        let path = self.folder.join(relative);
        if !inside || !path.is_file() {
            let help = "name a file in the campaign's folder, as in \"programme.pdf\"";
            return Err(self.place(name.span(), format!("there is no file `{}`", name.get_ref()), help));
        }
        let bytes = read_asset(&path, &self.roots)?;
        let content_id = inline.then(|| {
            let hash = digest::digest(&digest::SHA256, &bytes);
            format!("{}@{}", HEXLOWER.encode(&hash.as_ref()[..10]), self.from.address.domain())
        });
        Ok(Asset {
            name: relative.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            media_type: media_type(name.get_ref()).to_owned(),
            content_id,
            bytes,
        })
    }

    /// What the compiler refused, at the place it came from where that is known.
    fn refused(&self, why: compose::Error) -> Error {
        let message = why.to_string();
        match why {
            compose::Error::Template { part: Part::Subject, .. } => {
                self.place(self.definition.subject.span(), message, "")
            }
            compose::Error::Address { field: key @ ("sender.bounce_domain" | "links.mailto_domain"), message } => {
                Error::Setting { key, message }
            }
            _ => Error::Folder {
                path: self.folder.clone(),
                message,
                help: "the line is that of the body with its layout and parts in place".into(),
            },
        }
    }
}

/// The files that body and layout include, and those included by them.
fn included(draft: &Draft) -> BTreeMap<&str, &str> {
    let mut found = BTreeMap::new();
    let mut texts: Vec<(&str, &str)> = Vec::new();
    for source in [Some(&draft.body), draft.layout.as_ref()].into_iter().flatten() {
        texts.push((&source.text, if source.markup == Markup::Mjml { "mjml" } else { "html" }));
    }
    while let Some((text, ending)) = texts.pop() {
        for part in compose::part_names(text) {
            if let Some((name, inner)) = draft.parts.get_key_value(&format!("{part}.{ending}"))
                && found.insert(name.as_str(), inner.as_str()).is_none()
            {
                texts.push((inner, ending));
            }
        }
    }
    found
}

fn source(path: &Path, roots: &Roots) -> Result<Source, Error> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let markup = Markup::of(&file).expect("bodies have known endings");
    Ok(Source { file, markup, text: read_text(path, roots)? })
}

/// Where a line stands in a text, from 1; all of it when the line is not known.
fn line_span(text: &str, line: Option<usize>) -> std::ops::Range<usize> {
    let Some(line) = line else { return 0..text.len().min(1) };
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let length = text[start..].lines().next().map_or(0, str::len);
    start..start + length
}

/// The SenderId of Feedback-ID: as set, or the letters and digits of the From domain, 5 to 15 of them (M-25).
fn sender_id(set: Option<&str>, domain: &Domain) -> Result<String, Error> {
    let Some(set) = set else {
        let mut id: String = domain.as_str().chars().filter(char::is_ascii_alphanumeric).take(15).collect();
        while id.len() < 5 {
            id.push('0');
        }
        return Ok(id);
    };
    let fits = (5..=15).contains(&set.len()) && set.bytes().all(|b| b.is_ascii_alphanumeric());
    match fits {
        true => Ok(set.to_owned()),
        false => Err(Error::Setting {
            key: "sender.feedback_id",
            message: format!("`{set}` is not 5 to 15 letters and digits"),
        }),
    }
}

#[cfg(test)]
mod tests;
