use eventbus::prelude::*;

#[derive(Debug, Default)]
struct Statistics<T> {
    of: T,
}

#[projection(name = "statistics")]
impl<T> Statistics<T> {
    fn recorded(&mut self, _event: &RecordedEvent) {}
}

#[derive(Debug, Default)]
struct Counts {}

#[projection(name = "counts")]
impl Counts {
    fn recorded<'a>(&mut self, _event: &'a RecordedEvent) {}
}

fn main() {}
