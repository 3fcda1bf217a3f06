//! A repository in a bucket of an object store, or in a WebDAV folder, in restic's layout.
//!
//! Through opendal: this module holds what makes a repository's store of it (names, what is never overwritten,
//! what must be of the right size), `service` the settings of each service, `transport` the HTTP below all of them.

mod azure;
mod azure_archive;
mod azure_request;
mod failure;
mod oss_signing;
mod s3;
mod s3_archive;
mod s3_request;
mod s3_retain;
mod s3_versions;
mod service;
mod transport;
mod undoing;
mod versions;

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use opendal::{ErrorKind, HttpTransporter, Operator, options};
use tokio::runtime::Runtime;

use crate::link::start_runtime;
use crate::operation::Operation;
use crate::standing::Standing;
use crate::{Entry, Error, FileType, Received, Result, Store, Temperature, ThawRequest, name};
use azure::Azure;
pub use s3::{FileState, LOCKED_DAYS_MAX};
use s3::{Kind, S3};
use s3_retain::Retained;
pub use service::{AzureOptions, GcsOptions, KeyPair, S3Options, Service, SignedOptions, WebDavOptions};
pub use transport::TransportOptions;
pub use undoing::{FileHistory, FileVersion, Undo};
pub use versions::BroughtBack;

/// Names that start so are on their way to their place, or were left behind by a crash. They are never listed.
const TEMPORARY_FOLDER: &str = "tmp";

/// Attempts to list one folder.
const FOLDER_ATTEMPTS_MAX: u32 = 3;
/// How long a service that gets too many requests is left alone before it is asked for a folder again; it doubles from
/// there.
const FOLDER_DELAY: Duration = Duration::from_millis(100);

/// How a service keeps a file from being overwritten, and from being seen half-written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publishing {
    /// An upload appears whole or not at all, and the service itself refuses it where something stands.
    Refused,
    /// An upload appears whole or not at all. Whether something stands there is asked first: of two writers at
    /// the same moment the later one wins, which under a content's hash is the same content.
    Asked,
    /// An upload may be seen half-written: it is made under another name and moved, unless something stands there.
    Moved,
}

/// A repository in an object store.
///
/// May be used by many threads at once. It has threads of its own, and must be neither made, used nor dropped
/// on a thread of an asynchronous runtime.
pub struct ObjectStore {
    operator: Operator,
    publishing: Publishing,
    location: String,
    /// Where the service is S3, files are written by its own calls: each has its class and its retention.
    s3: Option<S3>,
    /// Where it is Azure, its own calls are made for access tiers alone.
    azure: Option<Azure>,
    /// Where it is Google and packs of data have a class, they are written by this one.
    data_operator: Option<Operator>,
    runtime: Runtime,
}

impl ObjectStore {
    /// Checks the options; nothing is sent yet.
    pub fn new(service: Service, transport: TransportOptions) -> Result<Self> {
        let location = service.location();
        let runtime = start_runtime(&location)?;
        let publishing = service.publishing();
        let (operator, data_operator) = (service.operator(&location)?, service.data_operator(&location)?);
        let transport: HttpTransporter = transport::Transport::new(transport, service.oss_signing(), &location)?.into();
        let s3 = match &service {
            Service::S3(options) => Some(S3::new(options, transport.clone())),
            _ => None,
        };
        let azure = match &service {
            Service::Azure(options) => Some(Azure::new(options, transport.clone())),
            _ => None,
        };
        let through = |operator: Operator| {
            let context = operator.base_context().with_http_transport(transport.clone());
            operator.with_context(context)
        };
        let (operator, data_operator) = (through(operator), data_operator.map(through));
        Ok(Self { operator, publishing, location, s3, azure, data_operator, runtime })
    }

    /// Every file of a type with the time at which the service received it.
    pub fn received(&self, file_type: FileType) -> Result<Vec<Received>> {
        let operation = Operation { location: &self.location, action: "list", file_type, name: "" };
        let untimed = || operation.unreachable("the service doesn't say when it received a file".into());
        self.entries(file_type)?
            .into_iter()
            .map(|(name, metadata)| {
                let time = match metadata.last_modified() {
                    Some(time) => time,
                    None => self.stat(&operation, &path(file_type, &name))?.last_modified().ok_or_else(untimed)?,
                };
                let received_at = Timestamp::from_second(time.into_inner().as_second()).map_err(|_| untimed())?;
                Ok(Received { name, size_bytes: metadata.content_length(), received_at })
            })
            .collect()
    }

