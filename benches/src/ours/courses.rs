use eventbus::{App, Position, Result, port::FeedFilter};
use eventstore_postgres::PgEventStore;
use futures_util::TryStreamExt as _;
use uuid::Uuid;

use crate::{
    course::{Enrolled, Enrolments, EnrolmentsEvent},
    workload::Courses,
};

/// Courses and students as tags of events.
#[derive(Clone)]
pub struct TaggedCourses(App);

impl TaggedCourses {
    pub async fn start(store: PgEventStore) -> Result<Self> {
        Ok(Self(App::builder().store(store).without_relay().start().await?))
    }
}

impl Courses for TaggedCourses {
    async fn enrol(&self, course: Uuid, student: Uuid) -> Result<()> {
        let decision = self.0.decision::<Enrolments>().about("course", &course).about("student", &student);
        decision.decide(move |enrolments| enrolments.enrol(course, student)).await?;
        Ok(())
    }

    async fn enrolments(&self) -> Result<Vec<Enrolled>> {
        let store = self.0.store();
        let records = store.read_feed(Position::START, store.head().await?, &FeedFilter::all());
        let events = records.err_into().and_then(async |record| {
            let EnrolmentsEvent::Enrolled(event) = record.decode()?;
            Ok(event)
        });
        events.try_collect().await
    }
}
