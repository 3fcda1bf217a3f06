//! An SSH server of its own keys, with SFTP.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{Child, TempSite, free_port, process, tools, users, wait};

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running `sshd` that lets in its own client key as the user of the test.
pub struct Sshd {
    // Ended before its folder is removed.
    child: Child,
    site: TempSite,
    port: u16,
}

impl Sshd {
    #[track_caller]
    pub fn start() -> Sshd {
        Self::start_with(None)
    }

    /// One that serves as SFTP whatever a port of this machine says to its connections.
    #[track_caller]
    pub fn start_before(sftp_port: u16) -> Sshd {
        Self::start_with(Some(sftp_port))
    }

    #[track_caller]
    fn start_with(sftp_port: Option<u16>) -> Sshd {
        let site = TempSite::new("sshd");
        let folder = site.path();
        for key in ["host", "client"] {
            let file = folder.join(key);
            process::run(
                Command::new(tools::required("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file),
            );
        }
        let port = free_port();
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("ssh-keygen has written it");
        write(folder, "known_hosts", &format!("[127.0.0.1]:{port} {}", read("host.pub")));
        write(folder, "authorized_keys", &read("client.pub"));
        let at = folder.display();
        let sftp = match sftp_port {
            None => "internal-sftp".to_string(),
            Some(sftp_port) => {
                write(
                    folder,
                    "sftp",
                    &format!("exec 3<>/dev/tcp/127.0.0.1/{sftp_port}\ncat <&3 &\ncat >&3\nkill $!\n"),
                );
                format!("/bin/bash {at}/sftp")
            }
        };
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized_keys\n\
             PidFile {at}/sshd.pid\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nUsePAM no\n\
             MaxStartups 100\nSubsystem sftp {sftp}\n"
        );
        write(folder, "sshd_config", &config);
        if users::is_root() {
            // Where it confines what has not logged in yet.
            fs::create_dir_all("/run/sshd").expect("root may make it");
        }
        let mut command = Command::new(tools::required("sshd"));
        command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
        let child = Child::spawn("sshd", &mut command, &folder.join("sshd.log"));
        let sshd = Sshd { child, site, port };
        let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        if wait::poll(START_TIMEOUT, || answers().then_some(())).is_none() {
            panic!("sshd does not answer:\n{}", sshd.child.log_tail(20));
        }
        sshd
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of this server, in which tests may put what they serve.
    pub fn folder(&self) -> &Path {
        self.site.path()
    }

    /// Arguments for `ssh` that know this server and hold its client key, and nothing of the user's own.
    pub fn client_arguments(&self) -> Vec<String> {
        let option = |name: &str, file: &str| format!("-o{name}={}", self.file(file).display());
        vec![
            "-F".into(),
            "none".into(),
            option("IdentityFile", "client"),
            option("UserKnownHostsFile", "known_hosts"),
            "-oGlobalKnownHostsFile=none".into(),
            "-oIdentitiesOnly=yes".into(),
            "-oStrictHostKeyChecking=yes".into(),
            "-oBatchMode=yes".into(),
        ]
    }

    fn file(&self, name: &str) -> PathBuf {
        self.site.path().join(name)
    }

    /// Lets nobody in from now on, with the key of the tests or without; who is in stays.
    pub fn forget_client(&self) {
        write(self.site.path(), "authorized_keys", "");
    }

    /// Lets the key of the tests in again.
    pub fn know_client(&self) {
        let key = fs::read_to_string(self.file("client.pub")).expect("ssh-keygen has written it");
        write(self.site.path(), "authorized_keys", &key);
    }

    /// Cuts every connection; the server goes on.
    pub fn cut_connections(&self) {
        for pid in process::children_of(self.child.pid()) {
            process::kill(pid);
        }
    }
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::write(&path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
