use crate::types::*;
use levee_plan::{Plan, Run};
use utoipa::ToSchema;
use utoipa::openapi::path::HttpMethod;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, Ref, RefOr};

/// One call of the API.
pub struct Route {
    pub method: HttpMethod,
    /// With `{names}` for its parts that vary.
    pub path: &'static str,
    pub operation: &'static str,
    pub summary: &'static str,
    pub(crate) query: &'static [(&'static str, &'static str)],
    pub(crate) body: Option<fn() -> Named>,
    pub(crate) answer: Answer,
}

/// What a call answers when it went well.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// 200 with JSON.
    One(fn() -> Named),
    /// 200 with a JSON array.
    Many(fn() -> Named),
    /// 200 with bytes.
    Bytes,
    /// 204.
    Nothing,
}

/// A schema, and all schemas that it refers to.
pub(crate) struct Named {
    pub(crate) schema: RefOr<Schema>,
    pub(crate) components: Vec<(String, RefOr<Schema>)>,
}

fn of<T: ToSchema>() -> Named {
    let name = T::name().to_string();
    let mut components = vec![(name.clone(), T::schema())];
    T::schemas(&mut components);
    Named { schema: RefOr::Ref(Ref::from_schema_name(name)), components }
}

impl Answer {
    pub(crate) fn schema(self) -> Option<Named> {
        match self {
            Answer::One(named) => Some(named()),
            Answer::Many(named) => {
                let Named { schema, components } = named();
                Some(Named { schema: RefOr::T(ArrayBuilder::new().items(schema).build().into()), components })
            }
            Answer::Bytes => {
                let bytes = ObjectBuilder::new()
                    .schema_type(Type::String)
                    .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
                    .build();
                Some(Named { schema: RefOr::T(bytes.into()), components: Vec::new() })
            }
            Answer::Nothing => None,
        }
    }
}

const fn get(path: &'static str, operation: &'static str, summary: &'static str, answer: Answer) -> Route {
    Route { method: HttpMethod::Get, path, operation, summary, query: &[], body: None, answer }
}

const fn post(
    path: &'static str,
    operation: &'static str,
    summary: &'static str,
    body: fn() -> Named,
    answer: Answer,
) -> Route {
    Route { method: HttpMethod::Post, path, operation, summary, query: &[], body: Some(body), answer }
}

const fn act(path: &'static str, operation: &'static str, summary: &'static str, answer: Answer) -> Route {
    Route { method: HttpMethod::Post, path, operation, summary, query: &[], body: None, answer }
}

const fn delete(path: &'static str, operation: &'static str, summary: &'static str) -> Route {
    Route { method: HttpMethod::Delete, path, operation, summary, query: &[], body: None, answer: Answer::Nothing }
}

impl Route {
    const fn query(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query = query;
        self
    }
}

/// Every call, all below the server's address. Each needs a bearer token.
pub const ROUTES: &[Route] = &[
    post("/v1/apply", "apply", "Apply a protection file", of::<ApplyRequest>, Answer::One(of::<ApplyReport>)),
    get("/v1/status", "status", "How everything stands", Answer::One(of::<FleetStatus>)),
    get("/v1/sites", "sites", "All sites where an agent has joined", Answer::Many(of::<SiteView>)),
    get("/v1/agents", "agents", "All agents", Answer::Many(of::<AgentSummary>)),
    act("/v1/agents/{agent}/revoke", "revoke_agent", "Trust an agent's certificates no more", Answer::Nothing),
    get("/v1/apps", "apps", "All apps as they were applied", Answer::Many(of::<AppView>)),
    get("/v1/apps/{app}", "app", "One app as it was applied", Answer::One(of::<AppView>)),
    get("/v1/apps/{app}/status", "app_status", "How one app stands", Answer::One(of::<AppStatus>)),
    post(
        "/v1/apps/{app}/remove",
        "remove_app",
        "Protect an app no more; its data and copies stay",
        of::<RemoveRequest>,
        Answer::One(of::<AppRemoval>),
    ),
    post(
        "/v1/apps/{app}/acknowledge",
        "acknowledge",
        "Say that an operator has looked at the warning of an asset",
        of::<AcknowledgeRequest>,
        Answer::One(of::<Acknowledged>),
    ),
    post(
        "/v1/adopt-epochs",
        "adopt_epochs",
        "Take over newer epochs from the agents, after a restore of the server",
        of::<AdoptRequest>,
        Answer::One(of::<AdoptReport>),
    ),
    get(
        "/v1/apps/{app}/samples",
        "samples",
        "The ages of an app's recovery points over time",
        Answer::Many(of::<Sample>),
    )
    .query(&[("since", "Where to begin; an hour ago when it is not given")]),
    get("/v1/apps/{app}/proofs", "proofs", "What the drills of an app have shown", Answer::Many(of::<Proof>)),
    post("/v1/plans", "make_plan", "Make a plan and keep it for an hour", of::<PlanRequest>, Answer::One(of::<Plan>)),
    get("/v1/plans/{plan}", "plan", "A plan that was made within the hour", Answer::One(of::<Plan>)),
    post("/v1/runs", "create_run", "Carry out a plan", of::<RunOrder>, Answer::One(of::<Run>)),
    get("/v1/runs", "runs", "Runs, newest first", Answer::Many(of::<RunSummary>)).query(&[
        ("app", "Only those of this app"),
        ("open", "`true`: only those that have not ended"),
        ("limit", "The newest so many; 50 when it is not given"),
    ]),
    get("/v1/runs/{run}", "run", "One run", Answer::One(of::<Run>)),
    get("/v1/runs/{run}/events", "run_events", "Wait for a run to change", Answer::One(of::<RunChange>)).query(&[
        ("after", "The mark of the answer before; without it the run is answered at once"),
        ("wait_s", "How long to wait, in seconds, at most 60; 25 when it is not given"),
    ]),
    post("/v1/runs/{run}/retry", "retry_step", "Try a step again", of::<RetryRequest>, Answer::One(of::<Run>)),
    post(
        "/v1/runs/{run}/skip",
        "skip_step",
        "Say that a step was done by hand",
        of::<SkipRequest>,
        Answer::One(of::<Run>),
    ),
    act("/v1/runs/{run}/abort", "abort_run", "End a run before its cut-over", Answer::One(of::<Run>)),
    act(
        "/v1/runs/{run}/give-up",
        "give_up_run",
        "End a run after its cut-over, by the word that its new site is down",
        Answer::One(of::<Run>),
    ),
    post("/v1/tokens", "create_token", "Make a token for the API", of::<TokenRequest>, Answer::One(of::<TokenCreated>)),
    get("/v1/tokens", "tokens", "All tokens for the API", Answer::Many(of::<TokenView>)),
    delete("/v1/tokens/{id}", "revoke_token", "Refuse a token from now on"),
    post(
        "/v1/join-tokens",
        "create_join_token",
        "Make a token that lets one agent join",
        of::<JoinTokenRequest>,
        Answer::One(of::<JoinTokenCreated>),
    ),
    get("/v1/join-tokens", "join_tokens", "All join tokens", Answer::Many(of::<JoinTokenView>)),
    delete("/v1/join-tokens/{id}", "revoke_join_token", "Refuse a join token from now on"),
    post("/v1/backup", "backup", "State and CA, encrypted as one `age` file", of::<BackupRequest>, Answer::Bytes),
];
