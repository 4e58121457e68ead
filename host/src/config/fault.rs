//! Faults of a configuration: all of them, each with its place, its code and what to do.

use std::fmt;
use std::sync::Arc;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};

use super::source::{Place, SourceFile};
use crate::error::Code;

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Fault {
    pub code: Code,
    pub message: String,
    pub place: Place,
    /// What stands under the marked stretch.
    pub label: Option<String>,
    /// The other end of a contradiction.
    pub also: Option<(Place, String)>,
    pub help: Option<String>,
}

impl Fault {
    pub fn new(code: Code, place: Place, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            place,
            label: None,
            also: None,
            help: None,
        }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub fn also(mut self, place: Place, label: impl Into<String>) -> Self {
        self.also = Some((place, label.into()));
        self
    }

    /// `{code, message, source, file, line, column, help, docs}`; absent parts are null.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "code": self.code.to_string(),
            "message": self.message,
            "source": self.place.to_string(),
            "file": self.place.file(),
            "line": self.place.line(),
            "column": self.place.column(),
            "help": self.help,
            "docs": format!("docs/errors/{}.md", self.code),
        })
    }

    fn order(&self) -> (u8, String, usize, usize) {
        let kind = match self.place {
            Place::File { .. } | Place::Named { .. } => 0,
            Place::Env(_) => 1,
            Place::Flag(_) => 2,
            Place::Default => 3,
        };
        let name = self
            .place
            .file()
            .map_or_else(|| self.place.to_string(), str::to_owned);
        (
            kind,
            name,
            self.place.line().unwrap_or(0),
            self.place.column().unwrap_or(0),
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { .. } | Place::Default => f.write_str(&self.message),
            place => write!(f, "{place}: {}", self.message),
        }
    }
}

impl std::error::Error for Fault {}

impl Diagnostic for Fault {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match &self.place {
            Place::File { file, .. } => Some(file.shown()),
            _ => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Place::File { file, span } = &self.place else {
            return None;
        };
        let first = LabeledSpan::new_primary_with_span(self.label.clone(), span.clone());
        let second = self.also.iter().filter_map(move |(place, label)| match place {
            Place::File { file: other, span } if Arc::ptr_eq(file, other) => {
                Some(LabeledSpan::new_with_span(Some(label.clone()), span.clone()))
            }
            _ => None,
        });
        Some(Box::new(std::iter::once(first).chain(second)))
    }
}

/// How faults are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A terminal with colours.
    Fancy,
    /// A file, a pipe, or `NO_COLOR`.
    Plain,
}

impl Style {
    /// `no_color` is true when the variable NO_COLOR is set to anything (<https://no-color.org>).
    pub fn of(terminal: bool, no_color: bool) -> Self {
        if terminal && !no_color {
            Self::Fancy
        } else {
            Self::Plain
        }
    }
}

/// All that is wrong, in the order of the files. Never empty.
#[derive(Debug, Clone)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    pub(super) fn sorted(mut faults: Vec<Fault>) -> Self {
        faults.sort_by_cached_key(Fault::order);
        faults.dedup_by(|a, b| a.message == b.message && a.order() == b.order());
        Self(faults)
    }

    /// Several lines, ending with a line feed.
    pub fn render(&self, style: Style) -> String {
        let theme = match style {
            Style::Fancy => GraphicalTheme::unicode(),
            Style::Plain => GraphicalTheme::unicode_nocolor(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_links(false)
            .with_width(110)
            .with_context_lines(1);
        let mut out = String::new();
        for fault in &self.0 {
            // Writing to a String cannot fail.
            let _ = handler.render_report(&mut out, fault);
            out.push('\n');
        }
        if self.0.len() > 1 {
            out.push_str(&format!("{} faults\n", self.0.len()));
        }
        out
    }

    /// `{"faults": […]}`, see [`Fault::to_json`].
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "faults": self.0.iter().map(Fault::to_json).collect::<Vec<_>>() })
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

/// Plain text, so that `eprintln!("{faults}")` is right everywhere.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl std::error::Error for Faults {}

/// Gives faults that know only `file:line` the line itself.
pub(super) fn with_snippets(faults: &mut [Fault], sources: &[Arc<SourceFile>]) {
    for fault in faults {
        if let Place::Named {
            file,
            line: Some(line),
        } = &fault.place
            && let Some(source) = sources.iter().find(|s| s.name() == file)
        {
            fault.place = Place::File {
                file: source.clone(),
                span: source.line_span(*line),
            };
        }
    }
}
