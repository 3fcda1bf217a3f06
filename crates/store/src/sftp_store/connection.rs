//! One `ssh` process and the SFTP session in its pipes.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use russh_sftp::client::rawsession::Limits;
use russh_sftp::client::{Config, RawSftpSession, error::Error as SftpError};
use russh_sftp::protocol::{Status, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::watch;

use super::SftpOptions;
use crate::limit::Bandwidth;
use crate::link::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, SILENCE_MAX};
use crate::operation::refused_credentials;

/// How long `ssh` may take until the session stands: a person may be typing a passphrase.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long to wait for what `ssh` says about its failure.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of what `ssh` prints is kept for messages.
const WORDS_BYTES_MAX: usize = 4096;
/// Packets as OpenSSH sends them.
const PACKET_BYTES_MAX: u32 = 256 << 10;

/// What can become of an operation.
#[derive(Debug)]
pub(super) enum Failure {
    NotFound,
    /// Something stands where a name was to be given.
    Exists,
    Denied(String),
    /// The server could not do it this time, and doesn't say why. The connection is as good as before.
    Failed(String),
    Full,
    Damaged(String),
    /// The repository's folder has no configuration any more.
    Vanished,
    /// The server or this machine refuses the other: trying again will not help.
    Unauthorized(String),
    /// The connection is of no use any more.
    Lost(String),
}

impl From<SftpError> for Failure {
    fn from(error: SftpError) -> Self {
        match error {
            SftpError::Status(status) => Failure::of(&status),
            other => Failure::Lost(other.to_string()),
        }
    }
}

impl Failure {
    fn of(status: &Status) -> Self {
        match status.status_code {
            StatusCode::NoSuchFile => Failure::NotFound,
            StatusCode::NoConnection | StatusCode::ConnectionLost => Failure::Lost(status.error_message.clone()),
            StatusCode::PermissionDenied => Failure::Denied("the server refuses it to this user".into()),
            // What it says of everything that it has no word for: too many open files, an error of the disk, a lost mount.
            // Trying again may help.
            StatusCode::Failure => Failure::Failed("the server says that it failed, and not why".into()),
            code => Failure::Denied(format!("the server says: {code}")),
        }
    }
}

/// A connection that stands.
pub(super) struct Connection {
    pub session: RawSftpSession,
    pub bandwidth: Bandwidth,
    /// Whether the server offers `fsync@openssh.com`.
    pub can_sync: bool,
    /// Whether it offers `posix-rename@openssh.com`, which replaces.
    pub can_replace: bool,
    /// Whether what comes from the server has ended.
    has_ended: watch::Receiver<bool>,
    /// Ends when this is dropped.
    _ssh: Child,
}

/// What comes from the server. It tells of its end: the session under it wakes whoever waits for an answer then, but for a
/// request that was sent in just that moment, which would wait for its whole time.
struct Answers {
    stdout: ChildStdout,
    has_ended: watch::Sender<bool>,
}

impl AsyncRead for Answers {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        let read = ready!(Pin::new(&mut self.stdout).poll_read(context, buffer));
        if read.is_err() || room > 0 && buffer.remaining() == room {
            let _ = self.has_ended.send(true);
        }
        Poll::Ready(read)
    }
}

impl Connection {
    /// Carries something out for as long as the connection stands.
    pub(super) async fn unless_ended<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let mut has_ended = self.has_ended.clone();
        tokio::select! {
            // An answer that came before the end counts.
            biased;
            outcome = work => outcome,
            _ = has_ended.wait_for(|has_ended| *has_ended) => Err(Failure::Lost("the connection has ended".into())),
        }
    }

    pub(super) async fn open(options: &SftpOptions) -> Result<Self, Failure> {
        let mut ssh = command(options)
            .spawn()
            .map_err(|error| Failure::Unauthorized(format!("cannot start ssh: {error}; install OpenSSH's client")))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (ssh.stdin.take(), ssh.stdout.take(), ssh.stderr.take()) else {
            return Err(Failure::Lost("ssh has no pipes".into()));
        };
        let words = Arc::new(Mutex::new(String::new()));
        let listening = tokio::spawn(listen(stderr, words.clone()));
        let config = Config {
            max_packet_len: PACKET_BYTES_MAX * 2,
            request_timeout_secs: START_TIMEOUT.as_secs(),
            ..Config::default()
        };
        let (ended, has_ended) = watch::channel(false);
        let answers = Answers { stdout, has_ended: ended };
        let mut session = RawSftpSession::new_with_config(tokio::io::join(answers, stdin), config);
        let version = match session.init().await {
            Ok(version) => version,
            Err(error) => {
                // What ssh has to say about it comes with its end.
                let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, listening).await;
                let words = words.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(refusal(&words, &error.to_string()));
            }
        };
        session.set_timeout(ANSWER_TIMEOUT.as_secs());
        session.set_limits(Limits::default());
        let offers = |name: &str| version.extensions.contains_key(name);
        Ok(Self {
            can_sync: offers("fsync@openssh.com"),
            can_replace: offers("posix-rename@openssh.com"),
            session,
            bandwidth: options.bandwidth.clone(),
            has_ended,
            _ssh: ssh,
        })
    }
}

fn command(options: &SftpOptions) -> Command {
    let address = &options.address;
    let mut command = Command::new("ssh");
    // The first value of an option counts: the user's own come before ours.
    command.args(&options.arguments);
    command.arg(format!("-oConnectTimeout={}", CONNECT_TIMEOUT.as_secs()));
    command.arg(format!("-oServerAliveInterval={}", SILENCE_MAX.as_secs() / 2)).arg("-oServerAliveCountMax=2");
    if let Some(port) = address.port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = &address.user {
        command.arg("-l").arg(user);
    }
    command.arg("-s").arg("--").arg(&address.host).arg("sftp");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C is for Levee, which ends its backup in order; ssh must live until then.
    command.process_group(0);
    command
}

/// Reads to the end, so that `ssh` never waits for us, and keeps the end of it.
async fn listen(mut stderr: ChildStderr, words: Arc<Mutex<String>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if words.len() > WORDS_BYTES_MAX {
            words.clear();
        }
    }
}

/// Whether what `ssh` said will be the same the next time.
fn refusal(words: &str, error: &str) -> Failure {
    const KEY_REFUSED: [&str; 2] = ["Permission denied", "Too many authentication failures"];
    const FINAL: [&str; 4] = [
        "Host key verification failed",
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "Could not resolve hostname",
        "command-line",
    ];
    let printable = |line: &str| line.chars().filter(|character| !character.is_control()).collect::<String>();
    let lines: Vec<String> = words.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
    let last = lines.last().map_or_else(|| error.to_string(), |line| format!("ssh: {line}"));
    if KEY_REFUSED.iter().any(|text| words.contains(text)) {
        Failure::Unauthorized(refused_credentials(&last))
    } else if FINAL.iter().any(|text| words.contains(text)) {
        Failure::Unauthorized(last)
    } else {
        Failure::Lost(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_says_is_told_apart() {
        let refused = refusal("Warning: x\nme@host: Permission denied (publickey).\r\n", "closed");
        assert!(matches!(&refused, Failure::Unauthorized(text) if text.contains("publickey")), "{refused:?}");
        let down = refusal("ssh: connect to host h port 22: Connection refused\n", "closed");
        assert!(matches!(&down, Failure::Lost(text) if text.contains("refused")), "{down:?}");
        assert!(matches!(refusal("", "closed"), Failure::Lost(text) if text == "closed"));
    }
}
