//! The catalog of the bank in formats of other tools, as the parsers of these tools read them.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// A parser that npm installs, and a script that parses a file with it.
struct Validator {
    folder: PathBuf,
}

impl Validator {
    /// Installs packages into the target folder.
    fn install(name: &str, packages: &[&str], script: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("package.json"), r#"{ "private": true }"#).unwrap();
        fs::write(folder.join("validate.mjs"), script).unwrap();
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--silent"]).args(packages).current_dir(&folder);
        assert!(npm.stdin(Stdio::null()).status().expect("npm is installed").success());
        Self { folder }
    }

    /// Fails with what the parser says of a text.
    fn validate(&self, text: &str) -> Result<(), String> {
        let document = self.folder.join("document");
        fs::write(&document, text).unwrap();
        let output = Command::new("node").arg("validate.mjs").arg(document).current_dir(&self.folder).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if output.status.success() { Ok(()) } else { Err(said) }
    }
}

/// Returns what the bank's `catalog` shows.
pub(super) fn catalog_in(format: &str, options: &[&str]) -> String {
    let mut bank = Command::new(env!("CARGO_BIN_EXE_bank"));
    bank.args(["catalog", "--format", format]).args(options);
    let output = bank.env_clear().env("EVENTBUS_BUS", "redis://cache").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The script that parses a document as AsyncAPI's own tools do, and shows each fault.
const ASYNC_API: &str = r#"
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
const { diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const faults = diagnostics.filter(({ severity }) => severity <= 1);
faults.forEach(({ code, message, path }) => console.log(`${code} ${path.join("/")}: ${message}`));
process.exit(faults.length === 0 ? 0 : 1);
"#;

#[test]
#[ignore = "installs a package with npm: `cargo test -p guide --test commands -- --ignored`"]
fn the_document_is_valid_for_the_parser_of_async_api() {
    let validator = Validator::install("async-api", &["@asyncapi/parser@3"], ASYNC_API);
    let document = catalog_in("asyncapi", &[]);
    validator.validate(&document).unwrap();
    // a message that is not there
    let broken = document.replace("#/channels/events/messages/Deposited", "#/channels/events/messages/Paid");
    validator.validate(&broken).unwrap_err();
}
