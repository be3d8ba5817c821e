use eventbus::prelude::*;

#[derive(Debug, Default, Aggregate)]
struct Account {}

fn main() {}
