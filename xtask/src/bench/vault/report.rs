//! The measurements as medians, and as ratios to the newest restic.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::measured::Cost;
use super::super::median;
use super::alone::Ceiling;
use super::tools::Tool;

pub type Sample = Cost;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    FirstBackup,
    UnchangedBackup,
    Restore,
    Check,
    SmallFilesFirstBackup,
    SmallFilesUnchangedBackup,
}

impl Work {
    /// How many times as fast as the newest restic Levee means to be.
    fn bar(self) -> Option<f64> {
        match self {
            Work::FirstBackup => Some(1.5),
            Work::UnchangedBackup => Some(2.5),
            Work::Restore => Some(1.8),
            Work::Check => Some(1.3),
            Work::SmallFilesUnchangedBackup => Some(3.0),
            Work::SmallFilesFirstBackup => None,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Work::FirstBackup => "first backup",
            Work::UnchangedBackup => "unchanged backup",
            Work::Restore => "restore",
            Work::Check => "check --read-data",
            Work::SmallFilesFirstBackup => "small files, first backup",
            Work::SmallFilesUnchangedBackup => "small files, unchanged backup",
        }
    }
}

/// What a tool has stored of an image, and what each change of one per cent has added.
#[derive(Clone, Debug, Serialize)]
pub struct ImageRow {
    pub tool: String,
    pub first_bytes: u64,
    pub pages_bytes: u64,
    pub runs_bytes: u64,
}

/// What is done with the repository of many blobs.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobsStep {
    Open,
    SmallBackup,
    PrunePlan,
    Prune,
}

/// The bar for the memory of each step.
const BLOBS_MEMORY_BAR_BYTES: u64 = 2 << 30;

#[derive(Clone, Debug, Serialize)]
struct BlobsRow {
    step: BlobsStep,
    blobs: u64,
    #[serde(flatten)]
    cost: Cost,
    anonymous_bytes_bar: u64,
}

/// Everything that was measured.
pub struct Report {
    rounds: u32,
    samples: BTreeMap<(String, Work), Vec<Sample>>,
    repositories: BTreeMap<String, Vec<u64>>,
    images: Vec<ImageRow>,
    ceiling: Option<Ceiling>,
    blobs: Vec<BlobsRow>,
}

#[derive(Debug, Serialize)]
pub struct Summary {
    rounds: u32,
    /// What computing alone takes of the mixed tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<Ceiling>,
    works: Vec<WorkSummary>,
    repository_bytes: Vec<RepositorySummary>,
    images: Vec<ImageRow>,
    blobs: Vec<BlobsRow>,
}

#[derive(Debug, Serialize)]
struct WorkSummary {
    work: Work,
    tools: Vec<Figures>,
    /// Against the newest restic.
    levee: Option<Ratios>,
}

#[derive(Debug, Serialize)]
struct Ratios {
    /// The other's wall time as a part of Levee's: above 1 Levee is the faster one.
    speed: f64,
    speed_bar: Option<f64>,
    /// The other's processor time as a part of Levee's.
    cpu: f64,
    /// Levee's anonymous memory as a part of the other's. The bar is 1.
    memory: f64,
}

/// Medians over the rounds.
#[derive(Debug, Serialize)]
struct Figures {
    tool: String,
    wall_s: f64,
    cpu_s: f64,
    anonymous_bytes_max: f64,
}

#[derive(Debug, Serialize)]
struct RepositorySummary {
    tool: String,
    bytes: f64,
    /// As a part of the newest restic's. The bar is 1.02.
    ratio: Option<f64>,
}

impl Report {
    pub fn new(rounds: u32) -> Self {
        Self {
            rounds,
            samples: BTreeMap::new(),
            repositories: BTreeMap::new(),
            images: Vec::new(),
            ceiling: None,
            blobs: Vec::new(),
        }
    }

    pub fn add(&mut self, tool: &Tool, work: Work, sample: Sample) {
        self.samples.entry((tool.name.clone(), work)).or_default().push(sample);
    }

    pub fn repository(&mut self, tool: &Tool, bytes: u64) {
        self.repositories.entry(tool.name.clone()).or_default().push(bytes);
    }

    pub fn ceiling(&mut self, ceiling: Ceiling) {
        self.ceiling = Some(ceiling);
    }

    pub fn blobs(&mut self, step: BlobsStep, blobs: u64, cost: Cost) {
        self.blobs.push(BlobsRow { step, blobs, cost, anonymous_bytes_bar: BLOBS_MEMORY_BAR_BYTES });
    }

    pub fn image(&mut self, row: ImageRow) {
        self.images.push(row);
    }

