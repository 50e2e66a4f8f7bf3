//! iSCSI targets for tests: Debian's tgtd on a port of its own, and a proxy before it that can
//! cut or stall connections.
//!
//! tgt is an array without COMPARE AND WRITE: hosts lock by RESERVE(6) there. It has persistent
//! reservations. Its LUNs are sparse files in a temporary folder, which goes with the target.

mod commands;
mod proxy;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use vmfs_core::scsi::{Access, IscsiLun, IscsiTimeouts, IscsiUrl, LunError};

pub use proxy::Proxy;

/// How long tgtd may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where tgtd listens.
const LOCAL: &str = "127.0.0.1";
const PAUSE: Duration = Duration::from_millis(10);

/// What a target shall be like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of each LUN in bytes.
    pub size: u64,
    /// How many LUNs; their numbers begin with 1.
    pub luns: u32,
    /// Bytes of a block.
    pub block: u32,
    /// Whether it has UNMAP.
    pub thin: bool,
    /// CHAP name and secret that hosts must have.
    pub account: Option<(String, String)>,
    /// CHAP name and secret of the target itself.
    pub own_account: Option<(String, String)>,
    /// Whether its disk threads take their time, some more than others.
    pub slow: bool,
    /// The address that its proxy listens at.
    pub address: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            size: 64 << 20,
            luns: 1,
            block: 512,
            thin: false,
            account: None,
            own_account: None,
            slow: false,
            address: LOCAL.to_owned(),
        }
    }
}

/// A running target, or one that was stopped. Ends when dropped.
#[derive(Debug)]
pub struct Target {
    options: Options,
    name: String,
    /// What its LUNs are told apart by from those of other targets.
    serial: String,
    folder: tempfile::TempDir,
    port: u16,
    daemon: Option<Child>,
    proxy: Option<Proxy>,
}

impl Target {
    /// Starts a target with one LUN of `size` bytes.
    ///
    /// # Panics
    /// When it doesn't start, saying why.
    pub fn start(size: u64) -> Self {
        Self::start_with(Options {
            size,
            ..Options::default()
        })
    }

    /// Starts a target.
    ///
    /// # Panics
    /// When it doesn't start, saying why.
    pub fn start_with(options: Options) -> Self {
        let folder = folder();
        for lun in 1..=options.luns {
            let file = File::create(folder.path().join(format!("{lun}.img"))).expect("a LUN");
            file.set_len(options.size).expect("room for a LUN");
        }
        let name = folder.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy().to_ascii_lowercase().replace('.', "");
        let mut target = Self {
            name: format!("iqn.2026-01.org.example:{name}"),
            serial: serial(),
            options,
            folder,
            port: 0,
            daemon: None,
            proxy: None,
        };
        target.run();
        let address = target.options.address.clone();
        target.proxy = Some(Proxy::start(target.direct_address(), &address));
        target
    }

    /// Where the first LUN is, through the proxy.
    pub fn url(&self) -> String {
        self.url_of(1)
    }

    /// Where a LUN is, through the proxy.
    pub fn url_of(&self, lun: u32) -> String {
        self.url_from(LOCAL, lun)
    }

    /// Where a LUN is for a host that reaches this machine at `address`, through the proxy.
    pub fn url_from(&self, address: &str, lun: u32) -> String {
        let port = self.proxy().address().port();
        format!("iscsi://{address}:{port}/{}/{lun}", self.name)
    }

    /// Where the first LUN is, past the proxy.
    pub fn direct_url(&self) -> String {
        format!("iscsi://{}/{}/1", self.direct_address(), self.name)
    }

    /// The target's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that a LUN's blocks are in.
    pub fn file(&self, lun: u32) -> PathBuf {
        self.folder.path().join(format!("{lun}.img"))
    }

    /// Opens the first LUN as the host called `initiator`.
    ///
    /// # Errors
    /// [`LunError`] of [`IscsiLun::open`].
    ///
    /// # Panics
    /// When its URL isn't one.
    pub fn open(&self, initiator: &str, timeouts: IscsiTimeouts) -> Result<IscsiLun, LunError> {
        let url: IscsiUrl = self.url().parse().expect("a valid URL");
        IscsiLun::open(&url, Access::ReadWrite, Some(initiator), timeouts)
    }

