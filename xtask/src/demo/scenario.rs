//! The demo's story: protect, drill, disaster, home. What is reported comes from the clients' ledgers
//! and from clocks.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use levee_testing::wait::poll;

use super::control::{Plan, Run};
use super::dns::Resolver;
use super::documents::{self, DocumentLedgers, DocumentWriter, Workplace};
use super::ledger::Entry;
use super::orders::{self, OrderClient, OrderLoss};
use super::protection::Site;
use super::report::{Drill, Failover, PASSED, Report, Switchover};
use super::terminal::Terminal;
use super::world::World;

const BACK_MAX: Duration = Duration::from_secs(120);
/// The load runs this long before anything is done to the shop.
const UNDISTURBED: Duration = Duration::from_secs(3);

/// The clients of the shop, and what they remember.
struct Clients {
    orders: Option<OrderClient>,
    documents: Option<DocumentWriter>,
    document_ledgers: DocumentLedgers,
}

pub fn play(world: &mut World, terminal: &Terminal, example: &str) -> Result<Report> {
    let mut clients = prepare(world, terminal)?;
    protect(world, &mut clients, terminal, example)?;
    let drill = drill(world, &clients, terminal)?;
    let (failover, lost) = disaster(world, &mut clients, terminal)?;
    let switchover = home(world, &mut clients, &lost, terminal)?;
    Ok(Report { drill, failover, switchover })
}

/// Makes the shop as it was before Levee came, with its users, and starts Levee's processes.
fn prepare(world: &mut World, terminal: &Terminal) -> Result<Clients> {
    let line =
        terminal.step("prepare", "filling the database and the folder at east, starting the server and two agents");
    let east = world.east();
    let document_ledgers = DocumentLedgers::below(&world.client_folder());
    let files = documents::fill(&east.documents(), world.files_max(), &document_ledgers)?;
    world.create_database()?;
    world.start_levee();
    line.end(&format!(
        "the shop runs at east: {files} files{}; a server and two agents run",
        if world.postgres.is_some() { ", PostgreSQL with pgbench's data" } else { " and no database" }
    ));
    Ok(Clients { orders: None, documents: None, document_ledgers })
}

/// Applies the protection file and waits until west has opened everything with its own keys.
fn protect(world: &mut World, clients: &mut Clients, terminal: &Terminal, example: &str) -> Result<()> {
    let line = terminal.step("protect", "first copies and the continuous archive, east to west");
    let file = world.write_protection_file(example)?;
    world.operator.run(&["apply", "-f", &file.to_string_lossy()])?;
    world.start_load(world.east().address)?;
    clients.start(world)?;
    world.operator.wait_protected("east")?;
    std::thread::sleep(UNDISTURBED);
    line.end("protected: west has opened its copies with its own keys");
    Ok(())
}

impl Clients {
    /// Orders and documents go on for good; each finds the shop by its name.
    fn start(&mut self, world: &World) -> Result<()> {
        if let Some(port) = world.database_port() {
            let ledger = world.client_folder().join("orders.tsv");
            self.orders = Some(OrderClient::start(world.resolver(), port, &ledger)?);
        }
        self.start_documents(world, &world.east())
    }

    fn start_documents(&mut self, world: &World, site: &Site) -> Result<()> {
        let place = Workplace { folder: site.documents(), address: site.address, database_port: world.database_port() };
        self.documents = None;
        self.documents = Some(DocumentWriter::start(place, world.resolver(), &self.document_ledgers)?);
        Ok(())
    }

    fn acknowledged_orders(&self) -> Result<Vec<Entry>> {
        self.orders.as_ref().map_or_else(|| Ok(Vec::new()), OrderClient::acknowledged)
    }

    /// When the first order since a moment was acknowledged at an address.
    fn first_order(&self, address: IpAddr, since: Timestamp) -> Result<Option<Timestamp>> {
        let orders = self.acknowledged_orders()?;
        Ok(orders.iter().find(|entry| entry.at > since && is_from(entry, address)).map(|entry| entry.at))
    }
}

