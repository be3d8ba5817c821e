use eventbus::prelude::*;

#[derive(Debug, Default)]
struct Statistics {}

#[projection(nam = "statistics", group = "x", name = "")]
impl Statistics {
    fn recorded(&mut self, _event: &RecordedEvent) {}
}

fn main() {}
