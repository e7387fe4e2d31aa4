//! Slow rates: they are met, and nobody is pressed with connections that carry nothing.

use super::*;

/// Messages taken, and connections to all of these hosts.
fn seen(hosts: &[Host]) -> (usize, usize) {
    let books = hosts.iter().map(|host| host.book.lock().unwrap());
    books.map(|book| (book.taken.len(), book.connections as usize)).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
}

/// A launch with a rate of its own, with so many copies for each of these domains, under way.
async fn slow(yard: Yard, rate: Option<&str>, domains: &[&str], count: u32) -> Sending {
    let mut sending = yard.open().await;
    let options = LaunchOptions { rate: rate.map(str::to_owned), ..LaunchOptions::default() };
    let launch = sending.launch(options, InDoubt::Resend).await;
    for name in domains {
        sending.admit(launch, name, count).await;
    }
    sending.start();
    sending
}

#[tokio::test(start_paused = true)]
async fn a_slow_campaign_opens_a_connection_for_a_message_or_keeps_one() {
    for (rate, span, most_per_message) in [("200/d", 86_400, 1.0), ("10/min", 1200, 1.0), ("30/min", 400, 0.1)] {
        let (yard, host) = Yard::new().domain("a.example", Manner::Takes);
        let mut sending = slow(yard, Some(rate), &["a.example"], 250).await;
        sending.pass(secs(span)).await;
        let (taken, connections) = seen(&[host]);
        assert!((195..=201).contains(&taken), "{rate}: {taken}");
        let most = (taken as f64 * most_per_message).ceil() as usize;
        assert!(connections <= most + 1, "{rate}: {connections} connections for {taken} messages");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_campaign_to_many_sites_opens_a_connection_for_a_message_and_a_silent_one_holds_up_nobody() {
    let names = ["a.example", "b.example", "c.example", "d.example", "e.example", "f.example"];
    let (mut yard, mut hosts) = (Yard::new(), Vec::new());
    for name in names {
        let (with, host) = yard.domain(name, Manner::Takes);
        yard = with;
        hosts.push(host);
    }
    let (yard, silent) = yard.domain("silent.example", Manner::Silent);
    let domains: Vec<&str> = names.into_iter().chain(["silent.example"]).collect();
    let mut sending = slow(yard, Some("10/min"), &domains, 20).await;
    sending.pass(secs(780)).await;
    let (taken, connections) = seen(&hosts);
    assert!(taken >= 114, "{taken}");
    assert!(connections <= taken + names.len(), "{connections} connections for {taken} messages");
    let lost = seen(&[silent]).1;
    assert!(lost < 20, "{lost} connections to a host that says nothing");
}

#[tokio::test(start_paused = true)]
async fn a_site_or_a_warm_up_that_is_slow_gets_a_connection_for_a_message() {
    let shape = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"10/min\"\n";
    let warmup = "[[source]]\nname = \"new\"\nwarmup = 1\n[warmup]\nstart = 5000\n";
    for (overlay, settings) in [(shape, ""), ("", warmup)] {
        let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
        yard.overlay = overlay.into();
        yard.settings = toml::from_str(settings).unwrap();
        let mut sending = slow(yard, None, &["a.example"], 250).await;
        sending.pass(secs(900)).await;
        let (taken, connections) = seen(&[host]);
        assert!(taken >= 100, "{taken}");
        assert!(connections <= taken + 1, "{connections} connections for {taken} messages: {overlay}{settings}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_campaign_whose_rate_holds_a_site_back_is_named() {
    let (yard, _) = Yard::new().domain("a.example", Manner::Takes);
    let mut sending = slow(yard, Some("200/d"), &["a.example"], 20).await;
    sending.pass(secs(32)).await;
    let binds: Vec<Option<String>> = sending.sites.snapshot().await.into_iter().map(|site| site.binds).collect();
    assert_eq!(binds, [Some("the rate of campaign welcome1, 200/d (for 400 s)".to_owned())]);
}
