//! What a run of fuzzing came to, as a table.

use std::fmt::Write;

use super::corpus::Size;

#[derive(Debug)]
pub struct Report {
    pub target: &'static str,
    pub runs: Option<u64>,
    pub runs_per_second: Option<u64>,
    pub before: Size,
    pub after: Size,
    /// New files among the regressions.
    pub crashes: usize,
    /// libFuzzer ended with a crash, a timeout or without memory; also on a known input.
    pub failed: bool,
}

/// One of libFuzzer's final numbers: `stat::number_of_executed_units: 1234`.
pub fn stat(log: &str, name: &str) -> Option<u64> {
    let values = log
        .lines()
        .filter_map(|line| line.strip_prefix("stat::")?.split_once(':'));
    values
        .filter(|(found, _)| *found == name)
        .find_map(|(_, value)| value.trim().parse().ok())
}

pub fn table(reports: &[Report]) -> String {
    let number = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let mut out = format!(
        "{:<10} {:>10} {:>8}  {:<16} {:<16} crashes\n",
        "target", "runs", "runs/s", "corpus before", "after"
    );
    for r in reports {
        let crashes = match (r.failed, r.crashes) {
            (false, n) => n.to_string(),
            (true, 0) => "a known one, still".to_owned(),
            (true, n) => format!("{n} NEW"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<10} {:>10} {:>8}  {:<16} {:<16} {crashes}",
            r.target,
            number(r.runs),
            number(r.runs_per_second),
            r.before.to_string(),
            r.after.to_string(),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_the_log() {
        let log = "#12 DONE\nstat::number_of_executed_units: 3142\nstat::average_exec_per_sec:     285\n";
        assert_eq!(stat(log, "number_of_executed_units"), Some(3142));
        assert_eq!(stat(log, "average_exec_per_sec"), Some(285));
        assert_eq!(stat(log, "peak_rss_mb"), None);
    }

    #[test]
    fn a_failure_is_seen() {
        let report = |crashes, failed| Report {
            target: "route",
            runs: Some(7),
            runs_per_second: None,
            before: Size::default(),
            after: Size {
                files: 3,
                bytes: 1025,
            },
            crashes,
            failed,
        };
        let text = table(&[report(0, false), report(2, true), report(0, true)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().any(|l| l.ends_with("3 (2 KiB)        0")), "{text}");
        assert!(lines.iter().any(|l| l.ends_with("2 NEW")), "{text}");
        assert!(lines.iter().any(|l| l.ends_with("a known one, still")), "{text}");
    }
}
