//! Two sites, one real application: protect it, lose the site, live on at the other, come home.

pub mod control;
mod dns;
mod documents;
mod ledger;
mod orders;
mod protection;
mod report;
mod scenario;
mod terminal;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use levee_testing::levee::Binary;
use levee_testing::postgres::Binaries;
use levee_testing::process::kill_all_under;
use levee_testing::wait::poll;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::setup::{self, Needs};
use crate::workspace::{given_or_built, root};
use control::Operator;
use report::Report;
use terminal::Terminal;
use world::World;

/// What a user may choose.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print the report as one JSON object on the last line of standard output
    #[arg(long)]
    json: bool,
    /// Print nothing but the report
    #[arg(long)]
    quiet: bool,
    /// A small database and few files
    #[arg(long)]
    quick: bool,
    /// Run with the files alone
    #[arg(long)]
    no_postgres: bool,
    /// When it fails, end all processes and leave the folder
    #[arg(long)]
    keep: bool,
    /// Use this program instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// How much the shop holds.
#[derive(Clone, Copy)]
pub struct Size {
    /// pgbench's scale: about 15 MB for each unit.
    pgbench_scale: u32,
    files_max: usize,
}

const WHOLE: Size = Size { pgbench_scale: 70, files_max: 10_000 };
const QUICK: Size = Size { pgbench_scale: 5, files_max: 1000 };
const LOG_LINES_ON_FAILURE: usize = 25;
const REMOVAL_MAX: Duration = Duration::from_secs(10);
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

pub fn run(options: Options) -> Result<()> {
    let terminal = Terminal::new(options.quiet, options.json);
    let postgres = if options.no_postgres { None } else { find_postgres(&terminal) };
    if options.binary.is_none() {
        terminal.note("building levee");
    }
    let binary = Binary::at(given_or_built(options.binary.as_deref())?);
    let example =
        std::fs::read_to_string(root().join("examples/shop.toml")).context("cannot read examples/shop.toml")?;
    let size = if options.quick { QUICK } else { WHOLE };

    let world = World::new(binary, postgres, size, &example)?;
    let interrupted = clean_up_on_signals(world.root())?;
    // In a thread of its own, so that a failed assertion of the harness cleans up as an error does.
    let for_story = terminal.clone();
    let story = std::thread::spawn(move || tell(world, &for_story, &example, options.keep));
    let told = story.join();
    while interrupted.load(Ordering::SeqCst) {
        // The story broke off because its world is being removed; whoever does that ends this process.
        std::thread::park();
    }
    let report = told.map_err(|_| anyhow!("the demo's harness has failed; see above"))??;
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    let faults = report.faults();
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    Ok(())
}

fn find_postgres(terminal: &Terminal) -> Option<Binaries> {
    let set_up = setup::set_up(Needs::Demo);
    // It may be there although something else could not be installed.
    let reason = match (Binaries::installed(), set_up) {
        (Some(binaries), Ok(())) => return Some(binaries),
        (Some(binaries), Err(error)) => {
            terminal.note(&format!("not everything could be set up: {error:#}"));
            return Some(binaries);
        }
        (None, Ok(())) => "it was installed and is not to be found".to_string(),
        (None, Err(error)) => format!("{error:#}"),
    };
    terminal.note(&format!("PostgreSQL is not to be had ({reason}): the demo runs with the files alone"));
    None
}

fn tell(mut world: World, terminal: &Terminal, example: &str, keep: bool) -> Result<Report> {
    let poller = AgePoller::start(world.operator.clone(), terminal.clone());
    let result = scenario::play(&mut world, terminal, example);
    drop(poller);
    let is_well = result.as_ref().is_ok_and(|report| report.faults().is_empty());
    if !is_well && world.root().exists() {
        eprintln!("{}", world.log_tails(LOG_LINES_ON_FAILURE));
        if keep {
            eprintln!("left for a look: {}", world.keep().display());
        }
    }
    result
}

/// Keeps the ages on the terminal up to date, by asking as any user would.
struct AgePoller {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AgePoller {
    fn start(operator: Operator, terminal: Terminal) -> AgePoller {
        let stop = Arc::new(AtomicBool::new(false));
        let told_to_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told_to_stop.load(Ordering::Relaxed) {
                // Before the server answers there is nothing to show.
                if let Ok(status) = operator.status() {
                    terminal.show_ages(status.ages());
                }
                std::thread::sleep(STATUS_INTERVAL);
            }
        });
        AgePoller { stop, thread: Some(thread) }
    }
}

impl Drop for AgePoller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

/// On Ctrl-C: says so in what it returns, ends everything below the demo's folder, removes it, and ends
/// this process.
fn clean_up_on_signals(folder: &Path) -> Result<Arc<AtomicBool>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for Ctrl-C")?;
    let folder = folder.to_path_buf();
    let interrupted = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&interrupted);
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            told.store(true, Ordering::SeqCst);
            eprintln!("\ninterrupted; removing what the demo has made");
            kill_all_under(&folder);
            // The demo's own threads still write there: under another name they find it no more.
            let removed = folder.with_extension("removed");
            let is_gone = std::fs::rename(&folder, &removed).is_err()
                || poll(REMOVAL_MAX, || std::fs::remove_dir_all(&removed).ok()).is_some();
            // What was about to start when the rest was killed.
            kill_all_under(&folder);
            if !is_gone {
                eprintln!("cannot remove {}", removed.display());
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(interrupted)
}
