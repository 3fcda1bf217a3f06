//! A repository served by the restic REST protocol, versions 1 and 2, as a function from a request to
//! an answer. It has no sockets and knows no peers: whoever listens says what the caller may do.
//!
//! Source of the protocol: "REST Backend" in restic's reference documentation.

mod range;

use serde::Serialize;

use crate::{Entry, Error, FileType, Store, content_name, name};
use range::Range;

/// The largest body that a listener needs to accept: restic's largest pack (128 MiB), a last blob
/// that goes over (8 MiB), and its header.
pub const BODY_BYTES_MAX: usize = 152 << 20;

/// The media type of listings with sizes.
pub const LISTING_V2: &str = "application/vnd.x.restic.rest.v2";
/// The media type of listings of names alone.
const LISTING_V1: &str = "application/vnd.x.restic.rest.v1";

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Owner,
    /// Reading; adding packs, indexes, snapshots and locks under the hash of their content; removing
    /// locks. Neither replacing, nor removing anything else, nor making the repository or its keys.
    Append,
    /// Reading.
    Read,
}

/// One HTTP request, its path relative to the repository.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Starts with `/`, for example `/data/0123…`.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// The value of the `Range` header.
    pub range: Option<&'a str>,
    /// The value of the `Accept` header.
    pub accept: Option<&'a str>,
    pub body: &'a [u8],
}

/// One HTTP answer. `Content-Length` is among the headers only where the body doesn't tell it (HEAD).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Response {
    fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A refusal or failure with words for whoever reads the client's log.
    fn text(status: u16, message: impl Into<String>) -> Self {
        let headers = vec![("content-type", "text/plain; charset=utf-8".to_string())];
        Self { status, headers, body: message.into().into_bytes() }
    }

    fn content(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: vec![("content-type", "application/octet-stream".into())], body }
    }

    fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }
}

/// What a path names.
enum Target<'a> {
    Repository,
    Folder(FileType),
    File(FileType, &'a str),
}

impl<'a> Target<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.is_empty() {
            return Some(Target::Repository);
        }
        let (folder, file) = path.split_once('/').unwrap_or((path, ""));
        let file_type = FileType::ALL.into_iter().find(|file_type| file_type.folder() == folder)?;
        match (file_type, file) {
            (FileType::Config, "") => Some(Target::File(FileType::Config, "")),
            (FileType::Config, _) => None,
            (_, "") => Some(Target::Folder(file_type)),
            (_, file) if name::is_valid(file_type, file) => Some(Target::File(file_type, file)),
            _ => None,
        }
    }
}

/// Answers one request.
pub fn handle(store: &dyn Store, access: Access, request: Request<'_>) -> Response {
    let Some(target) = Target::parse(request.path) else {
        return Response::text(404, "there is no such path in a repository");
    };
    let answer = match (request.method, target) {
        ("POST", Target::Repository) => create(store, access, request.query),
        ("GET" | "HEAD", Target::Folder(file_type)) => list(store, file_type, request),
        ("GET", Target::File(file_type, name)) => get(store, file_type, name, request.range),
        ("HEAD", Target::File(file_type, name)) => store
            .size_bytes(file_type, name)
            .map(|size| Response::content(200, Vec::new()).with("content-length", size.to_string())),
        ("POST", Target::File(file_type, name)) => post(store, access, file_type, name, request.body),
        ("DELETE", Target::File(file_type, name)) => delete(store, access, file_type, name),
        (method, _) => return Response::text(405, format!("{method} is not possible here")),
    };
    let mut response = answer.unwrap_or_else(|error| failure(&error));
    if request.method == "HEAD" {
        if !response.headers.iter().any(|(header, _)| *header == "content-length") {
            response.headers.push(("content-length", response.body.len().to_string()));
        }
        response.body.clear();
    }
    response
}

