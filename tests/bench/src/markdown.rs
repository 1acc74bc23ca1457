//! Reports as text. A table on a terminal is a table in Markdown.

use std::fmt::Write as _;

use crate::report::{Better, Cell, Goal, Report, Table, number};

/// Returns the whole report, with headings one level below `level` hashes.
#[must_use]
pub fn report(report: &Report, drawings: Option<&str>) -> String {
    let mut text = format!("## {}\n\n{}\n", report.title, report.method);
    for (index, part) in report.tables.iter().enumerate() {
        let _ = write!(text, "\n### {}\n\n{}", part.title, table(part));
        if let (Some(place), Some(_)) = (drawings, part.drawn) {
            let _ = write!(
                text,
                "\n![{}]({place}/{}-{index}.svg)\n",
                part.title, report.name
            );
        }
    }
    for (index, curve) in report.curves.iter().enumerate() {
        let _ = match drawings {
            Some(place) => write!(
                text,
                "\n![{}]({place}/{}-curve-{index}.svg)\n",
                curve.title, report.name
            ),
            None => Ok(()),
        };
    }
    let goals = report.goals.iter().map(goal);
    let list: Vec<String> = goals.chain(report.remarks.iter().cloned()).collect();
    for item in &list {
        let _ = write!(text, "\n- {item}");
    }
    if !list.is_empty() {
        text.push('\n');
    }
    text
}

/// Returns whether each goal is met, and by how much.
#[must_use]
pub fn goal(goal: &Goal) -> String {
    let verdict = if goal.is_met() { "met" } else { "**not met**" };
    let worst = goal.worst.map_or_else(
        || "not measured".to_owned(),
        |worst| format!("at worst {}", number(worst)),
    );
    let (what, most, unit) = (&goal.what, number(goal.most), &goal.unit);
    format!("Goal {verdict}: {what}, at most {most} {unit}: {worst}.")
}

/// Pads columns to one width, so that the source is readable as well.
#[must_use]
pub fn table(table: &Table) -> String {
    let mut lines = vec![
        std::iter::once(String::new())
            .chain(table.columns.iter().map(heading))
            .collect::<Vec<_>>(),
    ];
    for row in &table.rows {
        let cells = row.cells.iter().enumerate();
        let cells = cells.map(|(index, value)| cell(value, table.reference(index)));
        lines.push(std::iter::once(row.name.clone()).chain(cells).collect());
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| {
            let lengths = lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|text| text.chars().count());
            lengths.max().unwrap_or_default().max(3)
        })
        .collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if index == 0 {
            for width in &widths {
                let _ = write!(text, "|-{:-<width$}-", "");
            }
            text.push_str("|\n");
        }
    }
    text
}

fn heading(column: &crate::report::Column) -> String {
    let arrow = match column.better {
        Better::Less => " ↓",
        Better::More => " ↑",
        Better::Neither => "",
    };
    format!("{}{arrow}", column.name)
}

/// Returns `median [least … most] ×ratio`.
fn cell(cell: &Cell, reference: Option<f64>) -> String {
    let Some(summary) = cell.summary() else {
        return match cell {
            Cell::Text(text) => text.clone(),
            Cell::Samples(_) => "–".to_owned(),
        };
    };
    let mut text = number(summary.median);
    if summary.count > 1 && summary.low < summary.high {
        let _ = write!(
            text,
            " [{} … {}]",
            number(summary.low),
            number(summary.high)
        );
    }
    if let Some(reference) = reference {
        let _ = write!(text, " ×{}", ratio(summary.median / reference));
    }
    text
}

fn ratio(ratio: f64) -> String {
    if ratio > 0.0 && ratio < 0.01 {
        format!("1/{}", number(1.0 / ratio))
    } else {
        format!("{ratio:.2}")
    }
}
