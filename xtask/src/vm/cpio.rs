//! Writes a cpio archive of the "newc" kind, which is what the kernel unpacks into its root at boot.
//!
//! (Documentation/driver-api/early-userspace/buffer-format.rst.) Each entry is a header of 110 bytes of ASCII, the name with
//! a NUL, and the content; name and content each padded so that what follows starts at a multiple of 4. The entry
//! `TRAILER!!!` ends the archive.

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// An archive being written.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A directory; its parent must have been added before it.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// A file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, content);
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.entry(path, LINK | 0o777, to.as_bytes());
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        // Everything belongs to root, is from the epoch, and is linked to once.
        let [uid, gid, links, time, device] = [0, 0, 1, 0, 0];
        let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let fields = [
            self.entries,
            mode,
            uid,
            gid,
            links,
            time,
            size(content.len()),
            device,
            device,
            device,
            device,
            size(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_byte_by_byte_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.file("/init", 0o755, b"hello");
        let bytes = archive.finish();
        let header = concat!(
            "070701", "00000001", "000081ED", "00000000", "00000000", "00000001", "00000000", "00000005", "00000000",
            "00000000", "00000000", "00000000", "00000005", "00000000"
        );
        assert_eq!(header.len(), 110);
        // 110 + 5 bytes of name and NUL are 115, padded to 116; 5 bytes of content, padded to 124.
        let expected = [header.as_bytes(), b"init\0\0hello\0\0\0"].concat();
        assert_eq!(&bytes[..124], &expected[..124], "{:?}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn every_entry_starts_at_a_multiple_of_four_and_the_trailer_is_last() {
        for length in 0..9 {
            let mut archive = Archive::default();
            archive.directory("d");
            archive.file(&format!("d/{}", "n".repeat(length)), 0o644, &vec![b'x'; length]);
            archive.link("l", &"t".repeat(length));
            let bytes = archive.finish();
            let starts: Vec<usize> = bytes
                .windows(6)
                .enumerate()
                .filter(|(_, w)| w == b"070701")
                .map(|(at, _)| at)
                .collect();
            assert_eq!(starts.len(), 4);
            assert!(
                starts.iter().all(|at| at % 4 == 0) && bytes.len() % 4 == 0,
                "{starts:?}"
            );
            assert!(bytes[starts[3]..].windows(11).any(|w| w == b"TRAILER!!!\0"));
        }
    }
}
