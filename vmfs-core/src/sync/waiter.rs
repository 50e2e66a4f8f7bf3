use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// How a thread waits for another one.
pub trait Waiter {
    /// Lets other threads run: the calling one can't go on before one of them does something. It
    /// looks again when this returns, and comes back, `in_vain`, if that was too early. `until` is
    /// the [`Waiter::uptime`] at which it has waited long enough.
    fn wait(&self, in_vain: bool, until: Option<Duration>);

    /// Time that never goes backwards.
    fn uptime(&self) -> Duration;
}

thread_local! {
    static WAITER: RefCell<Option<Rc<dyn Waiter>>> = const { RefCell::new(None) };
}

/// Has the calling thread wait as `waiter` does from now on; `None`: as the system does.
pub fn wait_by(waiter: Option<Rc<dyn Waiter>>) {
    WAITER.set(waiter);
}

/// Whether the calling thread waits as a [`Waiter`] does.
pub fn has_waiter() -> bool {
    WAITER.with_borrow(Option::is_some)
}

/// Lets other threads run, one of which has what this one needs for a moment. `in_vain`: it was here
/// before for the same, and has let go of nothing since.
pub fn give_way(in_vain: bool) {
    match waiter() {
        Some(waiter) => waiter.wait(in_vain, None),
        None => std::thread::yield_now(),
    }
}

fn waiter() -> Option<Rc<dyn Waiter>> {
    WAITER.with_borrow(Clone::clone)
}

/// Waits as the thread's waiter does until `attempt` comes to something; `None` if the thread has no
/// waiter.
#[cold]
pub(super) fn wait_for<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let waiter = waiter()?;
    let mut in_vain = false;
    loop {
        waiter.wait(in_vain, None);
        in_vain = true;
        if let Some(done) = attempt() {
            return Some(done);
        }
    }
}

/// The thread waits as the system does.
pub(super) struct NoWaiter;

/// The same for `time` at most: then `None`.
pub(super) fn wait_for_some_time<T>(
    time: Duration,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<Option<T>, NoWaiter> {
    let waiter = waiter().ok_or(NoWaiter)?;
    let until = waiter.uptime() + time;
    let mut in_vain = false;
    loop {
        if let Some(done) = attempt() {
            return Ok(Some(done));
        }
        if waiter.uptime() >= until {
            return Ok(None);
        }
        waiter.wait(in_vain, Some(until));
        in_vain = true;
    }
}
