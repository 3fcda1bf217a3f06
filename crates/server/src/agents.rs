//! Joining, renewing and revoking agents.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use levee_model::AgentId;
use levee_wire::server::{AgentLink, ServerCalls};
use levee_wire::{Issued, JoinAnswer, JoinRequest, JoinToken, PeerIdentity, TokenRecord};
use zeroize::Zeroizing;

use crate::config::{AgentRecord, Config, REVOCATIONS, agent_key, app_key};
use crate::control::JoinTokenView;
use crate::desired::revocations;
use crate::error::{Result, ServerError};
use crate::hub;
use crate::server::Shared;
use crate::state::{Compare, KeyValue, Op};

const JOIN: &str = "join/";

/// What agents can ask of the server.
pub struct AgentCalls {
    shared: Arc<Shared>,
    /// Where tasks are started from threads that are not the runtime's own.
    runtime: tokio::runtime::Handle,
}

impl AgentCalls {
    /// Must be called inside the runtime.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, runtime: tokio::runtime::Handle::current() }
    }
}

/// An error as an agent sees it.
fn told(error: ServerError) -> levee_wire::Error {
    match error {
        ServerError::Wire(error) => error,
        other => levee_wire::Error::Refused { message: levee_wire::chain(&other) },
    }
}

impl ServerCalls for AgentCalls {
    fn join(&self, request: JoinRequest) -> levee_wire::Result<JoinAnswer> {
        let answer = self.shared.join(&request, Timestamp::now()).map_err(told)?;
        tracing::info!(agent = %request.agent, site = %request.site, "agent joined");
        self.shared.runs.resend();
        Ok(answer)
    }

    fn renew(&self, peer: &PeerIdentity, csr: &[u8]) -> levee_wire::Result<Issued> {
        self.shared.renew(peer, csr, Timestamp::now()).map_err(told)
    }

    fn connected(&self, peer: PeerIdentity, link: AgentLink) {
        self.shared.tasks.spawn(&self.runtime, hub::run_link(self.shared.clone(), peer, link));
    }
}

impl Shared {
    fn join(&self, request: &JoinRequest, now: Timestamp) -> Result<JoinAnswer> {
        let token_key = format!("{JOIN}{}", request.token_id);
        loop {
            let unknown = || ServerError::Wire(levee_wire::Error::UnknownToken);
            let token = self.store.get(&token_key)?.ok_or_else(unknown)?;
            let redeemed = token.parse::<TokenRecord>()?.redeem(
                &request.token_secret,
                &request.site,
                &request.agent,
                &request.csr,
                now,
            )?;
            let config = Config::read(&self.store)?;
            let key = agent_key(&request.agent);
            let known = config.agents.get(&request.agent);
            let (mut record, compare) = match known {
                Some(known) if known.value.revoked_at.is_some() => {
                    return Err(ServerError::RevokedAgent { agent: request.agent.clone() });
                }
                Some(known) if known.value.site != request.site => {
                    let site = known.value.site.clone();
                    return Err(ServerError::AgentOfOtherSite { agent: request.agent.clone(), site });
                }
                Some(known) => (known.value.clone(), Compare::ModRevision(key.clone(), known.revision)),
                None => {
                    let record = AgentRecord {
                        site: request.site.clone(),
                        joined_at: now,
                        certificates: BTreeMap::new(),
                        addresses: None,
                        revoked_at: None,
                    };
                    (record, Compare::Absent(key.clone()))
                }
            };
            let issued = self.authority.issue_agent(&request.csr, &request.site, &request.agent, now)?;
            record.certificates.retain(|_, ends| *ends > now);
            record.certificates.insert(issued.serial.clone(), issued.not_after);
            let mut compares = vec![compare, Compare::ModRevision(token_key.clone(), token.mod_revision)];
            let mut ops = vec![Op::put(token_key.clone(), &redeemed)?, Op::put(key, &record)?];
            let mut after = config.clone();
            after.agents.insert(request.agent.clone(), crate::config::Revised { value: record, revision: 0 });
            reassign(&after, &mut compares, &mut ops)?;
            // The token is used up, durably, before anyone gets the certificate.
            if self.store.txn(&compares, &ops)?.succeeded {
                let signer = self.authority.signer();
                return Ok(JoinAnswer {
                    issued,
                    grant_key: signer.public_key(),
                    revocations: revocations(&config, signer)?,
                });
            }
        }
    }

