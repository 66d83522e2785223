use wgxdp_common::table::PathState::{self, Down, Drained, Held, Suspect, Up};

use crate::engine::transition::Event::{self, Answered, Clean, Dead, Flagged, Needed, Silent, Surpassed};
use crate::engine::transition::{carries, is_held_back, next};

const SPARE: Event = Answered { needed: false };
const WANTED: Event = Answered { needed: true };

#[test]
fn every_event_leads_from_every_state_where_the_table_says() {
    let events = [Silent, Dead, Flagged, Surpassed, SPARE, WANTED, Clean, Needed];
    let rows: [(PathState, [Option<PathState>; 8]); 5] = [
        (
            Up,
            [
                Some(Suspect),
                Some(Down),
                Some(Down),
                Some(Held),
                None,
                None,
                None,
                None,
            ],
        ),
        (
            Suspect,
            [None, Some(Down), Some(Down), None, Some(Up), Some(Up), None, None],
        ),
        (Down, [None, None, None, None, Some(Held), Some(Up), None, None]),
        (
            Held,
            [None, Some(Down), Some(Down), None, None, None, Some(Up), Some(Up)],
        ),
        (Drained, [None; 8]),
    ];
    assert_eq!(
        rows.map(|(state, _)| state),
        [Up, Suspect, Down, Held, Drained],
        "a row for each state"
    );
    assert_eq!(PathState::ALL, [Up, Suspect, Down, Held, Drained]);
    for (state, targets) in rows {
        for (event, target) in events.into_iter().zip(targets) {
            assert_eq!(next(state, event), target, "{state:?} on {event:?}");
        }
    }
}

#[test]
fn no_event_leads_to_where_the_path_is_already() {
    for state in PathState::ALL {
        for event in [Silent, Dead, Flagged, Surpassed, SPARE, WANTED, Clean, Needed] {
            assert_ne!(next(state, event), Some(state), "{state:?} on {event:?}");
        }
    }
}

#[test]
fn no_state_both_carries_traffic_and_is_held_back() {
    for state in PathState::ALL {
        assert!(!(carries(state) && is_held_back(state)), "{state:?}");
    }
}
