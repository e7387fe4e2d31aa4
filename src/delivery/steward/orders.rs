//! What a steward has decided, and how it is started. Nothing here waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::base::{Domain, Timestamp};
use crate::delivery::carrier::{Carrier, Job, Load};
use crate::delivery::kit::Back;
use crate::delivery::new_domains::Chore;
use crate::delivery::route::Route;
use crate::delivery::sites::SiteStatus;
use crate::delivery::steward::{Event, Hatch, LINGER, Leased, Steward};
use crate::delivery::warmup::LEFT_ALONE;
use crate::queue::{Settlement, Until};

/// Work under way; each piece ends in an event.
pub(super) type Chores = FuturesUnordered<BoxFuture<'static, Event>>;

/// What a steward's loop is to do.
pub(super) enum Order {
    Lease(Arc<str>, Domain, usize),
    Open(u32, Arc<Route>),
    /// The domain rests; then the copies go home.
    Rest(Domain, Until, Vec<Job>),
    Settle(Vec<Settlement>),
    Learn(Vec<u8>),
    /// The warm-up's record, with what may be sent once it is written.
    KeepWarm(String),
    /// The warm-up's record, as it is.
    Record(String),
    /// What a new domain needs before more of it may go.
    Introduce(Chore),
    /// The complaints since then are asked for.
    EndDay(Timestamp),
    Tell(Back),
    Show(mpsc::Sender<SiteStatus>, Box<SiteStatus>),
}

impl Steward {
    /// Starts what was decided. Nothing here waits.
    pub(super) fn carry_out(
        &self,
        order: Order,
        hatch: &Arc<Hatch>,
        carriers: &mut JoinSet<u32>,
        chores: &Chores,
        stop: &CancellationToken,
    ) {
        let queue = self.kit.road.queue.clone();
        match order {
            Order::Lease(door, domain, most) => chores.push(
                async move {
                    let leases = queue.lease(&domain, most).await;
                    Event::Leased(Leased { door, domain, most, leases })
                }
                .boxed(),
            ),
            Order::Open(number, route) => {
                carriers.spawn(self.carrier(number, route, hatch.clone(), stop.clone()));
            }
            Order::Rest(domain, until, home) => chores.push(quietly(async move {
                let _ = queue.rest(&domain, until).await;
                home.into_iter().for_each(|job| job.lease.home());
            })),
            Order::Settle(batch) => chores.push(quietly(async move { queue.settle(batch).await })),
            Order::Learn(record) => {
                let (source, site) = (self.source.id, self.post.1.clone());
                chores.push(quietly(async move { queue.learn(source, &site, record).await }));
            }
            Order::KeepWarm(record) => {
                let writing = self.put_warmup(record);
                let kept = async move {
                    let written = writing.await;
                    if !written {
                        sleep(LEFT_ALONE).await;
                    }
                    Event::Kept(written)
                };
                chores.push(kept.boxed());
            }
            Order::Record(record) => chores.push(quietly(self.put_warmup(record))),
            Order::Introduce(chore) => {
                let (kit, site) = (self.kit.clone(), self.post.1.clone());
                chores.push(quietly(async move { kit.new_domains.carry_out(chore, site).await }));
            }
            Order::EndDay(since) => {
                let counted = self.kit.road.store.complaints_since(&self.post.1, None, since);
                // what cannot be read is no reason to go faster, nor to stop: the day is judged by what was heard
                chores.push(std::future::ready(Event::DayEnded(counted.unwrap_or(0))).boxed());
            }
            Order::Tell(back) => self.tell(back, chores),
            Order::Show(to, status) => drop(to.try_send(*status)),
        }
    }

    /// The life of one connection; gives its number. A carrier that breaks down takes nobody with it.
    fn carrier(
        &self,
        number: u32,
        route: Arc<Route>,
        steward: Arc<Hatch>,
        stop: CancellationToken,
    ) -> impl Future<Output = u32> + Send + 'static {
        let carrier = Carrier {
            kit: self.kit.clone(),
            number,
            route,
            source: self.source.clone(),
            shape: Arc::new(self.limits.shape().clone()),
            steward,
            most: self.limits.session_max(Instant::now()),
            load: Load::default(),
        };
        let run = AssertUnwindSafe(carrier.run(stop)).catch_unwind();
        async move {
            if run.await.is_err() {
                tracing::error!("a carrier broke down; its copies go home; this is a bug");
            }
            number
        }
    }

    /// Tells the courier. A courier that is behind is not waited for: the copy or domain is put off instead.
    fn tell(&self, back: Back, chores: &Chores) {
        let Err(refused) = self.kit.back.try_send(back) else { return };
        let (queue, soon) = (self.kit.road.queue.clone(), self.kit.entries.in_about(LINGER));
        match refused.into_inner() {
            Back::Stray(lease) => {
                let site = self.post.1.clone();
                let aside = self.kit.entries.aside(*lease, soon, "waits for its own way".to_owned(), site);
                chores.push(quietly(async move { queue.settle(vec![aside]).await }));
            }
            Back::Claim(domain, _) | Back::Refused(domain, _) => {
                chores.push(quietly(async move { queue.rest(&domain, soon).await }));
            }
            Back::Still(..) | Back::Busy(..) | Back::Idle(..) => {}
        }
    }
}

/// Work of which nobody waits for the result: what a store or queue refuses, the next round finds as it was.
fn quietly<T>(work: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, Event> {
    work.map(|_| Event::Wake).boxed()
}
