//! A repository behind an SSH server with SFTP, in restic's layout.
//!
//! As restic does, it runs the machine's own `ssh`: so the user's configuration, known hosts, agents, jump hosts
//! and hardware keys hold here too. What travels over it is SFTP version 3 with OpenSSH's extensions.

mod connection;
mod files;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::runtime::Runtime;

use crate::limit::Bandwidth;
use crate::link::start_runtime;
use crate::operation::{NO_CONFIG, listed_config};
use crate::standing::Standing;
use crate::{Entry, Error, FileType, Received, Result, SftpAddress, Store, name};
use connection::{Connection, Failure};

/// Folders that are listed or made at once.
const FOLDERS_AT_ONCE: usize = 16;

/// Where the server is and how it is reached.
#[derive(Clone, Debug)]
pub struct SftpOptions {
    pub address: SftpAddress,
    /// Further arguments for `ssh`, before the host: `-i FILE`, `-J HOST`, `-o Option=value`.
    pub arguments: Vec<String>,
    pub bandwidth: Bandwidth,
}

/// A repository behind an SSH server.
///
/// One connection carries the requests of all threads; it is made when it is first needed, and again when it
/// breaks. The store has threads of its own, and must be neither made, used nor dropped on a thread of an
/// asynchronous runtime.
pub struct SftpStore {
    options: SftpOptions,
    location: String,
    /// `None` before the first use and after a failure. Held only while a connection is made.
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    runtime: Runtime,
    /// There was a configuration here since this was made: a repository stands, and does not go by itself.
    has_config: AtomicBool,
    /// Whether somebody was told that the server cannot sync.
    warned: AtomicBool,
}

impl fmt::Debug for SftpStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SftpStore").field("location", &self.location).finish_non_exhaustive()
    }
}

/// What is being done to what.
#[derive(Clone, Copy)]
struct Operation<'a> {
    store: &'a SftpStore,
    action: &'static str,
    file_type: FileType,
    name: &'a str,
}

impl Operation<'_> {
    fn error(&self, failure: Failure) -> Error {
        let (location, name) = (self.store.location.clone(), self.name.to_string());
        let (action, file_type) = (self.action, self.file_type);
        match failure {
            Failure::NotFound => Error::NotFound { location, file_type, name },
            Failure::Denied(reason) => Error::Denied { location, action, file_type, name, reason },
            Failure::Full => Error::Full { location, file_type, name },
            Failure::Vanished => Error::Vanished { location, reason: NO_CONFIG },
            Failure::Damaged(reason) => Error::Damaged { location, file_type, name, reason },
            Failure::Unauthorized(reason) => Error::Unauthorized { location, reason },
            Failure::Exists => Error::Denied { location, action, file_type, name, reason: "it exists".into() },
            Failure::Failed(reason) | Failure::Lost(reason) => {
                Error::Unreachable { location, action, file_type, name, reason }
            }
        }
    }

    /// Carries something out on the connection; one that has failed is not used again.
    fn run<T>(&self, work: impl AsyncFnOnce(&Connection) -> std::result::Result<T, Failure>) -> Result<T> {
        let store = self.store;
        store.runtime.block_on(async {
            let connection = store.connection().await.map_err(|failure| self.error(failure))?;
            let outcome = connection.unless_ended(work(&connection)).await;
            if matches!(outcome, Err(Failure::Lost(_))) {
                let mut current = store.connection.lock().await;
                if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &connection)) {
                    *current = None;
                }
            }
            outcome.map_err(|failure| self.error(failure))
        })
    }
}

