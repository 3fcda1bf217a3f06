//! Backup, restore and check, by Levee and by its peers, on the same bytes in the same run.

mod alone;
mod blobs;
mod report;
mod sources;
mod tools;
mod within;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use levee_testing::TempSite;

use super::measured::{Cost, drop_page_cache, measure};
use super::memory_limit::MemoryLimit;
use crate::setup::{self, Needs};
use crate::workspace::given_or_built;
use report::{BlobsStep, ImageRow, Report, Sample, Work};
use sources::{Change, Extent};
use tools::{Place, Tool};

#[derive(clap::Args)]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// How often each work is measured
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// What to measure; without it the mixed tree, in some 15 minutes. The others are for being run one by one
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Tree])]
    parts: Vec<Part>,
    /// Back up this folder instead of the mixed tree of about 4 GiB
    #[arg(long, value_name = "FOLDER")]
    source: Option<PathBuf>,
    /// How large the image is whose pages change, in GiB
    #[arg(long, default_value_t = 10)]
    image_gib: u64,
    /// How many small files there are
    #[arg(long, default_value_t = 1_000_000)]
    small_files: u64,
    /// How many blobs the synthetic repository has
    #[arg(long, default_value_t = 50_000_000)]
    blobs: u64,
    /// The memory that each measured program may have, what the kernel keeps of its files included
    #[arg(long, value_name = "MIB")]
    memory_limit_mib: Option<u64>,
    /// Only tools whose name begins with one of these: levee, restic, borg, rustic
    #[arg(long, value_delimiter = ',')]
    tools: Vec<String>,
    /// Where the trees and repositories are made; up to 30 GB
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp")]
    work_folder: PathBuf,
    /// Use this program instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// First backup, unchanged backup, restore and check of a mixed tree, and what computing alone takes
    Tree,
    /// What a second backup of an image adds, of which one per cent has changed
    Image,
    /// First and unchanged backup of a great many small files
    Files,
    /// Opening, a small backup and a prune of a repository with a great many blobs, by Levee alone
    Blobs,
}

pub fn run(options: Options) -> Result<()> {
    setup::set_up(Needs::Benchmarks)?;
    let levee = given_or_built(options.binary.as_deref())?;
    let wanted = |tool: &Tool| {
        options.tools.is_empty() || options.tools.iter().any(|wanted| tool.name.starts_with(wanted.as_str()))
    };
    let tools: Vec<Tool> = tools::all(levee)?.into_iter().filter(wanted).collect();
    if tools.is_empty() {
        bail!("there is no tool of the name {}", options.tools.join(", "));
    }
    if options.parts.iter().any(|part| matches!(part, Part::Tree | Part::Blobs)) {
        within::build()?;
    }
    let site = TempSite::below(&options.work_folder, "bench");
    let memory_limit = options.memory_limit_mib.map(|mebibytes| MemoryLimit::new(mebibytes << 20)).transpose()?;
    let bench = Bench { options, tools, folder: site.path().to_path_buf(), memory_limit };
    let mut report = Report::new(bench.options.rounds);
    for part in &bench.options.parts {
        match part {
            Part::Tree => bench.tree(&mut report)?,
            Part::Image => bench.image(&mut report)?,
            Part::Files => bench.files(&mut report)?,
            Part::Blobs => bench.blobs(&mut report)?,
        }
    }
    let summary = report.summary(&bench.tools);
    let table = report::table(&summary);
    if bench.options.json {
        eprint!("{table}");
        println!("{}", serde_json::to_string(&summary)?)
    } else {
        print!("{table}")
    }
    Ok(())
}

struct Bench {
    options: Options,
    tools: Vec<Tool>,
    folder: PathBuf,
    memory_limit: Option<MemoryLimit>,
}

impl Bench {
    fn tree(&self, report: &mut Report) -> Result<()> {
        let made = self.folder.join("tree");
        let source = match &self.options.source {
            Some(source) => source.clone(),
            None => {
                eprintln!("making the mixed tree");
                fs::create_dir_all(&made)?;
                sources::mixed_tree(&made)?;
                made.clone()
            }
        };
        let extent = sources::extent(&source, true)?;
        eprintln!("{} files, {:.2} GiB", extent.files, extent.bytes as f64 / f64::from(1 << 30));
        report.ceiling(alone::measure(&source)?);
        for round in 0..self.options.rounds {
            for tool in self.order(round) {
                let target = self.folder.join(format!("restored-{round}-{}", tool.name.replace(' ', "-")));
                self.tree_once(tool, &source, &target, extent, report)
                    .with_context(|| format!("{}, round {}", tool.name, round + 1))?;
            }
        }
        remove(&made)
    }

    fn tree_once(&self, tool: &Tool, source: &Path, target: &Path, extent: Extent, report: &mut Report) -> Result<()> {
        let place = self.place(tool)?;
        // The source is in the page cache for everyone: what is measured is the tool.
        sources::extent(source, true)?;
        report.add(tool, Work::FirstBackup, self.measured(tool, tool.backup(&place, source, 0))?);
        report.repository(tool, sources::extent(&place.repository, false)?.bytes);
        report.add(tool, Work::UnchangedBackup, self.measured(tool, tool.backup(&place, source, 1))?);
        drop_page_cache()?;
        report.add(tool, Work::Check, self.measured(tool, tool.check(&place))?);
        fs::create_dir_all(target)?;
        drop_page_cache()?;
        report.add(tool, Work::Restore, self.measured(tool, tool.restore(&place, target))?);
        let restored = sources::extent(target, false)?;
        if restored != extent {
            bail!("{} has restored {restored:?} of {extent:?}", tool.name);
        }
        // Not removed before the end: for minutes ext4 steps around the inodes of removed files one by one, which
        // would cost whoever restores next more than the restore.
        sources::empty(target)?;
        self.clear(&place)
    }

