//! One function for each call of `levee_api::ROUTES`.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use levee_api::{
    AcknowledgeRequest, AdoptRequest, ApplyRequest, BackupRequest, JoinTokenRequest, RemoveRequest, RetryRequest,
    RunChange, RunWait, SkipRequest, TokenRequest,
};
use levee_model::protection::ProtectionFile;
use levee_plan::{Plan, Run, StepId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::failure::HttpFailure;
use super::input::{Body, Query, name};
use crate::control::{
    Acknowledged, AdoptReport, AgentSummary, AppRemoval, AppStatus, AppView, ApplyReport, BackupKey, Caller, Control,
    FleetStatus, JoinTokenView, PlanRequest, Proof, RunFilter, RunOrder, RunSummary, Sample, SiteView, TokenView,
};

type Answer<T> = Result<Json<T>, HttpFailure>;
type Server = State<Control>;

const WAIT_S_DEFAULT: u32 = 25;
const WAIT_S_MAX: u32 = 60;

pub async fn apply(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Body(request): Body<ApplyRequest>,
) -> Answer<ApplyReport> {
    let file = ProtectionFile::parse(&request.file)?;
    Ok(Json(control.apply(&caller, file, request.dry_run).await?))
}

pub async fn status(State(control): Server) -> Answer<FleetStatus> {
    Ok(Json(control.status().await?))
}

pub async fn sites(State(control): Server) -> Answer<Vec<SiteView>> {
    Ok(Json(control.sites().await?))
}

pub async fn agents(State(control): Server) -> Answer<Vec<AgentSummary>> {
    Ok(Json(control.agents().await?))
}

pub async fn revoke_agent(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
) -> Result<StatusCode, HttpFailure> {
    control.agent_revoke(&caller, &name(&agent)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn apps(State(control): Server) -> Answer<Vec<AppView>> {
    Ok(Json(control.apps().await?))
}

pub async fn app(State(control): Server, Path(app): Path<String>) -> Answer<AppView> {
    Ok(Json(control.app(&name(&app)?).await?))
}

pub async fn app_status(State(control): Server, Path(app): Path<String>) -> Answer<AppStatus> {
    Ok(Json(control.app_status(&name(&app)?).await?))
}

pub async fn remove_app(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    Body(request): Body<RemoveRequest>,
) -> Answer<AppRemoval> {
    Ok(Json(control.app_remove(&caller, &name(&app)?, &request.confirm).await?))
}

pub async fn acknowledge(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    Body(request): Body<AcknowledgeRequest>,
) -> Answer<Acknowledged> {
    Ok(Json(control.acknowledge(&caller, &name(&app)?, &request.asset).await?))
}

pub async fn adopt_epochs(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Body(request): Body<AdoptRequest>,
) -> Answer<AdoptReport> {
    Ok(Json(control.adopt_epochs(&caller, request.dry_run).await?))
}

#[derive(Deserialize)]
pub struct Since {
    since: Option<Timestamp>,
}

pub async fn samples(
    State(control): Server,
    Path(app): Path<String>,
    Query(Since { since }): Query<Since>,
) -> Answer<Vec<Sample>> {
    let since = since.unwrap_or_else(|| Timestamp::now() - SignedDuration::from_hours(1));
    Ok(Json(control.samples(&name(&app)?, since).await?))
}

pub async fn proofs(State(control): Server, Path(app): Path<String>) -> Answer<Vec<Proof>> {
    Ok(Json(control.proofs(&name(&app)?).await?))
}

pub async fn make_plan(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Body(request): Body<PlanRequest>,
) -> Answer<Plan> {
    Ok(Json(control.plan_only(&caller, request).await?))
}

pub async fn plan(State(control): Server, Path(plan): Path<String>) -> Answer<Plan> {
    Ok(Json(control.plan(&plan).await?))
}

pub async fn create_run(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Body(order): Body<RunOrder>,
) -> Answer<Run> {
    Ok(Json(control.create_run(&caller, order).await?))
}

pub async fn runs(State(control): Server, Query(filter): Query<RunFilter>) -> Answer<Vec<RunSummary>> {
    Ok(Json(control.runs(filter).await?))
}

pub async fn run(State(control): Server, Path(run): Path<String>) -> Answer<Run> {
    Ok(Json(control.run(&name(&run)?).await?))
}

/// Answers as soon as the run differs from what the caller has seen, or the time is over.
pub async fn run_events(
    State(control): Server,
    Path(run): Path<String>,
    Query(wait): Query<RunWait>,
) -> Answer<RunChange> {
    let mut changes = control.run_watch(&name(&run)?).await?;
    let wait_s = wait.wait_s.unwrap_or(WAIT_S_DEFAULT).min(WAIT_S_MAX);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait_s.into());
    loop {
        let run = changes.borrow_and_update().clone();
        let change = RunChange { mark: mark(&run), run };
        if wait.after.as_ref() != Some(&change.mark) {
            return Ok(Json(change));
        }
        // The sender goes away when the run has ended: then nothing more will come.
        let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
        if !matches!(changed, Ok(Ok(()))) {
            return Ok(Json(change));
        }
    }
}

/// Short for the whole content of the run as it stands.
fn mark(run: &Run) -> String {
    let content = serde_json::to_vec(run).unwrap_or_default();
    hex::encode(&Sha256::digest(content)[..8])
}

pub async fn retry_step(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
    Body(request): Body<RetryRequest>,
) -> Answer<Run> {
    Ok(Json(control.run_retry(&caller, &name(&run)?, &StepId(request.step)).await?))
}

pub async fn skip_step(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
    Body(request): Body<SkipRequest>,
) -> Answer<Run> {
    Ok(Json(control.run_skip(&caller, &name(&run)?, &StepId(request.step), request.reason).await?))
}

pub async fn abort_run(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
) -> Answer<Run> {
    Ok(Json(control.run_abort(&caller, &name(&run)?).await?))
}

pub async fn give_up_run(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
) -> Answer<Run> {
    Ok(Json(control.run_give_up(&caller, &name(&run)?).await?))
}

pub async fn create_token(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Body(request): Body<TokenRequest>,
) -> Answer<Value> {
    let TokenRequest { name, access, expires_at } = request;
    let (view, text) = control.token_create(&caller, name, access, expires_at).await?;
    with_token(&view, &text)
}

pub async fn tokens(State(control): Server) -> Answer<Vec<TokenView>> {
    Ok(Json(control.tokens().await?))
}

pub async fn revoke_token(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, HttpFailure> {
    control.token_revoke(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn create_join_token(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Body(request): Body<JoinTokenRequest>,
) -> Answer<Value> {
    let (view, text) = control.join_token_create(&caller, request.site, request.expires_at).await?;
    with_token(&view, &text)
}

pub async fn join_tokens(State(control): Server) -> Answer<Vec<JoinTokenView>> {
    Ok(Json(control.join_tokens().await?))
}

pub async fn revoke_join_token(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, HttpFailure> {
    control.join_token_revoke(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The one answer that holds a token.
fn with_token(view: &impl Serialize, text: &str) -> Answer<Value> {
    let unreadable = |error: serde_json::Error| {
        HttpFailure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string(), None)
    };
    let mut answer = serde_json::to_value(view).map_err(unreadable)?;
    answer["token"] = text.into();
    Ok(Json(answer))
}

pub async fn backup(
    State(control): Server,
    Extension(caller): Extension<Caller>,
    Body(request): Body<BackupRequest>,
) -> Result<impl IntoResponse, HttpFailure> {
    let key = match (request.recipient, request.passphrase) {
        (Some(recipient), None) => BackupKey::Recipient(recipient),
        (None, Some(passphrase)) => BackupKey::Passphrase(Zeroizing::new(passphrase)),
        _ => {
            let message = "the backup needs either a recipient or a passphrase to be encrypted for".to_string();
            return Err(HttpFailure::new(StatusCode::UNPROCESSABLE_ENTITY, "backup", message, None));
        }
    };
    let file = control.backup(&caller, key).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], file))
}