impl SftpStore {
    /// Nothing is sent yet.
    pub fn new(options: SftpOptions) -> Result<Self> {
        let SftpAddress { user, host, port, path } = &options.address;
        let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let location = match port {
            Some(port) => format!("sftp://{user}{host}:{port}/{path}"),
            None => format!("sftp:{user}{host}:{path}"),
        };
        let runtime = start_runtime(&location)?;
        let (has_config, warned) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { options, location, connection: Default::default(), runtime, has_config, warned })
    }

    /// Every file of a type with the time at which the server received it.
    pub fn received(&self, file_type: FileType) -> Result<Vec<Received>> {
        let operation = Operation { store: self, action: "list", file_type, name: "" };
        let found = self.files(&operation)?.into_iter().map(|file| {
            let received_at = Timestamp::from_second(file.modified_s)
                .map_err(|_| operation.error(Failure::Lost("the server doesn't say when it received a file".into())))?;
            Ok(Received { name: file.name, size_bytes: file.size_bytes, received_at })
        });
        found.collect()
    }

    async fn connection(&self) -> std::result::Result<Arc<Connection>, Failure> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref() {
            return Ok(connection.clone());
        }
        let made = Arc::new(Connection::open(&self.options).await?);
        *current = Some(made.clone());
        Ok(made)
    }

    fn operation<'a>(&'a self, action: &'static str, file_type: FileType, name: &'a str) -> Result<Operation<'a>> {
        name::check(&self.location, action, file_type, name)?;
        Ok(Operation { store: self, action, file_type, name })
    }

    fn folder(&self, file_type: FileType, name: &str) -> String {
        let base = self.options.address.path.trim_end_matches('/');
        match file_type {
            FileType::Config => base.into(),
            FileType::Data => format!("{base}/data/{}", name.get(..2).unwrap_or_default()),
            _ => format!("{base}/{}", file_type.folder()),
        }
    }

    fn path(&self, file_type: FileType, name: &str) -> String {
        let name = if file_type == FileType::Config { "config" } else { name };
        format!("{}/{name}", self.folder(file_type, name))
    }

    fn files(&self, operation: &Operation<'_>) -> Result<Vec<files::Found>> {
        let file_type = operation.file_type;
        let folders: Vec<String> = match file_type {
            FileType::Data => (0..=u8::MAX).map(|byte| self.folder(file_type, &hex::encode([byte]))).collect(),
            _ => vec![self.folder(file_type, "")],
        };
        let is_missing = AtomicBool::new(false);
        operation.run(async |connection| {
            let listings = stream::iter(&folders).map(async |folder| match connection.list(folder).await {
                Err(Failure::NotFound) => {
                    is_missing.store(true, Ordering::Relaxed);
                    Ok(Vec::new())
                }
                other => other.map(|mut files| {
                    let stands_here =
                        |name: &str| file_type != FileType::Data || folder.ends_with(name.get(..2).unwrap_or_default());
                    files.retain(|file| name::is_valid(file_type, &file.name) && stands_here(&file.name));
                    files
                }),
            });
            let found = listings.buffer_unordered(FOLDERS_AT_ONCE).try_concat().await?;
            // Nothing there is an answer only where there is a repository.
            if is_missing.load(Ordering::Relaxed) && self.has_config.load(Ordering::Relaxed) {
                self.require_config(connection).await?;
            }
            Ok(found)
        })
    }

    fn note_config(&self, file_type: FileType) {
        if file_type == FileType::Config {
            self.has_config.store(true, Ordering::Relaxed);
        }
    }

    /// A failure when no repository stands in the folder.
    async fn require_config(&self, connection: &Connection) -> std::result::Result<(), Failure> {
        match connection.stat(&self.path(FileType::Config, "")).await {
            Ok(_) => Ok(()),
            Err(Failure::NotFound) => {
                connection.stat(&self.folder(FileType::Config, "")).await?;
                Err(Failure::Vanished)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Told once: it is a property of the server.
    fn warn_about_folders(&self) {
        if self.warned.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            "{}: the server cannot sync files and folders on request: what was just written may be lost when it loses power",
            self.location
        );
    }
}

impl Store for SftpStore {
    fn create(&self) -> Result<()> {
        let operation = Operation { store: self, action: "create", file_type: FileType::Config, name: "" };
        let types = FileType::ALL.into_iter().filter(|file_type| *file_type != FileType::Config);
        let folders = types.map(|file_type| format!("{}/{}", self.folder(FileType::Config, ""), file_type.folder()));
        let packs: Vec<String> = (0..=u8::MAX).map(|byte| self.folder(FileType::Data, &hex::encode([byte]))).collect();
        operation.run(async |connection| {
            connection.create_folder(&self.folder(FileType::Config, "")).await?;
            for folder in folders {
                connection.make_folder(&folder).await?;
            }
            // One after the other they would take 256 times the way to the server.
            let making = stream::iter(&packs).map(async |folder| connection.make_folder(folder).await);
            making.buffer_unordered(FOLDERS_AT_ONCE).try_collect::<()>().await?;
            connection.sync(&self.folder(FileType::Config, "")).await?;
            connection.sync(&format!("{}/data", self.folder(FileType::Config, ""))).await.map(drop)
        })
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        let operation = self.operation("write", file_type, name)?;
        let (folder, path) = (self.folder(file_type, name), self.path(file_type, name));
        let is_synced = operation.run(async |connection| {
            let temporary = match connection.upload(&folder, content).await {
                Err(Failure::NotFound) => {
                    // A person may have left the folder out. But the folder of a disk that is not mounted is there,
                    // too: what is written below it would be lost to the repository.
                    self.require_config(connection).await?;
                    connection.create_folder(&folder).await?;
                    connection.upload(&folder, content).await?
                }
                other => other?,
            };
            let published = match connection.give_name(&temporary, &path).await {
                Err(Failure::Exists) => {
                    let present = connection.read_whole(&path).await;
                    match present.map(|present| Standing::of(file_type, name, &present, content)) {
                        Ok(Standing::Same) => connection.sync(&path).await.map(drop),
                        Ok(Standing::Conflict) if file_type == FileType::Config => {
                            Err(Failure::Denied("there is a repository already".into()))
                        }
                        Ok(Standing::Conflict) => {
                            Err(Failure::Damaged("what was to be written is not the content of that name".into()))
                        }
                        Ok(Standing::Damaged) => connection.replace(&temporary, &path).await,
                        Err(failure) => Err(failure),
                    }
                }
                other => other,
            };
            // After a success it is gone already, or was never needed; after a failure that failure counts.
            let _ = connection.remove(&temporary).await;
            published?;
            connection.sync(&folder).await
        })?;
        if !is_synced {
            self.warn_about_folders();
        }
        self.note_config(file_type);
        Ok(())
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        let operation = self.operation("read", file_type, name)?;
        let path = self.path(file_type, name);
        let content = operation.run(async |connection| connection.read_whole(&path).await)?;
        self.note_config(file_type);
        Ok(content)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let operation = self.operation("read", file_type, name)?;
        let path = self.path(file_type, name);
        operation.run(async |connection| connection.read_range(&path, offset, length).await)
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        let operation = self.operation("look up", file_type, name)?;
        let path = self.path(file_type, name);
        operation.run(async |connection| connection.stat(&path).await)
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        if file_type == FileType::Config {
            return listed_config(self);
        }
        let operation = Operation { store: self, action: "list", file_type, name: "" };
        let files = self.files(&operation)?.into_iter();
        Ok(files.map(|file| Entry { name: file.name, size_bytes: file.size_bytes }).collect())
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let operation = self.operation("remove", file_type, name)?;
        let path = self.path(file_type, name);
        operation.run(async |connection| {
            connection.remove(&path).await?;
            // Synced, because what is removed next may rest on this being gone.
            connection.sync(&self.folder(file_type, name)).await.map(drop)
        })
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}
