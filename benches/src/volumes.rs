//! The VMFS volumes that runs read.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use vmfs_core::format::Family;
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_fixtures::{Blocks, Content, FixtureBuilder, Levels};

use crate::backing::{SMALL_FILES, Sizes, THICK, small_content, small_name};

/// The file on a very large volume.
pub const LARGE_FILE: &str = "large.bin";
/// Bytes of a very large volume.
const LARGE_VOLUME: u64 = 64 << 40;
/// Bytes of the file on it.
const LARGE_LENGTH: u64 = 40_000_000_000_000;
/// One block in each such part of the large file is stored: every pointer block of either version
/// exists, so that random reads need them all.
const LARGE_STEP: u64 = 1 << 30;

/// Makes a volume in `image`; the thick file's blocks are allocated but not written.
///
/// # Errors
/// No room.
pub fn make(image: &Path, family: Family, sizes: Sizes) -> Result<()> {
    // Sub-blocks, descriptors and the like take a part of their own.
    let bytes = (sizes.thick + (3 << 30)).next_multiple_of(256 << 20);
    let mut builder = create(image, family, bytes)?;
    let root = builder.root();
    builder.add_file(root, THICK, allocated(sizes.thick))?;
    let small = builder.add_dir(root, SMALL_FILES)?;
    for index in 0..sizes.files {
        let bytes = small_content(index, sizes);
        let content = match family {
            Family::Vmfs6 => Content::Resident(bytes),
            _ => Content::SubBlocks(bytes),
        };
        builder.add_file(small, &small_name(index), content)?;
    }
    builder.finish()?;
    Ok(())
}

/// Makes a volume of 64 TiB with a file of 40 TB; returns how to call that length.
///
/// # Errors
/// No room.
pub fn make_large(image: &Path, family: Family) -> Result<&'static str> {
    let mut builder = create(image, family, LARGE_VOLUME)?;
    let allocate = (0..LARGE_LENGTH)
        .step_by(LARGE_STEP as usize)
        .map(|offset| offset..offset + 1);
    let blocks = Blocks {
        length: LARGE_LENGTH,
        allocate: allocate.collect(),
        levels: Levels::Fewest,
        ..Blocks::default()
    };
    builder.add_file(builder.root(), LARGE_FILE, blocks)?;
    builder.finish()?;
    Ok("40 TB")
}

/// A file of file blocks whose bytes come later.
fn allocated(length: u64) -> Blocks {
    Blocks {
        length,
        allocate: std::iter::once(0..length).collect(),
        ..Blocks::default()
    }
}

fn create(image: &Path, family: Family, bytes: u64) -> Result<FixtureBuilder> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(image)
        .with_context(|| format!("create {}", image.display()))?;
    let options = Options::new(family, &[bytes]);
    Ok(FixtureBuilder::create(options, vec![file])?)
}
