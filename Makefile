# Builds and installs OpenVMFS; cargo does the work, this gives the binaries the names that
# mount(8), mkfs(8) and fsck(8) look for (docs/decisions/0003).

PREFIX ?= /usr/local
SBINDIR ?= $(PREFIX)/sbin
# mount(8) looks for helpers here and nowhere else.
MOUNTDIR ?= /sbin
MANDIR ?= $(PREFIX)/share/man
RELEASE := target/release
MAN := target/man

.PHONY: all man install uninstall test

all:
	cargo build --release --locked -p vmfs -p vmfs-fuse -p mkfs-vmfs -p fsck-vmfs

# Manual pages are made of what the programs say of themselves (Debian package help2man).
man: all
	mkdir -p $(MAN)
	help2man -N -s 1 -n 'look into VMFS volumes and copy files out of them' $(RELEASE)/vmfs -o $(MAN)/vmfs.1
	for command in info ls stat cat cp df dump hosts locks lun lvm undo; do \
		help2man -N -s 1 -n "vmfs $$command" --version-string "$$($(RELEASE)/vmfs --version)" \
			"$(RELEASE)/vmfs $$command" -o $(MAN)/vmfs-$$command.1; done
	help2man -N -s 8 -n 'mount a VMFS volume' $(RELEASE)/vmfs-fuse -o $(MAN)/vmfs-fuse.8
	help2man -N -s 8 -n 'mount a VMFS volume, for mount(8)' $(RELEASE)/mount-vmfs -o $(MAN)/mount.vmfs.8
	help2man -N -s 8 -n 'make a VMFS volume' $(RELEASE)/mkfs-vmfs -o $(MAN)/mkfs.vmfs.8
	help2man -N -s 8 -n 'check a VMFS volume' $(RELEASE)/fsck-vmfs -o $(MAN)/fsck.vmfs.8

install:
	install -Dm755 $(RELEASE)/vmfs $(DESTDIR)$(SBINDIR)/vmfs
	install -Dm755 $(RELEASE)/vmfs-fuse $(DESTDIR)$(SBINDIR)/vmfs-fuse
	install -Dm755 $(RELEASE)/mkfs-vmfs $(DESTDIR)$(SBINDIR)/mkfs.vmfs
	install -Dm755 $(RELEASE)/fsck-vmfs $(DESTDIR)$(SBINDIR)/fsck.vmfs
	install -Dm755 $(RELEASE)/mount-vmfs $(DESTDIR)$(MOUNTDIR)/mount.vmfs
	for page in $(wildcard $(MAN)/*.1); do install -Dm644 $$page -t $(DESTDIR)$(MANDIR)/man1; done
	for page in $(wildcard $(MAN)/*.8); do install -Dm644 $$page -t $(DESTDIR)$(MANDIR)/man8; done

uninstall:
	rm -f $(addprefix $(DESTDIR)$(SBINDIR)/,vmfs vmfs-fuse mkfs.vmfs fsck.vmfs) $(DESTDIR)$(MOUNTDIR)/mount.vmfs
	rm -f $(DESTDIR)$(MANDIR)/man1/vmfs.1 $(DESTDIR)$(MANDIR)/man1/vmfs-*.1
	rm -f $(addprefix $(DESTDIR)$(MANDIR)/man8/,vmfs-fuse.8 mount.vmfs.8 mkfs.vmfs.8 fsck.vmfs.8)

test:
	./tests/run