    fn renew(&self, peer: &PeerIdentity, csr: &[u8], now: Timestamp) -> Result<Issued> {
        loop {
            let key = agent_key(&peer.agent);
            let unknown = || ServerError::UnknownAgent { agent: peer.agent.clone() };
            let kv = self.store.get(&key)?.ok_or_else(unknown)?;
            let mut record: AgentRecord = kv.parse()?;
            if record.revoked_at.is_some() {
                return Err(ServerError::RevokedAgent { agent: peer.agent.clone() });
            }
            let issued = self.authority.issue_agent(csr, &record.site, &peer.agent, now)?;
            record.certificates.retain(|_, ends| *ends > now);
            record.certificates.insert(issued.serial.clone(), issued.not_after);
            let compare = Compare::ModRevision(key.clone(), kv.mod_revision);
            if self.store.txn(&[compare], &[Op::put(key, &record)?])?.succeeded {
                return Ok(issued);
            }
        }
    }

    /// From now on nobody trusts the agent's certificates.
    pub fn revoke_agent(&self, agent: &AgentId, now: Timestamp) -> Result<()> {
        loop {
            let config = Config::read(&self.store)?;
            let known = config.agents.get(agent).ok_or_else(|| ServerError::UnknownAgent { agent: agent.clone() })?;
            if known.value.revoked_at.is_some() {
                return Ok(());
            }
            let mut after = config.clone();
            let mut record = known.value.clone();
            record.revoked_at = Some(now);
            after.revocations.version += 1;
            after.revocations.agents.push(agent.clone());
            let serials = known.value.certificates.keys().filter(|serial| !config.revocations.serials.contains(serial));
            after.revocations.serials.extend(serials.cloned());
            let mut compares = vec![
                Compare::ModRevision(agent_key(agent), known.revision),
                match self.store.get(REVOCATIONS)? {
                    Some(kv) => Compare::ModRevision(REVOCATIONS.into(), kv.mod_revision),
                    None => Compare::Absent(REVOCATIONS.into()),
                },
            ];
            let mut ops = vec![Op::put(agent_key(agent), &record)?, Op::put(REVOCATIONS, &after.revocations)?];
            after.agents.insert(agent.clone(), crate::config::Revised { value: record, revision: 0 });
            reassign(&after, &mut compares, &mut ops)?;
            if self.store.txn(&compares, &ops)?.succeeded {
                if let Some(signed) = revocations(&after, self.authority.signer())? {
                    self.credentials.revoke(&signed)?;
                }
                tracing::info!(%agent, "agent revoked");
                return Ok(());
            }
        }
    }

    pub fn make_join_token(
        &self,
        site: Option<levee_model::SiteName>,
        expires_at: Timestamp,
    ) -> Result<(JoinTokenView, Zeroizing<String>)> {
        let (token, record) = JoinToken::issue(self.advertise.clone(), self.authority.fingerprint(), site, expires_at)?;
        let key = format!("{JOIN}{}", record.id);
        if !self.store.txn(&[Compare::Absent(key.clone())], &[Op::put(key, &record)?])?.succeeded {
            return Err(ServerError::Contended { doing: "a join token was made" });
        }
        Ok((view(&record), token.to_text()))
    }

    pub fn join_tokens(&self) -> Result<Vec<JoinTokenView>> {
        self.store.range(JOIN)?.values.iter().map(|kv: &KeyValue| Ok(view(&kv.parse()?))).collect()
    }

    pub fn revoke_join_token(&self, id: &str) -> Result<()> {
        let key = format!("{JOIN}{id}");
        if self.store.get(&key)?.is_none() {
            return Err(ServerError::UnknownToken { id: id.chars().take(40).collect() });
        }
        self.store.txn(&[], &[Op::delete(key)])?;
        Ok(())
    }
}

fn view(record: &TokenRecord) -> JoinTokenView {
    JoinTokenView {
        id: record.id.clone(),
        site: record.site.clone(),
        expires_at: record.expires_at,
        used_by: record.used.as_ref().map(|used| used.by.clone()),
        used_at: record.used.as_ref().map(|used| used.at),
    }
}

/// Finds agents for apps whose site has none any more, or none yet.
fn reassign(config: &Config, compares: &mut Vec<Compare>, ops: &mut Vec<Op>) -> Result<()> {
    for (app, known) in &config.apps {
        let mut record = known.value.clone();
        record.assign_agents(config);
        if record != known.value {
            compares.push(Compare::ModRevision(app_key(app), known.revision));
            ops.push(Op::put(app_key(app), &record)?);
        }
    }
    Ok(())
}
