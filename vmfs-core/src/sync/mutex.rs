use super::waiter::wait_for;

pub use parking_lot::{MutexGuard, ReentrantMutexGuard};

/// What one thread at a time has.
#[derive(Debug, Default)]
pub struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    /// A mutex that nobody has.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Waits until no other thread has it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0
            .try_lock()
            .unwrap_or_else(|| wait_for(|| self.0.try_lock()).unwrap_or_else(|| self.0.lock()))
    }
}

/// A mutex that a thread which has it may take once more.
#[derive(Debug, Default)]
pub struct ReentrantMutex<T>(parking_lot::ReentrantMutex<T>);

impl<T> ReentrantMutex<T> {
    /// A mutex that nobody has.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::ReentrantMutex::new(value))
    }

    /// Waits until no other thread has it.
    pub fn lock(&self) -> ReentrantMutexGuard<'_, T> {
        self.0
            .try_lock()
            .unwrap_or_else(|| wait_for(|| self.0.try_lock()).unwrap_or_else(|| self.0.lock()))
    }
}
