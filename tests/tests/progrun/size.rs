//! What the verifier thinks of the programs' size.

use aya::programs::ProgramInfo;
use wgxdp::dataplane::{Guard, Hook};

use crate::fixture::Fixture;

/// The verifier gives up at a million; a program near it would fail on a kernel that prunes a little less.
const MOST: u32 = 200_000;

#[test]
fn the_verifier_walks_few_enough_instructions() {
    let Some(mut fixture) = Fixture::new() else { return };
    for hook in [Hook::Steer, Hook::Restore, Hook::ClampEgress] {
        let program = fixture.dataplane.program(hook).expect("the program is in the object");
        check(hook.program(), &program.info().expect("its description"));
    }
    for guard in Guard::ALL {
        let program = fixture.dataplane.guard_program(guard);
        let program = program.expect("the program is in the object");
        check(guard.program(), &program.info().expect("its description"));
    }
}

fn check(name: &str, info: &ProgramInfo) {
    let walked = info.verified_instruction_count().expect("this kernel counts (5.16)");
    let bytes = info.size_jitted();
    println!("{name}: {walked} instructions walked, {bytes} bytes of machine code");
    assert!(walked < MOST, "{name}: {walked}");
}
