//! A disk in memory that knows what would be left if the power went now.
//!
//! Each file has two images: what programs see, and what is on the platter. A write changes the first; a sync makes both
//! equal. In between, every write may survive a cut whole, in some of its sectors, or not at all, whatever came after it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::os::raw::c_int;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as sqlite;

use super::image::{Change, survivors};
use super::shm::{Ask, Shm};

/// An error code of SQLite.
pub type Code = c_int;

pub struct Disk {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    /// Names as programs see them, and as they are on the platter.
    names: BTreeMap<PathBuf, usize>,
    kept_names: BTreeMap<PathBuf, usize>,
    faults: Faults,
    counts: Counts,
    off: bool,
    sync_failed: bool,
}

#[derive(Default)]
struct Inode {
    now: Vec<u8>,
    kept: Vec<u8>,
    /// What the platter does not have yet, in order.
    pending: Vec<Change>,
    /// Lock level by open file.
    locks: HashMap<u64, c_int>,
    shm: Shm,
}

/// What goes wrong.
#[derive(Debug, Default, Clone, Copy)]
struct Faults {
    cut_at: Option<u64>,
    failing_sync: Option<u64>,
    full: bool,
    unreadable: bool,
}

/// What was asked of the disk so far.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Operations that change something.
    pub steps: u64,
    pub syncs: u64,
}

