use eventbus::port::EventBus;

struct Forgetful;

impl EventBus for Forgetful {}

fn main() {}
