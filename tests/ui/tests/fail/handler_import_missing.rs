use eventbus::prelude::*;

mod mail {
    #[derive(Clone)]
    pub struct Mailer;

    #[derive(Debug)]
    pub struct MailError;
}

#[handler]
async fn unknown_parameter(_event: &RecordedEvent, _mailer: State<Mailer>) {}

#[handler]
async fn unknown_error(_event: &RecordedEvent) -> Result<(), MailError> {
    Ok(())
}

#[handler]
async fn unknown_event(_event: &OrderCreated) {}

#[derive(Debug, Default)]
struct Statistics {}

#[projection(name = "statistics")]
impl Statistics {
    fn unknown(&mut self, _event: &OrderShipped) {}
}

fn main() {}
