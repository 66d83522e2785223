extern crate std;
use super::*;
use proptest::prelude::*;
use std::vec::Vec;

fn slots(order: Order) -> Vec<u32> {
    (0..MAX_PATHS_PER_PEER as u32)
        .map_while(|place| order.slot(place))
        .collect()
}

proptest! {
    #[test]
    fn who_becomes_the_first_moves_up_and_the_others_keep_their_order(
        slots in Just((0..8_u32).collect::<Vec<_>>()).prop_shuffle(), len in 0..=8_usize, first in 0..8_u32,
    ) {
        let slots = &slots[..len];
        let mut expected: Vec<u32> = slots.to_vec();
        if let Some(place) = expected.iter().position(|slot| *slot == first) {
            expected[..=place].rotate_right(1);
        }
        let moved = Order::from_slots(slots.iter().copied()).with_first(first);
        prop_assert_eq!(self::slots(moved), expected);
    }
}
