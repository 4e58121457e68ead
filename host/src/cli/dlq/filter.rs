//! Which letters a command means: the words of the API's filter as flags.

use clap::Args;

/// Of each of them: a heading of the whole would be that of what stands behind it as well.
const HEADING: &str = "Which letters (all that are given must hold)";

#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// Only of this route
    #[arg(long, help_heading = HEADING)]
    route: Option<String>,
    /// Only of this type
    #[arg(long = "type", help_heading = HEADING)]
    message_type: Option<String>,
    /// malformed, too-large, unrouted, rejected, exhausted, refused, expired, broker, foreign
    #[arg(long, help_heading = HEADING)]
    class: Option<String>,
    /// The queue or topic they came from
    #[arg(long, help_heading = HEADING, visible_aliases = ["queue", "topic"], value_name = "NAME")]
    destination: Option<String>,
    /// The plugin version that ran last
    #[arg(long, help_heading = HEADING, value_name = "SHA256")]
    digest: Option<String>,
    /// Failure group from `dlq groups`
    #[arg(long, help_heading = HEADING)]
    group: Option<String>,
    /// Failed last at this time or later: RFC 3339, or so long ago, e.g. `-90m`, `-1h`, `-2d`
    #[arg(long, help_heading = HEADING, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Failed last before this time
    #[arg(long, help_heading = HEADING, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Words that are all in reason, code, message id or destination; of three letters and more their beginning is enough
    #[arg(long, help_heading = HEADING)]
    text: Option<String>,
}

impl Filter {
    /// Name and value of each that was given.
    pub fn words(&self) -> Vec<(&'static str, String)> {
        let given = [
            ("route", &self.route),
            ("type", &self.message_type),
            ("class", &self.class),
            ("destination", &self.destination),
            ("digest", &self.digest),
            ("group", &self.group),
            ("since", &self.since),
            ("until", &self.until),
            ("text", &self.text),
        ];
        given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)))
            .collect()
    }
}
