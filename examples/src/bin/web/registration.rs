//! Validates the body of `POST /users`, so that the rest of the program need not.

use email_address::{EmailAddress, Options};
use eventbus::axum::Mistake;
use serde_json::Value;

use crate::user::Register;

/// The most characters of a name.
const LONGEST_NAME: usize = 100;
/// The most characters of an email address, as mail servers have it.
const LONGEST_EMAIL: usize = 254;

/// Parses a registration from the body of a request, or returns all mistakes in it.
pub fn check(body: &Value) -> Result<Register, Vec<Mistake>> {
    match (text(body, "name", LONGEST_NAME), email(body)) {
        (Ok(name), Ok(email)) => Ok(Register { name, email }),
        (name, email) => Err([name.err(), email.err()].into_iter().flatten().collect()),
    }
}

fn email(body: &Value) -> Result<String, Mistake> {
    let email = text(body, "email", LONGEST_EMAIL)?;
    let options = Options::default().with_required_tld().without_domain_literal().without_display_text();
    match EmailAddress::parse_with_options(&email, options) {
        Ok(_) => Ok(email),
        Err(_) => Err(Mistake::in_field("email", "is no email address")),
    }
}

/// Returns a field that is one line of text, without surrounding space.
fn text(body: &Value, field: &'static str, longest: usize) -> Result<String, Mistake> {
    let mistake = |detail: &str| Err(Mistake::in_field(field, detail));
    let text = match body.get(field) {
        Some(Value::String(text)) => text.trim(),
        Some(Value::Null) | None => return mistake("is missing"),
        Some(_) => return mistake("is no text"),
    };
    match text.chars().count() {
        0 => mistake("is empty"),
        length if length > longest => mistake(&format!("has {length} characters, {longest} at most")),
        _ if text.contains(char::is_control) => mistake("has a control character"),
        _ => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mistakes(body: &Value) -> String {
        let mistakes = check(body).unwrap_err();
        mistakes.iter().map(|mistake| format!("{} {}", mistake.pointer, mistake.detail)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn space_around_is_no_part_of_a_name() {
        let body = json!({ "name": " Ada Lovelace ", "email": " Ada@Example.com\n" });
        assert_eq!(check(&body), Ok(Register { name: "Ada Lovelace".into(), email: "Ada@Example.com".into() }));
    }

    #[test]
    fn everything_is_said_at_once() {
        assert_eq!(mistakes(&json!({})), "#/name is missing; #/email is missing");
        assert_eq!(mistakes(&json!(["Ada"])), "#/name is missing; #/email is missing");
        assert_eq!(mistakes(&json!({ "name": 5, "email": null })), "#/name is no text; #/email is missing");
        assert_eq!(mistakes(&json!({ "name": " ", "email": "" })), "#/name is empty; #/email is empty");
        let long = json!({ "name": "å".repeat(101), "email": format!("ada@{}.com", "x".repeat(251)) });
        assert_eq!(mistakes(&long), "#/name has 101 characters, 100 at most; #/email has 259 characters, 254 at most");
    }

    #[test]
    fn what_no_mail_server_would_take_is_no_address() {
        for email in
            ["ada", "ada@", "@example.com", "ada@localhost", "Ada <ada@example.com>", "ada@[127.0.0.1]", "a b@c.de"]
        {
            assert_eq!(mistakes(&json!({ "name": "Ada", "email": email })), "#/email is no email address", "{email}");
        }
        let two_lines = json!({ "name": "Ada", "email": "\"a\r\nBcc: b\"@example.com" });
        assert_eq!(mistakes(&two_lines), "#/email has a control character");
    }
}