    pub fn summary(self, tools: &[Tool]) -> Summary {
        let levee = tools.iter().find(|tool| tool.is_levee()).map(|tool| &tool.name);
        let peer = tools.iter().find(|tool| tool.is_restic()).map(|tool| &tool.name);
        let mut works: Vec<Work> = self.samples.keys().map(|(_, work)| *work).collect();
        works.sort_unstable();
        works.dedup();
        let works = works
            .into_iter()
            .map(|work| {
                let of = |name: &String| {
                    let samples = self.samples.get(&(name.clone(), work))?;
                    let middle = |value: fn(&Sample) -> f64| median(samples.iter().map(value).collect());
                    Some(Figures {
                        tool: name.clone(),
                        wall_s: middle(|sample| sample.wall_s),
                        cpu_s: middle(|sample| sample.cpu_s),
                        anonymous_bytes_max: middle(|sample| sample.anonymous_bytes_max as f64),
                    })
                };
                let ratios = levee.and_then(of).zip(peer.and_then(of)).map(|(levee, peer)| Ratios {
                    speed: peer.wall_s / levee.wall_s,
                    speed_bar: work.bar(),
                    cpu: peer.cpu_s / levee.cpu_s,
                    memory: levee.anonymous_bytes_max / peer.anonymous_bytes_max,
                });
                WorkSummary { work, tools: tools.iter().filter_map(|tool| of(&tool.name)).collect(), levee: ratios }
            })
            .collect();
        let bytes = |name: &String| {
            self.repositories.get(name).map(|sizes| median(sizes.iter().map(|size| *size as f64).collect()))
        };
        let peer_bytes = peer.and_then(bytes);
        let repository_bytes = tools
            .iter()
            .filter_map(|tool| {
                let bytes = bytes(&tool.name)?;
                let ratio = peer_bytes.map(|peer| bytes / peer);
                Some(RepositorySummary { tool: tool.name.clone(), bytes, ratio })
            })
            .collect();
        Summary {
            rounds: self.rounds,
            ceiling: self.ceiling,
            works,
            repository_bytes,
            images: self.images,
            blobs: self.blobs,
        }
    }
}

/// The figures for people.
pub fn table(summary: &Summary) -> String {
    let mut lines = Vec::new();
    if let Some(ceiling) = &summary.ceiling {
        lines.push(format!(
            "computing alone, with every blob read back: {:.0} MiB per CPU second, {:.2} CPU s for all of the tree; {:.2} CPU s for \
             a restore, {:.2} for a check",
            ceiling.mib_per_cpu_second, ceiling.cpu_s, ceiling.restore_cpu_s, ceiling.check_cpu_s
        ));
    }
    for work in &summary.works {
        lines.push(work.work.title().into());
        lines.extend(work.tools.iter().map(|figures| {
            format!(
                "  {:<16}{:>9.2} s {:>9.2} CPU s {:>7.0} MB",
                figures.tool,
                figures.wall_s,
                figures.cpu_s,
                figures.anonymous_bytes_max / 1e6
            )
        }));
        if let Some(ratios) = &work.levee {
            let bar = ratios.speed_bar.map_or_else(String::new, |bar| format!(" (bar {bar:.1})"));
            lines.push(format!(
                "  Levee against restic: {:.2} times as fast{bar}, {:.2} by CPU seconds, {:.2} of its memory",
                ratios.speed, ratios.cpu, ratios.memory
            ));
        }
    }
    for repository in &summary.repository_bytes {
        let ratio = repository.ratio.map_or_else(String::new, |ratio| format!(", {ratio:.3} of restic's"));
        lines.push(format!("repository of {}: {:.1} MB{ratio}", repository.tool, repository.bytes / 1e6));
    }
    for image in &summary.images {
        lines.push(format!(
            "image by {}: {:.1} MB, then {:.1} MB for 1 % of its pages, {:.1} MB for 1 % in runs of 1 MiB",
            image.tool,
            image.first_bytes as f64 / 1e6,
            image.pages_bytes as f64 / 1e6,
            image.runs_bytes as f64 / 1e6
        ));
    }
    for BlobsRow { step, blobs, cost, anonymous_bytes_bar } in &summary.blobs {
        lines.push(format!(
            "{blobs} blobs, {step:?}: {:.2} s, {:.2} CPU s, {:.0} MB (bar {:.0} MB)",
            cost.wall_s,
            cost.cpu_s,
            cost.anonymous_bytes_max as f64 / 1e6,
            *anonymous_bytes_bar as f64 / 1e6
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::tools::for_test;
    use super::*;

    #[test]
    fn ratios_above_one_are_good_for_levee_but_for_memory_and_size() {
        let tools = for_test();
        let mut report = Report::new(1);
        let cost = |wall_s, anonymous_bytes_max| Cost { wall_s, cpu_s: wall_s, anonymous_bytes_max };
        report.add(&tools[0], Work::Restore, cost(1.0, 50));
        report.add(&tools[1], Work::Restore, cost(3.0, 100));
        report.repository(&tools[0], 102);
        report.repository(&tools[1], 100);
        let summary = report.summary(&tools);
        let ratios = summary.works[0].levee.as_ref().unwrap();
        assert_eq!((ratios.speed, ratios.cpu, ratios.memory, ratios.speed_bar), (3.0, 3.0, 0.5, Some(1.8)));
        assert_eq!(summary.repository_bytes[0].ratio, Some(1.02));
    }
}
