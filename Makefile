# Builds and installs OpenVMFS; cargo does the work, this gives the binaries the names that
# mount(8), mkfs(8) and fsck(8) look for (docs/decisions/0003).

PREFIX ?= /usr/local
SBINDIR ?= $(PREFIX)/sbin
# mount(8) looks for helpers here and nowhere else.
MOUNTDIR ?= /sbin
MANDIR ?= $(PREFIX)/share/man
RELEASE := target/release

.PHONY: all install uninstall test

all:
	cargo build --release -p vmfs -p vmfs-fuse -p mkfs-vmfs -p fsck-vmfs

install:
	install -Dm755 $(RELEASE)/vmfs $(DESTDIR)$(SBINDIR)/vmfs
	install -Dm755 $(RELEASE)/vmfs-fuse $(DESTDIR)$(SBINDIR)/vmfs-fuse
	install -Dm755 $(RELEASE)/mkfs-vmfs $(DESTDIR)$(SBINDIR)/mkfs.vmfs
	install -Dm755 $(RELEASE)/fsck-vmfs $(DESTDIR)$(SBINDIR)/fsck.vmfs
	install -Dm755 $(RELEASE)/mount-vmfs $(DESTDIR)$(MOUNTDIR)/mount.vmfs

uninstall:
	rm -f $(addprefix $(DESTDIR)$(SBINDIR)/,vmfs vmfs-fuse mkfs.vmfs fsck.vmfs) $(DESTDIR)$(MOUNTDIR)/mount.vmfs

test:
	./tests/run
