//! The result of a benchmark: samples in tables and curves, and which system is ahead in them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use carp_tests::lab::note;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// Everything about one benchmark; stored in `target/bench/NAME.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The name, such as `floods`.
    pub name: String,
    /// The heading.
    pub title: String,
    /// How it was measured, as Markdown paragraphs.
    pub method: String,
    /// Whether it was a run of under a minute, with fewer repetitions and fewer cases.
    pub quick: bool,
    /// The machine.
    pub machine: Machine,
    /// The wall-clock time that it took. Unit: s.
    pub seconds: u64,
    /// The tables.
    pub tables: Vec<Table>,
    /// The curves.
    pub curves: Vec<Curve>,
    /// The goals of carpd.
    pub goals: Vec<Goal>,
    /// What a reader has to know about the numbers, in a sentence or two each.
    pub remarks: Vec<String>,
    /// What was started: the owner, and the command line or configuration.
    pub commands: Vec<(String, String)>,
}

/// A goal of carpd, and whether every sample reached it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// The quantity, such as `outage after a crash`.
    pub what: String,
    /// The unit, such as `ms`.
    pub unit: String,
    /// The limit; no sample may be above it.
    pub most: f64,
    /// The worst sample; `None` if nothing was measured.
    pub worst: Option<f64>,
}

impl Goal {
    /// Creates the goal that no sample is above `most`.
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

    /// Whether it is reached.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.worst.is_some_and(|worst| worst <= self.most)
    }
}

/// A table with a row for each system and a column for each quantity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// The heading.
    pub title: String,
    /// The quantities.
    pub columns: Vec<Column>,
    /// The systems.
    pub rows: Vec<Row>,
    /// The index of the column that is drawn.
    pub drawn: Option<usize>,
}

/// One quantity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    /// The name with its unit: `outage, ms`.
    pub name: String,
    /// Which values are better.
    pub better: Better,
    /// Why carpd is not ahead, if it is not.
    pub why: Option<String>,
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Better {
    /// Less is better.
    Less,
    /// More is better.
    More,
    /// Neither: it depends, or the quantity only describes the conditions.
    Neither,
}

/// One system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The name with its settings.
    pub name: String,
    /// The side to which it belongs.
    pub side: Side,
    /// One cell for each column.
    pub cells: Vec<Cell>,
}

/// The side to which numbers belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// carpd's.
    Ours,
    /// ucarp's or keepalived's.
    Peer,
    /// Neither: nothing runs, or the physical limit.
    Limit,
    /// Shown to explain the others, and compared with nothing.
    Aside,
}

/// One quantity of one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Cell {
    /// Every sample, in order of measurement.
    Samples(Vec<f64>),
    /// Text instead of a number.
    Text(String),
}

/// A curve: y over x, with a line for each system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Curve {
    /// The heading.
    pub title: String,
    /// The x axis, with its unit.
    pub x: String,
    /// The y axis, with its unit.
    pub y: String,
    /// One line for each system.
    pub lines: Vec<Line>,
}

/// One system's line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The system.
    pub name: String,
    /// The side to which it belongs.
    pub side: Side,
    /// The points, with rising x.
    pub points: Vec<(f64, f64)>,
}

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle sample, or the mean of the middle two.
    pub median: f64,
    /// The least sample.
    pub low: f64,
    /// The greatest sample.
    pub high: f64,
    /// The number of samples.
    pub count: usize,
}

impl Cell {
    /// Creates a cell with a single sample.
    #[must_use]
    pub fn one(value: f64) -> Self {
        Self::Samples(vec![value])
    }

    /// Creates an empty cell.
    #[must_use]
    pub fn none() -> Self {
        Self::Text("–".to_owned())
    }

    /// Summarises its samples, if it has any.
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
    /// Creates a quantity of which less is better.
    #[must_use]
    pub fn less(name: &str) -> Self {
        Self::new(name, Better::Less)
    }

    /// Creates a quantity of which more is better.
    #[must_use]
    pub fn more(name: &str) -> Self {
        Self::new(name, Better::More)
    }

    /// Creates a quantity that only describes.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::new(name, Better::Neither)
    }

    /// Sets why carpd is behind, for the case that it is.
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

/// Medians this close are equal: they differ less than two runs do.
const TIE: f64 = 1.02;
/// Medians of two runs this far apart are worth mentioning.
const CHANGE: f64 = 1.1;

/// Something in which carpd is not ahead.
#[derive(Debug)]
pub struct Behind {
    /// In what, and by how much, as a sentence.
    pub what: String,
    /// The reason, if one is known.
    pub why: Option<String>,
}

impl Table {
    /// Lists where rows of carpd are behind the best peer or the limit: one item per column, with every such row.
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

    /// Lists the medians of carpd that changed from an earlier run to this one by more than runs differ, as
    /// sentences.
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

    /// Returns the medians of one side in a column, with their systems.
    fn medians(&self, column: usize, side: Side) -> impl Iterator<Item = (&str, f64)> {
        let rows = self.rows.iter().filter(move |row| row.side == side);
        rows.filter_map(move |row| {
            let median = row.cells.get(column)?.summary()?.median;
            Some((row.name.as_str(), median))
        })
    }

    /// Returns the best median of one side in a column, with its system.
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

    /// Returns the reference of a column's ratios: its best peer, or else its limit.
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
    /// Returns an error if a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)?;
        let path = file(directory, &self.name);
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("failed to write {}", path.display()))?;
        crate::plot::draw(self, directory)
    }

    /// Reads the last run of a benchmark, if there is one. A run that another version wrote in another form is
    /// ignored.
    ///
    /// # Errors
    /// Returns an error if a file exists and cannot be read.
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

/// Formats three significant digits, or all of a large number.
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