fn create(store: &dyn Store, access: Access, query: Option<&str>) -> Result<Response, Error> {
    if !query.is_some_and(|query| query.split('&').any(|pair| pair == "create=true")) {
        return Ok(Response::text(400, "POST to a repository needs ?create=true"));
    }
    match access {
        Access::Owner => store.create().map(|()| Response::empty(200)),
        Access::Append | Access::Read => Ok(Response::text(403, "a repository is made by its owner")),
    }
}

#[derive(Serialize)]
struct ListedFile<'a> {
    name: &'a str,
    size: u64,
}

fn list(store: &dyn Store, file_type: FileType, request: Request<'_>) -> Result<Response, Error> {
    let entries = store.list(file_type)?;
    let wants_sizes = request.accept.is_some_and(|accept| accept.contains(LISTING_V2));
    let (media_type, body) = if wants_sizes {
        let listed = |entry: &Entry| serde_json::json!(ListedFile { name: &entry.name, size: entry.size_bytes });
        (LISTING_V2, serde_json::Value::from_iter(entries.iter().map(listed)))
    } else {
        (LISTING_V1, serde_json::Value::from_iter(entries.into_iter().map(|entry| entry.name)))
    };
    let body = body.to_string().into_bytes();
    Ok(Response { status: 200, headers: vec![("content-type", media_type.into())], body })
}

fn get(store: &dyn Store, file_type: FileType, name: &str, range: Option<&str>) -> Result<Response, Error> {
    let Some(range) = range.and_then(Range::parse) else {
        return store.read(file_type, name).map(|content| Response::content(200, content));
    };
    let size = store.size_bytes(file_type, name)?;
    let Some((start, length)) = range.within(size) else {
        return Ok(
            Response::text(416, "the range lies beyond the end").with("content-range", format!("bytes */{size}"))
        );
    };
    let content = store.read_range(file_type, name, start, length)?;
    let end = start + length as u64 - 1;
    Ok(Response::content(206, content).with("content-range", format!("bytes {start}-{end}/{size}")))
}

fn post(store: &dyn Store, access: Access, file_type: FileType, name: &str, content: &[u8]) -> Result<Response, Error> {
    let owners = matches!(file_type, FileType::Config | FileType::Key);
    match access {
        Access::Owner => {}
        Access::Append if !owners => {}
        Access::Append => {
            return Ok(Response::text(403, format!("{file_type} belongs to the owner of the repository")));
        }
        Access::Read => return Ok(Response::text(403, "this repository may only be read")),
    }
    if file_type != FileType::Config && content_name(content) != name {
        return Ok(Response::text(400, "the content doesn't have the hash that it is named by"));
    }
    // The hash makes another content under an existing name impossible: the same again succeeds.
    store.write(file_type, name, content).map(|()| Response::empty(200))
}

fn delete(store: &dyn Store, access: Access, file_type: FileType, name: &str) -> Result<Response, Error> {
    match access {
        Access::Owner => {}
        Access::Append if file_type == FileType::Lock => {}
        Access::Append => return Ok(Response::text(403, "this repository is append-only: only locks may be removed")),
        Access::Read => return Ok(Response::text(403, "this repository may only be read")),
    }
    store.remove(file_type, name).map(|()| Response::empty(200))
}

/// What went wrong, without where things lie on this machine: the caller is another host.
fn failure(error: &Error) -> Response {
    match error {
        Error::NotFound { .. } => Response::text(404, "there is no such file"),
        Error::Denied { reason, .. } => Response::text(403, reason),
        Error::Frozen { .. } => Response::text(403, "it lies in an archive class: its owner has to thaw it first"),
        Error::Full { .. } => Response::text(507, "no space left in the repository"),
        Error::Vanished { .. }
        | Error::Address(_)
        | Error::Credentials { .. }
        | Error::Unauthorized { .. }
        | Error::Unreachable { .. } => {
            tracing::warn!("{error}");
            Response::text(502, "the store behind this server cannot be reached")
        }
        Error::Damaged { .. } | Error::Io { .. } => {
            let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            tracing::error!("{error}{source}");
            Response::text(500, "the server's own store failed; its log says why")
        }
    }
}

#[cfg(test)]
mod tests;
