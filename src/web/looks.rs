//! How the pages look: handlebars templates in the binary, each replaceable by a file of the same name in the workspace's
//! `public/`; and the headers every answer carries.

use std::path::{Path, PathBuf};

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use handlebars::Handlebars;
use serde::Serialize;

use crate::web::Pages;
use crate::world::{NotInside, inside};

/// The pages in the binary.
const BUILT_IN: &[(&str, &str)] = &[
    ("page", include_str!("public/page.hbs")),
    ("unsubscribe", include_str!("public/unsubscribe.hbs")),
    ("left", include_str!("public/left.hbs")),
    ("back", include_str!("public/back.hbs")),
    ("unknown", include_str!("public/unknown.hbs")),
    ("sorry", include_str!("public/sorry.hbs")),
    ("preferences", include_str!("public/preferences.hbs")),
    ("signup", include_str!("public/signup.hbs")),
    ("asked", include_str!("public/asked.hbs")),
    ("confirm", include_str!("public/confirm.hbs")),
    ("confirmed", include_str!("public/confirmed.hbs")),
    ("too-late", include_str!("public/too-late.hbs")),
];
/// The request to confirm a subscription; the text begins with its subject.
const REQUEST: (&str, &str) = (include_str!("public/confirm-mail.html"), include_str!("public/confirm-mail.txt"));
const SUBJECT: &str = "Subject: ";
const STYLE: &str = include_str!("public/style.css");

/// What every answer says about itself (H-16). The pages have no scripts, and nothing of them is kept or indexed.
const GUARDS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("x-robots-tag"), "noindex"),
];

/// Why a page of the workspace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LooksError {
    /// It cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// A link of the file system leads out of the folder: what lies elsewhere is not meant to be served.
    #[error("{} leads out of its folder", path.display())]
    Elsewhere {
        /// The file.
        path: PathBuf,
    },
    /// It is no handlebars template.
    #[error("{}: {why}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        why: String,
    },
}

/// The templates, parsed once.
pub struct Looks {
    templates: Handlebars<'static>,
    style: String,
    request: (String, String),
}

impl Looks {
    /// The pages in the binary, and over them those of `folder`, when it is there.
    pub fn load(folder: &Path) -> Result<Looks, LooksError> {
        let mut templates = Handlebars::new();
        templates.set_strict_mode(true);
        for (name, text) in BUILT_IN {
            let file = folder.join(format!("{name}.hbs"));
            let own = read(&file)?;
            templates
                .register_template_string(name, own.as_deref().unwrap_or(text))
                .map_err(|why| LooksError::Template { path: file, why: why.to_string() })?;
        }
        let style = read(&folder.join("style.css"))?.unwrap_or_else(|| STYLE.to_owned());
        let or = |name: &str, own: &str| Ok(read(&folder.join(name))?.unwrap_or_else(|| own.to_owned()));
        let request = (or("confirm-mail.html", REQUEST.0)?, or("confirm-mail.txt", REQUEST.1)?);
        Ok(Looks { templates, style, request })
    }

    /// The HTML of the request to confirm a subscription, a template of messages.
    pub(super) fn request_html(&self) -> &str {
        &self.request.0
    }

    /// Its subject and its text.
    pub(super) fn request_text(&self) -> (&str, &str) {
        let text = self.request.1.trim_start();
        let head = text.strip_prefix(SUBJECT).and_then(|rest| rest.split_once('\n'));
        head.map_or(("Please confirm", text), |(subject, text)| (subject.trim(), text.trim_start()))
    }

    /// What is said when the record failed: nothing was changed.
    pub(super) fn sorry(&self) -> Response {
        self.page("sorry", StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({}))
    }

    /// A page. One that cannot be rendered, because a template of the workspace asks for what is not there, is logged and
    /// answered in plain words: what the request did has been done.
    pub(super) fn page(&self, name: &str, status: StatusCode, values: &impl Serialize) -> Response {
        match self.templates.render(name, values) {
            Ok(html) => (status, Html(html)).into_response(),
            Err(why) => {
                tracing::error!(page = name, %why, "a page cannot be shown");
                (status, "Done.").into_response()
            }
        }
    }
}

/// A file of the folder; `None` when it is not there.
fn read(path: &Path) -> Result<Option<String>, LooksError> {
    let failed = |why| LooksError::Read { path: path.to_owned(), why };
    let home = path.parent().and_then(|folder| folder.canonicalize().ok());
    match inside(path, home.as_slice()) {
        Ok(place) => std::fs::read_to_string(place).map(Some).map_err(failed),
        Err(NotInside::Unseen(why)) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(NotInside::Unseen(why)) => Err(failed(why)),
        Err(NotInside::Elsewhere(_)) => Err(LooksError::Elsewhere { path: path.to_owned() }),
    }
}

/// The style sheet.
pub(super) async fn style(State(pages): State<Pages>) -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], pages.looks.style.clone()).into_response()
}

/// The same answer for every link that is none of ours: it tells nothing about what exists (U-02).
pub(super) async fn not_found(State(pages): State<Pages>) -> Response {
    pages.looks.page("unknown", StatusCode::NOT_FOUND, &serde_json::json!({}))
}

/// Adds the guarding headers to an answer.
pub(super) async fn guard(mut response: Response) -> Response {
    for (name, value) in GUARDS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
