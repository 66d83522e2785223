//! Array maps as memory (`BPF_F_MMAPABLE`, kernel 5.5): a word is written by one store and read by one load, while programs run.

use std::marker::PhantomData;
use std::mem::size_of;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use aya::Pod;
use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::Error;

/// An array map of `T`, mapped into this process.
pub(crate) struct Table<T> {
    start: NonNull<T>,
    entries: u32,
    _values: PhantomData<T>,
}

// SAFETY: the memory is the kernel's, stays mapped until the drop, and is only touched by atomic words and volatile copies of plain data.
unsafe impl<T: Pod> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Sync for Table<T> {}

/// Where in `T` a word of type `W` is; the function only ties the types together.
pub(crate) struct Field<T, W> {
    pub(crate) offset: usize,
    pub(crate) _type_of: fn(&T) -> &W,
}

/// A field of a table's value, or the value itself where it is one word.
macro_rules! field {
    ($t:ty, $field:ident) => {
        $crate::dataplane::table::Field {
            offset: std::mem::offset_of!($t, $field),
            _type_of: |value: &$t| &value.$field,
        }
    };
    ($t:ty) => {
        $crate::dataplane::table::Field {
            offset: 0,
            _type_of: |value: &$t| value,
        }
    };
}
pub(crate) use field;

impl<T: Pod> Table<T> {
    /// Maps `map` into memory.
    pub(crate) fn new(map: &MapData, name: &'static str) -> Result<Self, Error> {
        const {
            assert!(
                size_of::<T>().is_multiple_of(8),
                "the kernel rounds elements up to 8 bytes"
            );
        };
        let info = map.info().map_err(|source| Error::Map { map: name, source })?;
        let system = |e: nix::Error| Error::System {
            call: "mmap of a BPF map",
            source: e.into(),
        };
        if info.value_size() as usize != size_of::<T>() {
            return Err(system(nix::Error::EPROTO));
        }
        let entries = info.max_entries();
        let bytes = NonZeroUsize::new(entries as usize * size_of::<T>()).ok_or_else(|| system(nix::Error::EINVAL))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice; the map lives as long as it is mapped.
        let start = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        };
        Ok(Self {
            start: start.map_err(system)?.cast(),
            entries,
            _values: PhantomData,
        })
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        assert!(index < self.entries, "entry {index} of a table of {}", self.entries);
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.start.add(index as usize) }
    }

    fn word<W>(&self, index: u32, field: &Field<T, W>) -> *mut W {
        assert!(field.offset + size_of::<W>() <= size_of::<T>());
        // SAFETY: within the entry, by the assertion.
        unsafe { self.entry(index).as_ptr().byte_add(field.offset).cast() }
    }

    /// Entries in the table.
    pub(crate) fn len(&self) -> u32 {
        self.entries
    }

    /// A copy of an entry; its words may be of different moments.
    pub(crate) fn read(&self, index: u32) -> T {
        // SAFETY: a whole entry inside the mapping; every bit pattern is a `T` (`Pod`).
        unsafe { self.entry(index).read_volatile() }
    }

    /// Writes an entry that no program refers to yet.
    pub(crate) fn write(&self, index: u32, value: &T) {
        // SAFETY: a whole entry inside the mapping.
        unsafe { self.entry(index).write_volatile(*value) };
    }

    /// Loads one 64-bit word.
    pub(crate) fn load_word(&self, index: u32, field: Field<T, u64>) -> u64 {
        // SAFETY: aligned (the shared types' layout assertions), inside the mapping, accessed atomically by everybody.
        unsafe { AtomicU64::from_ptr(self.word(index, &field)) }.load(Ordering::Acquire)
    }

    /// Stores a word of 64, 32 or 16 bits; what was written before is visible to whoever sees it.
    pub(crate) fn store<W: Pod>(&self, index: u32, field: Field<T, W>, value: W) {
        const { assert!(matches!(size_of::<W>(), 2 | 4 | 8)) };
        let word = self.word(index, &field);
        // SAFETY: `W` is plain data of so many bytes; the rest is as in `load_word`.
        unsafe {
            match size_of::<W>() {
                8 => AtomicU64::from_ptr(word.cast()).store(std::mem::transmute_copy(&value), Ordering::Release),
                4 => AtomicU32::from_ptr(word.cast()).store(std::mem::transmute_copy(&value), Ordering::Release),
                _ => AtomicU16::from_ptr(word.cast()).store(std::mem::transmute_copy(&value), Ordering::Release),
            }
        }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, of that length; nothing borrows from it.
        let unmapped = unsafe { munmap(self.start.cast(), self.entries as usize * size_of::<T>()) };
        debug_assert!(unmapped.is_ok());
    }
}
