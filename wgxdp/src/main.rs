//! `wgxdp`, the command.
use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().collect();
    std::fs::create_dir_all("/run/wgxdp")?;
    let config = wgxdp::config::Config::from_file(Path::new(&args[3]))?;
    wgxdp::daemon::run(config).await?;
    Ok(())
}
