use std::error::Error as StdError;
use std::fmt;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use levee_model::{AgentId, AppName, AssetName, RunId};
use levee_plan::{Plan, Run};
use reqwest::blocking::{RequestBuilder, Response};
use reqwest::{Method, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::*;

/// The name in the server's certificate. It is asked for whatever address the server is reached at.
pub const SERVER_NAME: &str = "server.levee.internal";

/// The port that is meant when a server's address has none.
const PORT_DEFAULT: u16 = 7600;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an answer may take; a call that waits for a change adds its own time.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// A backup is the largest answer.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// A bearer token, never shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The text of a token; white space around it, as in a file, does not count.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_string())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// Where the server is, who asks, and whose word is taken for the server.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `https://HOST:PORT`.
    pub server: String,
    pub token: Token,
    /// The certificate of Levee's own CA, in PEM. No other CA is trusted.
    pub ca_pem: Vec<u8>,
}

/// Why a call has brought no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("{server:?} is not the address of a server: write https://HOST:PORT")]
    BadAddress { server: String },
    #[error("the host of {server} cannot be looked up: check its name, or give its IP address")]
    NoHost { server: String, source: std::io::Error },
    #[error("the CA file holds no certificate: use the ca.pem that the server has written")]
    BadCa { source: Option<rustls::pki_types::pem::Error> },
    #[error("the token has characters that no token has: check the token file")]
    BadToken,
    #[error("the connection could not be prepared")]
    Setup { source: reqwest::Error },
    #[error("cannot reach the server at {server}: check that it runs, and the address")]
    Unreachable { server: String, source: reqwest::Error },
    #[error(
        "what answers at {server} is not the server of this CA: check the address, and that the CA file is this server's ca.pem"
    )]
    WrongCa { server: String, source: reqwest::Error },
    #[error("the server at {server} did not answer in time: look at its log, and try again")]
    TimedOut { server: String, source: reqwest::Error },
    #[error("the answer of the server at {server} broke off: try again")]
    BrokenOff { server: String, source: std::io::Error },
    #[error("{}", refused(.detail))]
    Refused { status: u16, detail: ErrorDetail },
    #[error(
        "the answer of {server} (status {status}) is not one of a levee server of this version: check the address and both versions"
    )]
    Unexpected { server: String, status: u16, source: Option<serde_json::Error> },
}

fn refused(detail: &ErrorDetail) -> String {
    match &detail.action {
        Some(action) => format!("{}: {action}", detail.message),
        None => detail.message.clone(),
    }
}

impl ClientError {
    /// The stable word of the server's refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Refused { detail, .. } => Some(&detail.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later with nothing changed.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } | ClientError::BrokenOff { .. } => true,
            ClientError::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            _ => false,
        }
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// A client for the server's API. Calls block; it must not be used inside an asynchronous runtime.
#[derive(Clone, Debug)]
pub struct Client {
    /// As the operator wrote it, for messages.
    server: String,
    base: Url,
    token: Token,
    http: reqwest::blocking::Client,
}

