//! Programs that must not compile, with the messages their authors see.
//!
//! Each file in `fail/` is one family of mistakes; its `.stderr` is the promise that one mistake is one error, on the
//! token to change. `TRYBUILD=overwrite` writes them anew: read the difference before you commit it.

#[test]
fn mistakes_are_named_with_the_token_to_change() {
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
