use eventbus::prelude::*;

#[handler]
async unsafe fn danger(_event: &RecordedEvent) {}

#[handler]
async extern "C" fn foreign(_event: &RecordedEvent) {}

fn main() {}
