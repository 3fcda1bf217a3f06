//! `levee vault serve`: repositories for other clients, over the restic REST protocol.

mod certificate;
mod place;
mod quota;
mod users;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

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
use quota::{Counted, Quota};
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
    /// PEM certificates to show; without one, a certificate is made and kept in the folder
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

pub fn run(arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let Arguments { path, listen, append_only, private_repos, htpasswd_file, no_auth, max_size, tls_cert, tls_key } =
        arguments;
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
    let identity = match (tls_cert, tls_key) {
        (Some(certificate), Some(key)) => certificate::Identity { certificate, key },
        _ => certificate::Identity::kept_in(&path, listen)?,
    };
    let tls = identity.server_config()?;
    let quota = max_size.map(|bytes_max| Quota::of(&path, bytes_max)).transpose()?.map(Arc::new);
    let access = if append_only { Access::Append } else { Access::Owner };
    let repositories = Arc::new(Repositories { path: path.clone(), users, private_repos, access, quota });
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
    /// `None` lets in everybody.
    users: Option<Users>,
    private_repos: bool,
    access: Access,
    quota: Option<Arc<Quota>>,
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
        let (path, inside) = (asked.below(&self.path), asked.inside.to_string());
        let store = LocalStore::new(path);
        match &self.quota {
            None => levee_agent::rest::answer(&store, self.access, &inside, &request),
            Some(quota) => {
                let counted = Counted::new(store, quota.clone());
                levee_agent::rest::answer(&counted, self.access, &inside, &request)
            }
        }
    }
}

fn text(status: StatusCode, message: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(message.as_bytes()));
    *response.status_mut() = status;
    response
}
