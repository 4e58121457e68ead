//! Finds the file, puts environment and flags over it, checks the whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::explain::{self, Explained};
use super::fault::{Fault, Faults};
use super::source::{Place, SourceFile, quoted};
use super::tree::{self, Node, from_text};
use super::{check, env, promises, raw, schema, valid, walk};
use crate::broker::Capabilities;
use crate::error;

/// Everything that decides the outcome, but for the files themselves.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// `--config`; else the usual places.
    pub path: Option<PathBuf>,
    /// Name without dashes and value: `("listen", "127.0.0.1:0")`, one of [`FLAGS`], or a path such as `("limits.headers", "50")`.
    pub flags: Vec<(String, String)>,
    pub env: BTreeMap<String, String>,
    /// What relative paths start from.
    pub cwd: PathBuf,
}

/// Short names of flags and what they set.
pub const FLAGS: [(&str, &str); 8] = [
    ("listen", "host.listen"),
    ("state-dir", "host.state_dir"),
    ("plugins-dir", "host.plugins_dir"),
    ("drain", "host.drain"),
    ("log", "host.log"),
    ("tasks", "messaging.tasks"),
    ("events", "messaging.events"),
    ("topology", "messaging.topology"),
];

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: valid::Settings,
    /// Every effective value, sorted by path.
    pub explain: Vec<Explained>,
    /// What was read, for a watcher: the configuration, then the topology when it is a file.
    pub files: Vec<PathBuf>,
    sources: Vec<Arc<SourceFile>>,
}

impl Loaded {
    /// [`promises::check_promises`], with the line of each route shown.
    pub fn check_promises(&self, capabilities: impl Fn(&str) -> Capabilities) -> Result<(), Faults> {
        let mut faults = promises::check_promises(&self.settings, capabilities);
        super::fault::with_snippets(&mut faults, &self.sources);
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Faults::sorted(faults))
        }
    }
}

/// A configuration is text written by people; more than this is a mistake.
const LARGEST: u64 = 4 << 20;

pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is larger than 4 MiB",
        ));
    }
    Ok(text)
}

/// File, environment, flags; then all checks. Errors hold every fault that was found.
#[expect(clippy::needless_pass_by_value, reason = "callers build one for each load")]
pub fn load(request: LoadRequest) -> Result<Loaded, Faults> {
    let (path, text) = find(&request)?;
    let name = display(&path, &request.cwd);
    let file = SourceFile::new(&name, &text);
    let (mut tree, mut faults) = tree::parse(&file, &text);
    if !faults.is_empty() {
        // What a broken file means is a guess; guesses make false faults.
        return Err(Faults::sorted(faults));
    }
    faults.extend(env::overlay(&mut tree, &request.env));
    flags(&mut tree, &request.flags, &mut faults);
    let declared = check::Declared::of(&tree);
    faults.extend(walk::walk(&mut tree, schema::helix()));
    let raw: raw::Raw = serde::Deserialize::deserialize(tree.plain()).map_err(|e: toml::de::Error| {
        // The walk lets nothing through that serde refuses; if it does, the fault still has a place.
        let mut all = faults.clone();
        all.push(Fault::new(
            error::CONFIG_VALUE,
            tree.place.clone(),
            e.message().to_owned(),
        ));
        Faults::sorted(all)
    })?;
    let mut check = check::Check::new(&tree, &file, &request, declared, faults);
    let settings = check.settings(&raw, &path);
    let check::Check { faults, topology, .. } = check;
    let Some(settings) = settings.filter(|_| faults.is_empty()) else {
        return Err(Faults::sorted(faults));
    };
    let mut files = vec![path];
    let mut sources = vec![file];
    if let Some((path, source)) = topology {
        files.push(path);
        sources.push(source);
    }
    Ok(Loaded {
        settings,
        explain: explain::explain(&tree, &raw),
        files,
        sources,
    })
}

fn find(request: &LoadRequest) -> Result<(PathBuf, String), Faults> {
    if let Some(path) = &request.path {
        let path = request.cwd.join(path);
        return match read(&path) {
            Ok(text) => Ok((path, text)),
            Err(e) => Err(unreadable(&display(&path, &request.cwd), &e)),
        };
    }
    let places = places(request);
    for path in &places {
        match read(path) {
            Ok(text) => return Ok((path.clone(), text)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(unreadable(&display(path, &request.cwd), &e)),
        }
    }
    let looked: Vec<String> = places.iter().map(|p| display(p, &request.cwd)).collect();
    let message = format!("no helix.toml was found; looked at {}", looked.join(", "));
    Err(Fault::new(error::CONFIG_FILE, Place::Default, message)
        .help("`helix new NAME` makes a project with one, `--config PATH` names one")
        .into())
}

fn places(request: &LoadRequest) -> Vec<PathBuf> {
    let mut places = vec![
        request.cwd.join("config/helix.toml"),
        request.cwd.join("helix.toml"),
    ];
    let set = |name: &str| request.env.get(name).filter(|v| !v.is_empty());
    let xdg = set("XDG_CONFIG_HOME").map(PathBuf::from);
    if let Some(dir) = xdg.or_else(|| set("HOME").map(|home| Path::new(home).join(".config"))) {
        places.push(dir.join("helix/helix.toml"));
    }
    places.push("/etc/helix/helix.toml".into());
    places
}

fn unreadable(name: &str, e: &io::Error) -> Faults {
    let place = Place::Named {
        file: name.to_owned(),
        line: None,
    };
    Fault::new(error::CONFIG_FILE, place, format!("cannot be read: {e}"))
        .help("check the path and its permissions; `helix config reference` prints a file to start from")
        .into()
}

/// Relative to the working directory when it is inside.
pub(super) fn display(path: &Path, cwd: &Path) -> String {
    path.strip_prefix(cwd).unwrap_or(path).display().to_string()
}

fn flags(tree: &mut Node, flags: &[(String, String)], faults: &mut Vec<Fault>) {
    for (name, text) in flags {
        let name = name.trim_start_matches('-');
        let place = Place::Flag(name.to_owned());
        let path = FLAGS
            .iter()
            .find(|(short, _)| *short == name)
            .map_or(name, |(_, path)| path);
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            faults.push(Fault::new(
                error::CONFIG_UNKNOWN_KEY,
                place,
                format!("{} is no path", quoted(name)),
            ));
        } else if let Err(what) = tree.set(&path, from_text(text, place.clone())) {
            faults.push(Fault::new(error::CONFIG_UNKNOWN_KEY, place, what));
        }
    }
}
