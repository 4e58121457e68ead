//! Error codes that people see. Each has a page `docs/errors/HXnnnn.md` with the remedy; a test keeps the two in step.
//!
//! Ranges: 01 config and topology · 02 brokers · 03 plugins and guests · 04 store · 05 HTTP · 06 command line ·
//! 07 replay.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HX{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        $($(#[$doc])* pub const $name: Code = Code($number);)*
        /// Every code, for the test that looks for their pages.
        pub const ALL: &[Code] = &[$(Code($number)),*];
    };
}

codes! {
    /// The TOML cannot be parsed.
    CONFIG_SYNTAX = 101;
    /// A key nobody knows.
    CONFIG_UNKNOWN_KEY = 102;
    /// A value of the wrong type or outside its range.
    CONFIG_VALUE = 103;
    /// A name that refers to nothing (broker, plugin, queue, topic).
    CONFIG_REFERENCE = 104;
    /// A promise that the broker cannot keep.
    CONFIG_PROMISE = 105;
    /// A file that is missing or cannot be read.
    CONFIG_FILE = 106;
    /// A secret that is not a reference, or a reference that leads nowhere.
    CONFIG_SECRET = 107;
    /// What is on the broker differs from config/topology.toml.
    TOPOLOGY_DIFFERS = 110;
    /// Nobody answers at the broker's address.
    BROKER_UNREACHABLE = 201;
    /// The broker refused the login, the certificate or the permission.
    BROKER_REFUSED = 202;
    /// The queue or topic does not exist.
    BROKER_NO_DESTINATION = 203;
    /// The embedded broker's file cannot be used.
    BROKER_STORAGE = 204;
    /// The file is no WebAssembly component of ours.
    PLUGIN_INVALID = 301;
    /// The component exports no handler, or not the one its route needs.
    PLUGIN_WRONG_WORLD = 302;
    /// Larger than `limits.wasm_size`.
    PLUGIN_TOO_LARGE = 303;
    /// The path leaves the plugins folder.
    PLUGIN_PATH = 304;
    /// The handler used what was not granted.
    PLUGIN_DENIED = 305;
    /// The content is not the pinned digest.
    PLUGIN_DIGEST = 306;
    /// Built for a different shape of helix:messaging.
    PLUGIN_CONTRACT = 307;
    /// No such plugin.
    PLUGIN_MISSING = 308;
    /// The store cannot be used.
    STORE_STORAGE = 401;
    /// The store's database does not answer.
    STORE_UNREACHABLE = 402;
    /// The request body is not what the route takes.
    HTTP_BAD_REQUEST = 501;
    /// No such queue, topic, letter, …
    HTTP_NOT_FOUND = 502;
    /// The body is over the limit.
    HTTP_TOO_LARGE = 503;
    /// Not possible now; try again.
    HTTP_UNAVAILABLE = 504;
    /// The state of the thing forbids it.
    HTTP_CONFLICT = 505;
    /// The address is not loopback and no authentication is configured.
    HTTP_BIND = 506;
    /// The request carries no token, or a wrong one.
    HTTP_UNAUTHORIZED = 507;
    /// The token is known, and may not do that.
    HTTP_FORBIDDEN = 508;
    /// More requests than the host takes.
    HTTP_TOO_MANY = 509;
    /// The configuration does not allow it.
    HTTP_SWITCHED_OFF = 511;
    /// The request came too slowly, or took too long.
    HTTP_TOO_SLOW = 512;
    /// The running host does not answer.
    CLI_UNREACHABLE = 601;
    /// A file on the command line cannot be used.
    CLI_FILE = 602;
    /// A tool that the command needs is missing.
    CLI_TOOL = 603;
    /// A replay that cannot be made as it was asked for.
    REPLAY_REQUEST = 701;
    /// A part of the stretch is not there any more.
    REPLAY_GONE = 702;
}
