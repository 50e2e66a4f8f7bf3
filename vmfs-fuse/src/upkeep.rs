//! What a host that writes to a volume has to do from time to time.

use std::sync::Arc;
use std::thread;

use anyhow::Context;
use vmfs_core::fs::{FileSystem, FsError};

/// Starts doing it, for as long as the program runs: heartbeats, and making changes durable.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn start(fs: &Arc<FileSystem>) -> anyhow::Result<()> {
    let fs = Arc::clone(fs);
    let thread = thread::Builder::new().name("upkeep".to_owned());
    let started = thread.spawn(move || {
        let mut complaint = None;
        loop {
            let (wait, result) = fs.keep_up();
            if matches!(result, Err(FsError::Fenced)) {
                // Which it has said when it noticed. There is nothing more to keep up.
                return;
            }
            let found = result.err().map(|error| error.to_string());
            // A LUN that is away fails each time, until it is back.
            if found != complaint {
                if let Some(error) = &found {
                    tracing::error!("{error}");
                } else {
                    tracing::warn!("the volume can be written to again");
                }
                complaint = found;
            }
            thread::sleep(wait);
        }
    });
    started.context("can't start a thread").map(drop)
}
