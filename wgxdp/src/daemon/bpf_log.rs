//! The programs' own log lines, one for each packet: for debugging them, never in service. Shown with `--log debug`.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Passes them on to this process's log as long as the runtime lives.
pub(super) fn start(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(e) => return warn!("the programs' log lines cannot be read: {e}"),
    };
    // SAFETY: the logger owns its descriptor, which stays open and the same until it is dropped.
    let mut logger = match unsafe { AsyncFd::register(logger) } {
        Ok(logger) => logger,
        Err(_) => return warn!("the programs' log lines cannot be waited for"),
    };
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}
