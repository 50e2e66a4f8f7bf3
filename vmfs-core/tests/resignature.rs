//! A copy of a volume gets a signature of its own, whenever the job is cut off.

use std::io;
use std::sync::Arc;

use mkfs_vmfs::{Identity, Options, Plan, Target};
use vmfs_core::format::{Family, VolumeState};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{
    Device, LvmError, NewSignature, Origin, Resignatured, open_luns, resignature,
};
use vmfs_core::scsi::{DeviceOffset, FaultLun, Faults, Lun, MemoryLun};

struct ToLun<'a>(&'a MemoryLun);

impl Target for ToLun<'_> {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0
            .write(DeviceOffset(offset), bytes)
            .map_err(io::Error::other)
    }

    fn zero(&self, _: u64, _: u64) -> io::Result<()> {
        // A new LUN is all zeros.
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

const SIZE: u64 = 2_181_038_592;

/// A volume over `count` LUNs.
fn volume(family: Family, count: usize) -> Vec<Arc<MemoryLun>> {
    let luns: Vec<_> = (0..count)
        .map(|i| Arc::new(MemoryLun::new(&format!("original-{i}"), SIZE)))
        .collect();
    let mut options = Options::new(family, &vec![SIZE; count]);
    "datastore".clone_into(&mut options.label);
    options.time_us = 1_700_000_000_000_000;
    for (device, lun) in options.devices.iter_mut().zip(&luns) {
        device.disk_id = lun.name().as_bytes().to_vec();
    }
    let plan = Plan::new(options).expect("plan");
    let targets: Vec<_> = luns.iter().map(|lun| ToLun(lun)).collect();
    mkfs_vmfs::apply(&plan, &targets).expect("mkfs");
    luns
}

fn replicas(luns: &[Arc<MemoryLun>], name: &str) -> Vec<Arc<MemoryLun>> {
    let copies = luns.iter().enumerate();
    copies
        .map(|(i, lun)| Arc::new(lun.replica(&format!("{name}-{i}"))))
        .collect()
}

fn as_luns(luns: &[Arc<MemoryLun>]) -> Vec<Arc<dyn Lun>> {
    luns.iter()
        .map(|lun| Arc::clone(lun) as Arc<dyn Lun>)
        .collect()
}

/// The `number`-th new signature.
fn signature(number: u64) -> NewSignature {
    let mut identity = Identity::new(1_800_000_000_000_000, number);
    NewSignature {
        volume: identity.uuid(),
        file_system: identity.uuid(),
        time_us: 1_800_000_000_000_000,
    }
}

/// What tells volumes apart, after a check that the volume mounts and is in order.
fn identity_of(luns: &[Arc<MemoryLun>]) -> Signature {
    let volume = open_luns(as_luns(luns)).expect("volume");
    assert_eq!(volume.missing_devices(), 0);
    for device in volume.devices() {
        assert_eq!(device.origin(), Origin::Original, "{}", device.name());
        assert_eq!(device.volumes()[0].state(), VolumeState::Normal);
    }
    let uuid = volume.uuid().expect("LVM").to_string();
    let fs = FileSystem::open(volume).expect("file system");
    let fsd = fs.descriptor();
    assert_eq!(fsd.volume_uuid().to_string(), uuid);
    fs.lookup(&fs.root().expect("root"), b".fdc.sf")
        .expect("system file");
    (uuid, fsd.uuid.to_string(), fsd.label())
}

#[test]
fn a_copy_becomes_a_volume_of_its_own() {
    for (family, count) in [(Family::Vmfs6, 1), (Family::Vmfs5, 1), (Family::Vmfs6, 3)] {
        let original = volume(family, count);
        let before = identity_of(&original);
        let copy = replicas(&original, "copy");
        for lun in as_luns(&copy) {
            assert_eq!(
                Device::open(lun).expect("device").origin(),
                Origin::Snapshot
            );
        }
        let done = resignature(as_luns(&copy), signature(1)).expect("resignature");
        let after = identity_of(&copy);
        assert_eq!(done.volume, after.0);
        assert_eq!(done.label.as_deref(), Some(after.2.as_str()));
        assert!(
            after.2.starts_with("snap-") && after.2.ends_with("-datastore"),
            "{}",
            after.2
        );
        assert!(before.0 != after.0 && before.1 != after.1);
        assert_eq!(identity_of(&original), before, "the original is untouched");
    }
}

/// UUID of the volume, of the file system, and label.
type Signature = (String, String, String);

#[test]
fn copies_of_copies_are_told_apart() {
    let original = volume(Family::Vmfs6, 1);
    let mut seen = vec![identity_of(&original)];
    let mut last = original.clone();
    for number in 1..4 {
        let copy = replicas(&last, &format!("copy{number}"));
        resignature(as_luns(&copy), signature(number)).expect("resignature");
        seen.push(identity_of(&copy));
        last = copy;
    }
    let second_of_first = replicas(&original, "second");
    resignature(as_luns(&second_of_first), signature(9)).expect("resignature");
    seen.push(identity_of(&second_of_first));
    let fields: [fn(&Signature) -> String; 3] = [|s| s.0.clone(), |s| s.1.clone(), |s| s.2.clone()];
    for field in fields {
        let mut values: Vec<_> = seen.iter().map(field).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), seen.len(), "{values:?}");
    }
}

