//! Whether the other site can be reached, found out while the databases stop.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_model::control::Failure;
use levee_wire::AgentClient;
use tokio::time::timeout;

use super::super::app::{App, transient};

/// How long the other site is tried: enough for one dropped connection and a new one.
const TRY_MAX: Duration = Duration::from_secs(5);
/// The same where an asset has had trouble for `TROUBLE_MIN` already: the link was tried all that time.
const TRY_AGAIN_MAX: Duration = Duration::from_secs(2);
const TROUBLE_MIN: SignedDuration = SignedDuration::from_secs(5);
/// One attempt. An agent that is there answers within a few round trips.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The link to the other site, as a stop sees it.
pub enum Link {
    /// It is needed, so it is waited for: nothing may be left here.
    Needed,
    /// Empty until it is known.
    Tried(Arc<OnceLock<Result<(), Failure>>>),
}

impl Link {
    /// Begins to try the link, where what cannot be sent may be left.
    pub fn of(app: &App, may_leave: bool) -> Link {
        if !may_leave {
            return Link::Needed;
        }
        let found = Arc::new(OnceLock::new());
        let assignment = app.assignment();
        let Some(peer) = assignment.peer.clone() else {
            let _ = found.set(Err(transient(format!("no agent has joined at the other site of app {} yet", app.name))));
            return Link::Tried(found);
        };
        let now = Timestamp::now();
        let in_trouble = |asset| app.board.get(asset).in_trouble_for(now).is_some_and(|time| time >= TROUBLE_MIN);
        let try_max = if assignment.spec.asset_names().any(in_trouble) { TRY_AGAIN_MAX } else { TRY_MAX };
        let (credentials, answer) = (app.context.credentials.clone(), Arc::clone(&found));
        app.context.runtime.spawn(async move {
            let (begun, address) = (Instant::now(), peer.wire.to_string());
            let result = loop {
                let attempt = AgentClient::connect(&credentials, &peer.agent, &address);
                let reason = match timeout(ATTEMPT_MAX, attempt).await {
                    Ok(Ok(_)) => break Ok(()),
                    Ok(Err(error)) => levee_wire::unreachable(&peer.agent, &address, &error),
                    Err(_) => format!(
                        "agent {} at {address} did not answer within {} s: is the link between the sites up?",
                        peer.agent,
                        ATTEMPT_MAX.as_secs()
                    ),
                };
                if begun.elapsed() + PAUSE >= try_max {
                    break Err(transient(reason));
                }
                tokio::time::sleep(PAUSE).await;
            };
            let _ = answer.set(result);
        });
        Link::Tried(found)
    }

    /// Why the other site can't be reached, once that is known.
    pub fn cut(&self) -> Option<&Failure> {
        match self {
            Link::Needed => None,
            Link::Tried(found) => found.get()?.as_ref().err(),
        }
    }

    /// The same, waiting until it is known.
    pub fn wait(&self) -> Option<&Failure> {
        if let Link::Tried(found) = self {
            // The runtime ends before an answer comes only when this process ends.
            let deadline = Instant::now() + TRY_MAX + ATTEMPT_MAX + PAUSE;
            while found.get().is_none() && Instant::now() < deadline {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        self.cut()
    }
}
