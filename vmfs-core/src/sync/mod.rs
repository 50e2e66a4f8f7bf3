//! Locks between threads, which can be told how a thread waits.
//!
//! They are parking_lot's, and cost what those cost. But a thread that has a [`Waiter`] asks that one
//! to wait instead of the system when another thread has what it needs: a simulator decides so which
//! thread runs when, and no thread of its ever stands still without its knowledge.

mod condvar;
mod mutex;
mod rw_lock;
mod waiter;

pub use condvar::Condvar;
pub use mutex::{Mutex, MutexGuard, ReentrantMutex, ReentrantMutexGuard};
pub use rw_lock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use waiter::{Waiter, give_way, has_waiter, wait_by};

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;

    /// Has something done each time that a thread waits; a millisecond passes.
    struct Does<F>(RefCell<(F, Duration)>);

    impl<F: FnMut()> Waiter for Does<F> {
        fn wait(&self, _: bool, until: Option<Duration>) {
            let (work, now) = &mut *self.0.borrow_mut();
            *now = until.unwrap_or(*now + Duration::from_millis(1));
            work();
        }

        fn uptime(&self) -> Duration {
            self.0.borrow().1
        }
    }

    fn waiting<T>(work: impl FnMut() + 'static, run: impl FnOnce() -> T) -> T {
        wait_by(Some(Rc::new(Does(RefCell::new((work, Duration::ZERO))))));
        let done = run();
        wait_by(None);
        done
    }

    #[test]
    fn a_thread_with_a_waiter_waits_by_it() {
        let mutex: &Mutex<u32> = Box::leak(Box::new(Mutex::new(5)));
        let mut guard = Some(mutex.lock());
        let mut waits = 0;
        let free = move || {
            waits += 1;
            if waits == 3 {
                guard.take();
            }
        };
        assert_eq!(waiting(free, || *mutex.lock()), 5);
        assert_eq!(*mutex.lock(), 5);
    }

    #[test]
    fn who_waits_for_writing_goes_first_and_gives_up_in_time() {
        let lock: &RwLock<()> = Box::leak(Box::new(RwLock::new(())));
        let reader = lock.read();
        let refused = waiting(
            move || assert!(lock.writers.load(std::sync::atomic::Ordering::SeqCst) > 0),
            || lock.try_write_for(Duration::from_millis(10)).is_none(),
        );
        assert!(refused);
        drop(reader);
        assert!(waiting(
            || {},
            || lock.try_write_for(Duration::ZERO).is_some()
        ));
    }

    #[test]
    fn a_change_wakes_those_who_wait_for_it() {
        let state: &(Mutex<bool>, Condvar) =
            Box::leak(Box::new((Mutex::new(false), Condvar::new())));
        let change = || {
            *state.0.lock() = true;
            state.1.notify_all();
        };
        waiting(change, || {
            let mut guard = state.0.lock();
            while !*guard {
                state.1.wait(&mut guard);
            }
        });
    }
}
