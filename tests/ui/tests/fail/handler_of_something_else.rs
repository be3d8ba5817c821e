use eventbus::prelude::*;

struct Thing {}

#[handler]
async fn by_reference(_event: &Thing) {}

#[handler]
async fn by_value(_event: Thing) {}

#[handler]
async fn enveloped(_event: Envelope<Thing>) {}

#[handler]
async fn metadata_first(_meta: &Metadata, _thing: &Thing) {}

fn main() {}
