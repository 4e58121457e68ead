//! What all rows send: JSON of 1 KiB, its type in a header or only inside its body.

/// Size of a body, bytes.
pub const SIZE: usize = 1024;
pub const TYPE: &str = "bench.event";

/// Where the type stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// In a header; the body is a document that nobody has to look into.
    Header,
    /// In the body alone, which is a flat envelope around the document.
    Body,
}

impl Shape {
    pub fn word(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Body => "body",
        }
    }

    pub fn body(self, number: usize) -> String {
        match self {
            Self::Header => document(number, SIZE),
            Self::Body => {
                let head = format!(r#"{{"id":"m-{number}","type":"{TYPE}","data":"#);
                let document = document(number, SIZE - head.len() - 1);
                format!("{head}{document}}}")
            }
        }
    }
}

/// An order as a shop would write it: numbers, texts, a list of objects, then text up to the size.
pub fn document(number: usize, size: usize) -> String {
    let mut text = format!(
        r#"{{"order":{number},"customer":"c-{}","currency":"EUR","paid":true,"lines":["#,
        number % 1000
    );
    for line in 0..6 {
        let comma = if line == 0 { "" } else { "," };
        text.push_str(&format!(
            r#"{comma}{{"sku":"sku-{}","quantity":{},"price":{}.{:02},"tags":["new","b{line}"]}}"#,
            (number + line) % 5000,
            line + 1,
            number % 90 + 10,
            line * 7
        ));
    }
    text.push_str(r#"],"note":""#);
    while text.len() + 2 < size {
        text.push(char::from(b'a' + (text.len() % 26) as u8));
    }
    text.push_str("\"}");
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn both_shapes_are_json_of_the_same_size() {
        for number in [0, 999_999] {
            for shape in [Shape::Header, Shape::Body] {
                let body = shape.body(number);
                assert_eq!(body.len(), SIZE);
                serde_json::from_str::<serde_json::Value>(&body).unwrap();
            }
        }
        let flat: serde_json::Value = serde_json::from_str(&Shape::Body.body(7)).unwrap();
        assert_eq!((&flat["type"], &flat["data"]["order"]), (&TYPE.into(), &7.into()));
    }
}
