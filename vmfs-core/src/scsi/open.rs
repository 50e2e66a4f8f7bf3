use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::LunError;
use super::file_lun::FileLun;
use super::iscsi::{IscsiLun, IscsiTimeouts, IscsiUrl};
use super::lun::{Access, Lun};

/// Opens the LUN at `location`, the path of an image file or a block device or an `iscsi://` URL,
/// as the host called `initiator`; if that isn't given, as this machine.
///
/// # Errors
/// [`LunError`] saying why it can't be opened, and what to do.
pub fn open(
    location: &Path,
    access: Access,
    initiator: Option<&str>,
) -> Result<Arc<dyn Lun>, LunError> {
    if !IscsiUrl::is_one(location) {
        return Ok(match initiator {
            Some(initiator) => Arc::new(FileLun::open_as(location, access, initiator)?),
            None => Arc::new(FileLun::open(location, access)?),
        });
    }
    let url = parse(location)?;
    let timeouts = IscsiTimeouts::default();
    Ok(Arc::new(IscsiLun::open(&url, access, initiator, timeouts)?))
}

/// What messages and tables call the LUN at `location`: a URL without its secret.
///
/// # Errors
/// [`LunError`] when it is meant to be a URL and isn't.
pub fn name_of(location: &Path) -> Result<PathBuf, LunError> {
    if IscsiUrl::is_one(location) {
        Ok(PathBuf::from(parse(location)?.to_string()))
    } else {
        Ok(location.to_owned())
    }
}

fn parse(location: &Path) -> Result<IscsiUrl, LunError> {
    let text = location.to_str().unwrap_or_default();
    text.parse().map_err(|problem| LunError::Url { problem })
}
