/// The methods of [`Lun`](crate::scsi::Lun) that a LUN on top of another leaves as they are there, by their
/// names: `forward_lun!(base: name capacity …)` inside of its `impl`, where `base` is the field with the other, or
/// `base():` if a method has it.
///
/// They are listed one by one since nothing is safe to forward unseen: a LUN that changes what `write` does
/// must not let `write_if` pass it by.
#[macro_export]
macro_rules! forward_lun {
    ($to:ident: $($method:ident)*) => {
        $crate::forward_lun!(@each ($to) $($method)*);
    };
    ($to:ident(): $($method:ident)*) => {
        $crate::forward_lun!(@each ($to()) $($method)*);
    };
    (@each $to:tt $($method:ident)*) => {
        $($crate::forward_lun!(@$method $to);)*
    };
    (@name ($($to:tt)+)) => {
        fn name(&self) -> &str {
            self.$($to)+.name()
        }
    };
    (@capacity ($($to:tt)+)) => {
        fn capacity(&self) -> u64 {
            self.$($to)+.capacity()
        }
    };
    (@block_size ($($to:tt)+)) => {
        fn block_size(&self) -> u32 {
            self.$($to)+.block_size()
        }
    };
    (@access ($($to:tt)+)) => {
        fn access(&self) -> $crate::scsi::Access {
            self.$($to)+.access()
        }
    };
    (@identity ($($to:tt)+)) => {
        fn identity(&self) -> Option<&$crate::scsi::LunIdentity> {
            self.$($to)+.identity()
        }
    };
    (@read ($($to:tt)+)) => {
        fn read(
            &self,
            offset: $crate::scsi::DeviceOffset,
            buf: &mut [u8],
        ) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.read(offset, buf)
        }
    };
    (@write ($($to:tt)+)) => {
        fn write(
            &self,
            offset: $crate::scsi::DeviceOffset,
            data: &[u8],
        ) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.write(offset, data)
        }
    };
    (@write_zeros ($($to:tt)+)) => {
        fn write_zeros(
            &self,
            offset: $crate::scsi::DeviceOffset,
            length: u64,
        ) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.write_zeros(offset, length)
        }
    };
    (@write_if ($($to:tt)+)) => {
        fn write_if(
            &self,
            offset: $crate::scsi::DeviceOffset,
            data: &[u8],
            may: &dyn Fn() -> bool,
        ) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.write_if(offset, data, may)
        }
    };
    (@write_zeros_if ($($to:tt)+)) => {
        fn write_zeros_if(
            &self,
            offset: $crate::scsi::DeviceOffset,
            length: u64,
            may: &dyn Fn() -> bool,
        ) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.write_zeros_if(offset, length, may)
        }
    };
    (@flush ($($to:tt)+)) => {
        fn flush(&self) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.flush()
        }
    };
    (@capabilities ($($to:tt)+)) => {
        fn capabilities(&self) -> $crate::scsi::Capabilities {
            self.$($to)+.capabilities()
        }
    };
    (@compare_and_write ($($to:tt)+)) => {
        fn compare_and_write(
            &self,
            offset: $crate::scsi::DeviceOffset,
            expected: &[u8],
            new: &[u8],
        ) -> Result<$crate::scsi::Comparison, $crate::scsi::LunError> {
            self.$($to)+.compare_and_write(offset, expected, new)
        }
    };
    (@reserve ($($to:tt)+)) => {
        fn reserve(&self) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.reserve()
        }
    };
    (@release ($($to:tt)+)) => {
        fn release(&self) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.release()
        }
    };
    (@persistent_reserve ($($to:tt)+)) => {
        fn persistent_reserve(
            &self,
            action: $crate::scsi::PersistentReserve,
        ) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.persistent_reserve(action)
        }
    };
    (@reservations ($($to:tt)+)) => {
        fn reservations(
            &self,
        ) -> Result<$crate::scsi::Reservations, $crate::scsi::LunError> {
            self.$($to)+.reservations()
        }
    };
    (@unmap ($($to:tt)+)) => {
        fn unmap(
            &self,
            offset: $crate::scsi::DeviceOffset,
            length: u64,
        ) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.unmap(offset, length)
        }
    };
    (@next_mapped ($($to:tt)+)) => {
        fn next_mapped(
            &self,
            offset: $crate::scsi::DeviceOffset,
        ) -> Result<Option<std::ops::Range<u64>>, $crate::scsi::LunError> {
            self.$($to)+.next_mapped(offset)
        }
    };
    (@reset ($($to:tt)+)) => {
        fn reset(&self) -> Result<(), $crate::scsi::LunError> {
            self.$($to)+.reset()
        }
    };
    (@end_patience ($($to:tt)+)) => {
        fn end_patience(&self) {
            self.$($to)+.end_patience();
        }
    };
    (@attentions ($($to:tt)+)) => {
        fn attentions(&self) -> Vec<$crate::scsi::Attention> {
            self.$($to)+.attentions()
        }
    };
    (@counters ($($to:tt)+)) => {
        fn counters(&self) -> &$crate::scsi::Counters {
            self.$($to)+.counters()
        }
    };
}