    fn write_kind(&self, file_type: FileType, kind: Kind, name: &str, content: &[u8]) -> Result<()> {
        let operation = self.operation("write", file_type, name)?;
        let path = path(file_type, name);
        if self.publish(&operation, kind, &path, content)? {
            return Ok(());
        }
        self.settle(&operation, kind, &path, content)
    }

    /// What S3 says about a file; `None` where the service is another one.
    pub fn state(&self, file_type: FileType, name: &str) -> Result<Option<FileState>> {
        let operation = self.operation("look up", file_type, name)?;
        let Some(s3) = &self.s3 else { return Ok(None) };
        let state = self.runtime.block_on(s3.state(&path(file_type, name)));
        state.map(Some).map_err(|error| operation.failure(&error))
    }

    /// Locks a file of a bucket with object lock, in compliance mode, until so many days from now, or for longer
    /// when it is locked for longer. Lock files are never locked. `false` where the service is not S3.
    ///
    /// # Errors
    /// `Damaged` where something else was written above it; the version with its content is locked all the same.
    pub fn retain(&self, file_type: FileType, name: &str, days: u16) -> Result<bool> {
        let operation = self.operation("retain", file_type, name)?;
        let Some(s3) = self.s3.as_ref().filter(|_| file_type != FileType::Lock) else { return Ok(false) };
        let hash = (file_type != FileType::Config).then_some(name);
        let retained = self.runtime.block_on(s3.retain(&path(file_type, name), hash, days));
        match retained.map_err(|error| operation.failure(&error))? {
            Retained::Current => Ok(true),
            Retained::Covered => Err(operation.damaged(
                "something else was written above it; the version with its content is locked anew: see who has the \
                 bucket's keys, and run `levee vault repair versions`"
                    .into(),
            )),
            Retained::Lost => Err(operation.damaged(
                "what lies there is another content, and was not locked; no version with its content was found: see who \
                 has the bucket's keys, and run `levee vault repair versions`"
                    .into(),
            )),
        }
    }

