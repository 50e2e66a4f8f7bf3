//! The stable names of what can be wrong, and what is known of each (docs/fsck/CODES.md).

use std::fmt;

/// A pass of the check, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// Device headers, volume table, physical extents.
    Devices,
    /// The file system descriptor.
    Volume,
    /// Heartbeat slots, the journals that they name, disk locks.
    Hosts,
    /// Headers of resource files and of their clusters.
    Resources,
    /// File descriptors and their block maps.
    Descriptors,
    /// Entries of directories, and how they are found.
    Directories,
    /// Names that files have, and files that have none.
    Connectivity,
    /// Blocks that several files claim.
    Duplicates,
    /// What is marked used against what is referred to.
    Bitmaps,
}

/// What a check is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A pass begins.
    Pass(Pass),
    /// The volume is looked through for what belongs to resource files that are lost.
    Search {
        /// Bytes that were looked at or passed over.
        done: u64,
        /// Bytes of the volume.
        of: u64,
    },
}

impl Pass {
    /// All of them in order.
    pub const ALL: [Self; 9] = [
        Self::Devices,
        Self::Volume,
        Self::Hosts,
        Self::Resources,
        Self::Descriptors,
        Self::Directories,
        Self::Connectivity,
        Self::Duplicates,
        Self::Bitmaps,
    ];

    /// What a person is shown.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Devices => "devices and extents",
            Self::Hosts => "hosts and journals",
            Self::Volume => "file system descriptor",
            Self::Resources => "resource files",
            Self::Descriptors => "file descriptors",
            Self::Directories => "directories",
            Self::Connectivity => "connectivity",
            Self::Duplicates => "duplicate blocks",
            Self::Bitmaps => "allocation bitmaps",
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing, nothing to repair; a volume with notes only is clean.
    Note,
    /// Wrong, but no file, name or content depends on it.
    Warning,
    /// A file, name or content is or may become unreadable.
    Error,
}

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $text:literal, $pass:ident, $severity:ident, $certain:literal;)+) => {
        /// What is wrong; the names are stable and appear in `--json`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl Code {
            /// Every code, in the order of the passes.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The pass that finds it.
            pub const fn pass(self) -> Pass {
                match self { $(Self::$name => Pass::$pass,)+ }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)+ }
            }

            /// Whether its repair is certain, so that `-p` makes it without asking.
            pub const fn is_certain(self) -> bool {
                match self { $(Self::$name => $certain,)+ }
            }
        }
    };
}

