use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use levee_api::{ErrorBody, ErrorDetail};
use levee_model::protection::ProtectionError;

use crate::error::{ErrorKind, ServerError};

/// A call that failed, as it is answered.
#[derive(Debug)]
pub struct HttpFailure {
    status: StatusCode,
    detail: ErrorDetail,
}

impl HttpFailure {
    pub fn new(status: StatusCode, code: &str, message: String, action: Option<&str>) -> Self {
        let detail = ErrorDetail { code: code.into(), message, action: action.map(str::to_string) };
        Self { status, detail }
    }

    pub fn no_such_call() -> Self {
        let message = "there is no such call in this version of the API".to_string();
        Self::new(StatusCode::NOT_FOUND, "no_such_call", message, Some("see docs/openapi.json for those there are"))
    }
}

impl From<ServerError> for HttpFailure {
    fn from(error: ServerError) -> Self {
        let status = match error.kind() {
            ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => {
                tracing::error!(error = %levee_wire::chain(&error), "a call failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let action = (status == StatusCode::INTERNAL_SERVER_ERROR).then_some("the server's log says more");
        Self::new(status, error.code(), error.to_string(), action)
    }
}

impl From<ProtectionError> for HttpFailure {
    fn from(error: ProtectionError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "protection_file", error.to_string(), None)
    }
}

impl IntoResponse for HttpFailure {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.detail })).into_response()
    }
}
