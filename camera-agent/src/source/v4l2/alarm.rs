//! Interrupts a thread that waits in the kernel for what may never come.
//!
//! For waits that are somebody else's and have no timeout: the waiting call fails with EINTR then.

use std::ffi::c_int;
use std::io;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::time::Duration;

/// One interruption may come just before the thread waits, and be lost: it is repeated.
const AGAIN: Duration = Duration::from_secs(1);

/// A timer of the thread that makes it, which sends it a signal that does nothing else.
pub(super) struct Alarm {
    timer: libc::timer_t,
}

extern "C" fn ignore(_signal: c_int) {}

#[expect(unsafe_code, reason = "a timer for one thread is reached through the C library alone")]
impl Alarm {
    /// A timer that is not set.
    pub(super) fn new() -> io::Result<Self> {
        let mut timer = null_mut();
        // SAFETY: both structures are plain data for which zeros are valid; the pointers are to them and to `timer`, for as long
        // as the calls last. The handler does nothing, so it may run at any time. Flags without SA_RESTART: calls end.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = ignore as extern "C" fn(c_int) as libc::sighandler_t;
            let mut event: libc::sigevent = zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGALRM;
            event.sigev_notify_thread_id = libc::gettid();
            if libc::sigaction(libc::SIGALRM, &raw const action, null_mut()) != 0
                || libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { timer })
    }

    /// Interrupts whatever the thread waits for once `after` is over, and again, until it is set anew; `ZERO` for never.
    pub(super) fn set(&self, after: Duration) {
        let spec = |time: Duration| libc::timespec {
            tv_sec: time.as_secs().cast_signed(),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let times = libc::itimerspec { it_interval: spec(AGAIN), it_value: spec(after) };
        // SAFETY: the timer lives as long as `self`; the times are read during the call.
        let set = unsafe { libc::timer_settime(self.timer, 0, &raw const times, null_mut()) };
        debug_assert_eq!(set, 0, "{times:?}");
    }
}

impl Drop for Alarm {
    #[expect(unsafe_code, reason = "see above")]
    fn drop(&mut self) {
        // SAFETY: the timer was made by `new` and is used no more.
        unsafe { libc::timer_delete(self.timer) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wait_ends_when_the_alarm_is_set_and_lasts_when_it_is_not() {
        let alarm = Alarm::new().unwrap();
        let (mut silent, _peer) = UnixStream::pair().unwrap();
        let mut wait = || silent.read(&mut [0]).unwrap_err().kind();
        let began = Instant::now();
        alarm.set(Duration::from_millis(50));
        assert_eq!(wait(), ErrorKind::Interrupted);
        assert!(began.elapsed() >= Duration::from_millis(50));
        assert_eq!(wait(), ErrorKind::Interrupted, "once is not enough: it may have come before the wait");
        alarm.set(Duration::ZERO);
        silent.set_read_timeout(Some(AGAIN * 3 / 2)).unwrap();
        assert_eq!(silent.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn other_threads_are_left_alone() {
        let waits = std::thread::spawn(|| {
            let (mut silent, _peer) = UnixStream::pair().unwrap();
            silent.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            silent.read(&mut [0]).unwrap_err().kind()
        });
        let alarm = Alarm::new().unwrap();
        alarm.set(Duration::from_millis(20));
        assert_eq!(waits.join().unwrap(), ErrorKind::WouldBlock);
    }
}
