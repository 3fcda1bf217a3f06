//! Policy and what is known of the fleet → an immutable plan; and the runner that carries a plan out,
//! as a durable state machine that emits effects.
//!
//! Nothing here reads a clock, opens a socket or starts a thread: `now` is an argument, and what is to
//! be done comes back as data. The shell around it keeps three promises: it makes a [`Run`] durable
//! before it carries out the effects that came with it; it carries out again what [`Run::resume`] says
//! after a restart; and it advances an epoch only by the rule of [`Work::AdvanceEpoch`].

mod error;
mod inputs;
mod make;
mod plan;
mod prediction;
mod render;
mod retry;
mod run;

pub use error::{PlanError, RunError};
pub use inputs::{AgentView, Inputs, Measurements};
pub use make::{drill, entry_records, failover, protect, switchover};
pub use plan::{Assertion, Executor, Parent, Plan, PlanId, PlanKind, SkipRule, Step, StepId, When, Work};
pub use prediction::{AssetPrediction, Prediction};
pub use retry::{ATTEMPTS_MAX, backoff};
pub use run::{Effect, Event, Facts, GivenUp, Outcome, ProbeResult, Run, RunState, StepRecord, StepState};