impl Client {
    pub fn new(options: ClientOptions) -> Result<Self> {
        let ClientOptions { server, token, ca_pem } = options;
        let (base, addresses) = locate(&server)?;
        // Anything else could not be sent as a header.
        if token.0.is_empty() || !token.0.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClientError::BadToken);
        }
        let http = reqwest::blocking::Client::builder()
            .use_preconfigured_tls(trust_only(&ca_pem)?)
            .resolve_to_addrs(SERVER_NAME, &addresses)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(ANSWER_TIME_MAX)
            .user_agent(concat!("levee/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| ClientError::Setup { source })?;
        Ok(Self { server, base, token, http })
    }

    pub fn apply(&self, request: &ApplyRequest) -> Result<ApplyReport> {
        self.post(&["apply"], request)
    }

    pub fn status(&self) -> Result<FleetStatus> {
        self.get(&["status"])
    }

    pub fn app_status(&self, app: &AppName) -> Result<AppStatus> {
        self.get(&["apps", app.as_str(), "status"])
    }

    pub fn sites(&self) -> Result<Vec<SiteView>> {
        self.get(&["sites"])
    }

    pub fn agents(&self) -> Result<Vec<AgentSummary>> {
        self.get(&["agents"])
    }

    pub fn revoke_agent(&self, agent: &AgentId) -> Result<()> {
        self.done(self.request(Method::POST, &["agents", agent.as_str(), "revoke"]))
    }

    pub fn apps(&self) -> Result<Vec<AppView>> {
        self.get(&["apps"])
    }

    pub fn app(&self, app: &AppName) -> Result<AppView> {
        self.get(&["apps", app.as_str()])
    }

    /// Ends an app's protection. Data and copies stay.
    pub fn remove_app(&self, app: &AppName) -> Result<AppRemoval> {
        self.post(&["apps", app.as_str(), "remove"], &RemoveRequest { confirm: app.clone() })
    }

    /// Says that an operator has looked at the warning of an asset.
    pub fn acknowledge(&self, app: &AppName, asset: &AssetName) -> Result<Acknowledged> {
        self.post(&["apps", app.as_str(), "acknowledge"], &AcknowledgeRequest { asset: asset.clone() })
    }

    /// Has the server take over newer epochs that the agents know.
    pub fn adopt_epochs(&self, dry_run: bool) -> Result<AdoptReport> {
        self.post(&["adopt-epochs"], &AdoptRequest { dry_run })
    }

    /// The ages of an app's recovery points since a moment, oldest first.
    pub fn samples(&self, app: &AppName, since: Timestamp) -> Result<Vec<Sample>> {
        let request = self.request(Method::GET, &["apps", app.as_str(), "samples"]);
        self.json(request.query(&[("since", since)]))
    }

    pub fn proofs(&self, app: &AppName) -> Result<Vec<Proof>> {
        self.get(&["apps", app.as_str(), "proofs"])
    }

    /// Makes a plan; the server keeps it for an hour.
    pub fn make_plan(&self, request: &PlanRequest) -> Result<Plan> {
        self.post(&["plans"], request)
    }

    pub fn plan(&self, plan: &str) -> Result<Plan> {
        self.get(&["plans", plan])
    }

    pub fn create_run(&self, order: &RunOrder) -> Result<Run> {
        self.post(&["runs"], order)
    }

    /// Newest first.
    pub fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>> {
        self.json(self.request(Method::GET, &["runs"]).query(filter))
    }

    pub fn run(&self, run: &RunId) -> Result<Run> {
        self.get(&["runs", run.as_str()])
    }

    /// Waits until the run differs from what `wait.after` marks, or the time is over.
    pub fn run_events(&self, run: &RunId, wait: &RunWait) -> Result<RunChange> {
        let wait_s = wait.wait_s.unwrap_or(25);
        let request = self.request(Method::GET, &["runs", run.as_str(), "events"]).query(wait);
        self.json(request.timeout(ANSWER_TIME_MAX + Duration::from_secs(wait_s.into())))
    }

    pub fn retry_step(&self, run: &RunId, step: &str) -> Result<Run> {
        self.post(&["runs", run.as_str(), "retry"], &RetryRequest { step: step.into() })
    }

    pub fn skip_step(&self, run: &RunId, step: &str, reason: &str) -> Result<Run> {
        self.post(&["runs", run.as_str(), "skip"], &SkipRequest { step: step.into(), reason: reason.into() })
    }

    pub fn abort_run(&self, run: &RunId) -> Result<Run> {
        self.json(self.request(Method::POST, &["runs", run.as_str(), "abort"]))
    }

    /// Ends a run after its cut-over, by the operator's word that its new site is down.
    pub fn give_up_run(&self, run: &RunId) -> Result<Run> {
        self.json(self.request(Method::POST, &["runs", run.as_str(), "give-up"]))
    }

    pub fn create_token(&self, request: &TokenRequest) -> Result<TokenCreated> {
        self.post(&["tokens"], request)
    }

    pub fn tokens(&self) -> Result<Vec<TokenView>> {
        self.get(&["tokens"])
    }

    pub fn revoke_token(&self, id: &str) -> Result<()> {
        self.done(self.request(Method::DELETE, &["tokens", id]))
    }

    pub fn create_join_token(&self, request: &JoinTokenRequest) -> Result<JoinTokenCreated> {
        self.post(&["join-tokens"], request)
    }

    pub fn join_tokens(&self) -> Result<Vec<JoinTokenView>> {
        self.get(&["join-tokens"])
    }

    pub fn revoke_join_token(&self, id: &str) -> Result<()> {
        self.done(self.request(Method::DELETE, &["join-tokens", id]))
    }

    /// State and CA, as one file in the `age` format.
    pub fn backup(&self, request: &BackupRequest) -> Result<Vec<u8>> {
        self.bytes(self.send(self.request(Method::POST, &["backup"]).json(request))?)
    }

    fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        self.json(self.request(Method::GET, path))
    }

    fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T> {
        self.json(self.request(Method::POST, path).json(body))
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // An https URL always has a path to add to; each part is escaped.
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.clear().push("v1").extend(path);
        }
        self.http.request(method, url).bearer_auth(&self.token.0)
    }

    fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request)?;
        let status = response.status().as_u16();
        let bytes = self.bytes(response)?;
        serde_json::from_slice(&bytes).map_err(|source| self.unexpected(status, Some(source)))
    }

    fn done(&self, request: RequestBuilder) -> Result<()> {
        self.send(request).map(|_| ())
    }

    fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().map_err(|source| self.failed(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.bytes(response)?;
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(ClientError::Refused { status: status.as_u16(), detail: body.error }),
            Err(source) => Err(self.unexpected(status.as_u16(), Some(source))),
        }
    }

    fn bytes(&self, response: Response) -> Result<Vec<u8>> {
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        response
            .take(ANSWER_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| ClientError::BrokenOff { server: self.server.clone(), source })?;
        if bytes.len() as u64 > ANSWER_BYTES_MAX {
            return Err(self.unexpected(status, None));
        }
        Ok(bytes)
    }

    fn unexpected(&self, status: u16, source: Option<serde_json::Error>) -> ClientError {
        ClientError::Unexpected { server: self.server.clone(), status, source }
    }

    fn failed(&self, source: reqwest::Error) -> ClientError {
        let server = self.server.clone();
        // Without the URL: messages name the server as the operator wrote it.
        let source = source.without_url();
        if has_certificate_error(&source) {
            ClientError::WrongCa { server, source }
        } else if source.is_timeout() && !source.is_connect() {
            ClientError::TimedOut { server, source }
        } else {
            ClientError::Unreachable { server, source }
        }
    }
}

