//! A sound component of a world that is not ours: it handles no message.
#![cfg(target_family = "wasm")]

wit_bindgen::generate!({
    inline: "package tests:foreign;
        interface greeter { greet: func(name: string) -> string; }
        world foreign { export greeter; }",
});

struct Greeter;

impl exports::tests::foreign::greeter::Guest for Greeter {
    fn greet(name: String) -> String {
        format!("hello {name}")
    }
}

export!(Greeter);
