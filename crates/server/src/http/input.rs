//! What a call takes, with errors in the form of every other error.

use std::str::FromStr;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::StatusCode;
use levee_model::InvalidName;

use super::failure::HttpFailure;

/// A body of JSON.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(HttpFailure))]
pub struct Body<T>(pub T);

/// The part of the address after `?`.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(HttpFailure))]
pub struct Query<T>(pub T);

impl From<JsonRejection> for HttpFailure {
    fn from(rejection: JsonRejection) -> Self {
        let action = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "send less at once: a body may have 1 MiB",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "send it with `Content-Type: application/json`",
            _ => "see docs/openapi.json for what this call takes",
        };
        HttpFailure::new(rejection.status(), "bad_body", rejection.body_text(), Some(action))
    }
}

impl From<QueryRejection> for HttpFailure {
    fn from(rejection: QueryRejection) -> Self {
        let action = "see docs/openapi.json for what this call takes";
        HttpFailure::new(rejection.status(), "bad_query", rejection.body_text(), Some(action))
    }
}

/// A name out of the address.
pub fn name<T: FromStr<Err = InvalidName>>(text: &str) -> Result<T, HttpFailure> {
    text.parse().map_err(|error: InvalidName| {
        HttpFailure::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_name", error.to_string(), None)
    })
}
