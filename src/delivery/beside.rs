//! One message beside the queue, at once: for what is told about the queue itself, and for reports to other people's
//! domains. Finds the way, dials, and says how it went; tries nothing again.

use std::sync::Arc;

use crate::base::{Domain, EnvelopeId, Live};
use crate::config::Settings;
use crate::config::shaping::{Shaping, Tls};
use crate::delivery::dial::{Dialled, Dialler};
use crate::delivery::knock::knock;
use crate::delivery::route::{Route, Router};
use crate::delivery::source::{Source, Sources, host_name};
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

/// What such messages need on their way; made once for many.
pub(super) struct Beside {
    settings: Settings,
    shaping: Shaping,
    router: Router,
    source: Arc<Source>,
    dialler: Dialler,
    tls: TlsClient,
    taps: Taps,
}

impl Beside {
    /// By the settings; routes are remembered as long as it is.
    pub fn new(world: &World, settings: &Settings) -> Result<Beside, String> {
        let shaping = Shaping::new(settings, None).map_err(|why| why.to_string())?;
        let sources = Sources::unnumbered(settings, &host_name());
        Ok(Beside {
            settings: settings.clone(),
            router: Router::new(world, Live::new(shaping.clone()), settings.smtp_port),
            shaping,
            source: sources.iter().next().ok_or("no source address")?.clone(),
            dialler: Dialler::new(world.clone(), settings.allow_private),
            tls: TlsClient::new(settings.tls_ca.as_deref()).map_err(|why| why.to_string())?,
            // nobody listens in
            taps: Taps::new(world.clock.clone()),
        })
    }

    /// The way to a recipient: straight to their host, or by the relay that `via` names.
    pub async fn way(&self, to: &Domain, via: Option<&str>) -> Result<Arc<Route>, String> {
        match via {
            Some(via) => Ok(Arc::new(Route::through(Via::parse(via).map_err(|why| why.to_string())?))),
            None => self.router.route(to).await.map_err(|why| why.reply.to_string()),
        }
    }

    /// Delivers one message.
    pub async fn deliver(&self, route: Arc<Route>, insists: Insists, copy: Copy) -> Result<(), String> {
        let mut shape = match route.via {
            Some(_) => self.shaping.relay(&self.settings),
            None => self.shaping.shape(&route.site, &self.source.name),
        };
        let route = match insists {
            Insists::OnAll => route,
            Insists::OnNothing => {
                shape.tls = Tls::Opportunistic;
                Arc::new(Route { proved: false, ..(*route).clone() })
            }
        };
        let Beside { settings, source, dialler, tls, taps, .. } = self;
        let tap = |host| taps.on(route.site.clone(), source.name.clone(), 0, host);
        let dialled = knock(dialler, tls, settings, &route, source, &shape, tap).await;
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
