//! The pages as a mail program, a person and a scanner meet them.

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, StatusCode, header};
use tower::ServiceExt;

use super::*;
use crate::base::{Address, CampaignName, ContactId, EnvelopeId, ListId, Purpose, SealKey, Timestamp, Token};
use crate::compose::{ConsentRule, Edition, Missing, Tracking, sample_edition};
use crate::mail::{Class, Consent, InDoubt, Outcome, Standing};
use crate::outcome::Policy;
use crate::store::{
    LaunchKind, LaunchOptions, MembershipStatus, NewContact, NewLaunch, OnConflict, PlannedRow, Readers, Reading,
    Threads,
};
use crate::world::SimulatedClock;

mod choosing;
mod hostile;
mod joining;
mod tracking;

const NOW: Timestamp = Timestamp::from_ms(1_795_465_234_500);

/// A contact on two lists, and a launch that went to the first.
struct House {
    pages: Pages,
    copy: EnvelopeId,
}

async fn house() -> House {
    house_of("Ada", "Ulm", ["news", "offers"]).await
}

async fn house_of(name: &str, city: &str, names: [&str; 2]) -> House {
    house_that_sent(edition(), name, city, names).await
}

async fn house_that_sent(edition: Edition, name: &str, city: &str, names: [&str; 2]) -> House {
    let store = Store::open("sqlite::memory:", std::path::Path::new("."), Threads::Inline).unwrap();
    let mut lists = Vec::new();
    for list in names {
        let list = store.make_list(list.to_owned(), NOW).await.unwrap();
        let import = store.begin_import("people.csv".to_owned(), list, None, NOW).await.unwrap();
        let ada = NewContact {
            address: Address::parse("ada@example.org").unwrap(),
            name: name.to_owned(),
            fields: [("city".to_owned(), city.into())].into_iter().collect(),
            bucket: 0,
        };
        store.import_batch(vec![ada], list, import, OnConflict::Fill, NOW).await.unwrap();
        lists.push(list);
    }
    let campaign = CampaignName::parse("welcome").unwrap();
    let edition = store.put_edition([1; 32], &campaign, edition.to_bytes(), NOW).await.unwrap();
    let launch = NewLaunch {
        campaign,
        kind: LaunchKind::Campaign,
        edition,
        in_doubt: InDoubt::Resend,
        options: LaunchOptions::default(),
        lists: vec![lists[0]],
    };
    let launch = store.create_launch(launch, NOW).await.unwrap();
    let (tracker, _) = Tracker::start(store.clone());
    let pages = Pages {
        store,
        seal: Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap(),
        clock: Arc::new(SimulatedClock::starting(NOW)),
        looks: Arc::new(Looks::load(std::path::Path::new("/nowhere")).unwrap()),
        tracker,
        editions: Editions::default(),
        consent_rule: ConsentRule::OptOut,
        signups: None,
    };
    House { pages, copy: EnvelopeId::new(launch, ContactId(1)) }
}

/// What every copy of the launch leads to, beside the pages.
const LINKS: [&str; 3] = ["https://shop.example/?to={{city}}", "https://shop.example/b", "https://shop.example/c"];

fn edition() -> Edition {
    Edition {
        html: "<p>Hello {{name}}, from {{city}}. <a href=\"https://shop.example/b\">Shop</a></p>".into(),
        text: "Hello {{name}}.\n".into(),
        missing: Missing::Default,
        tracking: Tracking { opens: true, clicks: true, consent: ConsentRule::OptOut },
        links: LINKS.map(str::to_owned).to_vec(),
        ..sample_edition()
    }
}

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

impl House {
    fn token(&self, purpose: Purpose, extra: u16) -> Token {
        self.pages.seal.mint(self.copy, purpose, extra)
    }

