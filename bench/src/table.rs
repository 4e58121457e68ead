//! Rows → `target/bench.json`, and the generated section of docs/benchmarks.md.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::stats::{Goal, Row, Spread};

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench` -->";
const END: &str = "<!-- end of figures -->";

pub fn json(rows: &[Row]) -> Value {
    rows.iter().map(entry).collect()
}

fn entry(row: &Row) -> Value {
    let ratios = row.ratios();
    let median = |values: &[f64]| Spread::of(values.iter().copied()).map(|s| s.median);
    json!({
        "name": row.name,
        "ours": median(&row.ours),
        "baseline": median(&row.baseline),
        "unit": row.unit,
        "ratio_min": ratios.map(|r| r.min),
        "ratio_median": ratios.map(|r| r.median),
        "ratio_max": ratios.map(|r| r.max),
        "goal": goal(row),
        "met": row.met(),
        "against": row.against,
        "ours_rounds": row.ours,
        "baseline_rounds": row.baseline,
        "note": row.note,
        "details": row.details,
    })
}

pub fn write_json(rows: &[Row], out: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&json(rows))?;
    fs::write(out, text + "\n").with_context(|| format!("cannot write {}", out.display()))
}

/// Replaces what stands between the markers; text around it is a person's.
pub fn write_page(rows: &[Row], machine: &str, command: &str, page: &Path) -> Result<()> {
    let old = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let new = spliced(&old, &section(rows, machine, command))
        .with_context(|| format!("{} has no line `{BEGIN}` before `{END}`", page.display()))?;
    fs::write(page, new).with_context(|| format!("cannot write {}", page.display()))
}

fn spliced(old: &str, section: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{section}\n{END}{after}"))
}

fn section(rows: &[Row], machine: &str, command: &str) -> String {
    let mut out = format!(
        "`{command}` on {machine}.\n\n| what | ours: min / **median** / max | baseline | ratio: min / **median** / max | goal | met |\n|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let note = if row.note.is_empty() {
            String::new()
        } else {
            format!("<br>{}", row.note)
        };
        let baseline = spread(&row.baseline, row.unit);
        let baseline = if row.baseline.is_empty() {
            "–".to_owned()
        } else {
            format!("{baseline}<br>{}", row.against)
        };
        let ratio = row.ratios().map_or_else(
            || "–".to_owned(),
            |r| format!("{:.2} / **{:.2}** / {:.2}", r.min, r.median, r.max),
        );
        let met = match row.met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        };
        out.push_str(&format!(
            "| {}{note} | {} | {baseline} | {ratio} | {} | {met} |\n",
            row.name,
            spread(&row.ours, row.unit),
            goal(row).unwrap_or_else(|| "–".to_owned()),
        ));
    }
    out
}

/// For a terminal: one line a row.
pub fn plain(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let ratio = row
            .ratios()
            .map_or_else(String::new, |r| format!(" = {:.2}x", r.median));
        let baseline = if row.baseline.is_empty() {
            String::new()
        } else {
            format!(" against {}", spread(&row.baseline, row.unit))
        };
        let verdict = match (row.met(), goal(row)) {
            (Some(true), Some(goal)) => format!(", meets {goal}"),
            (Some(false), Some(goal)) => format!(", MISSES {goal}"),
            _ => String::new(),
        };
        format!(
            "{}: {}{baseline}{ratio}{verdict}\n",
            row.name,
            spread(&row.ours, row.unit)
        )
    };
    rows.iter().map(line).collect()
}

fn spread(values: &[f64], unit: &str) -> String {
    Spread::of(values.iter().copied()).map_or_else(
        || "–".to_owned(),
        |s| {
            format!(
                "{} / **{}** / {} {unit}",
                shown(s.min),
                shown(s.median),
                shown(s.max)
            )
        },
    )
}

pub fn goal(row: &Row) -> Option<String> {
    let unit = row.unit;
    match row.goal {
        Goal::None => None,
        Goal::RatioAtLeast(bound) => Some(format!(">= {bound}x")),
        Goal::RatioAtMost(bound) => Some(format!("<= {bound}x")),
        Goal::MoreByAtMost(bound) => Some(format!("<= baseline + {bound} {unit}")),
        Goal::AtLeast(bound) => Some(format!(">= {} {unit}", shown(bound))),
        Goal::AtMost(bound) => Some(format!("<= {} {unit}", shown(bound))),
    }
}

/// Three digits that mean something, thousands apart.
pub fn shown(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text
        .split_once('.')
        .map_or((text.as_str(), None), |(w, r)| (w, Some(r)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    rest.map_or_else(
        || format!("{sign}{grouped}"),
        |rest| format!("{sign}{grouped}.{rest}"),
    )
}

/// Cores, processor, kernel, memory: what a figure is worth nothing without.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kib: f64 = field(&read("/proc/meminfo"), "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0);
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores of {}, {:.0} GiB, Linux {}, load {} at the start, {}",
        field(&read("/proc/cpuinfo"), "model name"),
        kib / f64::from(1 << 20),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split_whitespace().next().unwrap_or("?"),
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    fn row() -> Row {
        Row {
            name: "Kafka, no-op".into(),
            unit: "msg/s",
            goal: Goal::RatioAtLeast(0.85),
            ours: vec![80_000.0, 90_000.0, 70_000.0],
            baseline: vec![100_000.0, 100_000.0, 100_000.0],
            against: "rdkafka",
            note: "CPU 2 µs".into(),
            details: serde_json::Value::Null,
        }
    }

    #[test]
    fn the_list_has_the_agreed_fields() {
        let list = json(&[row()]);
        assert_eq!(list[0]["name"], "Kafka, no-op");
        assert_eq!(list[0]["ours"], 80_000.0);
        assert_eq!(list[0]["baseline"], 100_000.0);
        assert_eq!(list[0]["unit"], "msg/s");
        assert_eq!(list[0]["ratio_min"], 0.7);
        assert_eq!(list[0]["ratio_median"], 0.8);
        assert_eq!(list[0]["ratio_max"], 0.9);
        assert_eq!(list[0]["goal"], ">= 0.85x");
        assert_eq!(list[0]["met"], false);
    }

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let page = format!("# Title\nby hand\n{BEGIN}\nold\n{END}\nalso by hand\n");
        let new = spliced(&page, &section(&[row()], "a machine", "a command")).unwrap();
        assert!(new.starts_with("# Title\nby hand\n") && new.ends_with("\nalso by hand\n"));
        assert!(!new.contains("old"));
        assert!(new.contains("| 70 000 / **80 000** / 90 000 msg/s |"), "{new}");
        assert!(
            new.contains("0.70 / **0.80** / 0.90 | >= 0.85x | **no** |"),
            "{new}"
        );
        assert_eq!(spliced("no markers", ""), None);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(shown(1_234_567.8), "1 234 568");
        assert_eq!(shown(12.34), "12.3");
        assert_eq!(shown(0.456), "0.46");
        assert_eq!(shown(-1234.0), "-1 234");
    }
}
