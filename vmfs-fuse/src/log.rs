//! Where messages go.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// Where messages go besides standard error, which a daemon loses once the mount is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere else.
    StderrOnly,
    /// The end of this file.
    File(PathBuf),
    /// The system log.
    System,
}

/// Starts logging; `RUST_LOG` chooses otherwise than `verbose` does.
pub(crate) fn start(target: &Target, verbose: bool) -> anyhow::Result<()> {
    let directives = if verbose {
        "info,vmfs_core=debug,vmfs_fuse=debug"
    } else {
        // Recovering from a dead host takes a while, and matters.
        "warn,vmfs_core::fs::mount=info"
    };
    let chosen = EnvFilter::try_from_default_env();
    let filter = chosen.unwrap_or_else(|_| EnvFilter::new(directives));
    let stderr = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_target(false);
    let kept: Option<Box<dyn Layer<Registry> + Send + Sync>> = match target {
        Target::StderrOnly => None,
        Target::File(path) => {
            let file = open(path)?;
            Some(
                fmt::layer()
                    .with_ansi(false)
                    .with_writer(Arc::new(file))
                    .boxed(),
            )
        }
        Target::System => {
            let options = syslog_tracing::Options::LOG_PID;
            syslog_tracing::Syslog::new(c"vmfs-fuse", options, syslog_tracing::Facility::Daemon)
                .map(|log| {
                    let layer = fmt::layer().with_writer(log).with_ansi(false);
                    layer
                        .without_time()
                        .with_level(false)
                        .with_target(false)
                        .boxed()
                })
        }
    };
    // A second call can't happen in a program; in tests the first one stands.
    let _ = Registry::default()
        .with(kept)
        .with(stderr)
        .with(filter)
        .try_init();
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("can't write the log {}", path.display()))
}
