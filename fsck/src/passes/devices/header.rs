//! A device header that is lost, written anew from the tables behind it.

use std::sync::Arc;

use vmfs_core::format::{
    DEVICE_HEADER_OFFSET, DevMetadata, LVM_MAGIC, PE_SIZE, PeTableEntry, VolTableEntry,
};
use vmfs_core::scsi::{DeviceOffset, Lun, look_through};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::check::Check;
use crate::code::Code;
use crate::finding::Finding;
use crate::plan::Stage;

/// Where data begins on every device seen.
pub(super) const DATA_OFFSET: u64 = 0x110_0000;
/// The metadata block of LVM 6.
const MD_6: u32 = 4096;

pub(super) fn read<T: FromBytes + IntoBytes + FromZeros>(lun: &dyn Lun, offset: u64) -> Option<T> {
    let mut value = T::new_zeroed();
    lun.read(DeviceOffset(offset), value.as_mut_bytes()).ok()?;
    Some(value)
}

/// The device, or the partition of it, whose header is lost and can be written anew.
pub(super) fn lost(check: &mut Check<'_>, lun: &Arc<dyn Lun>) -> Option<Arc<dyn Lun>> {
    let mut places: Vec<Arc<dyn Lun>> = vec![Arc::clone(lun)];
    let partitions = look_through(lun).into_iter();
    places.extend(partitions.map(|partition| Arc::new(partition) as Arc<dyn Lun>));
    for place in places {
        for lvm6 in [true, false] {
            if let Some(header) = rebuilt(&*place, lvm6) {
                return mend(check, place, &header);
            }
        }
    }
    None
}

fn mend(check: &mut Check<'_>, lun: Arc<dyn Lun>, header: &DevMetadata) -> Option<Arc<dyn Lun>> {
    let magic = read::<DevMetadata>(&*lun, DEVICE_HEADER_OFFSET)?
        .magic
        .get();
    let finding = Finding::new(
        Code::DeviceHeaderDamaged,
        format!("device header of {}", lun.name()),
        format!(
            "magic is {magic:#x}, expected {LVM_MAGIC:#x}, and volume table and extents are there"
        ),
    )
    .at(vmfs_core::format::At::Device(DEVICE_HEADER_OFFSET))
    .repair("write it anew from the volume table and the extents");
    if !check.found(finding) {
        return None;
    }
    check.plan.set_stage(Stage::Refer);
    lun.write(DeviceOffset(DEVICE_HEADER_OFFSET), header.as_bytes())
        .ok()?;
    Some(lun)
}

/// The header that the tables behind it tell.
fn rebuilt(lun: &dyn Lun, lvm6: bool) -> Option<DevMetadata> {
    let found: DevMetadata = read(lun, DEVICE_HEADER_OFFSET)?;
    let mut header = found;
    header.magic = LVM_MAGIC.into();
    // Whatever the version, the rest of the header says where the tables are.
    header.major_version = if lvm6 { 6 } else { 5 }.into();
    header.md_alignment = if lvm6 { MD_6 } else { 0 }.into();
    let volume: VolTableEntry = read(lun, DEVICE_HEADER_OFFSET + header.volume_table())?;
    let name = String::from_utf8_lossy(vmfs_core::format::text(&volume.name)).into_owned();
    let sound = volume.state.get() >= 1
        && volume.state.get() <= 3
        && volume.pes.get() > 0
        && volume.last_pe.get().wrapping_add(1)
            == volume.first_pe.get().wrapping_add(volume.pes.get().into())
        && !name.is_empty();
    if !sound {
        return None;
    }
    let table = DEVICE_HEADER_OFFSET + header.pe_bitmap() + header.pe_bitmap_size();
    let first: PeTableEntry = read(lun, table)?;
    if first.used != 1 || first.logical.get() != volume.first_pe.get().wrapping_mul(PE_SIZE) {
        return None;
    }
    let pes = volume.pes.get();
    header.minor_version = 21.into();
    header.disk_block_size = 512.into();
    if header.total_bytes.get() > lun.capacity()
        || header.total_bytes.get() < u64::from(pes) * PE_SIZE
    {
        header.total_bytes = lun.capacity().into();
    }
    header.volumes = 1.into();
    header.data_offset = first.physical.get().max(DATA_OFFSET).into();
    header.pes = if lvm6 { 1 } else { pes }.into();
    header.last_pe = if lvm6 { 0 } else { pes - 1 }.into();
    header.pe_units = if lvm6 { pes } else { 0 }.into();
    header.pe_maps = if lvm6 { 0 } else { pes.div_ceil(8192) }.into();
    header.ext_metadata_offset = 0.into();
    header.flags = 0.into();
    if header.uuid == vmfs_core::format::Uuid::default() {
        // Two devices of a volume differ in it; the volume's own, changed by their number, will do.
        let mut bytes = [0; 16];
        bytes.copy_from_slice(volume.uuid.as_bytes());
        bytes[15] ^= volume.first_pe.get() as u8 | 1;
        header.uuid = vmfs_core::format::Uuid::read_from_bytes(&bytes).ok()?;
    }
    Some(header)
}
