//! Joining a list, confirmed by whoever has the mailbox.

use std::sync::Mutex;

use super::*;
use crate::base::LaunchId;
use crate::config::Settings;

/// A house with one list to join, and the launches that were rung for.
async fn open_house() -> (House, Arc<Mutex<Vec<LaunchId>>>) {
    let mut house = house().await;
    let mut settings = Settings::default();
    settings.signup.lists = vec!["news".to_owned()];
    settings.signup.from = "news@example.com".to_owned();
    let rung: Arc<Mutex<Vec<LaunchId>>> = Arc::default();
    let ring: Ring = Arc::new({
        let rung = rung.clone();
        move |launch| rung.lock().unwrap().push(launch)
    });
    let pages = &mut house.pages;
    let signups = Signups::open(&settings, &pages.looks, &pages.store, &*pages.clock, ring).await.unwrap();
    pages.signups = Some(Arc::new(signups));
    (house, rung)
}

impl House {
    async fn join(&self, list: &str, email: &str, client: [u8; 4]) -> (StatusCode, String) {
        let form = "application/x-www-form-urlencoded";
        let request = Request::builder().method(Method::POST).uri(format!("/s/{list}"));
        let request = request.header(header::CONTENT_TYPE, form).extension(Client(client.into()));
        let body = Body::from(format!("email={}", email.replace('@', "%40")));
        let response = router(self.pages.clone()).oneshot(request.body(body).unwrap()).await.unwrap();
        (response.status(), text(response).await)
    }

    fn lists_of(&self, address: &str) -> Vec<(String, MembershipStatus)> {
        let Some(contact) = self.pages.store.contact(address).unwrap() else { return Vec::new() };
        let rows = self.pages.store.memberships(contact.id).unwrap();
        rows.into_iter().map(|row| (row.list, row.status)).collect()
    }