/// Whether an order was acknowledged by the database at this address.
fn is_from(entry: &Entry, address: IpAddr) -> bool {
    entry.fields.first().is_some_and(|text| *text == address.to_string())
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Rebuilds the shop at west in isolation, while its users at east go on.
fn drill(world: &World, clients: &Clients, terminal: &Terminal) -> Result<Drill> {
    let line = terminal.step("drill", "rebuilding the shop at west, in isolation, and asking it the probe's questions");
    let begun_at = Timestamp::now();
    let started = Instant::now();
    let operator = world.operator.clone();
    let command = std::thread::spawn(move || operator.ended_run(&["drill", "shop"]));
    let mut probed_after = None;
    while !command.is_finished() {
        if probed_after.is_none() && world.operator.open_run()?.is_some_and(|run| run.is_probed()) {
            probed_after = Some(started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // One that has failed has removed what it had made, and the story goes on.
    let run = command.join().map_err(|_| anyhow!("the drill's thread has panicked"))??;
    let probe = run.verdict();
    let recovery_time_s = probed_after.unwrap_or_else(|| started.elapsed()).as_secs_f64();
    let during = clients.acknowledged_orders()?.iter().filter(|entry| entry.at > begun_at).count();
    let gone_on =
        if clients.orders.is_some() { format!("; {during} orders went on at east meanwhile") } else { String::new() };
    let done = if probe == PASSED { "rebuilt and probed in" } else { "failed after" };
    line.end(&format!("{done} {recovery_time_s:.1} s: {probe}; removed again{gone_on}"));
    Ok(Drill {
        recovery_time_s,
        recovery_point_age_s: point_age_s(&run, &clients.acknowledged_orders()?, begun_at),
        probe,
    })
}

/// How old the data in a drill were when it was asked for: the oldest of its assets. For the database
/// the rebuilt one itself said which order is its newest, and the client's ledger says when that was.
fn point_age_s(run: &Run, orders: &[Entry], asked_at: Timestamp) -> f64 {
    let newest_order = run.probes().iter().find_map(|probe| {
        let (_, rest) = probe.detail.split_once("newest order ")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    });
    let of_orders = newest_order.and_then(|newest| Some(orders.iter().rfind(|entry| entry.number <= newest)?.at));
    let moments = of_orders.into_iter().chain(run.copied_at());
    moments.map(|moment| seconds(moment, asked_at)).fold(0.0, f64::max)
}

/// Kills everything at east in the middle of the load, and brings the shop back at west. Also returns
/// what it has lost, which nothing later can bring back.
fn disaster(world: &mut World, clients: &mut Clients, terminal: &Terminal) -> Result<(Failover, Losses)> {
    let line = terminal.step("disaster", "everything at east is killed, the shop is brought back at west");
    let (east, west) = (world.east(), world.west());
    let killed_at = Timestamp::now();
    world.lose_east();
    clients.documents = None;
    let arguments = ["failover", "shop", "--to", "west", "--old-site-is-down"];
    let plan = Plan(world.operator.json(&[&arguments[..], &["--dry-run"]].concat())?);
    let predicted_loss = plan.predicted_loss();
    terminal.note(&format!("           announced: {}", plan.announcement()));
    let watch = NameWatch::start(world.resolver(), &west);
    let run = Run(world.operator.json(&arguments)?);
    run.check_done()?;
    let back_at = wait_back(clients, watch, &west, killed_at)?;

    let before: Vec<Entry> =
        clients.acknowledged_orders()?.into_iter().filter(|entry| is_from(entry, east.address)).collect();
    let orders = compare_orders(world, &before, &west)?;
    let changes = clients.document_ledgers.read()?;
    let documents = documents::compare(&changes, &clients.document_ledgers, &west.documents())?;
    clients.start_documents(world, &west)?;
    world.start_load(west.address)?;

    // Nothing at all would be as old as the shop.
    let age =
        |complete_until: Option<Timestamp>| complete_until.map_or(f64::INFINITY, |until| seconds(until, killed_at));
    let age_of_orders = if before.is_empty() { 0.0 } else { age(orders.complete_until) };
    let failover = Failover {
        acknowledged: before.len() as u64,
        lost: orders.lost.len() as u64,
        files_lost: documents.files(),
        recovery_point_age_s: age_of_orders.max(age(documents.complete_until)).max(0.0),
        recovery_time_s: seconds(killed_at, back_at),
        levee_share_s: levee_share_s(&run, killed_at, back_at)?,
        predicted_loss,
        steps: run.steps(),
    };
    line.end(&format!(
        "the shop is back at west {:.1} s after the kill; lost: {}",
        failover.recovery_time_s,
        lost_text(failover.lost, failover.acknowledged, failover.files_lost)
    ));
    Ok((failover, Losses { orders: orders.lost, documents: documents.lost }))
}

/// What of the time until the shop was back was neither copying, nor a database's start and replay, nor the client's wait
/// for the name.
fn levee_share_s(run: &Run, killed_at: Timestamp, back_at: Timestamp) -> Result<f64> {
    let switched_at = run.switched_at().context("the run says nothing of the name's switch")?;
    Ok(seconds(killed_at, switched_at.min(back_at)) - run.copied_and_replayed_s())
}

/// What the failover has lost for good.
struct Losses {
    orders: Vec<u64>,
    documents: Vec<Entry>,
}

fn compare_orders(world: &World, acknowledged: &[Entry], site: &Site) -> Result<OrderLoss> {
    match world.database_port() {
        Some(port) => orders::compare(acknowledged, SocketAddr::new(site.address, port)),
        None => Ok(OrderLoss::default()),
    }
}

/// The moment at which the shop's users had it back at a site.
fn wait_back(clients: &Clients, watch: NameWatch, site: &Site, since: Timestamp) -> Result<Timestamp> {
    if clients.orders.is_none() {
        return watch.result();
    }
    match poll(BACK_MAX, || clients.first_order(site.address, since).ok().flatten()) {
        Some(at) => Ok(at),
        None => bail!("no order was acknowledged at {} within {} s", site.name, BACK_MAX.as_secs()),
    }
}

/// Without a database nobody writes before the folder has been compared; then the shop counts as back
/// when its name leads to the site and its folder is there.
struct NameWatch(JoinHandle<Option<Timestamp>>);

impl NameWatch {
    fn start(mut resolver: Resolver, site: &Site) -> NameWatch {
        let (address, probe) = (site.address, site.documents().join(documents::CATALOGUE));
        NameWatch(std::thread::spawn(move || {
            poll(BACK_MAX, || {
                let leads_here = resolver.resolve().is_ok_and(|found| found == address);
                (leads_here && probe.exists()).then(Timestamp::now)
            })
        }))
    }

    fn result(self) -> Result<Timestamp> {
        self.0.join().ok().flatten().context("the shop's name did not lead to its new site in time")
    }
}

/// East returns and is protected against; then the shop goes home with nothing lost.
fn home(world: &mut World, clients: &mut Clients, lost_before: &Losses, terminal: &Terminal) -> Result<Switchover> {
    let line = terminal.step("home", "east returns, its old data are set aside, and west is protected at east");
    let (east, west) = (world.east(), world.west());
    world.east_agent = Some(world.start_agent(&east));
    world.operator.wait_protected("west")?;
    line.end(&format!("east is back, {}, and keeps west's copies now", set_aside(&east)));

    let line = terminal.step("home", "the shop moves to east");
    if clients.orders.is_none() {
        // With a database the folder's writer stops with it; here nobody else would stop it.
        clients.documents = None;
    }
    let begun_at = Timestamp::now();
    let watch = NameWatch::start(world.resolver(), &east);
    let run = Run(world.operator.json(&["switchover", "shop", "--to", "east", "--yes"])?);
    run.check_done()?;
    let back_at = wait_back(clients, watch, &east, begun_at)?;
    clients.documents = None;
    world.stop_load();

    let at_west: Vec<Entry> = clients
        .acknowledged_orders()?
        .into_iter()
        .filter(|entry| entry.at < back_at && !lost_before.orders.contains(&entry.number))
        .collect();
    let orders = compare_orders(world, &at_west, &east)?;
    let lost_for_good: HashSet<u64> = lost_before.documents.iter().map(|entry| entry.number).collect();
    let changes: Vec<Entry> =
        clients.document_ledgers.read()?.into_iter().filter(|entry| !lost_for_good.contains(&entry.number)).collect();
    let documents = documents::compare(&changes, &clients.document_ledgers, &east.documents())?;
    let last_at_west = at_west.iter().rfind(|entry| is_from(entry, west.address)).map_or(begun_at, |entry| entry.at);
    let switchover = Switchover {
        acknowledged: at_west.len() as u64,
        lost: orders.lost.len() as u64,
        files_lost: documents.files(),
        interruption_s: seconds(last_at_west, back_at),
    };
    line.end(&format!(
        "the shop is home; interrupted for {:.1} s; lost: {}",
        switchover.interruption_s,
        lost_text(switchover.lost, switchover.acknowledged, switchover.files_lost)
    ));
    Ok(switchover)
}

fn lost_text(orders: u64, of: u64, files: u64) -> String {
    let orders = if of > 0 { format!("{orders} of {of} orders, ") } else { String::new() };
    format!("{orders}changes of {files} files")
}

/// Says where a returned site's old data went.
fn set_aside(site: &Site) -> String {
    let is_ours = |name: &str| name.starts_with("postgres") || name.starts_with("documents");
    let entries = std::fs::read_dir(&site.folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str().map(str::to_string));
    let mut aside: Vec<String> =
        names.filter(|name| is_ours(name) && !["postgres", "documents"].contains(&name.as_str())).collect();
    aside.sort();
    if aside.is_empty() {
        "its old data set aside".into()
    } else {
        format!("its old data set aside ({})", aside.join(", "))
    }
}
