use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// A stable word for programs.
    pub code: String,
    /// What was being done, to what, and why it failed.
    pub message: String,
    /// What can be done about it, where the message does not say it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}
