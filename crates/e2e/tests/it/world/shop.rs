//! The shop: a database and a folder, and the protection file that names them.

use std::fs;

use levee_testing::Child;
use levee_testing::netns::Net;
use levee_testing::postgres::{Cluster, Version};
use levee_testing::wait::wait_until;

use super::programs::clock_environment;
use super::{PATIENCE, Site, World};

/// The name of the synchronous standby that Levee is for the shop's orders.
const STANDBY: &str = "levee_shop_orders";
const FILES: usize = 50;

impl World {
    /// The shop as it was before Levee came.
    pub(super) fn create_shop(&mut self) {
        let documents = self.folder(Site::East).join("documents");
        fs::create_dir_all(&documents).expect("our own folder");
        for number in 0..FILES {
            let content = format!("document {number}\n").repeat(number * 20 + 1);
            fs::write(documents.join(format!("{number}.txt")), content).expect("our own folder");
        }
        let mut builder = Cluster::builder()
            .version(Version::V15)
            .below(self.folder(Site::East))
            .data_directory(self.folder(Site::East).join("postgres"))
            .address(self.database(Site::East).ip())
            .port(self.database_port)
            .setting("shared_buffers", "16MB");
        for (name, value) in &self.setup.settings {
            builder = builder.setting(name, *value);
        }
        for (name, value) in self.setup.source_clock.map(clock_environment).into_iter().flatten() {
            builder = builder.environment(name, &value);
        }
        if self.setup.password.is_some() {
            for what in ["all", "replication"] {
                builder = builder.hba(&format!("host {what} levee all scram-sha-256"));
            }
        }
        let cluster = match &self.setup.net {
            None => builder.start(),
            Some(net) => {
                let cluster = builder.create();
                self.source = Some(start_inside(net, Site::East, &cluster));
                cluster
            }
        };
        let password = self.setup.password.map(|password| format!(" password '{password}'")).unwrap_or_default();
        cluster.psql(&format!("create role levee login replication{password}"));
        cluster.psql("grant pg_monitor, pg_read_all_data to levee");
        cluster.psql("create role shop login");
        cluster.psql("create database shop owner shop");
        cluster.psql_in("shop", "set role shop; create table orders (number bigint primary key)");
        if self.setup.zero_loss {
            cluster.set("synchronous_standby_names", &format!("FIRST 1 ({STANDBY})"));
        }
        self.cluster = Some(cluster);
    }

    pub fn protection_file(&self) -> String {
        let secret = self.setup.password.map_or("", |_| "password_secret = \"orders-password\"\n");
        let at = |site: Site| {
            let (name, folder, database) = (site.name(), self.folder(site), self.database(site));
            format!(
                "[app.shop.postgres.orders.at.{name}]\ndata_directory = {postgres:?}\naddress = \"{address}\"\n\
                 port = {port}\nos_user = \"{user}\"\n{secret}[app.shop.files.documents.at.{name}]\npath = {documents:?}\n\
                 [app.shop.entry.shop.at.{name}]\naddress = \"{address}\"\n",
                postgres = folder.join("postgres"),
                documents = folder.join("documents"),
                address = database.ip(),
                port = database.port(),
                user = Version::V15.binaries().user().map_or_else(own_user, |user| user.name.clone()),
            )
        };
        format!(
            "[app.shop]\nhome = \"east\"\nrecovery = \"west\"\n\
             [app.shop.postgres.orders]\nzero_loss = {}\nslot_bound = \"{}\"\n\
             probe = [{{ database = \"shop\", sql = \"select count(*) >= 0 from orders\", expect = \"t\" }},\
             {{ database = \"shop\", sql = \"select 'newest order ' || coalesce(max(number), 0) from orders\" }}]\n\
             [app.shop.files.documents]\nevery = \"2s\"\nprobe = [\"1.txt\"]\n\
             [app.shop.entry.shop]\nname = \"shop.example.test\"\nttl = \"1s\"\n{}{}",
            self.setup.zero_loss,
            self.setup.slot_bound,
            at(Site::East),
            at(Site::West)
        )
    }
}

/// Starts a cluster inside a site of a network, and waits until it answers.
fn start_inside(net: &Net, site: Site, cluster: &Cluster) -> Child {
    let user = cluster.binaries().user().expect("networks of this kind need root, which has a user for databases");
    let mut command = net.command(site.name(), "setpriv");
    command
        .args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid), "--clear-groups".into()])
        .arg(cluster.binaries().folder().join("postgres"))
        .arg("-D")
        .arg(cluster.data_directory())
        .current_dir("/");
    let server = Child::spawn("postgres", &mut command, &cluster.log());
    wait_until("the source", PATIENCE, || cluster.try_psql("select 1").is_ok());
    server
}

fn own_user() -> String {
    std::env::var("USER").unwrap_or_else(|_| "postgres".into())
}