    fn image(&self, report: &mut Report) -> Result<()> {
        let source = self.folder.join("image");
        fs::create_dir_all(&source)?;
        let path = source.join("disk.img");
        for tool in self.tools.iter().filter(|tool| tool.is_levee() || tool.is_restic()) {
            eprintln!("making the image for {}", tool.name);
            let place = self.place(tool)?;
            sources::half_random_image(&path, self.options.image_gib << 30)?;
            self.measured(tool, tool.image_backup(&place, &path, 0))?;
            let mut stored = sources::extent(&place.repository, false)?.bytes;
            let mut row = ImageRow { tool: tool.name.clone(), first_bytes: stored, pages_bytes: 0, runs_bytes: 0 };
            for (change, added) in [(Change::Pages, &mut row.pages_bytes), (Change::Runs, &mut row.runs_bytes)] {
                sources::change_image(&path, change)?;
                self.measured(tool, tool.image_backup(&place, &path, 1))?;
                let now = sources::extent(&place.repository, false)?.bytes;
                (*added, stored) = (now - stored, now);
            }
            report.image(row);
            self.clear(&place)?;
        }
        remove(&source)
    }

    fn files(&self, report: &mut Report) -> Result<()> {
        eprintln!("making {} small files", self.options.small_files);
        let source = self.folder.join("small");
        sources::small_files(&source, self.options.small_files)?;
        for round in 0..self.options.rounds {
            for tool in self.order(round) {
                let place = self.place(tool)?;
                let first = self.measured(tool, tool.backup(&place, &source, 0))?;
                report.add(tool, Work::SmallFilesFirstBackup, first);
                let unchanged = self.measured(tool, tool.backup(&place, &source, 1))?;
                report.add(tool, Work::SmallFilesUnchangedBackup, unchanged);
                self.clear(&place)?;
            }
        }
        remove(&source)
    }

    /// Levee alone: what is measured is whether it stays within a machine's memory.
    fn blobs(&self, report: &mut Report) -> Result<()> {
        let Some(tool) = self.tools.iter().find(|tool| tool.is_levee()) else { return Ok(()) };
        let place = self.place(tool)?;
        eprintln!("making a repository of {} blobs", self.options.blobs);
        let made = blobs::make(&place.repository, self.options.blobs)?;
        let source = self.folder.join("few");
        sources::small_files(&source, blobs::SMALL_BACKUP_FILES)?;
        let mut step = |what: BlobsStep, command| -> Result<()> {
            report.blobs(what, self.options.blobs, self.measured(tool, command)?);
            Ok(())
        };
        step(BlobsStep::Open, tool.levee(&place, &["ls", "latest", "/folder-00000000"]))?;
        step(BlobsStep::SmallBackup, tool.backup(&place, &source, 1))?;
        self.measured(tool, tool.levee(&place, &["forget", &made.to_remove]))?;
        // What is repacked by default is planned alone: of packs that are holes nothing can be read.
        step(BlobsStep::PrunePlan, tool.levee(&place, &["prune", "--dry-run", "--grace", "0"]))?;
        step(BlobsStep::Prune, tool.levee(&place, &["prune", "--max-unused", "unlimited", "--grace", "0"]))?;
        let left = blobs::packs(&place.repository)?;
        if left >= made.packs {
            bail!("nothing was pruned: {left} packs are left of {}", made.packs);
        }
        remove(&source)?;
        self.clear(&place)
    }

    /// Every second round runs the other way about, so that nobody always comes after the same one.
    fn order(&self, round: u32) -> Vec<&Tool> {
        let mut order: Vec<&Tool> = self.tools.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        order
    }

    /// A new repository.
    fn place(&self, tool: &Tool) -> Result<Place> {
        let place = Place { repository: self.folder.join("repository"), home: self.folder.join("home") };
        self.clear(&place)?;
        fs::create_dir_all(&place.home)?;
        self.measured(tool, tool.init(&place))?;
        Ok(place)
    }

    fn clear(&self, place: &Place) -> Result<()> {
        remove(&place.repository)?;
        remove(&place.home)
    }

    fn measured(&self, tool: &Tool, mut command: std::process::Command) -> Result<Sample> {
        // What an earlier work left to be written is not this one's cost.
        rustix::fs::sync();
        let shown = command.get_args().take(3).map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
        if let Some(limit) = &self.memory_limit {
            command = limit.around(&command);
        }
        let cost: Cost = measure(&mut command, &self.folder.join("log"))?;
        eprintln!(
            "{:<16} {:<44} {:>8.2} s {:>8.2} CPU s {:>6} MB",
            tool.name,
            shown,
            cost.wall_s,
            cost.cpu_s,
            cost.anonymous_bytes_max / 1_000_000
        );
        Ok(cost)
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
