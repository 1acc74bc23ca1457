//! What a benchmark leaves: samples in tables and curves, and what they say about who is ahead.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use carp_tests::lab::note;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// Everything about one benchmark; `target/bench/NAME.json` holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// `floods`.
    pub name: String,
    /// Heading.
    pub title: String,
    /// How it was measured: Markdown paragraphs.
    pub method: String,
    /// A run of under a minute: fewer repetitions, fewer cases.
    pub quick: bool,
    /// Where.
    pub machine: Machine,
    /// Wall-clock time it took. Unit: s.
    pub seconds: u64,
    /// Results.
    pub tables: Vec<Table>,
    /// Results over a quantity.
    pub curves: Vec<Curve>,
    /// What was asked of carpd.
    pub goals: Vec<Goal>,
    /// What a reader has to know beside the numbers, a sentence or two each.
    pub remarks: Vec<String>,
    /// What was started: whose, and its command line or configuration.
    pub commands: Vec<(String, String)>,
}

/// Something asked of carpd, and whether it was so in every sample.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// `outage after a crash`.
    pub what: String,
    /// `ms`.
    pub unit: String,
    /// No sample may be above.
    pub most: f64,
    /// The worst one; none when nothing was measured.
    pub worst: Option<f64>,
}

impl Goal {
    /// That no sample is above `most`.
    #[must_use]
    pub fn at_most(
        what: &str,
        most: f64,
        unit: &str,
        samples: impl IntoIterator<Item = f64>,
    ) -> Self {
        Self {
            what: what.to_owned(),
            unit: unit.to_owned(),
            most,
            worst: samples.into_iter().reduce(f64::max),
        }
    }

    /// Whether it is so.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.worst.is_some_and(|worst| worst <= self.most)
    }
}

/// Rows of systems, columns of quantities.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// Quantities.
    pub columns: Vec<Column>,
    /// Systems.
    pub rows: Vec<Row>,
    /// The column that is drawn, by its index.
    pub drawn: Option<usize>,
}

/// One quantity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    /// With its unit: `outage, ms`.
    pub name: String,
    /// Which way is ahead.
    pub better: Better,
    /// Why carpd is not ahead, wherever it is not.
    pub why: Option<String>,
}

/// Which way is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Better {
    /// Less is better.
    Less,
    /// More is better.
    More,
    /// It depends, or only describes the conditions.
    Neither,
}

/// One system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// With its settings.
    pub name: String,
    /// Whose.
    pub side: Side,
    /// One for each column.
    pub cells: Vec<Cell>,
}

/// Whose numbers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// carpd's.
    Ours,
    /// ucarp's or keepalived's.
    Peer,
    /// Nobody's: nothing at all, or the physical limit.
    Limit,
    /// Shown to explain the others; nothing is compared with it.
    Aside,
}

/// One quantity of one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Cell {
    /// Every sample, in order of measurement.
    Samples(Vec<f64>),
    /// Words in place of a number.
    Text(String),
}

/// y over x, a line for each system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Curve {
    /// Heading.
    pub title: String,
    /// With unit.
    pub x: String,
    /// With unit.
    pub y: String,
    /// A line each.
    pub lines: Vec<Line>,
}

/// One system's line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// System.
    pub name: String,
    /// Whose.
    pub side: Side,
    /// Points, x rising.
    pub points: Vec<(f64, f64)>,
}

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// Least.
    pub low: f64,
    /// Most.
    pub high: f64,
    /// How many.
    pub count: usize,
}

impl Cell {
    /// A single sample.
    #[must_use]
    pub fn one(value: f64) -> Self {
        Self::Samples(vec![value])
    }

    /// Nothing to say.
    #[must_use]
    pub fn none() -> Self {
        Self::Text("–".to_owned())
    }

    /// Of its samples, if it has any.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let Self::Samples(samples) = self else {
            return None;
        };
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let count = sorted.len();
        let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
        Some(Summary {
            median,
            low,
            high,
            count,
        })
    }
}

impl Column {
    /// A quantity of which less is better.
    #[must_use]
    pub fn less(name: &str) -> Self {
        Self::new(name, Better::Less)
    }

    /// A quantity of which more is better.
    #[must_use]
    pub fn more(name: &str) -> Self {
        Self::new(name, Better::More)
    }

    /// A quantity that only describes.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::new(name, Better::Neither)
    }

    /// Why carpd is behind, should it be.
    #[must_use]
    pub fn because(mut self, why: &str) -> Self {
        self.why = Some(why.to_owned());
        self
    }

    fn new(name: &str, better: Better) -> Self {
        Self {
            name: name.to_owned(),
            better,
            why: None,
        }
    }
}

