use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

struct NoError;

#[handler]
async fn number(_event: &Opened) -> i32 {
    1
}

#[handler]
async fn value(_event: &Opened) -> Result<u8, std::io::Error> {
    Ok(1)
}

#[handler]
async fn no_error(_event: &Opened) -> Result<(), NoError> {
    Ok(())
}

fn main() {}
