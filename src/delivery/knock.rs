//! A connection all the way: dialled, greeted, secured as the route demands, logged in. Decides nothing about what follows
//! where that fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::compose::Remark;
use crate::config::Settings;
use crate::config::shaping::{Shaping, SiteShape};
use crate::delivery::dial::{Dialled, Dialler, Secrecy, Shut, Trouble};
use crate::delivery::relays::{Relays, login};
use crate::delivery::route::Route;
use crate::delivery::source::Source;
use crate::delivery::taps::Taps;
use crate::delivery::tls_policy::Demand;
use crate::delivery::trouble::Fault;
use crate::mail::Stage;
use crate::smtp::{self, Connection, Hello, Login, Security, Tap, Timeouts, TlsClient};
use crate::world::World;

/// How long a relay may take to let us in, when it is only to be seen whether it does.
const DOOR_MAX: Duration = Duration::from_secs(15);
/// For the answer to QUIT.
const QUIT: Duration = Duration::from_secs(5);

/// Opens a connection along a route.
pub(super) async fn knock(
    dialler: &Dialler,
    tls: &TlsClient,
    settings: &Settings,
    route: &Route,
    source: &Source,
    shape: &SiteShape,
    tap: impl Fn(Arc<str>) -> Arc<dyn Tap>,
) -> Result<Dialled<Connection>, Trouble> {
    let login = login_for(settings, route).map_err(|why| {
        let host = route.hosts.first().and_then(|host| host.domain());
        Trouble { stage: Stage::Secure, host, heard: Err(Fault::Credentials(why)), secrecy: Secrecy::default() }
    })?;
    let open = |stream, host: Arc<str>, demand| {
        let tap = Some(tap(host.clone()));
        let hello = Hello {
            ehlo_name: source.ehlo_name.clone(),
            host,
            security: security(demand),
            trial: route.trial,
            chunking: shape.chunking,
            login: login.clone(),
            timeouts: timeouts(shape),
            tap,
        };
        async move {
            let opened = Connection::open(stream, &hello, tls).await;
            opened.map_err(|no| {
                let flaw = match &no.heard {
                    Err(smtp::Error::Tls(flaw, _)) => Some(*flaw),
                    Ok(_) | Err(_) => None,
                };
                Shut { stage: no.stage, heard: no.heard.map_err(Fault::from), flaw }
            })
        }
    };
    dialler.dial(route, source, shape, open).await
}

/// Whether each relay of the fixed routes lets us in. Sends nothing.
pub async fn examine_relays(
    world: &World,
    settings: &Settings,
    relays: &Relays,
    shaping: &Shaping,
    source: &Source,
) -> Vec<Remark> {
    let tls = match TlsClient::new(settings.tls_ca.as_deref()) {
        Ok(tls) => tls,
        Err(why) => return vec![Remark::fail("relay", why.to_string(), "mend the setting tls_ca")],
    };
    let dialler = Dialler::new(world.clone(), settings.allow_private);
    // nobody listens in
    let taps = Taps::new(world.clock.clone());
    let mut remarks = Vec::new();
    for route in relays.all() {
        let (Some(relay), Some(via)) = (&route.relay, &route.via) else { continue };
        let shape = shaping.route_relay(relay.settings());
        let tap = |host| taps.on(route.site.clone(), source.name.clone(), 0, host);
        let opened = timeout(DOOR_MAX, knock(&dialler, &tls, settings, &route, source, &shape, tap)).await;
        let why = match opened {
            Ok(Ok(Dialled { connection, .. })) => {
                let secret = if connection.tls().is_some() { "over TLS" } else { "in clear" };
                let user =
                    relay.settings().user.as_ref().map_or(String::new(), |user| format!(", logged in as {user}"));
                connection.quit().await;
                remarks.push(Remark::ok("relay", format!("{via} lets us in {secret}{user}")));
                continue;
            }
            Ok(Err(trouble)) => trouble.heard.map_or_else(|fault| fault.to_string(), |reply| reply.to_string()),
            Err(_) => format!("no way in within {} s", DOOR_MAX.as_secs()),
        };
        let found = format!("{via}: {why}");
        remarks.push(match relay.has_others {
            true => Remark::warn("relay", found, "the other relays of its [[route]] stand in until this is mended"),
            false => {
                Remark::fail("relay", found, "mend it: what the [[route]] names waits meanwhile, and nobody bounces")
            }
        });
    }
    remarks
}

/// What to log in with along a route; to the recipients' own hosts nothing.
fn login_for(settings: &Settings, route: &Route) -> Result<Option<Login>, String> {
    match (&route.relay, &route.via) {
        (Some(relay), _) => relay.login(),
        (None, Some(_)) => {
            let relay = &settings.relay;
            login(relay.user.as_deref(), relay.password.as_ref(), relay.token_file.as_deref())
        }
        (None, None) => Ok(None),
    }
}

fn security(demand: Demand) -> Security {
    match demand {
        Demand::Clear => Security::Clear,
        Demand::Opportunistic => Security::Opportunistic,
        Demand::Required => Security::Required,
        Demand::Verified => Security::Verified,
        Demand::Announced(announced) => Security::Announced(announced),
        Demand::Implicit => Security::Implicit,
    }
}

fn timeouts(shape: &SiteShape) -> Timeouts {
    Timeouts {
        greeting: shape.banner_timeout.duration(),
        ehlo: shape.ehlo_timeout.duration(),
        starttls: shape.starttls_timeout.duration(),
        auth: shape.auth_timeout.duration(),
        mail: shape.mail_from_timeout.duration(),
        rcpt: shape.rcpt_to_timeout.duration(),
        data: shape.data_timeout.duration(),
        block: shape.data_block_timeout.duration(),
        dot: shape.data_dot_timeout.duration(),
        quit: QUIT,
    }
}
