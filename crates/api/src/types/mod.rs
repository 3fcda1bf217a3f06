//! Requests and answers. Everything in an answer can be shown, but for the text of a new token.

mod error;
mod fleet;
mod runs;
mod status;
mod tokens;

pub use error::{ErrorBody, ErrorDetail};
pub use fleet::{
    AcknowledgeRequest, Acknowledged, AdoptReport, AdoptRequest, Adoption, AgentSummary, AppRemoval, AppView,
    AppliedApp, ApplyReport, ApplyRequest, BackupRequest, Change, Remains, RemoveRequest, SiteView,
};
pub use runs::{PlanRequest, RetryRequest, RunChange, RunFilter, RunOrder, RunSummary, RunWait, SkipRequest};
pub use status::{
    AdoptedView, AppStatus, AssetView, BackupView, ContactView, EntryView, FleetStatus, GapView, Health, Proof, Sample,
    SetAside, VaultCopyView,
};
pub use tokens::{
    JoinTokenCreated, JoinTokenRequest, JoinTokenView, TokenAccess, TokenCreated, TokenRequest, TokenText, TokenView,
};
