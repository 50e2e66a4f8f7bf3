//! Memory of a caller that another thread uses while the caller waits.

use std::ffi::{c_int, c_uchar};
use std::ptr;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::answer::{Answer, Data};
use crate::error::Unanswered;

/// Memory that was lent, and where the lender waits for it. Gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    direction: Direction,
    start: *mut c_uchar,
    len: usize,
    slot: Arc<Slot>,
}

// SAFETY: the memory stays valid until the loan is dropped, because `lend` doesn't return before;
// until then the lender doesn't touch it if it is written, and only reads it if it is read.
unsafe impl Send for Loan {}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// There are none.
    None,
    /// From the target into the memory.
    In,
    /// From the memory to the target.
    Out,
}

#[derive(Debug)]
struct Slot {
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    answer: Option<Result<Answer, Unanswered>>,
    lent: bool,
}

/// Lends `data` to `send`, and waits until the loan is dropped, wherever it went. Gives the
/// answer; `None` if the loan was dropped without.
pub(crate) fn lend(data: Data<'_>, send: impl FnOnce(Loan)) -> Option<Result<Answer, Unanswered>> {
    let slot = Arc::new(Slot {
        state: Mutex::new(State {
            answer: None,
            lent: true,
        }),
        returned: Condvar::new(),
    });
    let (direction, start, len) = match data {
        Data::None => (Direction::None, ptr::null_mut(), 0),
        Data::In(buf) => (Direction::In, buf.as_mut_ptr(), buf.len()),
        Data::Out(data) => (Direction::Out, data.as_ptr().cast_mut(), data.len()),
    };
    // Waits however `send` ends, a panic included: the memory is lent all the same.
    let waiting = Waiting(&slot);
    send(Loan {
        direction,
        start,
        len,
        slot: Arc::clone(&slot),
    });
    drop(waiting);
    slot.state.lock().answer.take()
}

struct Waiting<'a>(&'a Slot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        while state.lent {
            self.0.returned.wait(&mut state);
        }
    }
}

impl Loan {
    /// Gives the memory back, with an answer.
    pub(crate) fn answer(self, answer: Result<Answer, Unanswered>) {
        self.slot.state.lock().answer = Some(answer);
    }

    pub(super) fn direction(&self) -> Direction {
        self.direction
    }

    /// The memory. Whoever uses it must have stopped when the loan is dropped, and must not
    /// write to it unless the direction is [`Direction::In`].
    pub(super) fn memory(&self) -> *mut c_uchar {
        self.start
    }

    /// Length of the memory; `None` if libiscsi can't count that far.
    pub(super) fn len(&self) -> Option<c_int> {
        c_int::try_from(self.len).ok()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        state.lent = false;
        // With the lock held: the lender frees nothing that is still in use here, since the
        // slot is shared, but it must not miss this.
        self.slot.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::answer::Status;

    #[test]
    fn the_lender_waits_until_the_loan_is_back() {
        let mut buf = [0; 4];
        let answer = thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel::<Loan>();
            scope.spawn(move || {
                let loan = receiver.recv().expect("a loan");
                thread::yield_now();
                // SAFETY: the loan is for writing and is dropped after this.
                unsafe { ptr::write_bytes(loan.memory(), 7, 4) };
                loan.answer(Ok(Answer {
                    status: Status::Good,
                    missing: 0,
                }));
            });
            lend(Data::In(&mut buf), |loan| {
                sender.send(loan).expect("the thread");
            })
        });
        let answer = answer.expect("answered").expect("sent");
        assert_eq!(answer.status, Status::Good);
        assert_eq!(buf, [7; 4]);
    }

    #[test]
    fn a_loan_that_is_dropped_is_no_answer_even_in_a_panic() {
        assert_eq!(lend(Data::Out(&[1, 2]), drop), None);
        let mut kept = None;
        let (sender, receiver) = mpsc::channel();
        let returner = thread::spawn(move || drop::<Option<Loan>>(receiver.recv().ok()));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            lend(Data::None, |loan| {
                kept = Some(());
                sender.send(loan).expect("the thread");
                panic!("in the middle of a loan");
            })
        }));
        assert!(panicked.is_err() && kept.is_some());
        returner.join().expect("returned");
    }
}