    /// Puts the copy on record as delivered a minute ago.
    async fn deliver(&self) {
        let row = PlannedRow {
            contact: self.copy.contact(),
            standing: Standing::Waiting,
            barred: None,
            site: "example.org".into(),
        };
        let at = self.pages.clock.now() - Duration::from_secs(60);
        self.pages.store.record_batch(self.copy.launch(), 0, vec![row], at).await.unwrap();
        let outcome = Outcome {
            envelope: self.copy,
            state: Standing::Delivered,
            class: Class::Delivered,
            code: Some(250),
            enhanced: None,
            stage: None,
            text: "ok".into(),
            host: None,
            site: None,
            channel: None,
            tries: 1,
            doubtful: 0,
            at,
        };
        self.pages.store.settle(1, vec![outcome], Arc::new(Policy::default())).await.unwrap();
    }

    async fn visit(&self, method: Method, path: &str, agent: &str) -> Response<Body> {
        let request = Request::builder().method(method).uri(path).header("user-agent", agent);
        let response = router(self.pages.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        // what gathers is put on record
        tokio::time::sleep(Duration::from_millis(21)).await;
        response
    }

    fn reading(&self) -> Reading {
        self.pages.store.reading(self.copy.launch()).unwrap()
    }

    fn path(&self) -> String {
        format!("/u/{}", self.pages.seal.mint(self.copy, Purpose::Unsubscribe, 0))
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Response<Body> {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        router(self.pages.clone()).oneshot(request).await.unwrap()
    }

    fn statuses(&self) -> Vec<MembershipStatus> {
        self.pages.store.subscriptions(self.copy).unwrap().into_iter().map(|row| row.status).collect()
    }
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

use MembershipStatus::{Subscribed, Unsubscribed};

#[tokio::test(start_paused = true)]
async fn following_the_link_changes_nothing() {
    let house = house().await;
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        house.ask(method, &house.path(), "").await;
    }
    for path in [format!("{}/all", house.path()), format!("{}/undo", house.path())] {
        assert_eq!(house.ask(Method::GET, &path, "").await.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(house.statuses(), [Subscribed, Subscribed]);
    let page = text(house.ask(Method::GET, &house.path(), "").await).await;
    assert!(page.contains("<strong>news</strong>") && !page.contains("offers") && page.contains("method=\"post\""));
    assert!(!page.contains("<script"), "a scanner that runs scripts must find none");
}

#[tokio::test(start_paused = true)]
async fn one_click_leaves_the_lists_of_the_message_in_both_encodings_and_again() {
    let multipart = "--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n";
    for body in ["List-Unsubscribe=One-Click", multipart] {
        let house = house().await;
        for _ in 0..2 {
            let response = house.ask(Method::POST, &house.path(), body).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert!(
                response.headers().get(header::LOCATION).is_none() && response.headers().get("set-cookie").is_none()
            );
            assert_eq!(text(response).await, "unsubscribed\n");
        }
        assert_eq!(house.statuses(), [Unsubscribed, Subscribed]);
        let events = house.pages.store.events(ContactId(1)).unwrap();
        let left: Vec<_> = events.iter().filter(|event| event.kind == "unsubscribed").collect();
        assert_eq!((left.len(), left[0].detail.as_str()), (1, "news"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slip_can_be_undone_for_a_day_and_no_longer() {
    let house = house().await;
    let undo = format!("{}/undo", house.path());
    let page = text(house.ask(Method::POST, &house.path(), "").await).await;
    assert!(page.contains("/undo"), "{page}");
    let page = text(house.ask(Method::POST, &undo, "").await).await;
    assert!(page.contains("Welcome back"), "{page}");
    assert_eq!(house.statuses(), [Subscribed, Subscribed]);

    house.ask(Method::POST, &house.path(), "").await;
    tokio::time::advance(UNDO_AND_A_BIT).await;
    let page = text(house.ask(Method::POST, &undo, "").await).await;
    assert!(page.contains("too long ago"), "{page}");
    assert_eq!(house.statuses(), [Unsubscribed, Subscribed]);
}

const UNDO_AND_A_BIT: Duration = Duration::from_secs(24 * 3600 + 1);

#[tokio::test(start_paused = true)]
async fn all_lists_can_be_left_at_once() {
    let house = house().await;
    let page = text(house.ask(Method::POST, &format!("{}/all", house.path()), "").await).await;
    assert!(page.contains("You have left") && page.contains("news") && page.contains("offers"), "{page}");
    assert_eq!(house.statuses(), [Unsubscribed, Unsubscribed]);
    tokio::time::advance(Duration::from_secs(5)).await;
    let page = text(house.ask(Method::POST, &format!("{}/all", house.path()), "").await).await;
    assert!(page.contains("news") && page.contains("offers"), "asked again, the same is told: {page}");
    let at = page.split_once("name=\"at\" value=\"").unwrap().1.split('"').next().unwrap();
    let page = text(house.ask(Method::POST, &format!("{}/undo", house.path()), &format!("at={at}")).await).await;
    assert!(page.contains("Welcome back") && page.contains("offers"), "{page}");
    assert_eq!(house.statuses(), [Subscribed, Subscribed]);
}

#[tokio::test(start_paused = true)]
async fn undoing_one_leaving_undoes_no_other() {
    let house = house().await;
    house.ask(Method::POST, &format!("{}/all", house.path()), "").await;
    tokio::time::advance(Duration::from_secs(60)).await;
    for nonsense in ["", "at=", "at=x", "at=0", "at=-1", "at=1795465234501"] {
        house.ask(Method::POST, &format!("{}/undo", house.path()), nonsense).await;
        assert_eq!(house.statuses(), [Subscribed, Unsubscribed], "{nonsense}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forged_token_meets_the_same_page_as_any_wrong_link() {
    let house = house().await;
    let bounce = house.pages.seal.mint(house.copy, Purpose::Bounce, 0);
    let mut flipped = house.path();
    let last = if flipped.ends_with('c') { 'd' } else { 'c' };
    flipped.pop();
    flipped.push(last);
    let nothing = text(house.ask(Method::GET, "/nothing", "").await).await;
    for path in [format!("/u/{bounce}"), flipped, "/u/x".to_owned(), format!("/u/{}", "a".repeat(4000))] {
        for method in [Method::GET, Method::POST] {
            let response = house.ask(method, &path, "List-Unsubscribe=One-Click").await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
            assert_eq!(text(response).await, nothing);
        }
    }
    assert_eq!(house.statuses(), [Subscribed, Subscribed]);
}

#[tokio::test(start_paused = true)]
async fn a_token_works_for_years_and_for_somebody_who_was_erased() {
    let house = house().await;
    tokio::time::advance(Duration::from_secs(3 * 365 * 86_400)).await;
    assert_eq!(house.ask(Method::POST, &house.path(), "").await.status(), StatusCode::OK);
    assert_eq!(house.statuses(), [Unsubscribed, Subscribed]);
    house.pages.store.erase("ada@example.org".to_owned(), vec![1], NOW).await.unwrap();
    let response = house.ask(Method::POST, &house.path(), "List-Unsubscribe=One-Click").await;
    assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, "unsubscribed\n"));
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_guarded_and_too_much_is_refused() {
    let house = house().await;
    for (method, path) in [(Method::GET, house.path()), (Method::GET, "/style.css".into()), (Method::GET, "/x".into())]
    {
        let response = house.ask(method, &path, "").await;
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("script"));
        assert_eq!(response.headers()["x-robots-tag"], "noindex");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
    let response = house.ask(Method::POST, &house.path(), &"x".repeat(BODY_MAX + 1)).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(house.statuses(), [Subscribed, Subscribed]);
}

#[tokio::test(start_paused = true)]
async fn a_list_name_is_text_whatever_stands_in_it() {
    let house = house().await;
    let row = crate::store::SubscriptionRow {
        list: ListId(3),
        name: "<script>".to_owned(),
        status: Subscribed,
        since: NOW,
        of_copy: true,
    };
    let page =
        house.pages.looks.page("unsubscribe", StatusCode::OK, &subscriptions::Shown::about("t", &[row], |_| true));
    let page = text(page).await;
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"), "{page}");
}
