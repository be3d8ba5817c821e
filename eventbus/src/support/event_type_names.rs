//! The names of the event types that a reader meets, each checked and made once.

use crate::domain::name::{InvalidName, Name};

/// The names of the event types that a reader meets, each checked and made once. There are few: a look-up scans all of
/// them.
///
/// # Examples
/// ```
/// use eventbus::support::EventTypeNames;
/// let mut names = EventTypeNames::default();
/// assert_eq!(names.name("OrderCreated")?, "OrderCreated");
/// assert!(names.name("").is_err());
/// # Ok::<(), eventbus::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct EventTypeNames(Vec<Name>);

impl EventTypeNames {
    /// Returns the name of an event type; keeps it for the next event of the type.
    ///
    /// # Errors
    /// [`InvalidName`] if no event type can have the name.
    pub fn name(&mut self, event_type: &str) -> Result<&Name, InvalidName> {
        let known = self.0.iter().position(|name| *name == event_type);
        let place = match known {
            Some(place) => place,
            None => {
                self.0.push(Name::new("event type", event_type)?);
                self.0.len() - 1
            }
        };
        Ok(&self.0[place])
    }
}