/// The URL to ask at, with the name that the certificate has, and where that is.
fn locate(server: &str) -> Result<(Url, Vec<SocketAddr>)> {
    let bad = || ClientError::BadAddress { server: server.to_string() };
    let mut base = Url::parse(server).map_err(|_| bad())?;
    if base.scheme() != "https" || base.path() != "/" || base.query().is_some() || !base.username().is_empty() {
        return Err(bad());
    }
    let host = base.host_str().ok_or_else(bad)?.trim_matches(['[', ']']).to_string();
    let port = base.port().unwrap_or(PORT_DEFAULT);
    let addresses: Vec<SocketAddr> = (host.as_str(), port)
        .to_socket_addrs()
        .map_err(|source| ClientError::NoHost { server: server.to_string(), source })?
        .collect();
    base.set_host(Some(SERVER_NAME)).map_err(|_| bad())?;
    base.set_port(Some(port)).map_err(|()| bad())?;
    Ok((base, addresses))
}

fn trust_only(ca_pem: &[u8]) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let certificate = certificate.map_err(|source| ClientError::BadCa { source: Some(source) })?;
        roots.add(certificate).map_err(|_| ClientError::BadCa { source: None })?;
    }
    if roots.is_empty() {
        return Err(ClientError::BadCa { source: None });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| ClientError::BadCa { source: None })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Whether the certificate was the reason, however deep it lies.
fn has_certificate_error(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            // `source` of such an error skips what it holds.
            Some(inside) => Some(inside as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        let check = |server: &str, expected: Option<&str>| {
            let found = locate(server).ok().map(|(base, addresses)| format!("{base} {addresses:?}"));
            assert_eq!(found.as_deref(), expected, "{server}");
        };
        check("https://127.0.0.1:7999", Some("https://server.levee.internal:7999/ [127.0.0.1:7999]"));
        check("https://127.0.0.1/", Some("https://server.levee.internal:7600/ [127.0.0.1:7600]"));
        check("https://[::1]:80", Some("https://server.levee.internal:80/ [[::1]:80]"));
        for bad in ["", "127.0.0.1:7999", "http://127.0.0.1:7999", "https://a@127.0.0.1", "https://127.0.0.1/v1"] {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_no_certificate_or_no_token_is_named() {
        let options = |token: &str, ca_pem: &[u8]| ClientOptions {
            server: "https://127.0.0.1:7999".into(),
            token: Token::new(token),
            ca_pem: ca_pem.to_vec(),
        };
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for ca in [&b""[..], b"nonsense", broken] {
            assert!(matches!(Client::new(options("t", ca)), Err(ClientError::BadCa { .. })));
        }
        for token in ["", " \n", "two words", "s\u{e9}cret"] {
            let error = Client::new(options(token, broken)).unwrap_err();
            assert!(matches!(error, ClientError::BadToken) && !format!("{error:?} {error}").contains("words"));
        }
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(…)");
    }
}
