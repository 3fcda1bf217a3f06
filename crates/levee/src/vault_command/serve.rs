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
use levee_wire::https::{Admission, Guarded, serve_guarded};
use serde_json::json;

use crate::control_command::service::serve;
use crate::exit::Exit;
use crate::output::Output;
use place::Asked;
use quota::Quotas;
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
    /// request to the next, so that a repository on a disk that goes is not taken for another one beneath it. An entry must
    /// never give way to another: a client in the middle of a backup would be told that its data are stored, in there.
    opened: Mutex<HashMap<PathBuf, LocalStore>>,
    /// `None` lets in everybody.
    users: Option<Users>,
    private_repos: bool,
    access: Access,
    quotas: Quotas,
}

impl Guarded for Repositories {
    fn recognise(&self, head: &Parts) -> Option<Admission> {
        let Some(users) = &self.users else { return Some(Admission::Admitted { user: None }) };
        let Some(presented) = presented(head) else { return Some(stranger()) };
        users.remembers(&presented).then(|| self.admission_of(presented.user, head))
    }

    fn admit(&self, head: &Parts) -> Admission {
        match (&self.users, presented(head)) {
            (None, _) => Admission::Admitted { user: None },
            (Some(users), Some(presented)) if users.admits(&presented) => self.admission_of(presented.user, head),
            (Some(_), _) => stranger(),
        }
    }

    fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let Some(asked) = Asked::parse(request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, "there is no such repository");
        };
        let repository = match self.repository(&asked) {
            Ok(repository) => repository,
            Err(error) => {
                tracing::error!("{error}; where another repository was put there on purpose, start this server again");
                return text(StatusCode::BAD_GATEWAY, "the repository behind this server is not where it was");
            }
        };
        let store = match self.quotas.counted(repository.clone(), asked.first_folder()) {
            Ok(store) => store,
            Err(error) => {
                tracing::error!("{error:#}");
                return text(StatusCode::INTERNAL_SERVER_ERROR, "the server's own store failed; its log says why");
            }
        };
        let mut answer = levee_agent::rest::answer(&store, self.access, asked.inside, &request);
        if let Some(refusal) = store.refusal() {
            *answer.body_mut() = refusal.into();
        }
        if repository.knows_repository() {
            self.opened().entry(repository.dir().into()).or_insert(repository);
        }
        answer
    }
}

impl Repositories {
    /// For a user whose password was right.
    fn admission_of(&self, user: String, head: &Parts) -> Admission {
        let is_own = || Asked::parse(head.uri.path()).is_some_and(|asked| asked.first_folder() == Some(&user));
        if self.private_repos && !is_own() {
            let refusal = text(StatusCode::FORBIDDEN, "this user may reach the folder of its own name alone");
            return Admission::Refused(refusal);
        }
        Admission::Admitted { user: Some(user) }
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<PathBuf, LocalStore>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The repository that clients have opened, or whatever stands there for the first that is about to.
    ///
    /// # Errors
    /// When a client is about to open, or to make, one where another was opened that does not stand there any more.
    fn repository(&self, asked: &Asked<'_>) -> levee_store::Result<LocalStore> {
        let path = asked.below(&self.path);
        let known = self.opened().get(&path).cloned();
        let Some(known) = known else { return Ok(LocalStore::new(path)) };
        if matches!(asked.inside, "/" | "/config") {
            // What is written later is looked at by the store itself; what these read would be that of the other one.
            known.require_standing()?;
        }
        Ok(known)
    }
}

fn presented(head: &Parts) -> Option<Presented> {
    head.headers.get(AUTHORIZATION).and_then(|value| Presented::parse(value.to_str().ok()?))
}

fn stranger() -> Admission {
    let mut refusal = text(StatusCode::UNAUTHORIZED, "a user and a password are needed, or they are wrong");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Basic realm=\"vaults\""));
    Admission::Refused(refusal)
}

fn text(status: StatusCode, message: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(message.as_bytes()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use levee_store::content_name;

    use super::*;

    fn serving(path: &Path) -> Repositories {
        let quotas = Quotas::of(path, None, None).unwrap();
        let (opened, users) = (Mutex::default(), None);
        Repositories { path: path.into(), opened, users, private_repos: false, access: Access::Owner, quotas }
    }

    /// Asks with the content `x` and expects this status.
    #[track_caller]
    fn check(server: &Repositories, method: &str, path: &str, expected: u16) {
        let request = Request::builder().method(method).uri(path).body(Bytes::from_static(b"x")).unwrap();
        assert_eq!(server.handle(request).status().as_u16(), expected, "{method} {path}");
    }

    #[test]
    fn another_client_does_not_let_an_older_copy_take_the_place_of_a_repository_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let server = serving(dir.path());
        let name = content_name(b"x");
        let [pack, lock, index] = ["data", "locks", "index"].map(|folder| format!("/host/{folder}/{name}"));
        check(&server, "POST", "/host/?create=true", 200);
        check(&server, "POST", "/host/config", 200);
        let copied = Command::new("cp").arg("-a").args([path("host"), path("older")]).status().unwrap();
        assert!(copied.success());
        // A client is in the middle of its backup when the disk goes, and only the mount point is left, or nothing.
        check(&server, "POST", &pack, 200);
        check(&server, "POST", &lock, 200);
        check(&server, "DELETE", &lock, 200);
        fs::rename(path("host"), path("disk")).unwrap();
        check(&server, "POST", "/host/?create=true", 502);
        assert!(!path("host").exists(), "a repository was made in place of the one that is gone");
        fs::rename(path("older"), path("host")).unwrap();
        for (method, asked) in [
            // Another client comes.
            ("GET", "/host/config"),
            ("HEAD", "/host/config"),
            ("POST", "/host/config"),
            ("POST", "/host/?create=true"),
            ("POST", lock.as_str()),
            // The first one goes on.
            ("POST", index.as_str()),
            ("POST", pack.as_str()),
        ] {
            check(&server, method, asked, 502);
        }
        for folder in ["locks", "index"] {
            assert_eq!(fs::read_dir(path("host").join(folder)).unwrap().count(), 0, "{folder}");
        }
        // Started again, the server knows of no other.
        check(&serving(dir.path()), "GET", "/host/config", 200);
        // When the disk is back everybody goes on.
        fs::rename(path("host"), path("older")).unwrap();
        fs::rename(path("disk"), path("host")).unwrap();
        check(&server, "GET", "/host/config", 200);
        check(&server, "POST", &index, 200);
        check(&server, "GET", &pack, 200);
    }
}
