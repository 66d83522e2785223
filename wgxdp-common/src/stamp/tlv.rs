//! What may follow a test packet (RFC 8972, section 4):
//!
//! ```text
//!  0       8       16              32
//!  +-------+-------+---------------+------- …
//!  | flags | type  |    length     | value
//!  +-------+-------+---------------+------- …
//! ```
//!
//! The length is that of the value, in bytes.

/// Bytes before the value.
pub const HEADER_LEN: usize = 4;

/// The flags of a TLV.
pub mod flag {
    /// U: not understood. A sender sets it, and a reflector that understands the type clears it.
    pub const UNRECOGNISED: u8 = 1 << 7;
    /// M: malformed; the reflector looked no further.
    pub const MALFORMED: u8 = 1 << 6;
    /// I: its authentication (HMAC TLV) failed at the reflector.
    pub const INTEGRITY: u8 = 1 << 5;
}

/// Types of TLVs (IANA, "STAMP TLV Types").
pub mod kind {
    /// Extra Padding (section 4.1).
    pub const PADDING: u8 = 1;
    /// The first of the three for private use, whose values begin with the vendor's Private Enterprise Number (section 4).
    pub const PRIVATE: u8 = 252;
}

/// The header of a TLV as a session-sender writes it: not yet understood by anybody.
#[must_use]
pub const fn header(kind: u8, len: u16) -> [u8; HEADER_LEN] {
    let [high, low] = len.to_be_bytes();
    [flag::UNRECOGNISED, kind, high, low]
}

/// No packet is of that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoesNotFit;

/// Makes what follows a packet one Extra Padding TLV, of zeros; nothing of nothing.
///
/// # Errors
/// It is shorter than a TLV's header, or longer than a TLV may be.
pub fn pad(behind: &mut [u8]) -> Result<(), DoesNotFit> {
    if behind.is_empty() {
        return Ok(());
    }
    let (head, value) = behind.split_first_chunk_mut().ok_or(DoesNotFit)?;
    *head = header(kind::PADDING, u16::try_from(value.len()).map_err(|_| DoesNotFit)?);
    value.fill(0);
    Ok(())
}

/// One TLV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// See [`flag`].
    pub flags: u8,
    /// See [`kind`].
    pub kind: u8,
    /// The value.
    pub value: &'a [u8],
}

/// The bytes that are left are no TLV: a part of a header, or a value longer than they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The TLVs of a packet, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// In what follows the first [`super::BASE_LEN`] bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<Tlv<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        // What is malformed ends the walk (RFC 8972, section 4).
        let rest = core::mem::take(&mut self.0);
        let Some((&[flags, kind, high, low], rest)) = rest.split_first_chunk() else {
            return Some(Err(Malformed));
        };
        let Some((value, rest)) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()) else {
            return Some(Err(Malformed));
        };
        self.0 = rest;
        Some(Ok(Tlv { flags, kind, value }))
    }
}

/// Writes the flags of a reflector that understands padding and nothing else; what is no TLV stays as it came, but for M if it has a flags field.
pub fn reflect(mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        let Some(len) = Tlvs::new(bytes).next().and_then(Result::ok).map(|tlv| tlv.value.len()) else {
            if bytes.len() >= HEADER_LEN {
                bytes[0] = flag::MALFORMED;
            }
            return;
        };
        let (tlv, rest) = bytes.split_at_mut(HEADER_LEN + len);
        tlv[0] = if tlv[1] == kind::PADDING { 0 } else { flag::UNRECOGNISED };
        bytes = rest;
    }
}
