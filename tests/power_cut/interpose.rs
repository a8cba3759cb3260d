//! The calls by which a program changes a disk, in place of the C library's: each does what it is asked for and tells the tap.
//!
//! They belong to this test program alone. SQLite and the standard library are linked into it, and find these definitions before
//! those of the C library; so that what is noted is what the agents' code really does, down to the syncs of folders inside of
//! SQLite. System calls are made directly, as the C library's own functions of these names are hidden.
//!
//! Nothing is really synced: what survives a power cut is what [`microlambda_tests::powercut`] says, and the disk is spared.
#![expect(
    unsafe_code,
    reason = "functions of the C library's names and types can be neither defined nor called safely"
)]

use std::cell::Cell;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libc::{c_char, c_int, c_long, c_uint, c_void, mode_t, off_t, size_t, ssize_t};
use microlambda_tests::powercut::tap;

/// # Safety
/// `path` is a C string that lives as long as the result is used.
unsafe fn path<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: as the caller says.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// # Safety
/// As for `open(2)`.
unsafe fn open_file(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the arguments are those of the caller, in the order of openat(2).
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name, flags, c_uint::from(mode)) } as c_int;
    // A file that is only read is none that is made.
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
    if fd >= 0 {
        // SAFETY: the system call has read the path.
        let path = unsafe { path(name) };
        if writes || flags & libc::O_CREAT != 0 || path.is_dir() {
            tap::opened(fd, path, flags & libc::O_TRUNC != 0);
        } else {
            tap::closed(fd);
        }
    }
    fd
}

/// In C the last argument is optional; where it is missing, its value is of no consequence.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's duty.
    unsafe { open_file(name, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's duty.
    unsafe { open_file(name, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    // Before the number can be given out again.
    tap::closed(fd);
    // SAFETY: the caller owns the descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, data: *const c_void, bytes: size_t) -> ssize_t {
    // SAFETY: any number may be asked about.
    let offset = unsafe { libc::syscall(libc::SYS_lseek, fd, 0 as c_long, libc::SEEK_CUR) };
    // SAFETY: the caller's buffer.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, data, bytes) } as ssize_t;
    // SAFETY: so many bytes of it were just read.
    unsafe { tell_written(fd, data, written, offset) };
    written
}

/// # Safety
/// `data` points to so many bytes, if there are any.
unsafe fn tell_written(fd: c_int, data: *const c_void, written: ssize_t, offset: off_t) {
    if let (Ok(bytes @ 1..), Ok(offset)) = (usize::try_from(written), u64::try_from(offset)) {
        // SAFETY: the caller's duty.
        tap::written(fd, offset, unsafe { std::slice::from_raw_parts(data.cast::<u8>(), bytes) });
    }
}

/// # Safety
/// As for `pwrite(2)`.
unsafe fn write_at(fd: c_int, data: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller's buffer.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, fd, data, bytes, offset) } as ssize_t;
    // SAFETY: so many bytes of it were just read.
    unsafe { tell_written(fd, data, written, offset) };
    written
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, data: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller's duty.
    unsafe { write_at(fd, data, bytes, offset) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, data: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller's duty.
    unsafe { write_at(fd, data, bytes, offset) }
}

fn truncate(fd: c_int, bytes: off_t) -> c_int {
    // SAFETY: no memory is involved.
    let outcome = unsafe { libc::syscall(libc::SYS_ftruncate, fd, bytes) } as c_int;
    if let (0, Ok(bytes)) = (outcome, u64::try_from(bytes)) {
        tap::truncated(fd, bytes);
    }
    outcome
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate(fd: c_int, bytes: off_t) -> c_int {
    truncate(fd, bytes)
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, bytes: off_t) -> c_int {
    truncate(fd, bytes)
}

thread_local! {
    /// Calls of fsync by this thread: it writes a file's times too, fdatasync only what is needed to read the data again.
    pub(crate) static SYNCS_WITH_TIMES: Cell<u64> = const { Cell::new(0) };
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    SYNCS_WITH_TIMES.set(SYNCS_WITH_TIMES.get() + 1);
    tap::synced(fd);
    0
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    tap::synced(fd);
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(name: *const c_char) -> c_int {
    // SAFETY: the caller's path.
    let outcome = unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, name, 0) } as c_int;
    if outcome == 0 {
        // SAFETY: the system call has read the path.
        tap::unlinked(unsafe { path(name) });
    }
    outcome
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(before: *const c_char, after: *const c_char) -> c_int {
    let here = libc::AT_FDCWD;
    // SAFETY: the caller's paths.
    let outcome = unsafe { libc::syscall(libc::SYS_renameat2, here, before, here, after, 0) } as c_int;
    if outcome == 0 {
        // SAFETY: the system call has read both paths.
        let (before, after) = unsafe { (path(before), path(after)) };
        tap::renamed(before, after);
    }
    outcome
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(name: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller's path.
    let outcome = unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, name, c_uint::from(mode)) } as c_int;
    if outcome == 0 {
        // SAFETY: the system call has read the path.
        tap::folder_made(unsafe { path(name) });
    }
    outcome
}
