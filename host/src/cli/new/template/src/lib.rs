//! Task `{{name}}.greet`: `{"name": "Ada"}`.

use helix_sdk::prelude::*;

#[derive(Deserialize)]
struct Greet {
    name: String,
}

#[helix_sdk::task]
fn greet(request: Json<Greet>, context: &Context) -> Handled {
    if request.name.is_empty() {
        return Err(reject("no name given").code("name.empty"));
    }
    println!("Hello, {}! (attempt {})", request.name, context.attempt());
    Ok(())
}

#[cfg(test)]
mod tests {
    use helix_sdk::testing::{run, task};
    use serde_json::json;

    use super::*;

    #[test]
    fn greets_by_name() {
        let message = task("{{name}}.greet").json(&json!({ "name": "Ada" }));
        assert_eq!(run::<greet>(message).result, Ok(()));
    }

    #[test]
    fn refuses_to_greet_nobody() {
        let message = task("{{name}}.greet").json(&json!({ "name": "" }));
        let failure = run::<greet>(message).result.unwrap_err();
        assert_eq!(failure.code_str(), Some("name.empty"));
    }

    #[test]
    fn refuses_what_is_no_greeting() {
        let message = task("{{name}}.greet").payload("hello");
        let failure = run::<greet>(message).result.unwrap_err();
        assert_eq!(failure.code_str(), Some("payload.invalid"));
    }
}