    fn operation<'a>(&'a self, action: &'static str, file_type: FileType, name: &'a str) -> Result<Operation<'a>> {
        name::check(&self.location, action, file_type, name)?;
        Ok(Operation { location: &self.location, action, file_type, name })
    }

    fn stat(&self, operation: &Operation<'_>, path: &str) -> Result<opendal::Metadata> {
        self.runtime.block_on(self.operator.stat(path)).map_err(|error| match operation.failure(&error) {
            // An answer to HEAD has no body that would say why: S3 says so of a token that has expired. One to GET has.
            failure @ Error::Denied { .. } => {
                let first_byte = options::ReadOptions { range: (0..1).into(), ..Default::default() };
                let read = self.runtime.block_on(self.operator.read_options(path, first_byte));
                read.map_or_else(|error| operation.failure(&error), |_| failure)
            }
            failure => failure,
        })
    }

    fn read_path(&self, operation: &Operation<'_>, path: &str) -> Result<Vec<u8>> {
        let read = self.runtime.block_on(self.operator.read(path));
        let content = read.map_err(|error| operation.failure(&error))?.to_vec();
        operation.whole(content, || self.stat(operation, path).map(|metadata| metadata.content_length()))
    }

    /// Makes the folders that are missing, and only those, so that an attempt after a failure goes on where that
    /// one stopped. Those of packs are made by the move of the first pack into them.
    async fn create_folders(&self) -> opendal::Result<()> {
        let present = match self.operator.list("/").await {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let types = FileType::ALL.into_iter().filter(|file_type| *file_type != FileType::Config);
        let wanted = types.map(FileType::folder).chain([TEMPORARY_FOLDER]).map(|folder| format!("{folder}/"));
        for folder in wanted.filter(|folder| !present.iter().any(|entry| entry.path() == folder)) {
            self.operator.create_dir(&folder).await?;
        }
        Ok(())
    }

    /// Uploads a file whole, in the class of its kind; with `only_new` the service refuses it where something stands.
    async fn upload(
        &self,
        file_type: FileType,
        kind: Kind,
        path: &str,
        body: Bytes,
        only_new: bool,
    ) -> opendal::Result<()> {
        if let Some(s3) = &self.s3 {
            return s3.put(path, file_type, kind, body, only_new).await;
        }
        let has_class = kind == Kind::Contents;
        let azure = self.azure.as_ref().filter(|_| has_class);
        if let Some((azure, tier)) = azure.and_then(|azure| Some((azure, azure.data_tier()?))) {
            return azure.put(path, tier, body, only_new).await;
        }
        let operator = self.data_operator.as_ref().filter(|_| has_class).unwrap_or(&self.operator);
        let options = options::WriteOptions { if_not_exists: only_new, ..Default::default() };
        operator.write_options(path, body, options).await.map(drop)
    }

    /// Uploads; `false` when something stands there already.
    fn publish(&self, operation: &Operation<'_>, kind: Kind, path: &str, content: &[u8]) -> Result<bool> {
        let body = Bytes::copy_from_slice(content);
        let uploaded = match self.publishing {
            Publishing::Refused => {
                // OSS and COS pass over the condition in a bucket that keeps versions. Everything else is named by its content.
                if self.s3.is_none() && operation.file_type == FileType::Config {
                    match self.stat(operation, path) {
                        Ok(_) => return Ok(false),
                        Err(Error::NotFound { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                self.runtime.block_on(self.upload(operation.file_type, kind, path, body, true))
            }
            Publishing::Asked => match self.stat(operation, path) {
                Ok(_) => return Ok(false),
                Err(Error::NotFound { .. }) => self.runtime.block_on(self.operator.write(path, body)).map(drop),
                Err(error) => return Err(error),
            },
            Publishing::Moved => self.runtime.block_on(async {
                let temporary = format!("{TEMPORARY_FOLDER}/{}", temporary_name());
                let moved = self.upload_and_move(&temporary, path, body).await;
                if moved.is_err() {
                    // What is left over is never listed, and the failure itself is what counts.
                    let _ = self.operator.delete(&temporary).await;
                }
                moved
            }),
        };
        match uploaded {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::ConditionNotMatch => return Ok(false),
            // The answer to an attempt before this one was lost.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => {
                let failure = operation.failure(&error);
                // A server that refuses a name before it has read the content is heard as a broken connection at times,
                // however often it is tried.
                let may_be_there = matches!(self.publishing, Publishing::Refused)
                    && matches!(failure, Error::Unreachable { .. })
                    && self.stat(operation, path).is_ok();
                return if may_be_there { Ok(false) } else { Err(failure) };
            }
        }
        let size_bytes = self.stat(operation, path)?.content_length();
        if size_bytes != content.len() as u64 {
            return Err(operation.failure(&failure::wrong_size(size_bytes, content.len())));
        }
        Ok(true)
    }

    async fn upload_and_move(&self, temporary: &str, path: &str, body: Bytes) -> opendal::Result<()> {
        let expected = body.len();
        self.operator.write(temporary, body).await?;
        let size_bytes = self.operator.stat(temporary).await?.content_length();
        if size_bytes != expected as u64 {
            return Err(failure::wrong_size(size_bytes, expected));
        }
        self.operator.rename(temporary, path).await
    }

    /// Something stands where a file was to be written: the same, something damaged, or a contradiction.
    fn settle(&self, operation: &Operation<'_>, kind: Kind, path: &str, content: &[u8]) -> Result<()> {
        let present = match self.read_path(operation, path) {
            Err(Error::NotFound { .. }) => {
                return Err(operation.unreachable("it was there a moment ago and is gone".into()));
            }
            // A pack in an archive class whose upload was answered by nobody.
            Err(error @ Error::Frozen { .. }) => {
                let same = match (&self.s3, &self.azure) {
                    (Some(s3), _) => {
                        let same = self.runtime.block_on(s3.is_same_unread(path, content));
                        same.map_err(|error| operation.failure(&error))?
                    }
                    // Nothing but its length is told of it there: uploads appear whole, under the hash of their content.
                    (None, Some(_)) => self.stat(operation, path)?.content_length() == content.len() as u64,
                    (None, None) => return Err(error),
                };
                return match same {
                    true => Ok(()),
                    false => Err(operation.damaged("what stands there is another content, in an archive class".into())),
                };
            }
            other => other?,
        };
        match Standing::of(operation.file_type, operation.name, &present, content) {
            Standing::Same => return Ok(()),
            Standing::Conflict if operation.file_type == FileType::Config => {
                return Err(operation.denied("there is a repository already".into()));
            }
            Standing::Conflict => {
                return Err(operation.damaged("what was to be written is not the content of that name".into()));
            }
            Standing::Damaged => {}
        }
        let body = Bytes::copy_from_slice(content);
        let replaced = self.runtime.block_on(self.upload(operation.file_type, kind, path, body, false));
        replaced.map_err(|error| operation.failure(&error))?;
        if self.read_path(operation, path)? == content {
            return Ok(());
        }
        Err(operation.damaged("it stays damaged although it was written again".into()))
    }

    async fn list_below(&self, file_type: FileType) -> opendal::Result<Vec<opendal::Entry>> {
        let folder = format!("{}/", file_type.folder());
        let is_deep = file_type == FileType::Data;
        if !is_deep || self.publishing != Publishing::Moved {
            return self.list_folder(&folder, is_deep).await;
        }
        let mut listed = Vec::new();
        for folder in self.list_folder(&folder, false).await? {
            if folder.metadata().is_dir() && folder.path() != "data/" {
                listed.extend(self.list_folder(folder.path(), false).await?);
            }
        }
        Ok(listed)
    }

    /// Asks again by itself: a listing may be of hundreds of folders, and would otherwise begin anew each time.
    async fn list_folder(&self, folder: &str, recursive: bool) -> opendal::Result<Vec<opendal::Entry>> {
        let mut attempt = 1;
        loop {
            let options = options::ListOptions { recursive, ..Default::default() };
            match self.operator.list_options(folder, options).await {
                Err(error) if error.kind() == ErrorKind::NotFound && !failure::is_without_bucket(&error) => {
                    return Ok(Vec::new());
                }
                Err(error) if error.is_temporary() && attempt < FOLDER_ATTEMPTS_MAX => {
                    if error.kind() == ErrorKind::RateLimited {
                        tokio::time::sleep(FOLDER_DELAY * (1 << (attempt - 1))).await;
                    }
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Names with what the listing says about them.
    fn entries(&self, file_type: FileType) -> Result<Vec<(String, opendal::Metadata)>> {
        let operation = Operation { location: &self.location, action: "list", file_type, name: "" };
        if file_type == FileType::Config {
            return match self.stat(&operation, "config") {
                Ok(metadata) => Ok(vec![(String::new(), metadata)]),
                Err(Error::NotFound { .. }) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
        }
        let listed = self.runtime.block_on(self.list_below(file_type)).map_err(|error| operation.failure(&error))?;
        let named = listed.into_iter().filter_map(|entry| {
            let (path, metadata) = entry.into_parts();
            name_at(file_type, &path).map(|name| (name.to_string(), metadata))
        });
        Ok(named.collect())
    }
}

/// restic's layout: packs by the first two digits of their names.
fn path(file_type: FileType, name: &str) -> String {
    match file_type {
        FileType::Config => "config".into(),
        FileType::Data => format!("data/{}/{name}", name.get(..2).unwrap_or_default()),
        _ => format!("{}/{name}", file_type.folder()),
    }
}

/// The name of the file at a path, when it is one of the repository's.
fn name_at(file_type: FileType, path_listed: &str) -> Option<&str> {
    let name = path_listed.rsplit('/').next().unwrap_or_default();
    (name::is_valid(file_type, name) && path(file_type, name) == path_listed).then_some(name)
}

/// A name that no other writer has chosen.
fn temporary_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

impl Store for ObjectStore {
    fn create(&self) -> Result<()> {
        let operation = Operation { location: &self.location, action: "create", file_type: FileType::Config, name: "" };
        if let Some(s3) = &self.s3 {
            return self.runtime.block_on(s3.create_bucket()).map_err(|error| operation.failure(&error));
        }
        if self.publishing != Publishing::Moved {
            // Object stores know no folders, and their buckets are made by their owner.
            return Ok(());
        }
        self.runtime.block_on(self.create_folders()).map_err(|error| operation.failure(&error))
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        let kind = if file_type == FileType::Data { Kind::Contents } else { Kind::Hot };
        self.write_kind(file_type, kind, name, content)
    }

    fn write_tree_pack(&self, name: &str, content: &[u8]) -> Result<()> {
        self.write_kind(FileType::Data, Kind::Hot, name, content)
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        let operation = self.operation("read", file_type, name)?;
        self.read_path(&operation, &path(file_type, name))
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let operation = self.operation("read", file_type, name)?;
        let end = offset
            .checked_add(length as u64)
            .ok_or_else(|| operation.damaged(format!("{length} bytes from {offset} are beyond any file")))?;
        if length == 0 {
            // HTTP has no way to ask for nothing.
            let size = self.size_bytes(file_type, name)?;
            let beyond = || operation.damaged(format!("it has {size} bytes"));
            return if offset <= size { Ok(Vec::new()) } else { Err(beyond()) };
        }
        let range = options::ReadOptions { range: (offset..end).into(), ..Default::default() };
        let read = self.runtime.block_on(self.operator.read_options(&path(file_type, name), range));
        match read {
            Ok(content) if content.len() == length => return Ok(content.to_vec()),
            Err(error) if error.is_temporary() || error.kind() == ErrorKind::NotFound => {
                return Err(operation.failure(&error));
            }
            _ => {}
        }
        // Fewer bytes came than were asked for, or a refusal that says little: the size tells why.
        let size = self.size_bytes(file_type, name)?;
        if end > size {
            let reason = format!("it has {size} bytes, and {length} bytes from {offset} were asked for");
            return Err(operation.damaged(reason));
        }
        Err(match read {
            Err(error) => operation.failure(&error),
            Ok(content) => operation.unreachable(format!("{} bytes came instead of {length}", content.len())),
        })
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        let operation = self.operation("look up", file_type, name)?;
        Ok(self.stat(&operation, &path(file_type, name))?.content_length())
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        let entries = self.entries(file_type)?.into_iter();
        Ok(entries.map(|(name, metadata)| Entry { name, size_bytes: metadata.content_length() }).collect())
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let operation = self.operation("remove", file_type, name)?;
        let path = path(file_type, name);
        // Object stores call the removal of what isn't there a success.
        self.stat(&operation, &path)?;
        self.runtime.block_on(self.operator.delete(&path)).map_err(|error| operation.failure(&error))
    }

    fn archived(&self, file_type: FileType) -> Result<Vec<Entry>> {
        let operation = Operation { location: &self.location, action: "list", file_type, name: "" };
        let folder = format!("{}/", file_type.folder());
        let listed = match (&self.s3, &self.azure) {
            (Some(s3), _) => self.runtime.block_on(s3.archived(&folder)),
            (None, Some(azure)) => self.runtime.block_on(azure.archived(&folder)),
            (None, None) => return Ok(Vec::new()),
        };
        let listed = listed.map_err(|error| operation.failure(&error))?;
        let named = listed.into_iter().filter_map(|file| {
            let name = name_at(file_type, &file.path)?;
            Some(Entry { name: name.into(), size_bytes: file.size_bytes })
        });
        Ok(named.collect())
    }

    fn temperature(&self, file_type: FileType, name: &str) -> Result<Temperature> {
        let operation = self.operation("look up", file_type, name)?;
        let path = path(file_type, name);
        let temperature = match (&self.s3, &self.azure) {
            (Some(s3), _) => self.runtime.block_on(s3.temperature(&path)),
            (None, Some(azure)) => self.runtime.block_on(azure.temperature(&path)),
            (None, None) => return Ok(Temperature::Readable),
        };
        temperature.map_err(|error| operation.failure(&error))
    }

    fn thaw(&self, file_type: FileType, name: &str, request: &ThawRequest) -> Result<Temperature> {
        let operation = self.operation("thaw", file_type, name)?;
        let path = path(file_type, name);
        let temperature = match (&self.s3, &self.azure) {
            (Some(s3), _) => self.runtime.block_on(s3.thaw(&path, request)),
            (None, Some(azure)) => self.runtime.block_on(azure.thaw(&path, request)),
            (None, None) => return Ok(Temperature::Readable),
        };
        temperature.map_err(|error| operation.failure(&error))
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}
