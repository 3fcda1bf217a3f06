//! Requests and answers. Everything in an answer can be shown, but for the text of a new token.

mod error;
mod fleet;
mod runs;
mod status;
mod tokens;

pub use error::{ErrorBody, ErrorDetail};
pub use fleet::{AgentSummary, AppView, AppliedApp, ApplyReport, ApplyRequest, BackupRequest, Change, SiteView};
pub use runs::{PlanRequest, RetryRequest, RunChange, RunFilter, RunOrder, RunSummary, RunWait, SkipRequest};
pub use status::{AppStatus, AssetView, EntryView, FleetStatus, Health, Proof, Sample};
pub use tokens::{
    JoinTokenCreated, JoinTokenRequest, JoinTokenView, TokenAccess, TokenCreated, TokenRequest, TokenText, TokenView,
};
