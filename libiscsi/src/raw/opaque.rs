//! Structures of libiscsi, as far as their layout is the same in every version in use.
//!
//! `struct scsi_sense`, which lies in the middle of `struct scsi_task`, grew in 1.20: what comes
//! before it can be read where it is, the rest not.

#![allow(non_camel_case_types)]

use std::ffi::{c_int, c_uchar};

/// A context: a session and its connection.
#[repr(C)]
pub(super) struct iscsi_context {
    _private: [u8; 0],
}

/// A buffer that libiscsi allocates.
#[repr(C)]
pub(super) struct iscsi_data {
    _private: [u8; 0],
}

/// The start of a command's structure.
#[repr(C)]
pub(super) struct scsi_task {
    status: c_int,
    cdb_size: c_int,
    xfer_dir: c_int,
    expxferlen: c_int,
    cdb: [c_uchar; 16],
    pub(super) residual_status: c_int,
    pub(super) residual: usize,
}

/// What a target says of a command that it did not carry out, and room for what later versions
/// add to it.
#[repr(C, align(8))]
#[derive(Default)]
pub(super) struct scsi_sense {
    error_type: c_uchar,
    pub(super) key: c_int,
    pub(super) ascq: c_int,
    rest: [u64; 30],
}
