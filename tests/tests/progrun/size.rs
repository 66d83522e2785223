//! What the verifier thinks of the programs' size.

use wgxdp::dataplane::Hook;

use crate::fixture::Fixture;

/// The verifier gives up at a million; a program near it would fail on a kernel that prunes a little less.
const MOST: u32 = 200_000;

#[test]
fn the_verifier_walks_few_enough_instructions() {
    let Some(mut fixture) = Fixture::new() else { return };
    for hook in [Hook::Steer, Hook::Restore, Hook::ClampEgress] {
        let info = fixture
            .dataplane
            .program(hook)
            .expect("the program is in the object")
            .info()
            .expect("its description");
        let walked = info.verified_instruction_count().expect("this kernel counts (5.16)");
        println!(
            "{}: {walked} instructions walked, {} bytes of machine code",
            hook.program(),
            info.size_jitted()
        );
        assert!(walked < MOST, "{}: {walked}", hook.program());
    }
}
