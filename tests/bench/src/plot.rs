//! Reports as drawings.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::{Curve, Report, Side, Table, number};

const OURS: RGBColor = RGBColor(0, 110, 180);
const PEER: RGBColor = RGBColor(200, 90, 20);
const LIMIT: RGBColor = RGBColor(120, 120, 120);

/// Draws every table that has a drawn column, and every curve, as `NAME-INDEX.svg` and `NAME-curve-INDEX.svg`.
///
/// # Errors
/// Returns an error if a file cannot be written.
pub fn draw(report: &Report, directory: &Path) -> Result<()> {
    for (index, table) in report.tables.iter().enumerate() {
        if let Some(column) = table.drawn {
            let path = directory.join(format!("{}-{index}.svg", report.name));
            bars(table, column, &path)?;
        }
    }
    for (index, curve) in report.curves.iter().enumerate() {
        let path = directory.join(format!("{}-curve-{index}.svg", report.name));
        lines(curve, &path)?;
    }
    Ok(())
}

fn colour(side: Side) -> RGBColor {
    match side {
        Side::Ours => OURS,
        Side::Peer => PEER,
        Side::Limit | Side::Aside => LIMIT,
    }
}

/// The errors of plotters borrow their subject, so they are converted to text.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("failed to draw: {error}")
}

const WIDTH: u32 = 860;
const MARGIN: i32 = 12;
const LINE: i32 = 30;
/// Where the bars begin, and how long the longest one is.
const NAMES: i32 = 290;
const LONGEST: i32 = 400;

/// Draws a horizontal bar for each row: its length is the median, and a whisker goes from the least to the most.
fn bars(table: &Table, column: usize, path: &Path) -> Result<()> {
    let rows: Vec<_> = table
        .rows
        .iter()
        .filter_map(|row| Some((row, row.cells.get(column)?.summary()?)))
        .collect();
    let most = rows
        .iter()
        .map(|(_, summary)| summary.high)
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let height = u32::try_from(rows.len())? * LINE.unsigned_abs() + 70;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let title = format!("{}: {}", table.title, table.columns[column].name);
    let write = |text: &str, at: (i32, i32), size: i32| {
        area.draw(&Text::new(
            text.to_owned(),
            at,
            ("sans-serif", size).into_font().color(&BLACK),
        ))
        .map_err(failed)
    };
    write(&title, (MARGIN, MARGIN), 17)?;
    #[expect(clippy::cast_possible_truncation, reason = "at most LONGEST")]
    let length = |value: f64| (value / most * f64::from(LONGEST)) as i32;
    let mut top = 52;
    for (row, summary) in rows {
        let middle = top + LINE / 2 - 4;
        write(&row.name, (MARGIN, top + 2), 14)?;
        let bar = [
            (NAMES, top),
            (NAMES + length(summary.median).max(1), top + LINE - 10),
        ];
        area.draw(&Rectangle::new(bar, colour(row.side).filled()))
            .map_err(failed)?;
        let whisker = [
            (NAMES + length(summary.low), middle),
            (NAMES + length(summary.high), middle),
        ];
        area.draw(&PathElement::new(whisker, BLACK.stroke_width(2)))
            .map_err(failed)?;
        let after = NAMES + length(summary.high) + 8;
        write(&number(summary.median), (after, top + 2), 14)?;
        top += LINE;
    }
    area.present().map_err(failed)
}

/// Draws with logarithmic axes, because what matters is how the cost grows.
fn lines(curve: &Curve, path: &Path) -> Result<()> {
    let points = || curve.lines.iter().flat_map(|line| &line.points);
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let positive = || points().map(pick).filter(|value| *value > 0.0);
        let (low, high) = (
            positive().fold(f64::INFINITY, f64::min),
            positive().fold(0.0, f64::max),
        );
        (low * 0.7)..(high * 1.5)
    };
    let (across, up) = (range(|point| point.0), range(|point| point.1));
    if !(across.start.is_finite() && up.start.is_finite()) {
        return Ok(()); // nothing but zeros
    }
    let area = SVGBackend::new(path, (WIDTH, 460)).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&curve.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(70)
        .build_cartesian_2d(across.log_scale(), up.log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(&curve.x)
        .y_desc(&curve.y)
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .draw()
        .map_err(failed)?;
    for (index, line) in curve.lines.iter().enumerate() {
        // Lines of one side differ in strength.
        let same_side = curve.lines[..index]
            .iter()
            .filter(|other| other.side == line.side)
            .count();
        let style = colour(line.side).mix([1.0, 0.6, 0.35][same_side.min(2)]);
        let positive = || line.points.iter().copied().filter(|point| point.1 > 0.0);
        chart
            .draw_series(LineSeries::new(positive(), style.stroke_width(2)))
            .map_err(failed)?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style.stroke_width(2)));
        chart
            .draw_series(positive().map(|point| Circle::new(point, 3, style.filled())))
            .map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(LIMIT)
        .draw()
        .map_err(failed)?;
    area.present().map_err(failed)
}
