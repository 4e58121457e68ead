//! `target/torture.json`, and the lines a person reads.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::checker::Report;
use crate::planted::Trial;

/// Rows of the fault matrix that ran, and how often.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub fault: String,
    pub times: u64,
}

/// The last run, and the last trial of each planted bug with the commit it was of.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    pub seed: u64,
    pub commit: String,
    pub faults: u64,
    pub messages: u64,
    pub handled: u64,
    pub dead: u64,
    /// What operators asked of hosts that share a store, and copies that replays made.
    pub asked: u64,
    pub replayed: u64,
    pub lost: u64,
    pub unexpected: u64,
    pub order_breaks: u64,
    pub duplicates: u64,
    pub duplicates_allowed: u64,
    pub duplicates_unexplained: u64,
    pub drained_s: f64,
    pub seconds: f64,
    pub rows: Vec<Row>,
    pub schedule: Vec<String>,
    pub planted: Vec<Trial>,
    /// Everything that is wrong.
    pub wrong: Vec<String>,
}

impl Summary {
    /// One run more.
    pub fn take(&mut self, report: &Report) {
        let count = |list: &[String]| list.len() as u64;
        self.faults += report.faults;
        self.messages += report.messages;
        self.handled += report.handled;
        self.dead += report.dead;
        self.asked += report.asked;
        self.replayed += report.replayed;
        self.lost += count(&report.lost);
        self.unexpected += count(&report.unexpected);
        self.order_breaks += count(&report.order_breaks);
        self.duplicates += report.duplicates;
        self.duplicates_allowed += report.duplicates_allowed;
        self.duplicates_unexplained += count(&report.unexplained);
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of a run")]
        let drained = report.drained_ms as f64 / 1000.0;
        self.drained_s = self.drained_s.max(drained);
        for (fault, times) in &report.fault_kinds {
            match self.rows.iter_mut().find(|row| row.fault == *fault) {
                Some(row) => row.times += times,
                None => self.rows.push(Row {
                    fault: fault.clone(),
                    times: *times,
                }),
            }
        }
        self.wrong.extend(report.faults_found());
    }

    /// What was written last; nothing when there is none that can be read.
    pub fn read(file: &Path) -> Self {
        let text = std::fs::read(file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Takes the place of an earlier trial of the same bug.
    pub fn judge(&mut self, trial: Trial) {
        self.planted.retain(|earlier| earlier.bug != trial.bug);
        self.planted.push(trial);
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(file, serde_json::to_string_pretty(self)?)?;
        Ok(())
    }

    #[allow(clippy::print_stdout, reason = "the result of the command")]
    pub fn print(&self) {
        println!("seed {} · commit {}", self.seed, self.commit);
        for row in &self.rows {
            println!("  {:<18} {:>4} ×", row.fault, row.times);
        }
        println!(
            "{} messages ({} handled, {} dead), {} asked of hosts, {} replayed, {} faults in {:.0} s: {} lost, {} unexpected, {} order breaks, \
             {} duplicates of {} allowed ({} unexplained), drained in {:.1} s",
            self.messages,
            self.handled,
            self.dead,
            self.asked,
            self.replayed,
            self.faults,
            self.seconds,
            self.lost,
            self.unexpected,
            self.order_breaks,
            self.duplicates,
            self.duplicates_allowed,
            self.duplicates_unexplained,
            self.drained_s
        );
        for line in &self.wrong {
            println!("WRONG: {line}");
        }
    }
}
