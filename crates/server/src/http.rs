//! The API over HTTPS: a thin skin on `Control`.
//!
//! Every call but an unknown one's 404 needs a bearer token. A call is a function in `calls`; what it
//! answers when it fails is in `failure`.

mod calls;
mod failure;
mod input;
mod listen;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, post};

use crate::control::Control;
use failure::HttpFailure;

pub use listen::serve;

/// The largest body of a call; a protection file with a thousand apps has half of it.
const BODY_BYTES_MAX: usize = 1 << 20;

/// All calls of `levee_api::ROUTES`.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/v1/apply", post(calls::apply))
        .route("/v1/status", get(calls::status))
        .route("/v1/sites", get(calls::sites))
        .route("/v1/agents", get(calls::agents))
        .route("/v1/agents/{agent}/revoke", post(calls::revoke_agent))
        .route("/v1/apps", get(calls::apps))
        .route("/v1/apps/{app}", get(calls::app))
        .route("/v1/apps/{app}/status", get(calls::app_status))
        .route("/v1/apps/{app}/remove", post(calls::remove_app))
        .route("/v1/apps/{app}/acknowledge", post(calls::acknowledge))
        .route("/v1/adopt-epochs", post(calls::adopt_epochs))
        .route("/v1/apps/{app}/samples", get(calls::samples))
        .route("/v1/apps/{app}/proofs", get(calls::proofs))
        .route("/v1/plans", post(calls::make_plan))
        .route("/v1/plans/{plan}", get(calls::plan))
        .route("/v1/runs", post(calls::create_run).get(calls::runs))
        .route("/v1/runs/{run}", get(calls::run))
        .route("/v1/runs/{run}/events", get(calls::run_events))
        .route("/v1/runs/{run}/retry", post(calls::retry_step))
        .route("/v1/runs/{run}/skip", post(calls::skip_step))
        .route("/v1/runs/{run}/abort", post(calls::abort_run))
        .route("/v1/runs/{run}/give-up", post(calls::give_up_run))
        .route("/v1/tokens", post(calls::create_token).get(calls::tokens))
        .route("/v1/tokens/{id}", delete(calls::revoke_token))
        .route("/v1/join-tokens", post(calls::create_join_token).get(calls::join_tokens))
        .route("/v1/join-tokens/{id}", delete(calls::revoke_join_token))
        .route("/v1/backup", post(calls::backup))
        .method_not_allowed_fallback(async || HttpFailure::no_such_call())
        .route_layer(middleware::from_fn_with_state(control.clone(), authenticate))
        .fallback(async || HttpFailure::no_such_call())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::map_response(keep_private))
        .with_state(control)
}

async fn authenticate(
    State(control): State<Control>,
    mut request: Request,
    next: Next,
) -> Result<Response, HttpFailure> {
    let caller = control.authenticate(bearer_token(request.headers())).await?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Answers are for the caller alone, and some of them hold a new token.
async fn keep_private(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
