//! `levee vault serve`: repositories for other clients, over the restic REST protocol.

mod certificate;
mod place;
mod quota;
mod users;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use levee_store::LocalStore;
use levee_store::rest_server::Access;
use levee_wire::https::{Guarded, serve_guarded};
use serde_json::json;

use crate::control_command::service::serve;
use crate::exit::Exit;
use crate::output::Output;
use place::Asked;
use quota::{Counted, Quotas};
use users::{Presented, Users};

#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder that holds the repositories
    #[arg(long, value_name = "FOLDER")]
    path: PathBuf,
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0:8000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Take backups, and remove nothing but locks; repositories and passwords are made by their owner
    #[arg(long)]
    append_only: bool,
    /// Each user may reach the folder of their name alone
    #[arg(long, conflicts_with = "no_auth")]
    private_repos: bool,
    /// The users, with passwords by bcrypt as `htpasswd -B` writes them; .htpasswd in the folder by default
    #[arg(long, value_name = "FILE", conflicts_with = "no_auth")]
    htpasswd_file: Option<PathBuf>,
    /// Let everybody in who reaches the port
    #[arg(long)]
    no_auth: bool,
    /// The most that all repositories may take together, in bytes
    #[arg(long, value_name = "BYTES")]
    max_size: Option<u64>,
    /// The most that the repositories of each user may take, in bytes
    #[arg(long, value_name = "BYTES", requires = "private_repos")]
    max_size_per_user: Option<u64>,
    /// PEM certificates to show, read again when they are renewed; without any, one is made and kept in the folder
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

pub fn run(arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let Arguments { path, listen, append_only, private_repos, htpasswd_file, no_auth, .. } = arguments;
    if !path.is_dir() {
        bail!("{} is no folder: make it first", path.display());
    }
    let users = match (no_auth, htpasswd_file) {
        (true, _) => None,
        (false, file) => {
            let file = file.unwrap_or_else(|| path.join(".htpasswd"));
            Some(Users::open(file).context("who may come in is not known; to let in everybody, say --no-auth")?)
        }
    };
    let identity = match (arguments.tls_cert, arguments.tls_key) {
        (Some(certificate), Some(key)) => certificate::Identity { certificate, key },
        _ => certificate::Identity::kept_in(&path, listen)?,
    };
    let tls = identity.server_config()?;
    let quotas = Quotas::of(&path, arguments.max_size, arguments.max_size_per_user)?;
    let access = if append_only { Access::Append } else { Access::Owner };
    let repositories =
        Arc::new(Repositories { path: path.clone(), opened: Mutex::default(), users, private_repos, access, quotas });
    serve(|shutdown| async move {
        let listener =
            tokio::net::TcpListener::bind(listen).await.with_context(|| format!("cannot listen at {listen}"))?;
        let address = listener.local_addr()?;
        let ready = json!({ "event": "ready", "address": address, "certificate": identity.certificate });
        output.result(&ready, |_| {
            format!(
                "serving the repositories in {} at rest:https://{address}/; clients trust {}",
                path.display(),
                identity.certificate.display()
            )
        })?;
        serve_guarded(listener, tls, repositories, shutdown.asked()).await;
        Ok(())
    })?;
    Ok(Exit::DONE)
}

struct Repositories {
    path: PathBuf,
    /// What clients have read the configuration of: there are no more than repositories. It is remembered from one
    /// request to the next, so that a repository on a disk that goes is not taken for another one beneath it.
    opened: Mutex<HashMap<PathBuf, LocalStore>>,
    /// `None` lets in everybody.
    users: Option<Users>,
    private_repos: bool,
    access: Access,
    quotas: Quotas,
}

impl Guarded for Repositories {
    fn refusal(&self, head: &Parts) -> Option<Response<Bytes>> {
        let users = self.users.as_ref()?;
        let presented = head.headers.get(AUTHORIZATION).and_then(|value| Presented::parse(value.to_str().ok()?));
        let Some(presented) = presented.filter(|presented| users.admits(presented)) else {
            let mut refusal = text(StatusCode::UNAUTHORIZED, "a user and a password are needed, or they are wrong");
            refusal
                .headers_mut()
                .insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Basic realm=\"vaults\""));
            return Some(refusal);
        };
        let is_own =
            || Asked::parse(head.uri.path()).is_some_and(|asked| asked.first_folder() == Some(&presented.user));
        if self.private_repos && !is_own() {
            return Some(text(StatusCode::FORBIDDEN, "this user may reach the folder of its own name alone"));
        }
        None
    }

    fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let Some(asked) = Asked::parse(request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, "there is no such repository");
        };
        let quotas = match self.quotas.for_repository(asked.first_folder()) {
            Ok(quotas) => quotas,
            Err(error) => {
                tracing::error!("{error:#}");
                return text(StatusCode::INTERNAL_SERVER_ERROR, "the server's own store failed; its log says why");
            }
        };
        let repository = self.repository(&asked);
        let store = Counted::new(repository.clone(), quotas);
        let answer = levee_agent::rest::answer(&store, self.access, asked.inside, &request);
        if repository.knows_repository() {
            self.opened().insert(repository.dir().into(), repository);
        }
        answer
    }
}

impl Repositories {
    fn opened(&self) -> MutexGuard<'_, HashMap<PathBuf, LocalStore>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The repository that a client has opened, or whatever stands there for one that is about to.
    fn repository(&self, asked: &Asked<'_>) -> LocalStore {
        let path = asked.below(&self.path);
        let opens = matches!(asked.inside, "/" | "/config");
        let known = if opens { None } else { self.opened().get(&path).cloned() };
        known.unwrap_or_else(|| LocalStore::new(path))
    }
}

fn text(status: StatusCode, message: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(message.as_bytes()));
    *response.status_mut() = status;
    response
}
