use eventbus::prelude::*;

#[derive(Debug, Default)]
struct Statistics {}

#[projection]
impl Statistics {
    fn recorded(&mut self, _event: &RecordedEvent) {}
}

fn main() {}
