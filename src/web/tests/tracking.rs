//! Links and pixels as readers, proxies and scanners meet them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_click_goes_to_the_frozen_target_and_nowhere_else_and_is_counted() {
    let house = house().await;
    house.deliver().await;
    let click = format!("/c/{}", house.token(Purpose::Click, 0));
    for path in [click.clone(), format!("{click}?u=https://evil.example/&to=https://evil.example/")] {
        let response = house.visit(Method::GET, &path, FIREFOX).await;
        assert_eq!(response.status(), StatusCode::FOUND);
        assert_eq!(response.headers()[header::LOCATION], "https://shop.example/?to=Ulm");
        assert_eq!(response.headers()[header::REFERRER_POLICY], "no-referrer");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
    let head = house.visit(Method::HEAD, &click, FIREFOX).await;
    assert_eq!(head.status(), StatusCode::FOUND);
    for token in [house.token(Purpose::Click, 3), house.token(Purpose::Open, 0)] {
        assert_eq!(house.visit(Method::GET, &format!("/c/{token}"), FIREFOX).await.status(), StatusCode::NOT_FOUND);
    }
    let Reading { opened, clicked, links } = house.reading();
    assert_eq!(opened, Readers::default());
    assert_eq!(clicked, Readers { people: 1, by_proxy: 0, machines: 0 });
    assert_eq!((links.len(), links[0].number, links[0].times), (1, 0, 2));
    // the link still leads there for somebody who was erased; of whom nothing is recorded
    house.pages.store.erase("ada@example.org".to_owned(), vec![1], NOW).await.unwrap();
    let response = house.visit(Method::GET, &click, FIREFOX).await;
    assert_eq!(response.headers()[header::LOCATION], "https://shop.example/?to=");
    assert_eq!(house.reading(), Reading::default());
}

#[tokio::test(start_paused = true)]
async fn links_of_a_letter_that_can_no_longer_be_printed_still_lead_on() {
    let unfit = Edition { html: "<p style=\"color:{{city}}\">Hello</p>".into(), ..edition() };
    let house = house_that_sent(unfit, "Ada", "Ulm", ["news", "offers"]).await;
    house.deliver().await;
    for (number, target) in [(0, "https://shop.example/?to=Ulm"), (1, "https://shop.example/b")] {
        let click = format!("/c/{}", house.token(Purpose::Click, number));
        let response = house.visit(Method::GET, &click, FIREFOX).await;
        assert_eq!(response.headers().get(header::LOCATION).map(|to| to.to_str().unwrap()), Some(target));
    }
    assert_eq!(house.reading().clicked.people, 1);
    let view = format!("/v/{}", house.token(Purpose::View, 0));
    assert_eq!(house.visit(Method::GET, &view, FIREFOX).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn the_pixel_is_the_same_for_everybody_and_counts_people_proxies_and_machines_apart() {
    for (agent, people, by_proxy, machines) in
        [(FIREFOX, 1, 0, 0), ("Mozilla/5.0 (via ggpht.com GoogleImageProxy)", 1, 1, 0), ("Mozilla/5.0", 0, 0, 1)]
    {
        let house = house().await;
        house.deliver().await;
        let mut pictures = Vec::new();
        for token in [house.token(Purpose::Open, 0).to_string(), "forged".to_owned()] {
            let response = house.visit(Method::GET, &format!("/o/{token}"), agent).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[header::CONTENT_TYPE], "image/gif");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
            pictures.push(to_bytes(response.into_body(), 1000).await.unwrap());
        }
        assert_eq!(pictures[0], pictures[1]);
        house.visit(Method::HEAD, &format!("/o/{}", house.token(Purpose::Open, 0)), agent).await;
        assert_eq!(house.reading().opened, Readers { people, by_proxy, machines });
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_follows_every_link_at_once_or_comes_too_soon_is_a_machine() {
    let house = house().await;
    house.deliver().await;
    for number in 0..3 {
        house.visit(Method::GET, &format!("/c/{}", house.token(Purpose::Click, number)), FIREFOX).await;
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    assert_eq!(house.reading().clicked, Readers { people: 0, by_proxy: 0, machines: 1 });
    // a person comes later
    tokio::time::advance(Duration::from_secs(60)).await;
    house.visit(Method::GET, &format!("/c/{}", house.token(Purpose::Click, 1)), FIREFOX).await;
    assert_eq!(house.reading().clicked, Readers { people: 1, by_proxy: 0, machines: 0 });

    let house = self::house().await;
    house.visit(Method::GET, &format!("/o/{}", house.token(Purpose::Open, 0)), FIREFOX).await;
    assert_eq!(house.reading(), Reading::default(), "no such copy is on record");
    house.deliver().await;
    house.visit(Method::GET, &format!("/o/{}", house.token(Purpose::Open, 0)), FIREFOX).await;
    assert_eq!(house.reading().opened, Readers { people: 1, by_proxy: 0, machines: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_consent_counts_for_mail_that_was_sent_before() {
    let house = house().await;
    house.deliver().await;
    let no = Consent { opens: Some(false), clicks: None };
    house.pages.store.set_consent(house.copy, no, NOW).await.unwrap();
    let response = house.visit(Method::GET, &format!("/o/{}", house.token(Purpose::Open, 0)), FIREFOX).await;
    assert_eq!(response.status(), StatusCode::OK);
    house.visit(Method::GET, &format!("/c/{}", house.token(Purpose::Click, 1)), FIREFOX).await;
    let reading = house.reading();
    assert_eq!((reading.opened.people, reading.clicked.people), (0, 1));
}
