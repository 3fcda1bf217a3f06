//! A new certificate in good time.

use std::time::Duration;

use jiff::Timestamp;
use levee_model::AgentId;
use levee_wire::{AgentKey, Credentials, ServerClient};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::error::{Error, Result};
use crate::folder::AgentFolder;

/// How often the date is looked at. By the wall clock, since that is what a certificate ends by.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Renews the certificate whenever it is due, until it is dropped.
pub(crate) async fn run(folder: AgentFolder, credentials: Credentials, agent: AgentId, servers: Vec<String>) {
    loop {
        let pause = if credentials.identity().is_due(Timestamp::now()) {
            match renew(&folder, &credentials, &agent, &servers).await {
                Ok(()) => {
                    info!(valid_until = %credentials.facts().not_after, "the certificate was renewed");
                    LOOK_EVERY
                }
                Err(error) => {
                    let valid_until = credentials.facts().not_after;
                    warn!(%valid_until, error = levee_wire::chain(&error), "the certificate could not be renewed");
                    TRY_AGAIN
                }
            }
        } else {
            LOOK_EVERY
        };
        sleep(pause).await;
    }
}

async fn renew(folder: &AgentFolder, credentials: &Credentials, agent: &AgentId, servers: &[String]) -> Result<()> {
    let mut last = Error::NoServer;
    for address in servers {
        let key = AgentKey::generate().map_err(Error::Identity)?;
        let renewed = async { ServerClient::connect(credentials, address).await?.renew(agent, &key).await };
        match renewed.await {
            Ok(identity) => {
                // Durable before it is used: the server may forget the old one at any time from now on.
                folder.keep_identity(&identity, &key)?;
                return credentials.renew(identity).map_err(Error::Identity);
            }
            Err(error) => last = Error::Join(error),
        }
    }
    Err(last)
}
