//! Agents tell each other records, revocations and epochs every second, with or without the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levee_model::AgentId;
use levee_model::control::{Desired, EntryRecord, Peer};
use levee_traffic::Records;
use levee_wire::{AgentClient, Credentials, Exchange};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::epochs::HeardEpochs;
use crate::error::Result;
use crate::folder::AgentFolder;
use crate::protect::Supervisor;

const PERIOD: Duration = Duration::from_secs(1);
/// An agent that is down is asked again after this long.
const PAUSE_MAX: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What this agent knows that others should know. Clones share it.
#[derive(Clone)]
pub(crate) struct Gossip {
    pub folder: AgentFolder,
    pub credentials: Credentials,
    pub records: Records,
    pub heard: HeardEpochs,
    pub supervisor: Arc<Supervisor>,
    pub changed: Arc<Notify>,
}

impl Gossip {
    /// Everything that is known here.
    pub fn offer(&self) -> Exchange {
        let mut epochs = self.heard.all();
        for (app, epoch) in self.supervisor.known_epochs() {
            let known = epochs.entry(app).or_insert(epoch);
            *known = (*known).max(epoch);
        }
        Exchange { records: self.records.snapshot(), revocations: self.credentials.revocations().signed(), epochs }
    }

    /// Takes over what is newer. Blocks for as long as a file takes to be written, when something is.
    pub fn take(&self, from: &AgentId, offered: Exchange) {
        match self.records.merge(self.trusted(from, offered.records)) {
            Ok(0) => {}
            Ok(count) => {
                debug!(%from, count, "records taken over");
                self.changed.notify_one();
            }
            Err(error) => warn!(%from, error = levee_wire::chain(&error), "records could not be taken over"),
        }
        if let Some(signed) = offered.revocations {
            self.revoke(&signed).unwrap_or_else(
                |error| warn!(%from, error = levee_wire::chain(&error), "a revocation list was not taken over"),
            );
        }
        let mut epochs = offered.epochs;
        epochs.retain(|app, _| self.supervisor.is_peer(app, from));
        match self.heard.hear(&epochs) {
            Ok(false) => {}
            Ok(true) => self.changed.notify_one(),
            Err(error) => warn!(%from, error = levee_wire::chain(&error), "epochs could not be kept"),
        }
    }

    /// The records that are news, and that the server has signed: an agent's own word on another app's entry counts
    /// for nothing.
    fn trusted(&self, from: &AgentId, mut records: Vec<EntryRecord>) -> Vec<EntryRecord> {
        let known = self.records.snapshot();
        records.retain(|record| !known.contains(record));
        let offered = records.len();
        records.retain(|record| self.credentials.grants().verify_entry(record).is_ok());
        if records.len() < offered {
            let count = offered - records.len();
            warn!(%from, count, "DNS records that the server has not signed were not taken over");
        }
        records
    }

    /// Takes over a revocation list when it is newer: in force at once, then durable.
    pub fn revoke(&self, signed: &levee_model::control::Signed) -> Result<()> {
        if self.credentials.revoke(signed).map_err(crate::Error::Identity)? {
            self.folder.keep_revocations(signed)?;
        }
        Ok(())
    }
}

/// Talks to all peers that the server names, until it is dropped.
pub(crate) async fn run(gossip: Gossip, own: AgentId, mut desired: watch::Receiver<Desired>) {
    let mut talks: BTreeMap<AgentId, (Peer, Talk)> = BTreeMap::new();
    loop {
        let peers = desired.borrow_and_update().peers.clone();
        talks.retain(|_, (peer, _)| peers.contains(peer));
        for peer in peers.into_iter().filter(|peer| peer.agent != own) {
            talks
                .entry(peer.agent.clone())
                .or_insert_with(|| (peer.clone(), Talk(tokio::spawn(talk(gossip.clone(), peer)))));
        }
        if desired.changed().await.is_err() {
            return;
        }
    }
}

/// Ends with whoever holds it.
struct Talk(JoinHandle<()>);

impl Drop for Talk {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn talk(gossip: Gossip, peer: Peer) {
    let mut pause = PERIOD;
    loop {
        if let Err(error) = talk_on_one_connection(&gossip, &peer, &mut pause).await {
            debug!(peer = %peer.agent, error = levee_wire::chain(&error), "no exchange");
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn talk_on_one_connection(gossip: &Gossip, peer: &Peer, pause: &mut Duration) -> levee_wire::Result<()> {
    let address = peer.wire.to_string();
    let mut client = AgentClient::connect(&gossip.credentials, &peer.agent, &address).await?;
    loop {
        let offering = gossip.clone();
        let Ok(offered) = spawn_blocking(move || offering.offer()).await else { return Ok(()) };
        let answer =
            timeout(CALL_TIMEOUT, client.exchange(&offered)).await.map_err(|_| levee_wire::Error::TimedOut {
                peer: peer.agent.to_string(),
                address: address.clone(),
                seconds: CALL_TIMEOUT.as_secs(),
            })??;
        *pause = PERIOD;
        let (taking, from) = (gossip.clone(), peer.agent.clone());
        let _ = spawn_blocking(move || taking.take(&from, answer)).await;
        sleep(PERIOD).await;
    }
}
