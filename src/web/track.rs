//! Tracked links and the open pixel (U-14 … U-21). A visit is handed on and the page answered at once; a task of its own puts
//! visits on record in batches, every few hundredths of a second: a process that is killed loses those of that time. A full or
//! failing record costs figures, never a reader's time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::base::Purpose;
use crate::store::{Store, Visit, Visitor};
use crate::web::{Pages, looks};

/// Visits that may wait to be put on record; how many more there were is told in the log.
const WAITING_MAX: usize = 20_000;
/// Visits recorded in one transaction.
const BATCH_MAX: usize = 500;
/// How long visits gather for one transaction. What a killed process loses are those that came within this and the time of
/// one commit.
const GATHER: Duration = Duration::from_millis(20);
/// How long a failing record is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a batch is tried before it is given up.
const TRIES_MAX: u32 = 60;

/// A picture of one transparent dot.
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// Words in the name of a program that is no reader: scanners, previews, fetchers. In lower case.
const MACHINES: &[&str] = &[
    "bot",
    "crawl",
    "spider",
    "scan",
    "preview",
    "prefetch",
    "monitor",
    "validator",
    "headless",
    "phantomjs",
    "curl/",
    "wget",
    "libwww",
    "python",
    "go-http-client",
    "java/",
    "okhttp",
    "httpclient",
    "node-fetch",
    "axios",
    "ruby",
    "guzzle",
    "barracuda",
    "proofpoint",
    "mimecast",
    "messagelabs",
    "symantec",
    "trendmicro",
    "sophos",
    "ironport",
    "fortinet",
    "fortimail",
    "forcepoint",
    "websense",
    "zscaler",
    "safelinks",
    "bitdefender",
    "facebookexternalhit",
    "whatsapp",
    "existence discovery",
];
/// Words in the name of an image proxy that fetches when the message is opened. In lower case.
const PROXIES: &[&str] = &["googleimageproxy", "yahoomailproxy"];
/// What Apple's Mail Privacy Protection calls itself: a name that no browser has.
const APPLE: &str = "Mozilla/5.0";
/// How Gmail names itself when it fetches pictures before anybody has opened the message.
const GMAIL_AHEAD: &str = "Edge/12.246 Mozilla/5.0";

/// Takes visits and puts them on record. Cheap to clone.
#[derive(Clone)]
pub struct Tracker {
    visits: mpsc::Sender<Visit>,
    /// How many were not taken since this was last told.
    lost: Arc<AtomicU64>,
}

impl Tracker {
    /// A tracker, and the task that writes; it ends once every tracker is gone and all is on record.
    pub fn start(store: Store) -> (Tracker, JoinHandle<()>) {
        let (visits, waiting) = mpsc::channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        (Tracker { visits, lost: lost.clone() }, tokio::spawn(write(store, waiting, lost)))
    }

    fn note(&self, visit: Visit) {
        if self.visits.try_send(visit).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes what has piled up, until nobody can send more.
async fn write(store: Store, mut waiting: mpsc::Receiver<Visit>, lost: Arc<AtomicU64>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if batch.len() < BATCH_MAX {
            sleep(GATHER).await;
        }
        while batch.len() < BATCH_MAX
            && let Ok(visit) = waiting.try_recv()
        {
            batch.push(visit);
        }
        let visits = std::mem::take(&mut batch);
        let not_taken = lost.swap(0, Ordering::Relaxed);
        if not_taken > 0 {
            tracing::warn!(not_taken, "more visits than can be recorded: some are not counted");
        }
        for tries in 1.. {
            match store.record_visits(visits.clone()).await {
                Ok(()) => break,
                Err(why) if tries == TRIES_MAX => {
                    tracing::error!(%why, lost = visits.len(), "visits could not be recorded");
                    break;
                }
                Err(why) => tracing::warn!(%why, "visits cannot be recorded now"),
            }
            sleep(PAUSE).await;
        }
    }
}

/// GET of a tracked link: to its target, which stands in the edition. HEAD is answered and not counted (U-15).
pub(super) async fn click(
    State(pages): State<Pages>,
    Path(token): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some((copy, number)) = pages.seal.open(&token, Purpose::Click) else {
        return looks::not_found(State(pages)).await;
    };
    let found = pages.editions.of(&pages.store, copy.launch()).and_then(|content| {
        let Some(content) = content else { return Ok(None) };
        let targets = &content.targets;
        let recipient = match targets.is_same_for_all(number) {
            Some(false) => pages.store.recipient(copy.contact())?,
            Some(true) | None => None,
        };
        Ok(targets.target(number, recipient.as_ref()))
    });
    match found {
        Ok(Some(target)) => {
            if method == Method::GET {
                let at = pages.clock.now();
                pages.tracker.note(Visit { copy, link: Some(number), visitor: visitor(&headers), at });
            }
            (StatusCode::FOUND, [(header::LOCATION, target)]).into_response()
        }
        Ok(None) => looks::not_found(State(pages)).await,
        Err(why) => {
            tracing::error!(%why, "a link could not be followed");
            pages.looks.sorry()
        }
    }
}

/// GET of the pixel: the same picture whatever the token (U-20).
pub(super) async fn open(
    State(pages): State<Pages>,
    Path(token): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if let Some((copy, _)) = pages.seal.open(&token, Purpose::Open).filter(|_| method == Method::GET) {
        let at = pages.clock.now();
        pages.tracker.note(Visit { copy, link: None, visitor: visitor(&headers), at });
    }
    ([(header::CONTENT_TYPE, "image/gif")], PIXEL).into_response()
}

/// Who a request seems to come from, as far as it says so itself (U-18, U-21).
fn visitor(headers: &HeaderMap) -> Visitor {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let ahead = ["purpose", "sec-purpose", "x-purpose", "x-moz"].into_iter().any(|name| {
        let says = text(name).to_ascii_lowercase();
        says.contains("prefetch") || says.contains("preview")
    });
    let name = text("user-agent").trim();
    let lower = name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    match () {
        () if ahead || name.is_empty() || name == APPLE || name.contains(GMAIL_AHEAD) => Visitor::Machine,
        () if has(PROXIES) => Visitor::Proxy,
        () if has(MACHINES) => Visitor::Machine,
        () => Visitor::Person,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_what_they_say_of_themselves() {
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
        for (agent, expected) in [
            (firefox, Visitor::Person),
            ("Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; Microsoft Outlook 16.0.5134)", Visitor::Person),
            (
                "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
                Visitor::Proxy,
            ),
            ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", Visitor::Proxy),
            ("Mozilla/5.0", Visitor::Machine),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0",
                Visitor::Machine,
            ),
            ("BarracudaCentral", Visitor::Machine),
            ("python-requests/2.32", Visitor::Machine),
            ("", Visitor::Machine),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("user-agent", agent.parse().unwrap());
            assert_eq!(visitor(&headers), expected, "{agent}");
            headers.insert("sec-purpose", "prefetch;prerender".parse().unwrap());
            assert_eq!(visitor(&headers), Visitor::Machine);
        }
        assert_eq!(visitor(&HeaderMap::new()), Visitor::Machine);
    }
}