/// Two medians this close are equal: less than what one run differs from the next.
const TIE: f64 = 1.02;
/// Medians of two runs this far apart are worth telling.
const CHANGE: f64 = 1.1;

/// Where carpd is not ahead.
#[derive(Debug)]
pub struct Behind {
    /// In what, and by how much: a sentence.
    pub what: String,
    /// Why, where a reason is known.
    pub why: Option<String>,
}

impl Table {
    /// Where rows of carpd are behind the best peer or the limit: one for each column, with every such row.
    #[must_use]
    pub fn behind(&self) -> Vec<Behind> {
        (0..self.columns.len())
            .filter_map(|column| self.behind_in(column))
            .collect()
    }

    fn behind_in(&self, index: usize) -> Option<Behind> {
        let column = &self.columns[index];
        let others = [("best peer", Side::Peer), ("limit", Side::Limit)];
        let others: Vec<_> = others
            .into_iter()
            .filter_map(|(whom, side)| Some((whom, self.best(index, side)?)))
            .collect();
        let is_behind = |our: f64, their: f64| match column.better {
            Better::Less => our > their * TIE,
            Better::More => our * TIE < their,
            Better::Neither => false,
        };
        let rows: Vec<String> = self
            .medians(index, Side::Ours)
            .filter(|(_, our)| others.iter().any(|(_, (_, their))| is_behind(*our, *their)))
            .map(|(name, our)| format!("{name} {}", number(our)))
            .collect();
        let others = others
            .iter()
            .map(|(whom, (name, their))| format!("{whom}, {name}: {}", number(*their)));
        (!rows.is_empty()).then(|| Behind {
            what: format!(
                "**{}**, {}: {} ({})",
                self.title,
                column.name,
                rows.join("; "),
                others.collect::<Vec<_>>().join("; "),
            ),
            why: column.why.clone(),
        })
    }

    /// What moved from an earlier run of the same to this one by more than runs differ, of carpd: a sentence for each.
    #[must_use]
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            let old = before
                .columns
                .iter()
                .position(|old| old.name == column.name);
            let (Some(old), true) = (old, column.better != Better::Neither) else {
                continue;
            };
            for (name, now) in self.medians(index, Side::Ours) {
                let then = before.medians(old, Side::Ours).find(|then| then.0 == name);
                if let Some((_, then)) = then
                    && (now > then * CHANGE || then > now * CHANGE)
                {
                    changes.push(format!(
                        "**{}**, {}, {name}: {} → {}",
                        self.title,
                        column.name,
                        number(then),
                        number(now)
                    ));
                }
            }
        }
        changes
    }

    /// The medians of one side in a column, and whose they are.
    fn medians(&self, column: usize, side: Side) -> impl Iterator<Item = (&str, f64)> {
        let rows = self.rows.iter().filter(move |row| row.side == side);
        rows.filter_map(move |row| {
            let median = row.cells.get(column)?.summary()?.median;
            Some((row.name.as_str(), median))
        })
    }

    /// The best median of one side in a column, and whose it is.
    fn best(&self, column: usize, side: Side) -> Option<(&str, f64)> {
        let better = self.columns[column].better;
        let medians = self.medians(column, side);
        medians.min_by(|one, other| {
            let order = one.1.total_cmp(&other.1);
            if better == Better::More {
                order.reverse()
            } else {
                order
            }
        })
    }

    /// What the ratios of a column are to: its best peer, else its limit.
    #[must_use]
    pub fn reference(&self, column: usize) -> Option<f64> {
        if self.columns[column].better == Better::Neither {
            return None;
        }
        let best = |side| self.best(column, side).map(|(_, median)| median);
        best(Side::Peer)
            .or_else(|| best(Side::Limit))
            .filter(|median| *median > 0.0)
    }
}

impl Report {
    /// Writes the JSON and the drawings into `directory`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)?;
        let path = file(directory, &self.name);
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("failed to write {}", path.display()))?;
        crate::plot::draw(self, directory)
    }

    /// The last run of a benchmark, if there was one. What another version wrote in another form is as good as none.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn load(directory: &Path, name: &str) -> Result<Option<Self>> {
        let path = file(directory, name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read {}", path.display()));
            }
        };
        let report = serde_json::from_str(&text);
        if let Err(error) = &report {
            note(&format!("{} is left out: {error}", path.display()));
        }
        Ok(report.ok())
    }
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.json"))
}

/// Three significant digits, all of a large number.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 10_000.0 {
        // 12 345 678
        let digits = format!("{value:.0}");
        let (sign, digits) = digits
            .strip_prefix('-')
            .map_or(("", digits.as_str()), |digits| ("-", digits));
        let groups: Vec<&str> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .filter_map(|group| std::str::from_utf8(group).ok())
            .collect();
        format!("{sign}{}", groups.join(" "))
    } else if size >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}
