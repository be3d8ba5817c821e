//! All checks, and the tests that see each of them make a finding, and find all well.

use std::{collections::BTreeSet, fs, path::Path};

use eventbus_cli::doctor::{Check, DoctorConfig, checks};
use syn::{
    Attribute, Expr, Item, Lit,
    punctuated::Punctuated,
    token::Comma,
    visit::{self, Visit},
};

/// The checks that tests name in calls of the helpers of `common`, which fail unless the doctor reports just that.
#[derive(Debug, Default)]
struct Tested {
    /// Checks that made a finding.
    finding: BTreeSet<String>,
    /// Checks that found all well.
    healthy: BTreeSet<String>,
    is_in_test: bool,
}

impl Tested {
    /// Adds the calls in the tests of a file.
    fn add(&mut self, file: &str) {
        self.visit_file(&syn::parse_file(file).unwrap());
    }

    /// Adds the check that a call of a helper names; the second argument of all of them is its name.
    fn add_call(&mut self, function: &str, arguments: &Punctuated<Expr, Comma>) {
        let (is_finding, is_healthy) = match function {
            "expect_finding" | "expect_findings" | "expect_only" => (true, false),
            "expect_healthy" => (false, true),
            "broken_by" => (true, true),
            _ => return,
        };
        let Some(Expr::Lit(literal)) = arguments.get(1) else { return };
        let Lit::Str(check) = &literal.lit else { return };
        if is_finding && self.is_in_test {
            self.finding.insert(check.value());
        }
        if is_healthy && self.is_in_test {
            self.healthy.insert(check.value());
        }
    }
}

/// Returns `true` for the attributes of a test that runs.
fn is_test(attributes: &[Attribute]) -> bool {
    let ends_with = |name: &str| {
        attributes.iter().any(|attribute| attribute.path().segments.last().is_some_and(|last| last.ident == name))
    };
    ends_with("test") && !ends_with("ignore")
}

impl<'a> Visit<'a> for Tested {
    fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
        let outer = std::mem::replace(&mut self.is_in_test, is_test(&function.attrs));
        visit::visit_item_fn(self, function);
        self.is_in_test = outer;
    }

    fn visit_expr_call(&mut self, call: &'a syn::ExprCall) {
        if let Expr::Path(function) = &*call.func
            && let Some(last) = function.path.segments.last()
        {
            self.add_call(&last.ident.to_string(), &call.args);
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        self.add_call(&call.method.to_string(), &call.args);
        visit::visit_expr_method_call(self, call);
    }
}

/// Fails if no test sees a check make a finding, or none sees it find all well.
#[test]
fn each_check_has_a_test_that_breaks_its_subject_and_one_on_a_healthy_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor");
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let mut tested = Tested::default();
    for item in syn::parse_file(&read("main.rs")).unwrap().items {
        // one with a path is a helper of other crates
        if let Item::Mod(module) = item
            && module.attrs.is_empty()
        {
            tested.add(&read(&format!("{}.rs", module.ident)));
        }
    }
    let without =
        |seen: &BTreeSet<String>| checks().map(Check::name).filter(|name| !seen.contains(*name)).collect::<Vec<_>>();
    assert_eq!(without(&tested.finding), [""; 0], "no test sees these checks make a finding");
    assert_eq!(without(&tested.healthy), [""; 0], "no test sees these checks find all well");
}

#[test]
fn only_calls_of_the_helpers_in_tests_that_run_count() {
    let mut tested = Tested::default();
    tested.add(
        r#"
        #[tokio::test(flavor = "multi_thread")]
        async fn seen() {
            let found = match expect_finding(&doctor, "a", Fault, "x").await { _ => drop(common::expect_only(&d, "b")) };
            until("c", async || expect_findings(&doctor.only(["d"]), "e").await.is_empty()).await;
            file.broken_by("f", "g", Fault, "h").await;
            // expect_finding(&doctor, "i", Fault, "x")
            let checks = ["j", "expect_finding(&doctor, \"k\", Fault)"];
            expect_healthy(&doctor, "l").await;
            expect_healthy(&doctor, check).await;
            assert_finding(found, "m", Fault, "x");
        }
        #[test]
        #[ignore = "reason"]
        fn ignored() { expect_finding(&doctor, "n", Fault, "x"); }
        fn no_test() { expect_healthy(&doctor, "o"); }
        "#,
    );
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>();
    assert_eq!(list(&tested.finding), ["a", "b", "e", "g"]);
    assert_eq!(list(&tested.healthy), ["g", "l"]);
}

#[test]
fn there_are_checks_of_every_subject() {
    let subjects: std::collections::HashSet<_> = checks().map(Check::subject).collect();
    assert_eq!(subjects.len(), 10, "{subjects:?}");
    assert!(checks().count() >= 25);
    assert!(checks().all(|check| !check.finds().is_empty() && !check.timeout(&DoctorConfig::default()).is_zero()));
}
