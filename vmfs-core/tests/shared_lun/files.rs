//! The file beside the image.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use vmfs_core::scsi::{Access, Capabilities, DeviceOffset, FileLun, Lun, LunError};

use super::Image;
use super::host::Host;

fn open(image: &Image, access: Access) -> Result<FileLun, LunError> {
    FileLun::open(&image.path(), access)
}

#[test]
fn who_only_reads_makes_no_file_and_joins_when_there_is_one() {
    let image = Image::new();
    let reader = open(&image, Access::ReadOnly).expect("open");
    let mut bytes = [0; 512];
    reader.read(DeviceOffset(0), &mut bytes).expect("read");
    assert!(!image.hosts().exists());
    assert_eq!(reader.capabilities(), Capabilities::default());
    let mut host = Host::start(&image.path(), "a");
    host.good("reserve");
    // It looks every tenth of a second, so it takes a while until it knows of the reservation.
    let conflict = loop {
        if let Err(error) = reader.read(DeviceOffset(0), &mut bytes) {
            break error;
        }
    };
    assert!(
        matches!(conflict, LunError::ReservationConflict { .. }),
        "{conflict}"
    );
}

#[test]
fn an_image_in_a_folder_that_cannot_be_written_to_still_opens() {
    let image = Image::new();
    let read_only = fs::Permissions::from_mode(0o555);
    fs::set_permissions(image.folder(), read_only).expect("permissions");
    if fs::write(image.folder().join("probe"), b"").is_ok() {
        // Root writes anywhere.
        fs::remove_file(image.folder().join("probe")).expect("remove");
        return;
    }
    let reader = open(&image, Access::ReadOnly).expect("open");
    reader.read(DeviceOffset(0), &mut [0; 512]).expect("read");
    let writer = open(&image, Access::ReadWrite).expect("open");
    writer.write(DeviceOffset(0), &[1; 512]).expect("write");
    assert!(!writer.capabilities().reserve);
    open(&image, Access::ReadWrite).expect_err("two can't share it");
    drop(writer);
    open(&image, Access::ReadWrite).expect("it is free again");
}

#[test]
fn hosts_that_would_not_meet_are_refused() {
    let image = Image::new();
    let _host = Host::start(&image.path(), "a");
    let other = image.folder().join("other");
    fs::create_dir(&other).expect("folder");
    let second_name = other.join("lun.img");
    fs::hard_link(image.path(), &second_name).expect("link");
    let error = FileLun::open(&second_name, Access::ReadWrite).expect_err("refused");
    assert!(error.to_string().contains("another name"), "{error}");
    // By a symbolic link they do meet.
    let link = image.folder().join("link");
    std::os::unix::fs::symlink(image.path(), &link).expect("link");
    let lun = FileLun::open(&link, Access::ReadWrite).expect("open");
    let status = lun.status().expect("status").expect("shared");
    assert_eq!(status.hosts.len(), 1);
    // Nor may the file be deleted under a host.
    fs::remove_file(image.hosts()).expect("remove");
    let error = open(&image, Access::ReadWrite).expect_err("refused");
    assert!(error.to_string().contains("deleted"), "{error}");
}

#[test]
fn a_copy_of_an_image_has_nothing_of_its_hosts() {
    let image = Image::new();
    let mut host = Host::start(&image.path(), "a");
    host.good("register 1");
    host.good("hold 1");
    let copy = image.folder().join("copy.img");
    fs::copy(image.path(), &copy).expect("copy");
    let beside = image.folder().join("copy.img.array.hosts");
    fs::copy(image.hosts(), &beside).expect("copy");
    let lun = FileLun::open(&copy, Access::ReadWrite).expect("open");
    lun.write(DeviceOffset(0), &[1; 512])
        .expect("nobody has reserved it");
    let status = lun.status().expect("status").expect("shared");
    assert_eq!(
        (status.hosts.len(), status.reservations.registrations.len()),
        (0, 0)
    );
}

#[test]
fn counters_of_all_hosts_are_kept() {
    let image = Image::new();
    let path = image.path();
    let mut a = Host::start(&path, "a");
    for _ in 0..3 {
        a.good("write 0 512 1");
    }
    a.order("quit");
    a.kill();
    let mut b = Host::start(&path, "b");
    b.good("compare 0 9 9");
    b.good("reserve");
    let lun = FileLun::open_as(&path, Access::ReadOnly, "admin").expect("open");
    let status = lun.status().expect("status").expect("shared");
    let reserved_by = status.reserved_by.expect("reserved");
    assert_eq!(reserved_by.initiator, "b");
    assert_eq!(status.hosts.len(), 1);
    drop(lun);
    drop(b);
    let lun = FileLun::open(&path, Access::ReadOnly).expect("open");
    let status = lun.status().expect("status").expect("shared");
    assert!(status.reserved_by.is_none() && status.hosts.is_empty());
}

#[test]
fn a_damaged_file_is_named_and_nothing_is_changed() {
    let image = Image::new();
    drop(open(&image, Access::ReadWrite).expect("open"));
    let mut bytes = fs::read(image.hosts()).expect("file");
    bytes[0] ^= 1;
    fs::write(image.hosts(), &bytes).expect("write");
    let error = open(&image, Access::ReadWrite).expect_err("damaged");
    assert!(error.to_string().contains("lun.img.array.hosts"), "{error}");
    assert_eq!(fs::read(image.hosts()).expect("file"), bytes);
}