    /// Kills tgtd; its LUNs keep what they have.
    ///
    /// # Panics
    /// When it can't be waited for.
    pub fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // It may have ended by itself; its end is waited for in any case.
            let _ = daemon.kill();
            daemon.wait().expect("tgtd ends");
        }
    }

    /// Kills tgtd and starts it anew at the same address, with the same LUNs.
    ///
    /// # Panics
    /// When it doesn't start.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// Cuts all connections; new ones can be made.
    pub fn cut(&self) {
        self.proxy().cut();
    }

    /// The proxy that [`Target::url`] leads through.
    ///
    /// # Panics
    /// Never: a target that was started has one.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a proxy")
    }

    fn direct_address(&self) -> String {
        format!("{LOCAL}:{}", self.port)
    }

    /// Starts tgtd and gives it its LUNs.
    fn run(&mut self) {
        for _ in 0..5 {
            let port = match self.port {
                0 => free_port(),
                port => port,
            };
            if self.listen(port) {
                self.port = port;
                return self.configure();
            }
            // Someone else has taken the port meanwhile.
        }
        panic!("tgtd doesn't start; its log:\n{}", self.log());
    }

    /// Starts tgtd; gives whether it stays.
    fn listen(&mut self, port: u16) -> bool {
        let log = File::create(self.folder.path().join("log")).expect("a log");
        let mut command = Command::new("tgtd");
        control(&mut command, self.folder.path());
        if self.options.slow {
            command.env("LD_PRELOAD", self.slow_writes());
        }
        let daemon = command
            .args(["-f", "-C", "1", "--iscsi"])
            .arg(format!("portal={LOCAL}:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("can't run tgtd: {error}; apt-get install tgt"));
        let daemon = self.daemon.insert(daemon);
        let start = Instant::now();
        let socket = self.folder.path().join("control.1");
        loop {
            if daemon.try_wait().expect("tgtd's state").is_some() {
                self.daemon = None;
                return false;
            }
            let mut ask = tgtadm(self.folder.path());
            ask.args(["--op", "show", "--mode", "system"]);
            if socket.exists() && ask.output().is_ok_and(|output| output.status.success()) {
                return true;
            }
            assert!(start.elapsed() < PATIENCE, "tgtd is mute:\n{}", self.log());
            thread::sleep(PAUSE);
        }
    }

    /// Makes what is preloaded into a slow target.
    fn slow_writes(&self) -> PathBuf {
        let (source, library) = (
            self.folder.path().join("slow.c"),
            self.folder.path().join("slow.so"),
        );
        std::fs::write(&source, include_str!("slow.c")).expect("its source");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]);
        let status = compiler.args([&library, &source]).arg("-ldl").status();
        assert!(status.expect("a C compiler").success());
        library
    }

    fn configure(&self) {
        let Options { block, .. } = self.options;
        let name = self.name.clone();
        self.admin(&["--op", "new", "--mode", "target", "--tid", "1", "-T", &name]);
        for lun in 1..=self.options.luns {
            let file = self.file(lun).display().to_string();
            let (number, block) = (lun.to_string(), block.to_string());
            let lun_of = |operation| vec!["--op", operation, "--mode", "logicalunit", "--tid", "1"];
            let mut new = lun_of("new");
            new.extend(["--lun", &number, "-b", &file, "--blocksize", &block]);
            self.admin(&new);
            let thin = u8::from(self.options.thin);
            let id = format!("scsi_id={}{lun:04x},thin_provisioning={thin}", self.serial);
            let mut update = lun_of("update");
            update.extend(["--lun", &number, "--params", &id]);
            self.admin(&update);
        }
        for (account, own) in [
            (&self.options.account, false),
            (&self.options.own_account, true),
        ] {
            let Some((user, secret)) = account else {
                continue;
            };
            let one = ["--mode", "account", "--user", user];
            self.admin(&[&["--op", "new"], &one[..], &["--password", secret]].concat());
            let bind = [&["--op", "bind"], &one[..], &["--tid", "1"]].concat();
            self.admin(&[&bind[..], if own { &["--outgoing"] } else { &[] }].concat());
        }
        self.admin(&[
            "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL",
        ]);
    }

    /// Runs tgtadm.
    ///
    /// # Panics
    /// When it fails.
    pub fn admin(&self, arguments: &[&str]) -> String {
        let output = tgtadm(self.folder.path()).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("can't run tgtadm: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tgtadm {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What tgtd has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A folder for LUNs: in memory, if there is room, so that no test waits for a disk that others use.
fn folder() -> tempfile::TempDir {
    const MEMORY: &str = "/dev/shm";
    const ROOM: u64 = 2 << 30;
    let free = rustix::fs::statvfs(MEMORY).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    let mut builder = tempfile::Builder::new();
    builder.prefix("tgt");
    let folder = if free > ROOM {
        builder.tempdir_in(MEMORY)
    } else {
        builder.tempdir()
    };
    folder.expect("a temporary folder")
}

fn tgtadm(folder: &Path) -> Command {
    let mut command = Command::new("tgtadm");
    command.args(["-C", "1", "--lld", "iscsi"]);
    control(&mut command, folder);
    command
}

fn control(command: &mut Command, folder: &Path) {
    command.env("TGT_IPC_SOCKET", folder.join("control"));
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// Hexadecimal digits that no other target has: of other characters tgt takes a zero for the identity of a LUN.
fn serial() -> String {
    static TARGETS: AtomicU32 = AtomicU32::new(0);
    let number = TARGETS.fetch_add(1, Relaxed);
    format!("{:08x}{number:08x}", process::id())
}
