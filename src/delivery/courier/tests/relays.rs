//! Fixed routes through relays.

use super::*;

/// A world where everything goes through relays: their addresses end in 101, 102 …, and so do their names' lines here.
fn relayed(weights: &[u16], hosts: &[Option<&Host>]) -> Yard {
    let relay =
        |(at, weight): (usize, &u16)| format!("{{ url = \"smtp://192.0.2.{}:25\", weight = {weight} }}", 101 + at);
    let relays: Vec<String> = weights.iter().enumerate().map(relay).collect();
    let mut yard = Yard::new();
    yard.settings = toml::from_str(&format!(
        "[retry]\nfirst = \"30m\"\n[[route]]\ndomains = \".example\"\nrelays = [{}]\n",
        relays.join(", ")
    ))
    .unwrap();
    for (at, host) in hosts.iter().enumerate() {
        if let Some(host) = host {
            yard = yard.door(SocketAddr::new(IpAddr::from([192, 0, 2, 101 + at as u8]), 25), host);
        }
    }
    yard
}

async fn sent(yard: Yard, count: u32) -> Sending {
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for at in ["a.example", "b.example"] {
        sending.admit(launch, at, count / 2).await;
    }
    sending.start();
    sending
}

#[tokio::test(start_paused = true)]
async fn relays_of_a_fixed_route_share_by_weight() {
    let (one, two) = (Host::new(Manner::Takes), Host::new(Manner::Takes));
    let mut sending = sent(relayed(&[3, 1], &[Some(&one), Some(&two)]), 2000).await;
    sending.pass(secs(60)).await;
    assert_eq!(sending.standing(Standing::Delivered), 2000, "{:?}", sending.last().values().next());
    let share = one.taken().len();
    assert!((1200..=1800).contains(&share), "{share} of 2000 through the one of three quarters");
    assert_eq!(sending.last().values().next().unwrap().site.as_deref(), Some("a.example"), "counted by domain");
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_away_or_wants_a_login_is_stood_in_for_and_nobody_bounces() {
    for first in [None, Some(Host::new(Manner::WantsLogin))] {
        let second = Host::new(Manner::Takes);
        let mut sending = sent(relayed(&[1, 1], &[first.as_ref(), Some(&second)]), 200).await;
        sending.pass(secs(300)).await;
        assert_eq!(sending.standing(Standing::Delivered), 200, "{:?}", sending.last().values().next());
        assert_eq!(second.taken().len(), 200);
        assert!(sending.outcomes.iter().all(|outcome| outcome.state != Standing::Failed));
    }
}

#[tokio::test(start_paused = true)]
async fn s_037_a_route_whose_only_relay_refuses_our_login_waits_for_a_person() {
    let relay = Host::new(Manner::WantsLogin);
    let mut sending = sent(relayed(&[1], &[Some(&relay)]), 100).await;
    sending.pass(secs(6 * 3600)).await;
    assert!(sending.outcomes.iter().all(|outcome| outcome.tries == 0), "{:?}", sending.outcomes.first());
    assert_eq!((sending.standing(Standing::Failed), sending.queue.depth().waiting), (0, 100));
    let mails = relay.book.lock().unwrap().mails.len();
    assert!(mails <= 50, "{mails} MAILs to a relay that wants a login: at most one on each connection");
    let shown = sending.sites.snapshot().await;
    assert!(shown.is_empty() || shown[0].held, "{shown:?}");
}
