//! One message beside the queue, at once: for what is told about the queue itself, and for reports to other people's
//! domains. Finds the way, dials, and says how it went; tries nothing again.

use std::sync::Arc;

use crate::base::{EnvelopeId, Live};
use crate::config::Settings;
use crate::config::shaping::{Shaping, Tls};
use crate::delivery::dial::{Dialled, Dialler};
use crate::delivery::knock::knock;
use crate::delivery::route::{Route, Router};
use crate::delivery::source::{Sources, host_name};
use crate::delivery::taps::Taps;
use crate::delivery::trouble::Fault;
use crate::delivery::via::Via;
use crate::mail::Reply;
use crate::smtp::{Begun, Copy, CopySource, Patience, Receipt, TlsClient};
use crate::world::World;

/// What of TLS a message beside the queue insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Insists {
    /// On what the site and its zone demand.
    OnAll,
    /// On nothing: what is told is that TLS fails (RFC 8460 §3).
    OnNothing,
}

/// Delivers one message, straight to the recipient's host or by the relay that `via` names.
pub(super) async fn deliver(
    world: &World,
    settings: &Settings,
    via: Option<&str>,
    insists: Insists,
    copy: Copy,
) -> Result<(), String> {
    let shaping = Arc::new(Shaping::new(settings, None).map_err(|why| why.to_string())?);
    let route = match via {
        Some(via) => Arc::new(Route::through(Via::parse(via).map_err(|why| why.to_string())?)),
        None => {
            let router = Router::new(world, Live::new((*shaping).clone()), settings.smtp_port);
            router.route(copy.to.domain()).await.map_err(|why| why.reply.to_string())?
        }
    };
    let sources = Sources::new(settings, &host_name());
    let source = sources.iter().next().ok_or("no source address")?;
    let mut shape = match route.via {
        Some(_) => shaping.relay(settings),
        None => shaping.shape(&route.site, &source.name),
    };
    let route = match insists {
        Insists::OnAll => route,
        Insists::OnNothing => {
            shape.tls = Tls::Opportunistic;
            Arc::new(Route { proved: false, ..(*route).clone() })
        }
    };
    let tls = TlsClient::new(settings.tls_ca.as_deref()).map_err(|why| why.to_string())?;
    let dialler = Dialler::new(world.clone(), settings.allow_private);
    // nobody listens in
    let taps = Taps::new(world.clock.clone());
    let tap = |host| taps.on(route.site.clone(), source.name.clone(), 0, host);
    let dialled = knock(&dialler, &tls, settings, &route, source, &shape, tap).await;
    let Dialled { mut connection, .. } = dialled.map_err(|no| said(no.heard))?;
    let mut single = Single { copy: Some(copy), receipt: None };
    connection.drive(&mut single, 1).await;
    connection.quit().await;
    match single.receipt.map(|receipt| receipt.heard.map_err(Fault::from)) {
        Some(Ok(reply)) if reply.is_success() => Ok(()),
        Some(heard) => Err(said(heard)),
        None => Err("the connection ended before it was sent".to_owned()),
    }
}

/// A single copy.
struct Single {
    copy: Option<Copy>,
    receipt: Option<Receipt>,
}

impl CopySource for Single {
    async fn next(&mut self, _: Patience) -> Option<Copy> {
        self.copy.take()
    }

    async fn intend(&mut self, _: EnvelopeId, _: Begun) -> bool {
        true
    }

    fn done(&mut self, _: EnvelopeId, receipt: Receipt) {
        self.receipt = Some(receipt);
    }
}

fn said(heard: Result<Reply, Fault>) -> String {
    heard.map_or_else(|fault| fault.to_string(), |reply| reply.to_string())
}
