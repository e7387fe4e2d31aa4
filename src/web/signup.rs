//! Joining a list from a page, with double opt-in (U-08, U-09): whoever asks gets a message through the ordinary queue, and is
//! on the list once the mailbox's owner has said yes on the page it leads to. The answer is the same whoever asks, so that
//! nobody can find out who is on a list.

use std::sync::Arc;
use std::time::Duration;

use axum::Form;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::base::{Address, CampaignName, EditionId, LaunchId, ListId, Purpose};
use crate::compose::{self, Edition, FromField, Missing, Template, Tracking};
use crate::config::Settings;
use crate::mail::InDoubt;
use crate::store::{self, Confirmation, NewSignup, Store};
use crate::web::door::Client;
use crate::web::subscriptions::sorry;
use crate::web::{Looks, Pages, looks};
use crate::world::Clock;

/// The name under which requests to confirm are launched.
const CAMPAIGN: &str = "confirmation";
/// How often subscriptions that were never confirmed are forgotten.
const SWEEP: Duration = Duration::from_secs(3600);
/// The longest text kept of what a browser says.
const SAID_MAX: usize = 200;

/// Has a launch on record seen to by whoever owns the queue; when nobody does, it is seen to once somebody does.
pub type Ring = Arc<dyn Fn(LaunchId) + Send + Sync>;

/// The lists that people may join, and the requests to confirm that go with them.
#[derive(Clone)]
pub struct Signups {
    lists: Vec<Open>,
    consent: String,
    via: Option<String>,
    expires: Duration,
    ring: Ring,
}

#[derive(Clone)]
struct Open {
    name: String,
    list: ListId,
    edition: EditionId,
}

/// Why nobody can join.
#[derive(Debug, thiserror::Error)]
pub enum SignupError {
    /// The request to confirm cannot be printed.
    #[error("the request to confirm (public/confirm-mail.html and .txt): {0}")]
    Template(#[from] compose::Error),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Signups {
    /// Freezes the request to confirm for every list of the settings; lists that are not there are made.
    pub async fn open(
        settings: &Settings,
        looks: &Looks,
        store: &Store,
        clock: &dyn Clock,
        ring: Ring,
    ) -> Result<Signups, SignupError> {
        let signup = &settings.signup;
        let mut lists = Vec::new();
        for name in &signup.lists {
            let edition = request(settings, looks, name);
            Template::compile(&edition)?;
            let now = clock.now();
            let list = store.make_list(name.clone(), now).await?;
            let edition = store.put_edition(edition.hash(), &campaign(), edition.to_bytes(), now).await?;
            lists.push(Open { name: name.clone(), list, edition });
        }
        let (consent, via) = (signup.consent.clone(), signup.via.clone());
        Ok(Signups { lists, consent, via, expires: signup.expires.duration(), ring })
    }

    /// Forgets what was never confirmed, now and then, until stopped.
    pub async fn sweep(self, store: Store, clock: Arc<dyn Clock>, stop: CancellationToken) {
        loop {
            if let Err(why) = store.forget_signups(clock.now() - self.expires).await {
                tracing::warn!(%why, "subscriptions that were never confirmed could not be forgotten");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(SWEEP) => {}
            }
        }
    }

    fn of(&self, list: &str) -> Option<&Open> {
        self.lists.iter().find(|open| open.name.eq_ignore_ascii_case(list))
    }
}

fn campaign() -> CampaignName {
    CampaignName::parse(CAMPAIGN).expect("a fixed name")
}

/// The request to confirm for one list: no tracking, no pictures, nothing but the question.
fn request(settings: &Settings, looks: &Looks, list: &str) -> Edition {
    let from = settings.signup.from.clone();
    let domain = from.rsplit_once('@').map_or("", |(_, domain)| domain);
    let bounce = settings.sender.bounce_domain.clone().unwrap_or_else(|| format!("bounce.{domain}"));
    let (subject, text) = looks.request_text();
    Edition {
        format: Edition::FORMAT,
        campaign: CAMPAIGN.to_owned(),
        subject: subject.to_owned(),
        from: FromField { name: settings.signup.from_name.replace("{{", ""), address: from },
        reply_to: None,
        headers: Vec::new(),
        html: looks.request_html().to_owned(),
        text: text.to_owned(),
        inline: Vec::new(),
        attachments: Vec::new(),
        lists: vec![list.to_owned()],
        postal_address: settings.sender.postal_address.trim().to_owned(),
        base_url: settings.links.base_url.clone(),
        mailto_domain: settings.links.mailto_domain.clone().unwrap_or_else(|| bounce.clone()),
        bounce_domain: bounce,
        sender_id: "confirmation".to_owned(),
        missing: Missing::Default,
        in_doubt: InDoubt::Resend,
        tracking: Tracking::default(),
        links: Vec::new(),
    }
}

/// What the pages show.
#[derive(Default, Serialize)]
struct Shown<'a> {
    list: &'a str,
    consent: &'a str,
    token: &'a str,
    address: &'a str,
    /// Whether the address given is none.
    is_wrong: bool,
}

