use eventbus::prelude::*;

#[derive(Debug, Default)]
struct Statistics {}

struct Connection;

#[projection(name = "statistics")]
impl Statistics {
    fn recorded(&mut self, _event: &RecordedEvent, _connection: &mut Connection) {}
}

fn main() {}
