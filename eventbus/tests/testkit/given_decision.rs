//! Decisions on the events of several aggregates: given, when, then.

use eventbus::{Never, prelude::*, testkit::given_decision};

use crate::{
    courses::{Invoiced, Seats, SeatsError, SeatsEvent, Waiting, defined, enrolled},
    failure::failure_of,
};

#[test]
fn a_test_goes_from_decision_to_decision() {
    given_decision::<Seats>((defined("rust", 2), enrolled("rust", "ada")))
        .when(|seats| seats.enrol("rust", "ada"))
        .then_nothing()
        .when_with(("rust", "bob"), |seats, (course, student)| seats.enrol(course, student))
        .then(enrolled("rust", "bob"))
        .when(|seats| seats.enrol("rust", "cleo"))
        .then_error(|error| matches!(error, SeatsError::Full { seats: 2 }))
        .when(|_| Ok::<_, Never>(defined("rust", 3)))
        .then(defined("rust", 3))
        .when(|seats| seats.enrol("rust", "cleo"))
        .then([enrolled("rust", "cleo")]);
}

#[test]
fn events_are_given_one_by_one_in_arrays_tuples_and_lists_or_not_at_all() {
    given_decision::<Seats>(())
        .when(|seats| seats.enrol("rust", "ada"))
        .then_error(|error| matches!(error, SeatsError::Unknown));
    given_decision::<Seats>(defined("rust", 1)).when(|seats| seats.enrol("rust", "ada")).then(enrolled("rust", "ada"));
    let (array, list) = ([enrolled("rust", "ada")], vec![enrolled("rust", "bob"), enrolled("rust", "cleo")]);
    let state = given_decision::<Seats>((defined("rust", 3), array, list)).state();
    assert_eq!((state.seats, state.students), (3, ["ada", "bob", "cleo"].map(str::to_owned).to_vec()));
    let of_enum: Vec<SeatsEvent> = vec![enrolled("rust", "ada").into(), defined("rust", 3).into()];
    let state = given_decision::<Seats>(of_enum).state();
    assert_eq!((state.seats, state.students), (3, vec!["ada".to_owned()]));
}

#[test]
fn what_is_decided_may_be_of_any_aggregate_and_is_read_if_it_is_listed() {
    let sold = Invoiced { student: "ada".into(), euros: 9.5 };
    let given = given_decision::<Seats>(defined("rust", 1))
        .when(|seats| seats.sell("rust", "ada", 9.5))
        .then((enrolled("rust", "ada"), sold));
    assert_eq!(given.state().students, ["ada"]);
}

#[test]
fn another_field_fails_with_the_fields_of_the_event() {
    let text = failure_of(|| {
        given_decision::<Seats>(defined("rust", 1))
            .when(|seats| seats.sell("rust", "ada", 9.5))
            .then((enrolled("rust", "bob"), Invoiced { student: "ada".into(), euros: 9.5 }))
    });
    assert_eq!(
        text,
        r#"`Seats` recorded other events than expected (- expected, + recorded, > first difference):
    Enrolled
      course: "rust"
> -   student: "bob"
  +   student: "ada"
    Invoiced
      euros: 9.5
      student: "ada""#
    );
}

#[test]
fn another_type_and_a_missing_event_fail_with_the_whole_events() {
    let test = || {
        given_decision::<Seats>(defined("rust", 1))
            .when(|seats| seats.enrol("rust", "ada"))
            .then((defined("rust", 2), enrolled("rust", "ada")))
    };
    assert_eq!(
        failure_of(test),
        r#"`Seats` recorded other events than expected (- expected, + recorded, > first difference):
> - CourseDefined
  -   course: "rust"
  -   seats: 2
  + Enrolled
  +   course: "rust"
  +   student: "ada"
  - Enrolled
  -   course: "rust"
  -   student: "ada""#
    );
}

#[test]
fn an_event_fails_where_none_is_expected() {
    let text = failure_of(|| {
        given_decision::<Seats>(defined("rust", 1)).when(|seats| seats.enrol("rust", "ada")).then_nothing()
    });
    assert_eq!(
        text,
        r#"`Seats` recorded other events than expected (- expected, + recorded, > first difference):
> + Enrolled
  +   course: "rust"
  +   student: "ada""#
    );
}

#[test]
fn a_refusal_fails_where_events_are_expected() {
    let full = || given_decision::<Seats>((defined("rust", 1), enrolled("rust", "ada")));
    let text = failure_of(|| full().when(|seats| seats.enrol("rust", "bob")).then(enrolled("rust", "bob")));
    assert_eq!(
        text,
        r#"`Seats` refused with Full { seats: 1 }, expected events:
> - Enrolled
  -   course: "rust"
  -   student: "bob""#
    );
    let text = failure_of(|| full().when(|seats| seats.enrol("rust", "bob")).then_nothing());
    assert_eq!(text, "`Seats` refused with Full { seats: 1 }, expected it to accept");
}

#[test]
fn events_and_other_errors_fail_where_an_error_is_expected() {
    let ada = || given_decision::<Seats>((defined("rust", 2), enrolled("rust", "ada")));
    let text = failure_of(|| ada().when(|seats| seats.enrol("rust", "bob")).then_error(|_| true));
    assert_eq!(
        text,
        r#"`Seats` accepted, expected an error; it recorded:
> + Enrolled
  +   course: "rust"
  +   student: "bob""#
    );
    let text = failure_of(|| ada().when(|seats| seats.enrol("rust", "ada")).then_error(|_| true));
    assert_eq!(text, "`Seats` accepted and recorded nothing, expected an error");
    let is_full = |error: &SeatsError| matches!(error, SeatsError::Full { .. });
    let text = failure_of(|| given_decision::<Seats>(()).when(|seats| seats.enrol("rust", "ada")).then_error(is_full));
    assert_eq!(text, "`Seats` refused with another error than expected: Unknown");
}

#[test]
fn an_event_that_no_store_takes_fails() {
    let text = failure_of(|| {
        given_decision::<Seats>(defined("rust", 1))
            .when(|seats| seats.sell("rust", "ada", f64::NAN))
            .then(enrolled("rust", "ada"))
    });
    assert!(text.starts_with("an event of the test cannot be saved: "), "{text}");
    assert!(text.contains("euros"), "{text}");
}

#[test]
fn a_decided_event_that_the_decision_cannot_decode_fails() {
    let waiting = || Waiting { course: "rust".into() };
    let text = failure_of(|| given_decision::<Seats>(()).when(|_| Ok::<_, Never>(waiting())).then(waiting()));
    assert!(text.starts_with("an event of the test cannot be read by `Seats`: "), "{text}");
    assert!(text.contains("student"), "{text}");
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Seat", tags(course))]
struct SeatAdded {
    course: String,
    #[serde(serialize_with = "write_zero")]
    price: u64,
}

fn write_zero<S: serde::Serializer>(_price: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(0)
}

#[derive(Debug, Default, Decision)]
#[decision(events(SeatAdded))]
struct Income {
    expected: u64,
}

impl Apply for Income {
    fn apply(&mut self, IncomeEvent::SeatAdded(added): &IncomeEvent) {
        self.expected += added.price;
    }
}

#[test]
fn the_state_has_what_a_load_reads() {
    let given = given_decision::<Income>(SeatAdded { course: "rust".into(), price: 5 });
    assert_eq!(given.state().expected, 0);
}