/// What the form sends.
#[derive(Deserialize)]
pub(super) struct Given {
    #[serde(default)]
    email: String,
}

/// GET: the form.
pub(super) async fn form(State(pages): State<Pages>, Path(list): Path<String>) -> Response {
    match pages.signups.as_ref().and_then(|signups| Some((signups, signups.of(&list)?))) {
        Some((signups, open)) => {
            let shown = Shown { list: &open.name, consent: &signups.consent, ..Shown::default() };
            pages.looks.page("signup", StatusCode::OK, &shown)
        }
        None => looks::not_found(State(pages)).await,
    }
}

/// POST: asks the mailbox's owner. What is answered does not depend on who they are.
pub(super) async fn ask(
    State(pages): State<Pages>,
    Path(list): Path<String>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
    Form(Given { email }): Form<Given>,
) -> Response {
    let Some((signups, open)) = pages.signups.as_ref().and_then(|signups| Some((signups, signups.of(&list)?))) else {
        return looks::not_found(State(pages)).await;
    };
    let shown = Shown { list: &open.name, consent: &signups.consent, address: email.trim(), ..Shown::default() };
    let Ok(address) = Address::parse(email.trim()) else {
        let wrong = Shown { is_wrong: true, ..shown };
        return pages.looks.page("signup", StatusCode::UNPROCESSABLE_ENTITY, &wrong);
    };
    let new = NewSignup {
        address,
        list: open.list,
        edition: open.edition,
        campaign: campaign(),
        via: signups.via.clone(),
        consent: signups.consent.clone(),
        form: format!("/s/{} {}", open.name, said(&headers, header::REFERER)).trim_end().to_owned(),
        client: client_name(client),
        agent: said(&headers, header::USER_AGENT),
    };
    match pages.store.sign_up(new, pages.clock.now()).await {
        Ok(asked) => {
            if let Some(copy) = asked {
                (signups.ring)(copy.launch());
            }
            pages.looks.page("asked", StatusCode::OK, &shown)
        }
        Err(why) => sorry(&pages, &why),
    }
}

/// GET of the link in the request: asks once more, because programs follow links too.
pub(super) async fn question(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let Some((copy, _)) = pages.seal.open(&token, Purpose::Confirm) else {
        return looks::not_found(State(pages)).await;
    };
    let expires = pages.signups.as_ref().map(|signups| signups.expires);
    match pages.store.signup(copy) {
        Ok(row) => {
            let now = pages.clock.now();
            let open = row.filter(|row| row.confirmed.is_some() || expires.is_some_and(|e| row.asked >= now - e));
            let Some(row) = open else {
                return pages.looks.page("too-late", StatusCode::GONE, &Shown::default());
            };
            let shown = Shown { list: &row.list, token: &token, consent: &row.consent, ..Shown::default() };
            let name = if row.confirmed.is_some() { "confirmed" } else { "confirm" };
            pages.looks.page(name, StatusCode::OK, &shown)
        }
        Err(why) => sorry(&pages, &why),
    }
}

/// POST: on the list.
pub(super) async fn confirm(
    State(pages): State<Pages>,
    Path(token): Path<String>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
) -> Response {
    let Some((copy, _)) = pages.seal.open(&token, Purpose::Confirm) else {
        return looks::not_found(State(pages)).await;
    };
    let now = pages.clock.now();
    let done = async {
        let (Some(row), Some(signups)) = (pages.store.signup(copy)?, pages.signups.as_ref()) else {
            return Ok((Confirmation::Gone, String::new()));
        };
        let traces = pages.seal.traces(&row.address).collect();
        let by = (client_name(client), said(&headers, header::USER_AGENT));
        let confirmed = pages.store.confirm(copy, now - signups.expires, by, traces, now).await?;
        Ok::<_, store::Error>((confirmed, row.list))
    };
    match done.await {
        Ok((Confirmation::Joined | Confirmation::Known, list)) => {
            pages.looks.page("confirmed", StatusCode::OK, &Shown { list: &list, token: &token, ..Shown::default() })
        }
        Ok((Confirmation::Gone, _)) => pages.looks.page("too-late", StatusCode::GONE, &Shown::default()),
        Err(why) => sorry(&pages, &why),
    }
}

fn client_name(client: Option<Extension<Client>>) -> String {
    client.map_or_else(|| "unknown".to_owned(), |Extension(Client(address))| address.to_string())
}

fn said(headers: &HeaderMap, name: header::HeaderName) -> String {
    let text = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.chars().take(SAID_MAX).collect()
}