    /// The link in the request of a launch.
    fn link(&self, launch: LaunchId) -> String {
        let copies = self.pages.store.copies(launch, ContactId(0), 9).unwrap();
        let copy = EnvelopeId::new(launch, copies[0].contact);
        format!("/confirm/{}", self.pages.seal.mint(copy, Purpose::Confirm, 0))
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_joined_by_confirming_once_and_the_proof_is_kept() {
    let (house, rung) = open_house().await;
    let page = text(house.ask(Method::GET, "/s/news", "").await).await;
    assert!(page.contains("type=\"email\"") && page.contains("for=\"email\"") && page.contains("one click"), "{page}");
    let (status, page) = house.join("news", "Bob@example.net", [192, 0, 2, 1]).await;
    assert!(status == StatusCode::OK && page.contains("mailbox"), "{page}");
    assert_eq!(house.lists_of("bob@example.net"), [("news".to_owned(), MembershipStatus::Pending)]);
    let launch = rung.lock().unwrap()[0];
    let row = house.pages.store.launch(launch).unwrap().unwrap();
    assert_eq!((row.kind, house.pages.store.unsettled(launch).unwrap()), (LaunchKind::Confirmation, 1));

    let link = house.link(launch);
    for method in [Method::GET, Method::HEAD, Method::GET] {
        assert_eq!(house.ask(method, &link, "").await.status(), StatusCode::OK);
    }
    assert_eq!(house.lists_of("bob@example.net"), [("news".to_owned(), MembershipStatus::Pending)]);
    let page = text(house.ask(Method::POST, &link, "").await).await;
    assert!(page.contains("Welcome"), "{page}");
    assert_eq!(house.lists_of("bob@example.net"), [("news".to_owned(), Subscribed)]);

    // it works once: whoever left later is not brought back by an old link
    let bob = house.pages.store.contact("bob@example.net").unwrap().unwrap().id;
    let news = house.pages.store.list("news").unwrap().unwrap();
    house.pages.store.leave(crate::base::EnvelopeId::new(launch, bob), vec![news], NOW).await.unwrap();
    house.ask(Method::POST, &link, "").await;
    assert_eq!(house.lists_of("bob@example.net"), [("news".to_owned(), Unsubscribed)]);
    let proof = house.pages.store.signups(bob).unwrap().remove(0);
    assert_eq!((proof.client.as_str(), proof.confirmed), ("192.0.2.1", Some(NOW)));
    assert!(proof.consent.contains("one click") && proof.form.starts_with("/s/news"));
}

#[tokio::test(start_paused = true)]
async fn the_answer_tells_nothing_and_nobody_is_bombed() {
    let (house, rung) = open_house().await;
    let suppressed = crate::store::SuppressionRow {
        address: "eve@example.org".to_owned(),
        reason: crate::store::Reason::Complaint,
        detail: String::new(),
        since: NOW,
    };
    house.pages.store.suppress(vec![suppressed]).await.unwrap();
    let mut answers = Vec::new();
    for address in ["ada@example.org", "eve@example.org", "new@example.org"] {
        let (status, page) = house.join("news", address, [192, 0, 2, 1]).await;
        answers.push((status, page.replace(address, "")));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(rung.lock().unwrap().len(), 1, "only one of them was written to");
    assert_eq!(house.lists_of("ada@example.org")[0].1, Subscribed);

    for number in 0..9 {
        house.join("news", "new@example.org", [192, 0, 2, number]).await;
    }
    assert_eq!(rung.lock().unwrap().len(), 3, "three requests a day for one address");
    for number in 0..40 {
        house.join("news", &format!("n{number}@example.org"), [192, 0, 2, 99]).await;
    }
    assert_eq!(rung.lock().unwrap().len(), 23, "twenty requests an hour from one client");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_confirmed_is_forgotten_and_its_link_is_too_late() {
    let (house, rung) = open_house().await;
    house.join("news", "bob@example.net", [192, 0, 2, 1]).await;
    let link = house.link(rung.lock().unwrap()[0]);
    tokio::time::advance(Duration::from_secs(7 * 86_400 + 1)).await;
    for method in [Method::GET, Method::POST] {
        assert_eq!(house.ask(method, &link, "").await.status(), StatusCode::GONE);
    }
    let before = house.pages.clock.now() - Duration::from_secs(7 * 86_400);
    house.pages.store.forget_signups(before).await.unwrap();
    assert_eq!(house.pages.store.contact("bob@example.net").unwrap(), None);
    assert!(house.pages.store.contact("ada@example.org").unwrap().is_some());
    assert_eq!(house.ask(Method::POST, &link, "").await.status(), StatusCode::GONE);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_was_erased_may_come_back_by_their_own_will() {
    let (house, rung) = open_house().await;
    let trace = house.pages.seal.trace("ada@example.org");
    house.pages.store.erase("ada@example.org".to_owned(), trace.to_vec(), NOW).await.unwrap();
    house.join("news", "ada@example.org", [192, 0, 2, 1]).await;
    assert_eq!(house.pages.store.erased().unwrap().len(), 1);
    let link = house.link(rung.lock().unwrap()[0]);
    house.ask(Method::POST, &link, "").await;
    assert_eq!(house.pages.store.erased().unwrap().len(), 0);
    assert_eq!(house.lists_of("ada@example.org"), [("news".to_owned(), Subscribed)]);
}

#[tokio::test(start_paused = true)]
async fn only_open_lists_and_addresses_are_taken() {
    let (house, rung) = open_house().await;
    assert_eq!(house.join("offers", "bob@example.net", [192, 0, 2, 1]).await.0, StatusCode::NOT_FOUND);
    for wrong in ["", "bob", "<script>@", "a@b@c"] {
        let (status, page) = house.join("news", wrong, [192, 0, 2, 1]).await;
        assert!(status == StatusCode::UNPROCESSABLE_ENTITY && page.contains("no mail address"), "{wrong}");
        assert!(!page.contains("<script>"), "{page}");
    }
    let bounce = house.pages.seal.mint(house.copy, Purpose::Unsubscribe, 0);
    assert_eq!(house.ask(Method::POST, &format!("/confirm/{bounce}"), "").await.status(), StatusCode::NOT_FOUND);
    assert!(rung.lock().unwrap().is_empty());
}
