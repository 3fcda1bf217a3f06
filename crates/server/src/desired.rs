//! What one agent is told to do, from what is wanted of the whole fleet.

use levee_model::control::{Assignment, Desired, Grant, Peer, Removed, RevocationList, Role, Signed};
use levee_model::{AgentId, AppName};
use levee_wire::GrantSigner;

use crate::config::Config;
use crate::error::Result;
use crate::removal::RemovedApp;

/// Everything that is wanted of one agent, with its grants.
pub fn desired(config: &Config, agent: &AgentId, signer: &GrantSigner) -> Result<Desired> {
    let mut assignments = Vec::new();
    for (app, record) in &config.apps {
        let record = &record.value;
        for (site, _) in record.agents.iter().filter(|(_, id)| *id == agent) {
            let role = if record.writer == *site { Role::Writer } else { Role::Recovery };
            let other = record.agents.get(record.spec.peer_of(site));
            let grant = Grant {
                app: app.clone(),
                agent: agent.clone(),
                site: site.clone(),
                role,
                epoch: record.epoch,
                // The epoch's own beginning, so that the same grant is the same text each time.
                issued_at: record.epoch_since,
            };
            assignments.push(Assignment {
                app: app.clone(),
                spec: record.spec.clone(),
                epoch: record.epoch,
                site: site.clone(),
                role,
                acknowledged: record.acknowledged.clone(),
                vaults: config.vaults_for(&record.spec),
                peer: other.and_then(|id| config.peer(id)),
                grant: signer.sign_grant(&grant)?,
            });
        }
    }
    let peers: Vec<Peer> = config.agents.keys().filter_map(|id| config.peer(id)).collect();
    let entries =
        config.entry_records().into_iter().map(|record| Ok(signer.sign_entry(record)?)).collect::<Result<_>>()?;
    let served = |(app, removed): (&AppName, &RemovedApp)| {
        let (site, _) = removed.agents.iter().find(|(_, id)| *id == agent)?;
        Some(Removed { app: app.clone(), epoch: removed.epoch, site: site.clone(), spec: removed.spec.clone() })
    };
    let removed = config.removed.iter().filter_map(served).collect();
    Ok(Desired {
        revision: config.revision,
        assignments,
        entries,
        removed,
        peers,
        revocations: revocations(config, signer)?,
    })
}

/// The signed revocation list; `None` while nothing was ever revoked.
pub fn revocations(config: &Config, signer: &GrantSigner) -> Result<Option<Signed>> {
    let list: &RevocationList = &config.revocations;
    if list.version == 0 {
        return Ok(None);
    }
    Ok(Some(signer.sign_revocations(list)?))
}
