//! S3 by Ceph's gateway: one monitor, one store on a file, one gateway, started in about 15 s.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::glacier::ARCHIVE_CLASS;
use crate::{Child, TempSite, free_port, process, tools, wait};

/// The store makes its file and the gateway its pools, on a machine that may be busy.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const CLUSTER: &str = "6f3b2a6e-1111-4222-8333-944455556666";
const STORE: &str = "6f3b2a6e-1111-4222-8333-944455557777";

pub const ACCESS_KEY: &str = "LEVEETESTKEY";
pub const SECRET_KEY: &str = "levee/test+secret";

/// A storage class beside the usual one. The gateway reads it as any other; `Glacier` makes an archive of it.
pub const COLD_CLASS: &str = ARCHIVE_CLASS;

/// A running cluster with one user, [`ACCESS_KEY`].
pub struct Ceph {
    // Ended before the folder is removed.
    children: Vec<Child>,
    site: TempSite,
    port: u16,
}

impl Ceph {
    #[track_caller]
    pub fn start() -> Ceph {
        let site = TempSite::new("ceph");
        let (monitor_port, port) = (free_port(), free_port());
        for name in ["mon", "osd", "run", "log"] {
            site.folder(name);
        }
        let folder = site.path().to_path_buf();
        fs::write(folder.join("ceph.conf"), configuration(&folder, monitor_port, port)).expect("our own folder");
        fs::write(folder.join("keyring"), "").expect("our own folder");
        let mut ceph = Ceph { children: Vec::new(), site, port };
        let map = folder.join("monmap");
        process::run(
            Command::new(tools::required("monmaptool"))
                .args(["--create", "--fsid", CLUSTER, "--addv", "a", &format!("[v1:127.0.0.1:{monitor_port}]")])
                .arg(&map),
        );
        process::run(ceph.program("ceph-mon").args(["-i", "a", "--mkfs", "--monmap"]).arg(&map));
        ceph.spawn("ceph-mon", &["-i", "a", "-f"]);
        ceph.wait_for_port("the monitor", monitor_port);
        process::run(ceph.program("ceph").args(["osd", "new", STORE]));
        process::run(ceph.program("ceph").args(["osd", "crush", "add", "osd.0", "1.0", "host=lo", "root=default"]));
        process::run(ceph.program("ceph-osd").args(["-i", "0", "--mkfs", "--osd-uuid", STORE]));
        ceph.spawn("ceph-osd", &["-i", "0", "-f"]);
        // The first command makes the zone that the second one extends.
        process::run(
            ceph.program("radosgw-admin")
                .args(["user", "create", "--uid=levee", "--display-name=levee"])
                .args([format!("--access-key={ACCESS_KEY}"), format!("--secret-key={SECRET_KEY}")]),
        );
        ceph.add_cold_class();
        ceph.spawn("radosgw", &["-n", "client.rgw", "-f"]);
        ceph.wait_for_port("the gateway", port);
        ceph
    }

    /// Makes a second storage class; the gateway reads them when it starts.
    fn add_cold_class(&self) {
        let placement = ["placement", "add", "--placement-id=default-placement"];
        let class = format!("--storage-class={COLD_CLASS}");
        let add = |what: &str, more: &str| {
            process::run(self.program("radosgw-admin").arg(what).args(placement).args([&class, more]));
        };
        add("zonegroup", "--rgw-zonegroup=default");
        add("zone", "--data-pool=default.rgw.cold.data");
    }

    /// For example `http://127.0.0.1:21012`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(tools::required(name));
        command.arg("-c").arg(self.site.path().join("ceph.conf"));
        command
    }

    fn spawn(&mut self, name: &str, arguments: &[&str]) {
        let mut command = self.program(name);
        command.args(arguments);
        let log = self.site.path().join("log").join(format!("{name}.out"));
        self.children.push(Child::spawn(name, &mut command, &log));
    }

    fn wait_for_port(&self, what: &str, port: u16) {
        let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(());
        if wait::poll(START_TIMEOUT, answers).is_none() {
            let logs: Vec<String> = self.children.iter().map(|child| child.log_tail(10)).collect();
            panic!("{what} of Ceph does not answer:\n{}", logs.join("\n"));
        }
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        // Nothing of it is kept: an orderly end would only take its time.
        for child in &mut self.children {
            child.kill();
        }
    }
}

fn configuration(folder: &Path, monitor_port: u16, port: u16) -> String {
    let at = folder.display();
    format!(
        "[global]\nfsid = {CLUSTER}\nmon host = v1:127.0.0.1:{monitor_port}\nauth cluster required = none\n\
         auth service required = none\nauth client required = none\nkeyring = {at}/keyring\nrun dir = {at}/run\n\
         admin socket = {at}/run/$name.asok\npid file = {at}/run/$name.pid\nlog file = {at}/log/$name.log\n\
         crash dir = {at}/log\nms bind msgr2 = false\npublic addr = 127.0.0.1\ncluster addr = 127.0.0.1\n\
         osd crush update on start = false\nosd class update on start = false\nosd crush chooseleaf type = 0\n\
         osd pool default size = 1\nosd pool default min size = 1\nosd pool default pg num = 1\n\
         osd pool default pgp num = 1\nosd pool default pg autoscale mode = off\nmon allow pool size one = true\n\
         mon max pg per osd = 1000\nmon data avail crit = 1\nmon data avail warn = 1\nmon data = {at}/mon\n\
         osd data = {at}/osd\nosd objectstore = bluestore\nbluestore block size = 4294967296\n\
         osd memory target = 1073741824\nrgw data = {at}\nrgw frontends = beast endpoint=127.0.0.1:{port}\n\
         rgw run sync thread = false\nrgw enable gc threads = false\nrgw enable lc threads = false\n\
         rgw thread pool size = 64\n"
    )
}
