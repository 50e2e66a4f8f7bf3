//! Hosts that are network namespaces, each with a link of its own to this machine.

use std::path::Path;
use std::process::Command;

/// Network namespaces with a link each. They go when this is dropped.
#[derive(Debug)]
pub struct Network {
    /// What their names begin with.
    prefix: String,
    /// The number of the first address.
    first: u32,
    count: u32,
}

impl Network {
    /// Makes `count` hosts; `None`, and a loud message, for who isn't root. Where `CI` is set that is
    /// a failure.
    ///
    /// # Panics
    /// When it can't be done.
    pub fn new(count: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            let text = "NOT TESTED: network namespaces need root; run this test as root";
            assert!(std::env::var_os("CI").is_none(), "{text}");
            eprintln!("{text}");
            return None;
        }
        let process = std::process::id();
        let network = Self {
            prefix: format!("v{process:x}"),
            // 198.18.0.0/15 is for tests (RFC 2544); four addresses for each link.
            first: 0xc612_0000 + (process & 0x1ff) * 256,
            count,
        };
        for host in 0..count {
            network.make(host);
        }
        Some(network)
    }

    fn make(&self, host: u32) {
        let (name, link) = (self.name(host), self.link(host));
        let inside = format!("{link}i");
        run(&["netns", "add", &name]);
        run(&[
            "link", "add", &link, "type", "veth", "peer", "name", &inside, "netns", &name,
        ]);
        let gateway = format!("{}/30", self.gateway(host));
        let address = format!("{}/30", self.address(host, 2));
        run(&["addr", "add", &gateway, "dev", &link]);
        run(&["-n", &name, "addr", "add", &address, "dev", &inside]);
        run(&["-n", &name, "link", "set", "lo", "up"]);
        run(&["-n", &name, "link", "set", &inside, "up"]);
        run(&["link", "set", &link, "up"]);
    }

    fn name(&self, host: u32) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn link(&self, host: u32) -> String {
        format!("{}l{host}", self.prefix)
    }

    fn address(&self, host: u32, number: u32) -> String {
        std::net::Ipv4Addr::from_bits(self.first + host * 4 + number).to_string()
    }

    /// The address by which a host reaches this machine.
    pub fn gateway(&self, host: u32) -> String {
        self.address(host, 1)
    }

    /// A program that is to run on a host; it sees the files and mounts of this machine.
    pub fn program(&self, host: u32, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name(host)));
        command.arg(program);
        command
    }

    /// Cuts a host's link, or joins it again.
    ///
    /// # Panics
    /// When that fails.
    pub fn set_link(&self, host: u32, up: bool) {
        let state = if up { "up" } else { "down" };
        run(&["link", "set", &self.link(host), state]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.count {
            // What was not made isn't there; the rest goes. A link goes with its namespace at the
            // latest when its last program ends, and here at once.
            for arguments in [
                ["link", "del", &self.link(host)],
                ["netns", "del", &self.name(host)],
            ] {
                let _ = Command::new("ip").args(arguments).output();
            }
        }
    }
}

fn run(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("ip: {error}; apt-get install iproute2"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "ip {}: {said}",
        arguments.join(" ")
    );
}
