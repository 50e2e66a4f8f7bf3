//! `vmfs cat`.

use std::io::{self, Write};

use crate::Common;
use crate::error::Error;
use crate::target::Target;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file
    #[arg(value_name = "DEVICE:/PATH")]
    target: Target,
    /// Start at this byte
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    offset: u64,
    /// Stop after so many bytes
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let fs = args.target.open(common)?;
    let file = args.target.resolve(&fs, true)?;
    if file.is_directory() {
        return Err(Error::Usage(format!("{} is a directory", args.target.path)));
    }
    let end = args
        .length
        .map_or(u64::MAX, |length| args.offset.saturating_add(length));
    let mut out = io::stdout().lock();
    let mut buf = vec![0; CHUNK];
    let mut at = args.offset;
    while at < end {
        let wanted = buf
            .len()
            .min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let read = fs
            .read(&file, at, &mut buf[..wanted])
            .map_err(|source| Error::Path {
                path: args.target.path.clone(),
                source: Box::new(source),
            })?;
        if read == 0 {
            break;
        }
        out.write_all(&buf[..read])?;
        at += read as u64;
    }
    out.flush()?;
    Ok(())
}
