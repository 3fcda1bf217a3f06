//! The stream to the server: what is wanted comes down, what is so goes up.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use levee_model::control::{AgentStatus, Answer, Desired};
use levee_wire::server::ServerLink;
use levee_wire::{FromAgent, FromServer, ServerClient};
use tokio::sync::{broadcast, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{info, warn};

use crate::commands::Commands;
use crate::context::ProtectContext;
use crate::exchange::Gossip;
use crate::protect::{Source, Supervisor};

const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Between two statuses, so that a change that repeats itself does not fill the stream.
const STATUS_APART: Duration = Duration::from_millis(50);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The agent's side of the control stream.
pub(crate) struct Control {
    pub context: ProtectContext,
    pub supervisor: Arc<Supervisor>,
    pub gossip: Gossip,
    pub commands: Commands,
    pub servers: Vec<String>,
    /// What the agent works by.
    pub desired: watch::Sender<Desired>,
}

impl Control {
    /// Keeps a stream to one of the servers, until it is dropped. While there is none, the agent goes on by what it
    /// was told last.
    pub async fn run(self) {
        let mut pause = PAUSE_MIN;
        let mut told = None;
        for address in self.servers.iter().cycle() {
            let opened = async { ServerClient::connect(&self.context.credentials, address).await?.open().await };
            let ended = match opened.await {
                Ok(link) => {
                    info!(%address, "connected to the server");
                    pause = PAUSE_MIN;
                    told = None;
                    self.talk(link).await
                }
                Err(error) => error,
            };
            let ended = levee_wire::chain(&ended);
            // The same cause is told once.
            if told.as_ref() != Some(&ended) {
                warn!(%address, error = ended, "no connection to the server; going on by what it last wanted");
                told = Some(ended);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Serves one stream until it ends.
    async fn talk(&self, mut link: ServerLink) -> levee_wire::Error {
        let outgoing = link.outgoing.clone();
        // Statuses and answers have their own task, so that a slow application of `Desired` holds up neither.
        let report = report(self.context.clone(), self.supervisor.clone(), self.desired.subscribe(), outgoing.clone());
        let answers = pass_on(self.commands.subscribe(), outgoing);
        let listen = async {
            // What could not be taken here, and when it is tried again. Everything else goes on meanwhile.
            let mut unkept: Option<(Desired, Instant)> = None;
            loop {
                let is_time = async {
                    match &unkept {
                        Some((_, at)) => sleep_until(*at).await,
                        None => std::future::pending().await,
                    }
                };
                let received = tokio::select! {
                    received = link.receive() => Some(received),
                    () = is_time => unkept.take().map(|(desired, _)| Ok(FromServer::Desired(desired))),
                };
                let Some(received) = received else { continue };
                match received {
                    Ok(FromServer::Desired(desired)) => {
                        if let Some(desired) = self.take(desired).await {
                            unkept = Some((desired, Instant::now() + PAUSE_MAX));
                        }
                    }
                    Ok(FromServer::Command(command)) => {
                        let supervisor = self.supervisor.clone();
                        self.commands.begin(command, move |command| supervisor.execute(command));
                    }
                    Err(error) => return error,
                }
            }
        };
        let closed = || levee_wire::Error::Refused { message: "the stream to the server was closed".into() };
        tokio::select! {
            error = listen => error,
            () = report => closed(),
            () = answers => closed(),
        }
    }

    /// Takes what the server wants: durable first, then in force. Gives back what could not be taken.
    async fn take(&self, desired: Desired) -> Option<Desired> {
        let known = self.desired.borrow().revision;
        let (supervisor, gossip) = (self.supervisor.clone(), self.gossip.clone());
        if desired.revision == known {
            // The same again is the server's word that it still holds. It goes the way of every other, so that it also
            // reaches an app that is not open yet: the start gate of each waits for it.
            let known = self.desired.borrow().clone();
            supervisor.apply(&known, Source::Server);
        }
        if desired.revision <= known {
            return None;
        }
        let said = desired.clone();
        let taken = spawn_blocking(move || {
            let kept = gossip.folder.keep_desired(&desired);
            if kept.is_ok() {
                apply(&supervisor, &gossip, &desired, Source::Server);
            }
            (desired, kept)
        });
        match taken.await {
            Ok((desired, Ok(()))) => {
                self.desired.send_replace(desired);
                self.context.changed.notify_one();
                None
            }
            Ok((desired, Err(error))) => {
                warn!(
                    error = levee_wire::chain(&error),
                    "what the server wants could not be kept, and is not done yet"
                );
                Some(desired)
            }
            // The server takes it for said, and has no reason to say it again.
            Err(_) => {
                warn!("a defect was in the way of what the server wants; it is taken over again in a moment");
                Some(said)
            }
        }
    }
}

/// Brings everything in line with what the server wants. Blocks for as long as files take to be written.
pub(crate) fn apply(supervisor: &Supervisor, gossip: &Gossip, desired: &Desired, source: Source) {
    if let Some(signed) = &desired.revocations {
        gossip
            .revoke(signed)
            .unwrap_or_else(|error| warn!(error = levee_wire::chain(&error), "a revocation list was not taken over"));
    }
    for record in &desired.entries {
        if let Err(error) = gossip.records.update(record.clone()) {
            warn!(name = record.name, error = levee_wire::chain(&error), "a DNS record was not taken over");
        }
    }
    supervisor.apply(desired, source);
}

async fn report(
    context: ProtectContext,
    supervisor: Arc<Supervisor>,
    desired: watch::Receiver<Desired>,
    outgoing: tokio::sync::mpsc::Sender<FromAgent>,
) {
    let mut ticks = interval(STATUS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = context.changed.notified() => sleep(STATUS_APART).await,
        }
        let supervisor = supervisor.clone();
        let look = move || (supervisor.status(), supervisor.known_apps(), supervisor.released());
        let Ok((assets, known, released)) = spawn_blocking(look).await else { return };
        let status = AgentStatus {
            agent: context.agent.clone(),
            site: context.site.clone(),
            wire: context.addresses.wire,
            store: context.addresses.store,
            dns: context.addresses.dns,
            version: env!("CARGO_PKG_VERSION").into(),
            now: Timestamp::now(),
            revision: desired.borrow().revision,
            assets,
            entries: context.records.confirmed_epochs(),
            known,
            released,
        };
        if outgoing.send(FromAgent::Status(status)).await.is_err() {
            return;
        }
    }
}

async fn pass_on(mut ended: broadcast::Receiver<Answer>, outgoing: tokio::sync::mpsc::Sender<FromAgent>) {
    loop {
        match ended.recv().await {
            Ok(answer) => {
                if outgoing.send(FromAgent::Answer(answer)).await.is_err() {
                    return;
                }
            }
            // The server repeats the commands whose answers it misses.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
