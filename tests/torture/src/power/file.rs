//! An open file as SQLite sees it: a table of C functions over [`Disk`].

use std::os::raw::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_int64};

use super::disk::{Code, Disk};
use super::shm::Ask;
use super::vfs::code;

/// What SQLite allocates for us; it begins with the table of methods.
#[repr(C)]
pub struct PowerFile {
    base: sqlite3_file,
    handle: *mut Handle,
}

pub struct Handle {
    disk: Arc<Disk>,
    inode: usize,
    id: u64,
    /// A new journal: its first sync also syncs the folder, as in os_unix.c.
    sync_folder: AtomicBool,
    delete_on_close: Option<PathBuf>,
}

impl Handle {
    pub fn open(disk: Arc<Disk>, path: &Path, flags: c_int) -> Result<Self, Code> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let create = flags & sqlite::SQLITE_OPEN_CREATE != 0;
        let journals =
            sqlite::SQLITE_OPEN_MAIN_JOURNAL | sqlite::SQLITE_OPEN_SUPER_JOURNAL | sqlite::SQLITE_OPEN_WAL;
        Ok(Self {
            inode: disk.open(path, create)?,
            id: IDS.fetch_add(1, Ordering::Relaxed),
            sync_folder: AtomicBool::new(create && flags & journals != 0),
            delete_on_close: (flags & sqlite::SQLITE_OPEN_DELETEONCLOSE != 0).then(|| path.to_owned()),
            disk,
        })
    }
}

impl PowerFile {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "two pointers"
    )]
    pub const SIZE: c_int = size_of::<Self>() as c_int;

    /// # Safety
    /// `file` points to [`PowerFile::SIZE`] writable bytes, aligned for a pointer.
    pub unsafe fn init(file: *mut sqlite3_file, handle: Handle) {
        let ours = Self {
            base: sqlite3_file { pMethods: &METHODS },
            handle: Box::into_raw(Box::new(handle)),
        };
        // SAFETY: by the contract of this function.
        unsafe { file.cast::<Self>().write(ours) }
    }
}

/// # Safety
/// `file` was filled by [`PowerFile::init`] and is not closed.
unsafe fn handle<'a>(file: *mut sqlite3_file) -> &'a Handle {
    // SAFETY: by the contract of this function; the box lives until `close`, and nobody has it mutably before.
    unsafe { &*(*file.cast::<PowerFile>()).handle }
}

/// Sizes and offsets of SQLite are signed and never negative.
fn size(n: impl TryInto<usize>) -> usize {
    n.try_into().unwrap_or(0)
}

const METHODS: sqlite::sqlite3_io_methods = sqlite::sqlite3_io_methods {
    // 2: with shared memory, without memory mapping.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

// For all of them holds: SQLite passes a file that `init` filled and that is open, and pointers that are valid for what the
// method is documented to do with them.

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see above; SQLite closes a file once and does not touch it afterwards.
    let handle = unsafe { Box::from_raw((*file.cast::<PowerFile>()).handle) };
    handle.disk.close(handle.inode, handle.id);
    if let Some(path) = &handle.delete_on_close {
        let _ = handle.disk.delete(path, false);
    }
    sqlite::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    to: *mut c_void,
    count: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: see above; `count` bytes at `to` are writable.
    let (handle, buffer) = unsafe { (handle(file), slice::from_raw_parts_mut(to.cast(), size(count))) };
    match handle.disk.read(handle.inode, size(at), buffer) {
        Ok(true) => sqlite::SQLITE_OK,
        Ok(false) => sqlite::SQLITE_IOERR_SHORT_READ,
        Err(code) => code,
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: see above; `count` bytes at `from` are readable.
    let (handle, bytes) = unsafe { (handle(file), slice::from_raw_parts(from.cast(), size(count))) };
    code(handle.disk.write(handle.inode, size(at), bytes))
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, to: sqlite3_int64) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    code(handle.disk.truncate(handle.inode, size(to)))
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    let folder = handle.sync_folder.load(Ordering::Relaxed);
    let result = handle.disk.sync(handle.inode, folder);
    if result.is_ok() {
        handle.sync_folder.store(false, Ordering::Relaxed);
    }
    code(result)
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut sqlite3_int64) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    match handle.disk.size(handle.inode) {
        Ok(size) => {
            // SAFETY: see above.
            unsafe { *out = sqlite3_int64::try_from(size).unwrap_or(sqlite3_int64::MAX) };
            sqlite::SQLITE_OK
        }
        Err(code) => code,
    }
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    code(handle.disk.lock(handle.inode, handle.id, level))
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    handle.disk.unlock(handle.inode, handle.id, level);
    sqlite::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    let reserved = handle.disk.is_reserved(handle.inode);
    // SAFETY: see above.
    unsafe { *out = c_int::from(reserved) };
    sqlite::SQLITE_OK
}

unsafe extern "C" fn file_control(_file: *mut sqlite3_file, _op: c_int, _arg: *mut c_void) -> c_int {
    sqlite::SQLITE_NOTFOUND
}

/// As os_unix.c answers.
unsafe extern "C" fn sector_size(_file: *mut sqlite3_file) -> c_int {
    4_096
}

/// As os_unix.c answers.
unsafe extern "C" fn device_characteristics(_file: *mut sqlite3_file) -> c_int {
    sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE | sqlite::SQLITE_IOCAP_SUBPAGE_READ
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    let (region, extend) = (size(region), extend != 0);
    let disk = &handle.disk;
    let mapped = disk.map_shm(handle.inode, handle.id, region, size(bytes), extend);
    // SAFETY: see above.
    unsafe { *out = mapped.unwrap_or(std::ptr::null_mut()).cast() };
    code(mapped.map(drop))
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    let slots = size(first)..size(first) + size(count);
    code(
        handle
            .disk
            .lock_shm(handle.inode, handle.id, slots, &Ask::of(flags)),
    )
}

unsafe extern "C" fn shm_barrier(_file: *mut sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: see above.
    let handle = unsafe { handle(file) };
    handle.disk.leave_shm(handle.inode, handle.id);
    sqlite::SQLITE_OK
}
