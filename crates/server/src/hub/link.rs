use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use levee_model::control::{AgentStatus, AssetStatus};
use levee_wire::server::AgentLink;
use levee_wire::{FromAgent, PeerIdentity};

use super::words::{Due, Words};
use crate::config::Config;
use crate::contact::of_keepers;
use crate::server::Shared;

/// Serves one agent's stream until it ends.
pub async fn run(shared: Arc<Shared>, peer: PeerIdentity, mut link: AgentLink) {
    let agent = peer.agent.clone();
    let number = shared.hub.connect(&agent, link.outgoing, Instant::now());
    tracing::info!(agent = %agent, site = %peer.site, "agent connected");
    // What is wanted goes first, so that no command meets an agent that does not know its epoch.
    match shared
        .clone()
        .blocking({
            let agent = agent.clone();
            move |shared| shared.desired_of(&agent)
        })
        .await
    {
        Ok(desired) => shared.hub.push(&agent, desired),
        Err(error) => tracing::error!(agent = %agent, error = %levee_wire::chain(&error), "cannot say what is wanted"),
    }
    let mut words = Words::new(Instant::now());
    while let Some(message) = link.incoming.recv().await {
        match message {
            // An agent speaks for itself alone.
            FromAgent::Status(status) if status.agent != agent || status.site != peer.site => {
                tracing::warn!(agent = %agent, said = %status.agent, "left out a status in another agent's name");
            }
            FromAgent::Status(status) => {
                let seen_at = Timestamp::now();
                let before = shared.hub.heard(&agent, number, status.clone(), seen_at);
                keep_gaps(&shared, before.as_ref(), &status).await;
                // What comes late on an older connection is no last word.
                if !shared.hub.is_superseded(&agent, number) {
                    keep_contacts(&shared, words.hear(&status, seen_at, Instant::now())).await;
                }
                let moved = before.is_none_or(|before| {
                    (before.wire, before.store, before.dns) != (status.wire, status.store, status.dns)
                });
                if moved && let Err(error) = shared.clone().blocking(move |shared| shared.note_addresses(&status)).await
                {
                    tracing::error!(agent = %agent, error = %levee_wire::chain(&error), "cannot keep the agent's addresses");
                }
            }
            FromAgent::Answer(answer) => shared.hub.answered(&agent, answer),
        }
    }
    shared.hub.disconnected(&agent, number);
    // Perhaps the last that is heard of its site for long.
    if !shared.hub.is_superseded(&agent, number) {
        keep_contacts(&shared, words.rest(Instant::now())).await;
    }
    tracing::info!(agent = %agent, "agent disconnected");
}

/// Keeps what a status says of gaps, when that is new.
async fn keep_gaps(shared: &Arc<Shared>, before: Option<&AgentStatus>, status: &AgentStatus) {
    let known = |asset: &AssetStatus| {
        let mut before = before.into_iter().flat_map(|before| &before.assets);
        before.any(|known| (&known.app, &known.asset, &known.gaps) == (&asset.app, &asset.asset, &asset.gaps))
    };
    let changed: Vec<AssetStatus> =
        status.assets.iter().filter(|asset| !asset.gaps.is_empty() && !known(asset)).cloned().collect();
    if changed.is_empty() {
        return;
    }
    let site = status.site.clone();
    let kept = shared.clone().blocking(move |shared| {
        changed.iter().try_for_each(|asset| shared.history.put_gaps(&asset.app, &asset.asset, &site, &asset.gaps))
    });
    if let Err(error) = kept.await {
        tracing::error!(agent = %status.agent, error = %levee_wire::chain(&error), "cannot keep the gaps it has told of");
    }
}

/// Keeps what an agent has said of the copies that it keeps, for a time when neither it nor this process is there.
async fn keep_contacts(shared: &Arc<Shared>, due: Due) {
    let Due { contacts, is_settled } = due;
    let Some(agent) = contacts.first().map(|contact| contact.agent.clone()) else { return };
    let kept = shared.clone().blocking(move |shared| {
        let contacts = of_keepers(&Config::read(&shared.store)?, contacts);
        shared.history.put_contacts(&contacts, is_settled)
    });
    if let Err(error) = kept.await {
        tracing::error!(%agent, error = %levee_wire::chain(&error), "cannot keep what the agent has said of its copies");
    }
}