codes! {
    /// A device header can't be read or holds what it may not.
    DeviceHeaderDamaged = "device-header-damaged", Devices, Error, false;
    /// The volume table's entry doesn't fit the device's extents or the other devices' entries.
    VolumeTableWrong = "volume-table-wrong", Devices, Error, false;
    /// An entry of the table of physical extents holds what it may not.
    ExtentWrong = "extent-wrong", Devices, Error, false;
    /// The bitmap of physical extents differs from their table.
    ExtentBitmapWrong = "extent-bitmap-wrong", Devices, Warning, true;
    /// A device of the volume wasn't given.
    DeviceMissing = "device-missing", Devices, Error, false;

    /// The file system descriptor holds what it may not.
    FsDescriptorDamaged = "fs-descriptor-damaged", Volume, Error, false;

    /// The heartbeats can't be read.
    HeartbeatsUnreadable = "heartbeats-unreadable", Hosts, Error, false;
    /// A host has the volume mounted, or died while it had.
    HostPresent = "host-present", Hosts, Note, false;
    /// A host that died has a heartbeat slot.
    HeartbeatStale = "heartbeat-stale", Hosts, Warning, true;
    /// A heartbeat slot holds what it may not.
    HeartbeatDamaged = "heartbeat-damaged", Hosts, Warning, true;
    /// A dead host's journal has changes that aren't in place.
    JournalPending = "journal-pending", Hosts, Warning, true;
    /// A host's journal has changes that only ESXi can replay.
    JournalForeign = "journal-foreign", Hosts, Note, false;
    /// A host's journal can't be read.
    JournalDamaged = "journal-damaged", Hosts, Error, false;
    /// A disk lock holds what it may not.
    LockDamaged = "lock-damaged", Hosts, Warning, true;
    /// A disk lock is held by a host that isn't there.
    LockStale = "lock-stale", Hosts, Note, true;

    /// A resource file can't be opened.
    ResourceFileUnreadable = "resource-file-unreadable", Resources, Error, false;
    /// A resource file's header holds what it may not.
    ResourceHeaderDamaged = "resource-header-damaged", Resources, Error, false;
    /// A resource cluster's header can't be read or isn't one.
    ClusterUnreadable = "cluster-unreadable", Resources, Error, false;
    /// A cluster's free count isn't what its bitmap says.
    FreeCountWrong = "free-count-wrong", Resources, Warning, true;
    /// Bits of a cluster's bitmap behind its last resource are set.
    BitmapTailWrong = "bitmap-tail-wrong", Resources, Warning, true;

    /// A file descriptor marked used can't be decoded.
    DescriptorUnreadable = "descriptor-unreadable", Descriptors, Error, false;
    /// A field of a file descriptor is wrong and follows from others.
    DescriptorDamaged = "descriptor-damaged", Descriptors, Error, false;
    /// A pointer block of a file's block map can't be read.
    BlockMapUnreadable = "block-map-unreadable", Descriptors, Error, false;
    /// An address in a block map is of a type that can't stand there.
    AddressWrongType = "address-wrong-type", Descriptors, Error, false;
    /// A reference names a resource that doesn't exist.
    OutOfRange = "out-of-range", Descriptors, Error, false;
    /// A file is longer than its block map can hold.
    LengthWrong = "length-wrong", Descriptors, Error, false;
    /// A file has another number of blocks than its descriptor says.
    BlockCountWrong = "block-count-wrong", Descriptors, Warning, true;
    /// A file has another number of pointer blocks than its descriptor says.
    PointerCountWrong = "pointer-count-wrong", Descriptors, Warning, true;
    /// A file has another number of blocks to be zeroed than its descriptor says.
    ZeroCountWrong = "zero-count-wrong", Descriptors, Warning, true;

    /// A directory can't be listed.
    DirectoryUnreadable = "directory-unreadable", Directories, Error, false;
    /// A directory's header, block headers, counts or allocation map don't fit its entries.
    DirectoryStructure = "directory-structure", Directories, Error, true;
    /// A directory entry holds what it may not.
    EntryDamaged = "entry-damaged", Directories, Error, false;
    /// A directory entry names a file descriptor that isn't in use.
    EntryDangling = "entry-dangling", Directories, Error, false;
    /// A directory entry's type or generation isn't its file descriptor's.
    EntryMismatch = "entry-mismatch", Directories, Error, false;
    /// A directory has a name twice.
    EntryTwice = "entry-twice", Directories, Error, false;
    /// A name can't be found through the directory's hash table.
    EntryNotFoundByHash = "entry-not-found-by-hash", Directories, Error, true;
    /// A directory's `.` or `..` leads elsewhere.
    DotsWrong = "dots-wrong", Directories, Error, true;

    /// The root directory can't be used.
    RootDamaged = "root-damaged", Connectivity, Error, false;
    /// A system file has no name in the root directory.
    SystemNameMissing = "system-name-missing", Connectivity, Warning, true;
    /// A directory has two names.
    DirectoryLoop = "directory-loop", Connectivity, Error, false;
    /// A file descriptor is in use and no directory has it.
    Unreachable = "unreachable", Connectivity, Error, false;
    /// A file that was being deleted is still there.
    DeletionUnfinished = "deletion-unfinished", Connectivity, Warning, true;
    /// A file has another number of names than its descriptor says.
    LinkCountWrong = "link-count-wrong", Connectivity, Warning, true;
    /// A file's descriptor names another directory than the one that has it.
    ParentWrong = "parent-wrong", Connectivity, Warning, true;

    /// Two references name the same resource.
    Duplicate = "duplicate", Duplicates, Error, false;

    /// A resource is referred to and marked free.
    ReferencedButFree = "referenced-but-free", Bitmaps, Error, true;
    /// A resource is marked used, nothing refers to it, and it may hold a damaged file's data.
    LostData = "lost-data", Bitmaps, Error, false;
    /// A resource is marked used and nothing refers to it.
    Unreferenced = "unreferenced", Bitmaps, Warning, true;
    /// A large file block's state isn't what is referred to in it.
    LargeBlockState = "large-block-state", Bitmaps, Error, true;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
