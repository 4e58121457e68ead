//! Task `llm.request`: completes a prompt and publishes `llm.response` to `helixagent.events.llm.responses`.
//!
//! Without a gateway it answers with canned words, so that it runs anywhere. With one:
//!
//! ```toml
//! [plugins.llm-request]
//! publish = ["helixagent.events.llm.responses"]
//! fetch = ["gateway.example"]
//! env = { LLM_URL = "https://gateway.example/v1/complete" }
//! ```
//!
//! Rejected: JSON that is no request (`payload.invalid`), an empty or too long prompt (`prompt.*`), what the gateway
//! answers with 4xx (`http.<status>`). Retried: timeouts, broken connections, 429 and 5xx.

use std::time::Duration;

use helix_sdk::prelude::*;

const RESPONSES: &str = "helixagent.events.llm.responses";
const LONGEST_PROMPT: usize = 32 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Request {
    prompt: String,
    #[serde(default = "default_model")]
    model: String,
    max_tokens: Option<u32>,
}

#[derive(Serialize)]
struct Response<'a> {
    request_id: &'a str,
    model: &'a str,
    text: &'a str,
    attempt: u32,
}

#[helix_sdk::task]
fn handle(request: Json<Request>, context: &Context) -> Handled {
    check(&request)?;
    let text = match std::env::var("LLM_URL") {
        Ok(url) if !url.is_empty() => complete(&url, &request, context)?,
        _ => canned(&request.prompt),
    };
    publish::event("llm.response")
        .topic(RESPONSES)
        .subject(&request.model)
        .key(context.key().unwrap_or(context.id().as_bytes()))
        .json(&Response {
            request_id: context.id(),
            model: &request.model,
            text: &text,
            attempt: context.attempt(),
        })?
        .send()?;
    println!("completed {} characters", request.prompt.chars().count());
    Ok(())
}

fn default_model() -> String {
    "helix-small".to_owned()
}

fn check(request: &Request) -> Handled {
    if request.prompt.trim().is_empty() {
        return Err(reject("the prompt is empty").code("prompt.empty"));
    }
    if request.prompt.len() > LONGEST_PROMPT {
        let reason = format!(
            "the prompt has {} bytes, at most {LONGEST_PROMPT} are taken",
            request.prompt.len()
        );
        return Err(reject(reason).code("prompt.too-long"));
    }
    if request.max_tokens == Some(0) {
        return Err(reject("max_tokens is 0").code("max-tokens.invalid"));
    }
    Ok(())
}

#[derive(Serialize)]
struct Asked<'a> {
    model: &'a str,
    prompt: &'a str,
    max_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Completion {
    text: String,
}

/// Asks the gateway. The key makes a second attempt the same request for it.
fn complete(url: &str, request: &Request, context: &Context) -> Result<String, Failure> {
    let asked = Asked {
        model: &request.model,
        prompt: &request.prompt,
        max_tokens: request.max_tokens,
    };
    let completion: Completion = fetch::post(url)
        .header("idempotency-key", context.id())
        .timeout(TIMEOUT)
        .json(&asked)?
        .send()?
        .success()?
        .json()?;
    Ok(completion.text)
}

/// Lets the demo tell two builds apart.
const VERSION: Option<&str> = option_env!("HELIX_DEMO_VERSION");

fn canned(prompt: &str) -> String {
    match VERSION {
        Some(version) => format!("Version {version}: you said: {prompt}"),
        None => format!("You said: {prompt}"),
    }
}

#[cfg(test)]
mod tests {
    use helix_sdk::fetch::FetchError;
    use helix_sdk::publish::PublishError;
    use helix_sdk::testing::{Message, Report, TestHost, answer, host, run, task};
    use serde_json::{Value, json};

    use super::*;

    /// The part that asks the gateway, whatever the environment says.
    fn ask(host: TestHost) -> Report {
        host.call(request(), |context| {
            let asked = Request {
                prompt: "hello".into(),
                model: "m".into(),
                max_tokens: None,
            };
            complete("https://gateway.example/v1/complete", &asked, context).map(|_| ())
        })
    }

    fn request() -> Message {
        task("llm.request")
            .id("t-1")
            .json(&json!({ "prompt": "hello", "model": "m" }))
    }

    #[test]
    fn publishes_a_response_that_names_its_request() {
        let report = run::<handle>(request().attempt(2));
        assert_eq!(report.result, Ok(()));
        let [event] = &report.events[..] else {
            panic!("{report:?}")
        };
        assert_eq!(event.topic.as_deref(), Some(RESPONSES));
        assert_eq!(event.key.as_deref(), Some(&b"t-1"[..]));
        let body: Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!(
            body,
            json!({ "request_id": "t-1", "model": "m", "text": "You said: hello", "attempt": 2 })
        );
    }

    #[test]
    fn rejects_what_no_retry_can_help() {
        for (body, code) in [
            (json!({ "prompt": "  " }), "prompt.empty"),
            (
                json!({ "prompt": "x".repeat(LONGEST_PROMPT + 1) }),
                "prompt.too-long",
            ),
            (json!({ "prompt": "x", "max_tokens": 0 }), "max-tokens.invalid"),
            (json!({ "prompt": 7 }), "payload.invalid"),
            (json!({}), "payload.invalid"),
        ] {
            let report = run::<handle>(task("llm.request").json(&body));
            let failure = report.failure().unwrap();
            assert!(failure.is_reject(), "{failure:?}");
            assert_eq!(failure.code_str(), Some(code));
        }
    }

    #[test]
    fn asks_the_gateway_once_per_id() {
        let report = ask(host().on_fetch(|_| answer(200, br#"{"text":"hi"}"#)));
        assert_eq!(report.result, Ok(()));
        let asked = &report.requests[0];
        assert_eq!((asked.method.as_str(), asked.timeout_ms), ("POST", Some(30_000)));
        assert!(
            asked
                .headers
                .contains(&("idempotency-key".into(), b"t-1".to_vec()))
        );
        let body: Value = serde_json::from_slice(&asked.body).unwrap();
        assert_eq!(body["prompt"], "hello");
    }

    #[test]
    fn gateway_troubles_are_retried_and_its_refusals_are_not() {
        for (status, reject) in [(500, false), (503, false), (429, false), (400, true), (404, true)] {
            let report = ask(host().on_fetch(move |_| answer(status, "")));
            let failure = report.failure().unwrap();
            assert_eq!(failure.is_reject(), reject, "{failure:?}");
            assert_eq!(failure.code_str(), Some(&*format!("http.{status}")));
        }
        let late = ask(host().on_fetch(|_| Err(FetchError::Timeout)));
        assert_eq!(late.failure().unwrap().code_str(), Some("fetch.timeout"));
        assert!(!late.failure().unwrap().is_reject());
        let denied = ask(host());
        assert_eq!(denied.failure().unwrap().code_str(), Some("fetch.denied"));
    }

    #[test]
    fn a_missing_grant_is_told() {
        let report = host()
            .on_publish(|topic| Err(PublishError::Denied(topic.into())))
            .run::<handle>(request());
        assert_eq!(report.failure().unwrap().code_str(), Some("publish.denied"));
    }
}
