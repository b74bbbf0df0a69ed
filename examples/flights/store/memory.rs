//! Events in memory, gone when the program ends.

use super::{Event, Last, Span, StoreError};
use crate::fleet::AircraftId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Events = BTreeMap<AircraftId, BTreeMap<u64, Event>>;

#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Events>);

impl Memory {
    pub(crate) fn append(&self, event: Event) -> Result<(), StoreError> {
        let mut events = self.events();
        let of_aircraft = events.entry(event.aircraft.clone()).or_default();
        if of_aircraft.contains_key(&event.version) {
            return Err(StoreError(format!(
                "memory store: version {} of {} is taken",
                event.version,
                event.aircraft.escape_ascii()
            )));
        }
        of_aircraft.insert(event.version, event);
        Ok(())
    }

    pub(crate) fn last(&self, aircraft: &AircraftId) -> Last {
        let events = self.events();
        let last = events.get(aircraft).and_then(BTreeMap::last_key_value);
        last.map(|(version, event)| Last { version: *version, after: event.after.clone() })
            .unwrap_or_default()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let events = self.events();
        let span = |(aircraft, events): (&AircraftId, &BTreeMap<u64, Event>)| {
            Some(Span {
                aircraft: aircraft.clone(),
                events: events.len() as u64,
                first: *events.first_key_value()?.0,
                last: *events.last_key_value()?.0,
            })
        };
        events.iter().filter_map(span).collect()
    }

    /// A panic elsewhere leaves the map whole: each call changes it by one insertion.
    fn events(&self) -> MutexGuard<'_, Events> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::store::{Place, Store, testing};
    use futures::executor::block_on;

    #[test]
    fn it_behaves() {
        let store = Store::open(&Place::Memory).unwrap();
        block_on(testing::behaves(&store));
    }
}
