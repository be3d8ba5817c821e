//! Programs that must not compile, with the messages their authors see, and programs that must.
//!
//! Each file in `fail/` is one family of mistakes; its `.stderr` is the promise that one mistake is one error, on the
//! token to change. `TRYBUILD=overwrite` writes them anew: read the difference before you commit it.

// apart, as trybuild checks all programs by one call of cargo only if none of them must compile

#[test]
fn programs_compile() {
    trybuild::TestCases::new().pass("tests/pass/*.rs");
}

#[test]
fn mistakes_are_named_with_the_token_to_change() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
