//! The volumes that ESXi made. They aren't in the repository: `VMFS_ESXI_IMAGES` names the folder
//! that has them, packed as `NAME.img.zst`; the default is `../shared/images`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of ESXi's volumes, unpacked; never write to it. `None`, after saying so loudly, when it
/// isn't there.
///
/// # Panics
/// When it is there and can't be unpacked.
pub fn esxi_image(name: &str) -> Option<PathBuf> {
    let packed = folder().join(format!("{name}.img.zst"));
    if !packed.exists() {
        eprintln!(
            "\n*** NOT TESTED: ESXi's volume {name} isn't there.\n*** Set VMFS_ESXI_IMAGES to the folder with {name}.img.zst (now {}).\n",
            folder().display()
        );
        return None;
    }
    // The name says which packed file it is from, so that a new one is unpacked anew.
    let stamp = fs::metadata(&packed).expect("packed image").len();
    let cache = cache_folder();
    let unpacked = cache.join(format!("{name}-{stamp}.img"));
    if !unpacked.exists() {
        // Tests run at the same time: each unpacks for itself, the last to finish stays.
        let own = tempfile::NamedTempFile::new_in(&cache).expect("temporary file");
        let status = Command::new("zstd")
            .args(["-d", "-q", "-f", "--long=27", "--sparse", "-o"])
            .arg(own.path())
            .arg(&packed)
            .status()
            .expect("zstd runs (Debian package zstd)");
        assert!(status.success(), "zstd: {status}");
        own.persist(&unpacked).expect("rename");
    }
    Some(unpacked)
}

/// One of ESXi's volumes, or the end of the calling test, said loudly, when it isn't there.
#[macro_export]
macro_rules! esxi_image {
    ($name:expr) => {
        match $crate::images::esxi_image($name) {
            Some(image) => image,
            None => return,
        }
    };
}

/// The devices of one of ESXi's volumes: `vmfs5`, `vmfs6`, `vmfs5-span`, `vmfs6-span`.
pub fn esxi_volume(name: &str) -> Option<Vec<PathBuf>> {
    if name.ends_with("-span") {
        (0..2)
            .map(|index| esxi_image(&format!("{name}-{index}")))
            .collect()
    } else {
        Some(vec![esxi_image(name)?])
    }
}

fn folder() -> PathBuf {
    env::var_os("VMFS_ESXI_IMAGES")
        .map_or_else(|| workspace().join("../shared/images"), PathBuf::from)
}

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where what is expensive to make stays from one run to the next.
pub(crate) fn cache_folder() -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let folder = target.join("test-cache");
    fs::create_dir_all(&folder).expect("cache folder");
    folder
}