#[test]
fn what_is_no_copy_or_not_whole_is_refused() {
    let original = volume(Family::Vmfs6, 2);
    let refused = resignature(as_luns(&original), signature(1));
    assert!(
        matches!(refused, Err(LvmError::NotSnapshot { .. })),
        "{refused:?}"
    );
    let half = replicas(&original, "copy");
    let refused = resignature(as_luns(&half[..1]), signature(1));
    let Err(LvmError::Incomplete {
        given: 1,
        expected: 2,
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(identity_of(&original), identity_of(&original));
}

/// Faults that come after so many writes, and stay.
fn cut_after(writes: u64) -> Arc<Faults> {
    let faults = Faults::none(false, false);
    faults.set(writes, u64::MAX);
    Arc::new(faults)
}

#[test]
fn cut_off_at_any_write_it_leaves_the_old_state_or_one_that_running_it_again_completes() {
    for (family, count) in [(Family::Vmfs6, 1), (Family::Vmfs5, 1), (Family::Vmfs6, 3)] {
        let original = volume(family, count);
        let mut cuts = 0;
        loop {
            let copy = replicas(&original, "copy");
            let faults = cut_after(cuts);
            let cut = copy
                .iter()
                .map(|lun| Arc::new(FaultLun::new(Arc::clone(lun), Arc::clone(&faults))) as _)
                .collect();
            let first = resignature(cut, signature(1));
            if first.is_ok() {
                assert_eq!(faults.seen(), cuts, "every write was cut once");
                break;
            }
            // The second run is given other UUIDs, as a real one would be.
            let second: Resignatured =
                resignature(as_luns(&copy), signature(2)).expect("second run");
            assert_eq!(second.completed, cuts > 0, "after {cuts} writes");
            let after = identity_of(&copy);
            assert_eq!(second.volume, after.0);
            assert!(after.2.starts_with("snap-"), "{}", after.2);
            let again = resignature(as_luns(&copy), signature(3));
            assert!(
                matches!(again, Err(LvmError::NotSnapshot { .. })),
                "{again:?}"
            );
            cuts += 1;
        }
        // An entry and a header a device, the descriptor, and the entries once more.
        assert_eq!(cuts, 3 * count as u64 + 1);
    }
}

#[test]
fn a_volume_in_the_middle_of_it_says_what_to_do() {
    let copy = replicas(&volume(Family::Vmfs6, 2), "copy");
    let faults = cut_after(1);
    let cut = copy
        .iter()
        .map(|lun| Arc::new(FaultLun::new(Arc::clone(lun), Arc::clone(&faults))) as _)
        .collect();
    resignature(cut, signature(1)).expect_err("cut off");
    let error = open_luns(as_luns(&copy)).expect_err("half signed");
    assert!(
        error.to_string().contains("vmfs lvm resignature"),
        "{error}"
    );
}

#[test]
fn a_header_without_an_identity_says_nothing_about_its_origin() {
    let luns = volume(Family::Vmfs6, 1);
    let at = DeviceOffset(vmfs_core::format::DEVICE_HEADER_OFFSET + 0x0c);
    luns[0].write(at, &[0; 78]).expect("write");
    let lun = Arc::clone(&luns[0]) as Arc<dyn Lun>;
    let device = Device::open(lun).expect("device");
    assert!(device.lun().identity().is_some());
    assert_eq!(device.stored_identity(), "");
    assert_eq!(device.origin(), Origin::Unknown);
    let refused = resignature(as_luns(&luns), signature(1));
    assert!(
        matches!(refused, Err(LvmError::NotSnapshot { .. })),
        "{refused:?}"
    );
}
