//! The agents that are connected, what they said last, and the commands that they owe an answer to.

mod link;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::control::{AgentStatus, Answer, Command, Desired};
use levee_model::{AgentId, RunId};
use levee_wire::FromServer;
use tokio::sync::{mpsc, watch};

pub use link::run as run_link;

/// An agent speaks every second. One that was silent for so long is taken to be away, although its
/// connection may still stand: a cut link says nothing at all.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Commands in flight are sent again at this distance: an answer can be lost with nobody noticing, and an
/// agent leaves alone what it is doing already.
const SEND_AGAIN_EVERY: Duration = Duration::from_secs(10);

/// What the owner of a command hears.
#[derive(Debug)]
pub enum Reply {
    Answer(Answer),
    /// The agent cannot be reached now. The command stays in flight, and is sent again when it connects.
    Gone {
        agent: AgentId,
    },
}

/// What is known of an agent now.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub connected: bool,
    pub status: Option<AgentStatus>,
    /// When the status came, by the server's clock.
    pub seen_at: Option<Timestamp>,
    /// How far the agent's clock was ahead of the server's then.
    pub clock_ahead_ms: i64,
}

struct Connection {
    number: u64,
    outgoing: mpsc::Sender<FromServer>,
    heard: Instant,
    /// The revision of the `Desired` that was sent last. While it is 0 the agent does not know its epochs
    /// yet, and gets no command.
    sent: u64,
}

#[derive(Default)]
struct AgentState {
    live: Live,
    connection: Option<Connection>,
}

struct InFlight {
    agent: AgentId,
    command: Command,
    reply: mpsc::UnboundedSender<Reply>,
    sent: Instant,
}

#[derive(Default)]
struct State {
    agents: BTreeMap<AgentId, AgentState>,
    in_flight: BTreeMap<String, InFlight>,
    next_number: u64,
}

/// Everyone who is connected.
pub struct Hub {
    /// Short look-ups and changes from every link and run; never held over I/O or an await.
    state: Mutex<State>,
    /// Counts changes of any agent's status, for those who wait for one.
    changes: watch::Sender<u64>,
}

