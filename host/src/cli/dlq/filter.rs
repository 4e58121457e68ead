//! Which letters a command is about, as the API's query has it.

use clap::Args;

#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// Only of this route
    #[arg(long)]
    pub route: Option<String>,
    /// Only of this type
    #[arg(long = "type")]
    pub message_type: Option<String>,
    /// malformed, too-large, unrouted, rejected, exhausted, refused, expired
    #[arg(long)]
    pub class: Option<String>,
    /// Found in reason, code, message id or destination
    #[arg(long)]
    pub text: Option<String>,
}

impl Filter {
    pub fn query(&self) -> Vec<(&'static str, String)> {
        let fields = [
            ("route", &self.route),
            ("type", &self.message_type),
            ("class", &self.class),
            ("text", &self.text),
        ];
        let given = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)));
        given.collect()
    }
}
