//! Sites as network namespaces, joined by a bridge in a namespace of its own, with links that can be
//! cut. Needs root.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::{run, try_run};
use crate::tools;

/// Namespaces, one for each site, that reach each other and the host. Dropping it removes them.
#[derive(Debug)]
pub struct Net {
    /// In the names of everything that this network makes, so that tests can run side by side.
    number: u32,
    sites: Vec<String>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Net {
    /// Makes a namespace for each site.
    #[track_caller]
    pub fn new(sites: &[&str]) -> Net {
        assert!(sites.len() < 200, "a network of this kind has at most 200 sites");
        let number = (std::process::id() % 4000) * 16 + NEXT.fetch_add(1, Ordering::Relaxed) % 16;
        // From here on dropping the value cleans up whatever is half-made.
        let net = Net { number, sites: sites.iter().map(|site| site.to_string()).collect() };
        let hub = net.hub();
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link add br0 type bridge"));
        ip(&format!("-n {hub} link set br0 up"));
        for site in sites {
            let namespace = net.namespace(site);
            let port = net.port(site);
            ip(&format!("netns add {namespace}"));
            ip(&format!("link add {port} netns {hub} type veth peer name eth0 netns {namespace}"));
            ip(&format!("-n {hub} link set {port} master br0 up"));
            ip(&format!("-n {namespace} addr add {}/24 dev eth0", net.address(site)));
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} link set eth0 up"));
        }
        let host = net.host_port();
        ip(&format!("link add {host} type veth peer name host netns {hub}"));
        ip(&format!("-n {hub} link set host master br0 up"));
        ip(&format!("addr add {}/24 dev {host}", net.host_address()));
        ip(&format!("link set {host} up"));
        net
    }

    /// Whether this machine lets us make such a network. Where it does not, the test is noted as left out.
    pub fn is_possible() -> bool {
        let tried = crate::users::is_root() && tools::find("ip").is_some() && {
            let name = format!("lvprobe{}", std::process::id());
            let made = try_run(Command::new("ip").args(["netns", "add", &name])).is_ok();
            made && try_run(Command::new("ip").args(["netns", "del", &name])).is_ok()
        };
        if !tried {
            crate::leave_out("this machine gives no network namespaces");
        }
        tried
    }

    pub fn address(&self, site: &str) -> Ipv4Addr {
        let index = self.index(site);
        let [high, low] = self.subnet();
        Ipv4Addr::new(10, high, low, index as u8 + 1)
    }

    /// Where the sites reach the test itself.
    pub fn host_address(&self) -> Ipv4Addr {
        let [high, low] = self.subnet();
        Ipv4Addr::new(10, high, low, 254)
    }

    /// A command that runs at a site.
    pub fn command(&self, site: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(site)]).arg(program);
        command
    }

    /// Cuts a site off from everything, itself excepted.
    pub fn cut(&self, site: &str) {
        ip(&format!("-n {} link set {} down", self.hub(), self.port(site)));
    }

    /// Undoes `cut`.
    pub fn restore(&self, site: &str) {
        ip(&format!("-n {} link set {} up", self.hub(), self.port(site)));
    }

    /// Drops everything between two sites; both go on reaching the others.
    pub fn cut_between(&self, one: &str, other: &str) {
        let (a, b) = (self.port(one), self.port(other));
        self.nft(&format!(
            "add table bridge cut_{a}_{b}; \
             add chain bridge cut_{a}_{b} forward {{ type filter hook forward priority 0; }}; \
             add rule bridge cut_{a}_{b} forward iifname {a} oifname {b} drop; \
             add rule bridge cut_{a}_{b} forward iifname {b} oifname {a} drop"
        ));
    }

    /// Undoes `cut_between` of the same two sites in the same order.
    pub fn restore_between(&self, one: &str, other: &str) {
        self.nft(&format!("delete table bridge cut_{}_{}", self.port(one), self.port(other)));
    }

    fn nft(&self, rules: &str) {
        let nft = tools::required("nft");
        run(Command::new("ip").args(["netns", "exec", &self.hub()]).arg(nft).arg(rules));
    }

    fn index(&self, site: &str) -> usize {
        self.sites.iter().position(|known| known == site).unwrap_or_else(|| panic!("there is no site {site:?}"))
    }

    fn hub(&self) -> String {
        format!("lv{}hub", self.number)
    }

    fn namespace(&self, site: &str) -> String {
        format!("lv{}n{}", self.number, self.index(site))
    }

    /// The bridge's end of a site's link. An interface's name has at most 15 characters.
    fn port(&self, site: &str) -> String {
        format!("lv{}p{}", self.number, self.index(site))
    }

    fn host_port(&self) -> String {
        format!("lv{}host", self.number)
    }

    /// The two middle bytes of this network's addresses.
    fn subnet(&self) -> [u8; 2] {
        // Kept to the upper half, away from the networks that machines are usually on.
        [128 + (self.number >> 8) as u8 % 120, self.number as u8]
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let namespaces = (0..self.sites.len()).map(|index| format!("lv{}n{index}", self.number)).chain([self.hub()]);
        for namespace in namespaces {
            end_processes_in(&namespace);
            // Half-made networks lack some of them.
            let _ = try_run(Command::new("ip").args(["netns", "del", &namespace]));
        }
        let _ = try_run(Command::new("ip").args(["link", "del", &self.host_port()]));
    }
}

fn end_processes_in(namespace: &str) {
    let pids = try_run(Command::new("ip").args(["netns", "pids", namespace])).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        // It may have ended by itself a moment ago.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[track_caller]
fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split_whitespace()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_can_be_cut_and_restored() {
        if !Net::is_possible() {
            return;
        }
        let net = Net::new(&["east", "west", "observer"]);
        let reaches = |from: &str, to: Ipv4Addr| {
            let mut command = net.command(from, "bash");
            command.args(["-c", &format!("timeout 1 bash -c 'exec 3<>/dev/tcp/{to}/9' 2>&1")]);
            let printed = crate::process::output(&mut command);
            // Refused means that the other end has answered.
            String::from_utf8_lossy(&printed.stdout).contains("refused")
        };
        let (east, west) = (net.address("east"), net.address("west"));
        assert!(reaches("east", west) && reaches("west", net.host_address()));
        net.cut_between("east", "west");
        assert!(!reaches("west", east) && reaches("observer", east) && reaches("observer", west));
        net.restore_between("east", "west");
        net.cut("east");
        assert!(!reaches("observer", east));
        net.restore("east");
        assert!(reaches("east", west));
        let namespace = net.namespace("east");
        drop(net);
        assert!(!run(Command::new("ip").args(["netns", "list"])).contains(&namespace));
    }
}