impl Disk {
    /// Everything below `root` is on this disk, as far as SQLite is concerned.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            state: Mutex::default(),
        }
    }

    /// The disk after a power cut: what is on the platter, and of what is not a part that `rng` chooses.
    #[must_use]
    pub fn reboot(&self, rng: &mut fastrand::Rng) -> Self {
        let mut state = self.state();
        state.off = true;
        // From nothing (a write-back cache that was lost) to nearly everything (a cut in the middle of the last write).
        let share = match rng.u8(..4) {
            0 => 0.0,
            1 => 0.5,
            2 => 0.9,
            _ => 1.0,
        };
        let inodes = state.inodes.iter().map(|inode| {
            let kept = survivors(&inode.kept, &inode.pending, share, rng);
            Inode {
                now: kept.clone(),
                kept,
                ..Inode::default()
            }
        });
        let inodes = inodes.collect();
        let mut names = state.kept_names.clone();
        for name in state.names.keys().chain(state.kept_names.keys()) {
            if rng.f64() < share {
                match state.names.get(name) {
                    Some(inode) => names.insert(name.clone(), *inode),
                    None => names.remove(name),
                };
            }
        }
        let state = State {
            inodes,
            kept_names: names.clone(),
            names,
            ..State::default()
        };
        Self {
            root: self.root.clone(),
            state: Mutex::new(state),
        }
    }

    /// The disk as the next process finds it after a kill: nothing that was written is lost, nothing more is synced.
    #[must_use]
    pub fn killed(&self) -> Self {
        let mut state = self.state();
        state.off = true;
        let inodes = state.inodes.iter_mut().map(|inode| Inode {
            now: inode.now.clone(),
            kept: inode.kept.clone(),
            pending: std::mem::take(&mut inode.pending),
            ..Inode::default()
        });
        let inodes = inodes.collect();
        let state = State {
            inodes,
            names: state.names.clone(),
            kept_names: state.kept_names.clone(),
            ..State::default()
        };
        Self {
            root: self.root.clone(),
            state: Mutex::new(state),
        }
    }

    /// The power goes in the middle of the `steps`-th change from now.
    pub fn cut_in(&self, steps: u64) {
        let mut state = self.state();
        state.faults.cut_at = Some(state.counts.steps + steps.max(1));
    }

    pub fn cut_now(&self) {
        self.state().off = true;
    }

    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// The `nth` sync from now fails, once. As on Linux, what it should have written is lost although programs see it, and
    /// the next sync succeeds.
    pub fn fail_sync(&self, nth: u64) {
        let mut state = self.state();
        state.faults.failing_sync = Some(state.counts.syncs + nth.max(1));
    }

    pub fn has_failed_sync(&self) -> bool {
        self.state().sync_failed
    }

    /// No file can grow.
    pub fn set_full(&self, full: bool) {
        self.state().faults.full = full;
    }

    pub fn set_unreadable(&self, unreadable: bool) {
        self.state().faults.unreadable = unreadable;
    }

    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    pub(super) fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }

    /// The file of that name; `create`: a new one if there is none.
    pub(super) fn open(&self, path: &Path, create: bool) -> Result<usize, Code> {
        let mut state = self.state();
        if state.off {
            return Err(sqlite::SQLITE_CANTOPEN);
        }
        if let Some(inode) = state.names.get(path) {
            return Ok(*inode);
        }
        // Somebody may have made it without SQLite, to give it its permissions; such a file is empty.
        if !create && !path.exists() {
            return Err(sqlite::SQLITE_CANTOPEN);
        }
        state.step(sqlite::SQLITE_CANTOPEN)?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(path.to_owned(), inode);
        Ok(inode)
    }

    pub(super) fn delete(&self, path: &Path, sync_folder: bool) -> Result<(), Code> {
        let mut state = self.state();
        state.step(sqlite::SQLITE_IOERR_DELETE)?;
        if state.names.remove(path).is_none() {
            return Err(sqlite::SQLITE_IOERR_DELETE_NOENT);
        }
        if sync_folder {
            state.sync_names();
        }
        Ok(())
    }

    /// As the VFS of unix answers: an empty file does not count.
    pub(super) fn exists(&self, path: &Path) -> Result<bool, Code> {
        let state = self.state();
        if state.off {
            return Err(sqlite::SQLITE_IOERR_ACCESS);
        }
        let inode = state.names.get(path).and_then(|inode| state.inodes.get(*inode));
        Ok(inode.is_some_and(|inode| !inode.now.is_empty()))
    }

    /// False: the file ended before the buffer was full; the rest is zeros.
    pub(super) fn read(&self, inode: usize, offset: usize, buffer: &mut [u8]) -> Result<bool, Code> {
        let mut state = self.state();
        if state.off || state.faults.unreadable {
            return Err(sqlite::SQLITE_IOERR_READ);
        }
        let now = &state.inode(inode)?.now;
        let there = now.get(offset..).unwrap_or_default();
        let count = there.len().min(buffer.len());
        let (filled, rest) = buffer.split_at_mut(count);
        filled.copy_from_slice(there.split_at(count).0);
        rest.fill(0);
        Ok(rest.is_empty())
    }

    pub(super) fn write(&self, inode: usize, offset: usize, bytes: &[u8]) -> Result<(), Code> {
        let mut state = self.state();
        if state.faults.full && offset + bytes.len() > state.inode(inode)?.now.len() {
            return Err(sqlite::SQLITE_FULL);
        }
        state.change(
            inode,
            Change::Write(offset, bytes.into()),
            sqlite::SQLITE_IOERR_WRITE,
        )
    }

    pub(super) fn truncate(&self, inode: usize, size: usize) -> Result<(), Code> {
        let change = Change::Resize(size);
        self.state().change(inode, change, sqlite::SQLITE_IOERR_TRUNCATE)
    }

    /// `folder`: the file's name is synced as well.
    pub(super) fn sync(&self, inode: usize, folder: bool) -> Result<(), Code> {
        let mut state = self.state();
        state.step(sqlite::SQLITE_IOERR_FSYNC)?;
        state.counts.syncs += 1;
        let fails = state.faults.failing_sync == Some(state.counts.syncs);
        let pending = std::mem::take(&mut state.inode(inode)?.pending);
        if fails {
            state.sync_failed = true;
            return Err(sqlite::SQLITE_IOERR_FSYNC);
        }
        let kept = &mut state.inode(inode)?.kept;
        pending.iter().for_each(|change| change.apply(kept));
        if folder {
            state.sync_names();
        }
        Ok(())
    }

    pub(super) fn size(&self, inode: usize) -> Result<usize, Code> {
        Ok(self.state().inode(inode)?.now.len())
    }

    /// SQLite's five levels: none, shared, reserved, pending, exclusive.
    pub(super) fn lock(&self, inode: usize, file: u64, want: c_int) -> Result<(), Code> {
        let mut state = self.state();
        if state.off {
            return Err(sqlite::SQLITE_IOERR_LOCK);
        }
        let locks = &mut state.inode(inode)?.locks;
        let others = locks.iter().filter(|(other, _)| **other != file);
        let highest = others
            .map(|(_, level)| *level)
            .max()
            .unwrap_or(sqlite::SQLITE_LOCK_NONE);
        let blocked_from = match want {
            sqlite::SQLITE_LOCK_SHARED => sqlite::SQLITE_LOCK_PENDING,
            sqlite::SQLITE_LOCK_EXCLUSIVE => sqlite::SQLITE_LOCK_SHARED,
            _ => sqlite::SQLITE_LOCK_RESERVED,
        };
        let own = locks.entry(file).or_insert(sqlite::SQLITE_LOCK_NONE);
        if highest >= blocked_from {
            // New readers have to wait, so that the writer gets its turn.
            if want == sqlite::SQLITE_LOCK_EXCLUSIVE && highest == sqlite::SQLITE_LOCK_SHARED {
                *own = sqlite::SQLITE_LOCK_PENDING;
            }
            return Err(sqlite::SQLITE_BUSY);
        }
        *own = want.max(*own);
        Ok(())
    }

    pub(super) fn unlock(&self, inode: usize, file: u64, to: c_int) {
        if let Ok(inode) = self.state().inode(inode) {
            inode.locks.insert(file, to);
        }
    }

    /// Does anybody hold a reserved lock?
    pub(super) fn is_reserved(&self, inode: usize) -> bool {
        let mut state = self.state();
        let locks = state.inode(inode).map(|inode| &inode.locks);
        locks.is_ok_and(|locks| locks.values().any(|level| *level >= sqlite::SQLITE_LOCK_RESERVED))
    }

    pub(super) fn close(&self, inode: usize, file: u64) {
        if let Ok(inode) = self.state().inode(inode) {
            inode.locks.remove(&file);
            inode.shm.leave(file);
        }
    }

    /// The shared memory of a file; its real file would take room on the disk. Null: there is no such region.
    pub(super) fn map_shm(
        &self,
        inode: usize,
        file: u64,
        region: usize,
        size: usize,
        extend: bool,
    ) -> Result<*mut u8, Code> {
        let mut state = self.state();
        if state.off {
            return Err(sqlite::SQLITE_IOERR_SHMMAP);
        }
        let full = state.faults.full;
        let shm = &mut state.inode(inode)?.shm;
        if full && extend && !shm.has(region) {
            return Err(sqlite::SQLITE_IOERR_SHMSIZE);
        }
        shm.map(file, region, size, extend)
    }

    pub(super) fn lock_shm(
        &self,
        inode: usize,
        file: u64,
        slots: Range<usize>,
        ask: &Ask,
    ) -> Result<(), Code> {
        let mut state = self.state();
        let off = state.off;
        let shm = &mut state.inode(inode)?.shm;
        match ask {
            Ask::Unlock => {
                shm.unlock(file, slots);
                Ok(())
            }
            _ if off => Err(sqlite::SQLITE_IOERR_SHMLOCK),
            Ask::Shared => shm.lock(file, slots, false),
            Ask::Exclusive => shm.lock(file, slots, true),
        }
    }

    pub(super) fn leave_shm(&self, inode: usize, file: u64) {
        if let Ok(inode) = self.state().inode(inode) {
            inode.shm.leave(file);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn inode(&mut self, inode: usize) -> Result<&mut Inode, Code> {
        self.inodes.get_mut(inode).ok_or(sqlite::SQLITE_IOERR)
    }

    /// Err: the power is off, or goes off in the middle of this step.
    fn step(&mut self, error: Code) -> Result<(), Code> {
        if !self.off {
            self.counts.steps += 1;
            self.off = self.faults.cut_at.is_some_and(|at| self.counts.steps >= at);
        }
        if self.off { Err(error) } else { Ok(()) }
    }

    /// A change that the cut falls into may be on the platter afterwards, or a part of it.
    fn change(&mut self, inode: usize, change: Change, error: Code) -> Result<(), Code> {
        let was_off = self.off;
        let step = self.step(error);
        if !was_off {
            let file = self.inode(inode)?;
            change.apply(&mut file.now);
            file.pending.push(change);
        }
        step
    }

    fn sync_names(&mut self) {
        self.kept_names = self.names.clone();
    }
}