impl Hub {
    pub fn new() -> Self {
        Self { state: Mutex::default(), changes: watch::channel(0).0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes whenever a status comes or an agent comes or goes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// What is known of each agent.
    pub fn snapshot(&self) -> BTreeMap<AgentId, Live> {
        self.lock().agents.iter().map(|(id, agent)| (id.clone(), agent.live.clone())).collect()
    }

    /// A new connection takes the place of an older one of the same agent. Returns its number.
    fn connect(&self, agent: &AgentId, outgoing: mpsc::Sender<FromServer>, now: Instant) -> u64 {
        let mut state = self.lock();
        state.next_number += 1;
        let number = state.next_number;
        let entry = state.agents.entry(agent.clone()).or_default();
        entry.connection = Some(Connection { number, outgoing, heard: now, sent: 0 });
        entry.live.connected = true;
        drop(state);
        self.changed();
        number
    }

    /// Sends what is wanted, unless something as new was sent already.
    pub fn push(&self, agent: &AgentId, desired: Desired) {
        let mut state = self.lock();
        let Some(connection) = state.agents.get_mut(agent).and_then(|agent| agent.connection.as_mut()) else { return };
        if desired.revision > connection.sent {
            let is_first = connection.sent == 0;
            connection.sent = desired.revision;
            // A full queue: the agent takes nothing in, and gets everything anew when it connects again.
            if connection.outgoing.try_send(FromServer::Desired(desired)).is_err() {
                drop_connection(&mut state, agent);
            } else if is_first {
                resend(&mut state, agent);
            }
        }
    }

    /// The agents to whom something as new as this was not sent yet.
    pub fn behind(&self, revision: u64) -> Vec<AgentId> {
        let state = self.lock();
        let behind = |agent: &AgentState| agent.connection.as_ref().is_some_and(|c| c.sent < revision);
        state.agents.iter().filter(|(_, agent)| behind(agent)).map(|(id, _)| id.clone()).collect()
    }

    /// Puts a command in flight: it is sent now when the agent is connected, and whenever it connects
    /// until it is answered or let go. Says `Gone` at once when the agent is away.
    pub fn send(&self, agent: &AgentId, command: Command, reply: mpsc::UnboundedSender<Reply>) {
        let mut state = self.lock();
        let flight =
            InFlight { agent: agent.clone(), command: command.clone(), reply: reply.clone(), sent: Instant::now() };
        state.in_flight.insert(command.id.clone(), flight);
        let is_away = !transmit(&mut state, agent, command);
        if is_away {
            let _ = reply.send(Reply::Gone { agent: agent.clone() });
        }
    }

    /// Lets go of the commands of a run but these.
    pub fn retain(&self, run: &RunId, keep: &BTreeSet<String>) {
        self.lock().in_flight.retain(|id, flight| flight.command.run != *run || keep.contains(id));
    }

    /// Lets go of one command.
    pub fn forget(&self, command: &str) {
        self.lock().in_flight.remove(command);
    }

    fn answered(&self, agent: &AgentId, answer: Answer) {
        let flight = {
            let mut state = self.lock();
            // An answer counts only from the agent that was asked.
            match state.in_flight.get(&answer.command) {
                Some(flight) if flight.agent == *agent => state.in_flight.remove(&answer.command),
                _ => None,
            }
        };
        if let Some(flight) = flight {
            let _ = flight.reply.send(Reply::Answer(answer));
        }
    }

    /// Takes in a status. Returns the one before.
    fn heard(&self, agent: &AgentId, number: u64, status: AgentStatus, now: Timestamp) -> Option<AgentStatus> {
        let mut state = self.lock();
        let entry = state.agents.entry(agent.clone()).or_default();
        let connection = entry.connection.as_mut().filter(|connection| connection.number == number)?;
        connection.heard = Instant::now();
        entry.live.connected = true;
        entry.live.seen_at = Some(now);
        let ahead = status.now.duration_since(now).as_millis();
        entry.live.clock_ahead_ms = i64::try_from(ahead).unwrap_or(i64::MAX);
        let before = entry.live.status.replace(status);
        drop(state);
        self.changed();
        before
    }

    /// The connection is over.
    fn disconnected(&self, agent: &AgentId, number: u64) {
        let mut state = self.lock();
        let is_ours = state
            .agents
            .get(agent)
            .and_then(|agent| agent.connection.as_ref())
            .is_some_and(|connection| connection.number == number);
        if is_ours {
            drop_connection(&mut state, agent);
            drop(state);
            self.changed();
        }
    }

    /// Whether a newer connection of the agent has taken this one's place.
    fn is_superseded(&self, agent: &AgentId, number: u64) -> bool {
        let state = self.lock();
        let newest = state.agents.get(agent).and_then(|agent| agent.connection.as_ref());
        newest.is_some_and(|connection| connection.number != number)
    }

    /// Cuts an agent off, as when it was revoked.
    pub fn cut(&self, agent: &AgentId) {
        drop_connection(&mut self.lock(), agent);
        self.changed();
    }

    /// Takes agents that were silent for too long to be away, and sends again what got no answer yet.
    pub fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        let silent: Vec<AgentId> = state
            .agents
            .iter_mut()
            .filter(|(_, agent)| {
                agent.live.connected
                    && agent
                        .connection
                        .as_ref()
                        .is_none_or(|connection| now.saturating_duration_since(connection.heard) > SILENCE_MAX)
            })
            .map(|(id, agent)| {
                agent.live.connected = false;
                id.clone()
            })
            .collect();
        for agent in &silent {
            tell_gone(&state, agent);
        }
        let mut again = Vec::new();
        for flight in state.in_flight.values_mut() {
            if now.saturating_duration_since(flight.sent) > SEND_AGAIN_EVERY {
                flight.sent = now;
                again.push((flight.agent.clone(), flight.command.clone()));
            }
        }
        for (agent, command) in again {
            transmit(&mut state, &agent, command);
        }
        drop(state);
        if !silent.is_empty() {
            self.changed();
        }
    }
}

/// Sends the commands that the agent owes an answer to.
fn resend(state: &mut State, agent: &AgentId) {
    let commands: Vec<Command> =
        state.in_flight.values().filter(|flight| flight.agent == *agent).map(|f| f.command.clone()).collect();
    for command in commands {
        transmit(state, agent, command);
    }
}

/// Whether it could be handed to a live connection.
fn transmit(state: &mut State, agent: &AgentId, command: Command) -> bool {
    let Some(entry) = state.agents.get_mut(agent) else { return false };
    let Some(connection) = &entry.connection else { return false };
    if connection.sent == 0 {
        // It goes out with the rest as soon as the agent was told what is wanted.
        return true;
    }
    if connection.outgoing.try_send(FromServer::Command(command)).is_err() {
        drop_connection(state, agent);
        return false;
    }
    // A connection that is silent may be dead; the command is on its way in case it is not.
    entry.live.connected
}

fn drop_connection(state: &mut State, agent: &AgentId) {
    if let Some(entry) = state.agents.get_mut(agent) {
        entry.connection = None;
        entry.live.connected = false;
    }
    tell_gone(state, agent);
}

fn tell_gone(state: &State, agent: &AgentId) {
    for flight in state.in_flight.values().filter(|flight| flight.agent == *agent) {
        let _ = flight.reply.send(Reply::Gone { agent: agent.clone() });
    }
}
