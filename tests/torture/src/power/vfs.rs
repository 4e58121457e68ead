//! The default VFS of this process: paths on an attached [`Disk`] go there, all others to the VFS that was the default.
//!
//! <https://sqlite.org/vfs.html>

use std::ffi::{CStr, OsStr};
use std::os::raw::{c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use libsqlite3_sys as sqlite;

use super::disk::{Code, Disk};
use super::file::{Handle, PowerFile};

static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());

fn disks() -> MutexGuard<'static, Vec<Arc<Disk>>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk that SQLite uses until this is dropped; files that are open stay on it.
pub struct Attached(Arc<Disk>);

impl Attached {
    pub fn new(disk: Disk) -> Self {
        register();
        let disk = Arc::new(disk);
        disks().push(Arc::clone(&disk));
        Self(disk)
    }
}

impl std::ops::Deref for Attached {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.0
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        disks().retain(|disk| !Arc::ptr_eq(disk, &self.0));
    }
}

fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `under` is SQLite's own VFS, which lives for ever, and so does ours (leaked). The methods taken over from
        // it do not look at their first argument (os_unix.c of 3.51.3): paths, sleep, time, randomness, shared libraries.
        unsafe {
            sqlite::sqlite3_initialize();
            let under = sqlite::sqlite3_vfs_find(ptr::null());
            if under.is_null() {
                return;
            }
            let ours = sqlite::sqlite3_vfs {
                szOsFile: (*under).szOsFile.max(PowerFile::SIZE),
                zName: c"power-loss".as_ptr(),
                pAppData: under.cast(),
                xOpen: Some(open),
                xDelete: Some(delete),
                xAccess: Some(access),
                ..*under
            };
            sqlite::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1);
        }
    });
}

/// # Safety
/// `vfs` is ours.
unsafe fn under(vfs: *mut sqlite::sqlite3_vfs) -> *mut sqlite::sqlite3_vfs {
    // SAFETY: `register` put the VFS below into pAppData.
    unsafe { (*vfs).pAppData.cast() }
}

/// # Safety
/// `name` is null or a C string that outlives the result.
unsafe fn locate<'a>(name: *const c_char) -> Option<(Arc<Disk>, &'a Path)> {
    if name.is_null() {
        return None;
    }
    // SAFETY: by the contract of this function.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    let disk = disks().iter().rev().find(|disk| disk.holds(path)).cloned();
    disk.map(|disk| (disk, path))
}

pub fn code(result: Result<(), Code>) -> c_int {
    result.err().unwrap_or(sqlite::SQLITE_OK)
}

unsafe extern "C" fn open(
    vfs: *mut sqlite::sqlite3_vfs,
    name: sqlite::sqlite3_filename,
    file: *mut sqlite::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes our VFS, a name that is null or a C string, `szOsFile` bytes at `file`, and an `out` that is null
    // or writable. The VFS below gets its own pointer and a file that is large enough for it.
    unsafe {
        let Some((disk, path)) = locate(name) else {
            let under = under(vfs);
            return match (*under).xOpen {
                Some(open) => open(under, name, file, flags, out),
                None => sqlite::SQLITE_CANTOPEN,
            };
        };
        (*file).pMethods = ptr::null();
        match Handle::open(disk, path, flags) {
            Ok(handle) => {
                PowerFile::init(file, handle);
                if !out.is_null() {
                    *out = flags;
                }
                sqlite::SQLITE_OK
            }
            Err(code) => code,
        }
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite::sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    // SAFETY: SQLite passes our VFS and a C string.
    unsafe {
        if let Some((disk, path)) = locate(name) {
            return code(disk.delete(path, sync_folder != 0));
        }
        let under = under(vfs);
        (*under).xDelete.map_or(sqlite::SQLITE_IOERR_DELETE, |delete| {
            delete(under, name, sync_folder)
        })
    }
}

unsafe extern "C" fn access(
    vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes our VFS, a C string and a writable `out`.
    unsafe {
        if let Some((disk, path)) = locate(name) {
            return match disk.exists(path) {
                Ok(exists) => {
                    *out = c_int::from(exists);
                    sqlite::SQLITE_OK
                }
                Err(code) => code,
            };
        }
        let under = under(vfs);
        (*under).xAccess.map_or(sqlite::SQLITE_IOERR_ACCESS, |access| {
            access(under, name, flags, out)
        })
    }
}
