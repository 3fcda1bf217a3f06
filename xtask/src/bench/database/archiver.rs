//! Whoever takes the log away, as processes of their own.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use levee_testing::levee::{AgentPlace, Binary, ServerPlace};
use levee_testing::ports::free_port_on;
use levee_testing::postgres::Cluster;
use levee_testing::{Child, TempSite, process, tools};

use super::load::cpu_seconds;
use crate::demo::control::Operator;
use crate::demo::world::choose_addresses;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archiver {
    PgReceivewal,
    /// `levee database archive`, into a journal on the same machine.
    Levee,
    /// A server and two agents: the log goes through both, into the other site's journal.
    Agents,
}

/// An archiver that runs. Dropping it ends it and removes what it has stored.
pub struct Running {
    /// What PostgreSQL calls it.
    name: &'static str,
    // In the order in which they are ended.
    children: Vec<Child>,
    /// Asked whether the copies are complete, where there is somebody to ask.
    operator: Option<Operator>,
    site: TempSite,
}

impl Archiver {
    pub fn start(self, cluster: &Cluster, binary: &Binary, synchronous: bool) -> Result<Running> {
        let site = TempSite::new("bench");
        match self {
            Archiver::PgReceivewal => Ok(pg_receivewal(cluster, site, synchronous)),
            Archiver::Levee => Ok(levee(cluster, binary, site, synchronous)),
            Archiver::Agents => agents(cluster, binary, site, synchronous),
        }
    }
}

impl Running {
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Waits until whatever comes before the continuous archive is over.
    pub fn wait_ready(&self) -> Result<()> {
        match &self.operator {
            Some(operator) => operator.wait_protected("east").with_context(|| self.log_tails(20)),
            None => Ok(()),
        }
    }

    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.children.iter().map(Child::pid).collect::<Vec<_>>())
    }

    /// Whether no full segment waits to be closed any more.
    pub fn is_settled(&self) -> bool {
        tails_below(self.site.path()) <= 1
    }

    pub fn log_tails(&self, lines: usize) -> String {
        let tails = self.children.iter().map(|child| format!("{}:\n{}\n", child.name(), child.log_tail(lines)));
        tails.collect()
    }
}

fn pg_receivewal(cluster: &Cluster, site: TempSite, synchronous: bool) -> Running {
    const NAME: &str = "pg_receivewal_bench";
    let dsn = format!("{} application_name={NAME}", cluster.dsn("postgres"));
    let mut create = cluster.binaries().command("pg_receivewal");
    process::run(create.args(["--create-slot", "-S", NAME, "-d", &dsn]));
    let mut command = cluster.binaries().command("pg_receivewal");
    command.arg("-D").arg(site.database_folder("wal")).args(["-S", NAME, "-d", &dsn]);
    if synchronous {
        command.arg("--synchronous");
    }
    let child = Child::spawn(NAME, &mut command, &site.path().join("log"));
    Running { name: NAME, children: vec![child], operator: None, site }
}

/// The archive goes by its slot's name.
fn levee(cluster: &Cluster, binary: &Binary, site: TempSite, synchronous: bool) -> Running {
    const NAME: &str = "levee_bench";
    let identity = site.path().join("identity.txt");
    process::run(Command::new(tools::required("age-keygen")).arg("-o").arg(&identity));
    let mut command = binary.command();
    command
        .args(["database", "archive", "--asset", "bench/bench", "--slot", NAME])
        .args(["--connect", &cluster.dsn("postgres"), "--journal"])
        .arg(site.path().join("journal"))
        .arg("--identity-file")
        .arg(&identity);
    if synchronous {
        command.arg("--zero-loss");
    }
    let child = Child::spawn(NAME, &mut command, &site.path().join("log"));
    Running { name: NAME, children: vec![child], operator: None, site }
}

fn agents(cluster: &Cluster, binary: &Binary, site: TempSite, synchronous: bool) -> Result<Running> {
    const NAME: &str = "levee_shop_orders";
    let addresses = choose_addresses()?;
    let server_place = ServerPlace::at(site.path().join("server"), IpAddr::from([127, 0, 0, 1]));
    let log = |name: &str| site.path().join(format!("{name}.log"));
    let port = || free_port_on(&addresses);
    let (wire_port, store_port, dns_port) = (port(), port(), port());
    let mut children = vec![binary.start_server(&server_place, &log("server"))];
    for (name, address) in ["east", "west"].into_iter().zip(addresses) {
        let place = AgentPlace {
            name: format!("{name}-1"),
            site: name.into(),
            folder: site.folder(name).join("agent"),
            address,
            wire_port,
            store_port,
            dns_port,
        };
        binary.join(&server_place, &place);
        children.push(binary.start_agent(&place, &log(name)));
    }
    // The writer's agent ends first, then the other, then the server.
    children.rotate_left(1);
    let operator = Operator::new(binary.clone(), server_place);
    let file = site.path().join("shop.toml");
    fs::write(&file, protection_file(cluster, site.path(), synchronous))
        .with_context(|| format!("cannot write {}", file.display()))?;
    operator.run(&["apply", "-f", &file.to_string_lossy()])?;
    Ok(Running { name: NAME, children, operator: Some(operator), site })
}

fn protection_file(cluster: &Cluster, site: &Path, zero_loss: bool) -> String {
    let own_user = || std::env::var("USER").unwrap_or_else(|_| "postgres".into());
    let os_user = cluster.binaries().user().map_or_else(own_user, |user| user.name.clone());
    let at = |name: &str, data_directory: &Path| {
        format!(
            "[app.shop.postgres.orders.at.{name}]\ndata_directory = {data_directory:?}\naddress = \"{}\"\nport = {}\n\
             os_user = \"{os_user}\"\n",
            cluster.address(),
            cluster.port()
        )
    };
    format!(
        "[app.shop]\nhome = \"east\"\nrecovery = \"west\"\n\
         [app.shop.postgres.orders]\nzero_loss = {zero_loss}\nslot_bound = \"8GiB\"\n{}{}",
        at("east", cluster.data_directory()),
        at("west", &site.join("west/postgres"))
    )
}

/// How many tails of a journal lie anywhere below a folder.
fn tails_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => tails_below(&entry.path()),
        Ok(kind) if kind.is_file() && entry.file_name().to_string_lossy().ends_with(".tail") => 1,
        _ => 0,
    };
    entries.map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_counted_at_any_depth() {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir_all(site.path().join("journal/1")).unwrap();
        for name in ["a.tail", "b.tail", "c.zst.age", "d.tail.new"] {
            fs::write(site.path().join("journal/1").join(name), "").unwrap();
        }
        assert_eq!(tails_below(site.path()), 2);
    }
}
