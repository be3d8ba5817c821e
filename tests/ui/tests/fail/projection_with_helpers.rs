use eventbus::prelude::*;

#[derive(Debug, Default)]
struct Statistics {
    total: u64,
}

#[projection(name = "statistics")]
impl Statistics {
    const LIMIT: u64 = 5;

    fn new() -> Self {
        Self { total: 0 }
    }

    fn of(event: &RecordedEvent) -> u64 {
        event.version().get()
    }

    fn reset(&mut self) {
        self.total = 0;
    }

    fn into_total(self, _event: &RecordedEvent) -> u64 {
        self.total
    }

    fn recorded(&mut self, _event: &RecordedEvent) {
        self.total += 1;
    }
}

fn main() {}
