//! Programs that must not compile, with the messages their authors see, and programs that must.
//!
//! Each file in `fail/` is one family of mistakes; its `.stderr` is the promise that one mistake is one error, on the
//! token to change. `TRYBUILD=overwrite` writes them anew: read the difference before you commit it.

#[test]
fn programs_compile_or_say_why_not() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    cases.compile_fail("tests/fail/*.rs");
}
