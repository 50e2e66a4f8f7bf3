use anyhow::Result;

use super::Session;

pub(super) fn run(_session: &mut Session<'_>) -> Result<()> {
    Ok(())
}
