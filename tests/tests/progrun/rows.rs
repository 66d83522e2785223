//! What both programs' tables have in common: a row, and how it is checked.

use wgxdp::dataplane::Hook;
use wgxdp_common::count::{Place, Reason};
use wgxdp_tests::frame::Frame;
use wgxdp_tests::progrun::Context;

use crate::fixture::*;

/// One row: the packet, why it ends, and what it is then. `None`: untouched, and on to the next program.
pub(crate) type Row = (&'static str, Frame, Reason, Option<Frame>);

/// A program, where it sees packets, and what it sees besides them.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) hook: Hook,
    pub(crate) place: Place,
    pub(crate) context: Context,
}

impl Table {
    /// Every row ends for its reason, with its verdict and its exact packet.
    pub(crate) fn check(self, fixture: &mut Fixture, rows: impl IntoIterator<Item = Row>) {
        for (name, input, reason, output) in rows {
            let input = input.build();
            let (outcome, reasons) = fixture.reasons_of(self.hook, self.place, &input, self.context);
            assert_eq!(reasons, [reason], "{name}");
            let (verdict, packet) = output.map_or((NEXT, input), |output| (REDIRECT, output.build()));
            assert_eq!(outcome.verdict, verdict, "{name}");
            assert_eq!(outcome.packet, packet, "{name}");
        }
    }

    /// Both packets, cut anywhere behind their IP headers, are passed as they are.
    pub(crate) fn check_truncated(self, fixture: &mut Fixture, v4: &Frame, v6: &Frame) {
        for (frame, lengths) in [(v4.build(), 34..74), (v6.build(), 54..94)] {
            for len in lengths {
                let cut = &frame[..len];
                let (outcome, reasons) = fixture.reasons_of(self.hook, self.place, cut, self.context);
                assert_eq!(
                    (outcome.verdict, reasons.as_slice()),
                    (NEXT, [Reason::Truncated].as_slice()),
                    "{len} bytes"
                );
                assert_eq!(outcome.packet, cut, "{len} bytes");
            }
        }
    }

    /// The packet is redirected, and if its checksum came complete the kernel finds it right afterwards. Announced where the kernel cannot tell.
    pub(crate) fn check_complete(self, fixture: &mut Fixture, name: &str, frame: &Frame) {
        let complete = Context {
            checksum_complete: true,
            ..self.context
        };
        match fixture.run(self.hook, &frame.build(), complete) {
            Ok(outcome) => assert_eq!(outcome.verdict, REDIRECT, "{name}"),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                eprintln!("ANNOUNCED: this kernel cannot make a CHECKSUM_COMPLETE test packet (6.15 and later can)");
            }
            Err(e) => panic!("{name}: {e}"),
        }
    }
}
