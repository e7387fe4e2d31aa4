//! The page on which recipients choose, and the copy in a browser.

use super::*;
use crate::store::Page;

impl House {
    fn preferences(&self) -> String {
        self.path().replace("/u/", "/p/")
    }

    async fn post(&self, path: &str, body: &str) -> Response<Body> {
        let form = "application/x-www-form-urlencoded";
        let request = Request::builder().method(Method::POST).uri(path).header(header::CONTENT_TYPE, form);
        router(self.pages.clone()).oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn lists_are_left_by_taking_the_tick_away_and_come_back_within_a_day() {
    let house = house().await;
    let page = text(house.ask(Method::GET, &house.preferences(), "").await).await;
    assert!(
        page.contains("news")
            && page.contains("offers")
            && page.contains("a…\u{2060}@example.org")
            && !page.contains("ada@")
    );
    assert_eq!(house.statuses(), [Subscribed, Subscribed]);

    let page = text(house.post(&house.preferences(), "known=1&known=2&list=2").await).await;
    assert!(page.contains("Saved."), "{page}");
    assert_eq!(house.statuses(), [Unsubscribed, Subscribed]);
    // a list that the form did not show stays as it is
    house.post(&house.preferences(), "known=1&list=1").await;
    assert_eq!(house.statuses(), [Subscribed, Subscribed]);

    house.post(&house.preferences(), "known=1&known=2").await;
    tokio::time::advance(UNDO_AND_A_BIT).await;
    let page = text(house.post(&house.preferences(), "known=1&known=2&list=1&list=2").await).await;
    assert!(page.contains("subscribe anew"), "{page}");
    assert_eq!(house.statuses(), [Unsubscribed, Unsubscribed]);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_noted_is_chosen_apart_and_only_where_the_form_asked() {
    let house = house().await;
    let consent = || house.pages.store.consent(ContactId(1)).unwrap();
    house.post(&house.preferences(), "known=1&list=1").await;
    assert_eq!(consent(), Consent::default());
    house.post(&house.preferences(), "tracking=1&clicks=on").await;
    assert_eq!(consent(), Consent { opens: Some(false), clicks: Some(true) });
}

#[tokio::test(start_paused = true)]
async fn a_rest_bars_campaigns_until_its_day_and_no_longer() {
    let house = house().await;
    let rests = |now| {
        let launch = house.copy.launch();
        let page = Page { launch, position: 0, bucket: 0, after: ContactId(0), most: 9, tier: None, condition: None };
        let page = house.pages.store.candidates(page).unwrap();
        let look = house.pages.store.look(house.copy).unwrap();
        assert_eq!(page[0].paused, look.paused);
        look.paused.is_some_and(|until| until > now)
    };
    let now = || house.pages.clock.now();
    for nonsense in ["", "days=0", "days=-1", "days=366", "days=x"] {
        house.post(&format!("{}/pause", house.preferences()), nonsense).await;
        assert!(!rests(now()), "{nonsense}");
    }
    let page = text(house.post(&format!("{}/pause", house.preferences()), "days=30").await).await;
    assert!(page.contains("nothing comes before <strong>23 December 2026") && rests(now()), "{page}");
    tokio::time::advance(Duration::from_secs(30 * 86_400)).await;
    assert!(!rests(now()));
    house.post(&format!("{}/pause", house.preferences()), "days=7").await;
    house.post(&format!("{}/resume", house.preferences()), "").await;
    assert!(!rests(now()));
    let kinds: Vec<String> = house.pages.store.events(ContactId(1)).unwrap().into_iter().map(|e| e.kind).collect();
    assert_eq!(kinds, ["paused", "paused", "resumed"]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_a_browser_is_that_of_its_reader_without_tracking_and_runs_nothing() {
    let house = house().await;
    let path = format!("/v/{}", house.token(Purpose::View, 0));
    let response = house.ask(Method::GET, &path, "").await;
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(
        policy.contains("sandbox") && !policy.contains("script") && response.headers()["x-robots-tag"] == "noindex"
    );
    let page = text(response).await;
    assert_eq!(page, "<p>Hello Ada, from Ulm. <a href=\"https://shop.example/b\">Shop</a></p>");
    for token in [house.token(Purpose::Open, 0).to_string(), "x".to_owned()] {
        assert_eq!(house.ask(Method::GET, &format!("/v/{token}"), "").await.status(), StatusCode::NOT_FOUND);
    }
    house.pages.store.erase("ada@example.org".to_owned(), vec![1], NOW).await.unwrap();
    assert_eq!(house.ask(Method::GET, &path, "").await.status(), StatusCode::NOT_FOUND);
}
