//! What touches libiscsi itself: the only unsafe code of the workspace.

#[allow(
    non_camel_case_types,
    dead_code,
    unreachable_pub,
    clippy::unreadable_literal
)]
mod bindings;
mod loan;
mod opaque;
mod session;

pub(crate) use loan::{Loan, lend};
pub(crate) use session::{Session, Stage};
