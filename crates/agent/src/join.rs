//! Becoming an agent of a Levee.

use levee_wire::JoinToken;

use crate::error::{Error, Result};
use crate::folder::{AgentFolder, Membership};
use crate::options::{AgentOptions, JoinAs};

/// Joins with a token. The private key is made here and stays here.
///
/// It can be run again after a failure, also when the server's answer was lost. An agent that has joined before may
/// join again under the same name (for example after its certificate ended), with a new token.
pub async fn join(options: &AgentOptions, join_as: &JoinAs, token: &JoinToken) -> Result<Membership> {
    let folder = AgentFolder::new(&options.folder);
    let _lock = folder.lock()?;
    let site = join_as.site.clone().or_else(|| token.site.clone()).ok_or(Error::NoSite)?;
    if token.servers.is_empty() {
        return Err(Error::NoServer);
    }
    if let Some(known) = folder.read_membership()?
        && (known.agent != join_as.agent || known.site != site)
    {
        return Err(Error::OtherAgent { folder: options.folder.clone(), agent: known.agent, site: known.site });
    }
    if let Some(known) = folder.read_authority()?
        && known != token.authority
    {
        let (known, offered) = (known.to_string(), token.authority.to_string());
        return Err(Error::OtherAuthority { folder: options.folder.clone(), known, offered });
    }
    let key = folder.joining_key()?;
    let (identity, answer) = levee_wire::join(token, &join_as.agent, &site, &key).await.map_err(Error::Join)?;
    let servers = if options.servers.is_empty() { token.servers.clone() } else { options.servers.clone() };
    let membership = Membership { agent: join_as.agent.clone(), site, servers };
    folder.keep_joined(&membership, &identity, &key, &answer.grant_key, answer.revocations.as_ref())?;
    Ok(membership)
}
