//! The shared memory of a database in WAL mode, and its eight locks. All users live in this process.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashSet;
use std::ops::Range;
use std::os::raw::c_int;
use std::ptr::NonNull;

use libsqlite3_sys as sqlite;

use super::disk::Code;

/// SQLite asks for regions of this size only (`WALINDEX_PGSZ`).
const REGION: Layout = match Layout::from_size_align(32 << 10, 64) {
    Ok(layout) => layout,
    Err(_) => Layout::new::<u64>(),
};

#[derive(Default)]
pub struct Shm {
    regions: Vec<Region>,
    users: HashSet<u64>,
    slots: [Slot; 8],
}

#[derive(Default)]
struct Slot {
    exclusive: Option<u64>,
    shared: HashSet<u64>,
}

/// Memory that SQLite reads and writes without asking; nothing here ever looks into it.
struct Region(NonNull<u8>);

// SAFETY: the memory belongs to the region alone, and its bytes are touched by SQLite only, under the locks below.
unsafe impl Send for Region {}

impl Region {
    fn new() -> Option<Self> {
        // SAFETY: the layout is a constant of 32 KiB, not of zero bytes.
        NonNull::new(unsafe { alloc_zeroed(REGION) }).map(Self)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with the same layout, freed once.
        unsafe { dealloc(self.0.as_ptr(), REGION) }
    }
}

impl Shm {
    pub fn has(&self, region: usize) -> bool {
        region < self.regions.len()
    }

    /// Null when there is no such region and `extend` is false. The memory lives until the last user leaves.
    pub fn map(&mut self, file: u64, region: usize, size: usize, extend: bool) -> Result<*mut u8, Code> {
        if size != REGION.size() {
            return Err(sqlite::SQLITE_IOERR_SHMSIZE);
        }
        self.users.insert(file);
        while extend && !self.has(region) {
            self.regions.push(Region::new().ok_or(sqlite::SQLITE_NOMEM)?);
        }
        Ok(self
            .regions
            .get(region)
            .map_or(std::ptr::null_mut(), |region| region.0.as_ptr()))
    }

    pub fn lock(&mut self, file: u64, slots: Range<usize>, exclusive: bool) -> Result<(), Code> {
        let slots = self.slots.get_mut(slots).ok_or(sqlite::SQLITE_IOERR_SHMLOCK)?;
        let others = |slot: &Slot| {
            slot.exclusive.is_some_and(|other| other != file)
                || exclusive && slot.shared.iter().any(|other| *other != file)
        };
        if slots.iter().any(others) {
            return Err(sqlite::SQLITE_BUSY);
        }
        for slot in slots {
            if exclusive {
                slot.exclusive = Some(file);
            } else {
                slot.shared.insert(file);
            }
        }
        Ok(())
    }

    pub fn unlock(&mut self, file: u64, slots: Range<usize>) {
        for slot in self.slots.get_mut(slots).unwrap_or_default() {
            slot.exclusive.take_if(|holder| *holder == file);
            slot.shared.remove(&file);
        }
    }

    /// The first user after the last has to build the index anew, as after a reboot.
    pub fn leave(&mut self, file: u64) {
        self.unlock(file, 0..self.slots.len());
        if self.users.remove(&file) && self.users.is_empty() {
            self.regions.clear();
        }
    }
}

/// What `xShmLock` is asked for.
pub enum Ask {
    Shared,
    Exclusive,
    Unlock,
}

impl Ask {
    pub fn of(flags: c_int) -> Self {
        if flags & sqlite::SQLITE_SHM_UNLOCK != 0 {
            Self::Unlock
        } else if flags & sqlite::SQLITE_SHM_EXCLUSIVE != 0 {
            Self::Exclusive
        } else {
            Self::Shared
        }
    }
}
