use eventbus::prelude::*;

#[projection(name = "statistics")]
struct Statistics {}

trait Recorded {
    fn recorded(&mut self, event: &RecordedEvent);
}

#[projection(name = "recorded")]
impl Recorded for Statistics {
    fn recorded(&mut self, _event: &RecordedEvent) {}
}

#[projection(name = "empty")]
impl Statistics {}

fn main() {}
