//! Laws of the command line.

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(arguments: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("wgxdp").chain(arguments.split_whitespace()))
}

fn run(arguments: &str) -> RunArgs {
    match parse(arguments).unwrap().command {
        Command::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

/// The first line of what is refused, without clap's usage below it.
#[track_caller]
fn refused(arguments: &str) -> String {
    let text = parse(arguments).unwrap_err().to_string();
    text.lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ")
}

const NOWHERE: &str = "/nonexistent/wgxdp.toml";

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn flags_become_a_configuration_in_their_order() {
    let run = run("run --tunnel wg0 --uplink isp-a=eth0 --uplink wwan0 --profile fast --metrics 127.0.0.1:9587");
    let config = run.to_config(Path::new(NOWHERE)).unwrap();
    assert_eq!(config.profile(), Profile::Fast);
    assert_eq!(config.metrics(), Some("127.0.0.1:9587".parse().unwrap()));
    let names: Vec<_> = config.uplinks().iter().map(|uplink| uplink.name.as_str()).collect();
    assert_eq!(names, ["isp-a", "wwan0"]);
    assert_eq!(config.tunnels()[0].interface.as_str(), "wg0");
}

#[test]
fn the_flag_for_clients_wins_over_the_file_and_goes_with_either() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wgxdp.toml");
    let text = "max-clients = 7\n[[uplink]]\ninterface = 'eth0'\n[[tunnel]]\ninterface = 'wg0'\n";
    std::fs::write(&path, text).unwrap();
    let rows = [
        (format!("run --config {}", path.display()), 7),
        (format!("run --config {} --max-clients 9", path.display()), 9),
        ("run".into(), 7),
        ("run --max-clients 9".into(), 9),
        ("run --tunnel wg0 --uplink eth0".into(), 65_536),
        (
            "run --tunnel wg0 --uplink eth0 --max-clients 16777216".into(),
            16_777_216,
        ),
    ];
    for (line, clients) in rows {
        let config = run(&line).to_config(&path).unwrap();
        assert_eq!(config.max_clients(), clients, "{line}");
    }
    for (value, why) in [
        ("0", "0 is not in 1..=16777216"),
        ("16777217", "16777217 is not in 1..=16777216"),
    ] {
        let message = refused(&format!("run --max-clients {value}"));
        assert!(
            message.contains("'--max-clients <N>'") && message.contains(why),
            "{message}"
        );
    }
}

#[test]
fn a_named_file_is_read_and_so_is_the_default_one_where_nothing_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wgxdp.toml");
    std::fs::write(&path, "[[uplink]]\ninterface = 'eth0'\n[[tunnel]]\ninterface = 'wg0'\n").unwrap();
    let named = run(&format!("run --config {}", path.display()))
        .to_config(Path::new(NOWHERE))
        .unwrap();
    assert_eq!(named, run("run").to_config(&path).unwrap());
    assert_eq!(named.uplinks()[0].name.as_str(), "eth0");
}

#[test]
fn with_nothing_to_run_both_ways_are_named() {
    assert_eq!(
        run("run").to_config(Path::new(NOWHERE)).unwrap_err().to_string(),
        "nothing to run: there is no /nonexistent/wgxdp.toml; name a file with --config FILE, or say what to do with flags, such as \
         --tunnel wg0 --uplink eth0 --uplink wwan0"
    );
    // A file that was named must exist: this is no reason to talk about flags.
    let message = run(&format!("run --config {NOWHERE}"))
        .to_config(Path::new(NOWHERE))
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("cannot read /nonexistent/wgxdp.toml: No such file"),
        "{message}"
    );
}

#[test]
fn a_file_and_flags_together_are_refused() {
    for flags in [
        "--tunnel wg0 --uplink eth0",
        "--uplink eth0 --tunnel wg0",
        "--profile fast",
        "--metrics 127.0.0.1:1",
    ] {
        let error = parse(&format!("run --config a.toml {flags}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{flags}: {error}");
    }
    assert_eq!(
        refused("run --config a.toml --tunnel wg0 --uplink eth0"),
        "error: the argument '--config <FILE>' cannot be used with: --tunnel <INTERFACE> --uplink <[NAME=]INTERFACE>"
    );
}

#[test]
fn half_of_the_flags_are_refused() {
    for half in [
        "--tunnel wg0",
        "--uplink eth0",
        "--profile fast",
        "--metrics 127.0.0.1:1",
    ] {
        let error = parse(&format!("run {half}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument, "{half}: {error}");
    }
}

#[test]
fn a_bad_value_is_named_with_its_rule() {
    assert_eq!(
        refused("run --tunnel wg/0 --uplink eth0"),
        "error: invalid value 'wg/0' for '--tunnel <INTERFACE>': not the name of an interface: those have 1 to 15 bytes, without \"/\", \
         \":\" or whitespace"
    );
    assert_eq!(
        refused("run --tunnel wg0 --uplink -a=eth0"),
        "error: unexpected argument '-a' found"
    );
    assert_eq!(
        refused("run --tunnel wg0 --uplink a=b=c=eth0/1"),
        "error: invalid value 'a=b=c=eth0/1' for '--uplink <[NAME=]INTERFACE>': not the name of an interface: those have 1 to 15 bytes, \
         without \"/\", \":\" or whitespace"
    );
    assert_eq!(
        refused("run --tunnel wg0 --uplink eth0 --profile quick"),
        "error: invalid value 'quick' for '--profile <PROFILE>' [possible values: fast, balanced, thrifty]"
    );
    assert_eq!(
        refused("run --tunnel wg0 --uplink eth0 --metrics 9587"),
        "error: invalid value '9587' for '--metrics <ADDR:PORT>': invalid socket address syntax"
    );
    assert_eq!(
        refused("--log wgxdp=loud down"),
        "error: invalid value 'wgxdp=loud' for '--log <FILTER>': write a level (error, warn, info, debug, trace) or a filter such as \
         info,wgxdp=debug"
    );
}

#[test]
fn the_other_commands_are_understood_and_log_is_global() {
    assert_eq!(
        parse("status --json").unwrap().command,
        Command::Status(StatusArgs { json: true })
    );
    assert_eq!(
        parse("status").unwrap().command,
        Command::Status(StatusArgs { json: false })
    );
    assert_eq!(parse("down --log debug").unwrap().log, "debug");
    assert_eq!(parse("--log wgxdp=trace down").unwrap().log, "wgxdp=trace");
    assert_eq!(
        parse("check").unwrap().command,
        Command::Check(CheckArgs {
            config: "/etc/wgxdp/wgxdp.toml".into()
        })
    );
    let Command::Check(check) = parse("check --config /nonexistent").unwrap().command else {
        panic!("check")
    };
    assert!(matches!(check.to_config(), Err(ConfigError::Read { .. })));
    assert_eq!(parse("flush").unwrap_err().kind(), ErrorKind::InvalidSubcommand);
    assert_eq!(
        parse("").unwrap_err().kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
}

#[test]
fn the_examples_in_the_help_can_be_typed() {
    let mut command = Cli::command();
    let run = command
        .find_subcommand_mut("run")
        .unwrap()
        .render_long_help()
        .to_string();
    let text = format!("{}\n{run}", command.render_long_help());
    let examples: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("  wgxdp ")).collect();
    assert!(examples.len() >= 8, "{text}");
    for example in examples {
        let typed = example.split("   ").next().unwrap();
        assert!(parse(typed).is_ok(), "{typed}");
    }
}

#[test]
fn a_reflector_listens_where_it_is_told_and_nowhere_else() {
    let Command::Reflect(arguments) = parse("reflect --listen 0.0.0.0:862 --listen [::1]:8620")
        .unwrap()
        .command
    else {
        panic!("another command")
    };
    assert_eq!(
        arguments.listen,
        ["0.0.0.0:862".parse().unwrap(), "[::1]:8620".parse().unwrap()]
    );
    assert_eq!(parse("reflect").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
    assert_eq!(
        parse("reflect --listen 862").unwrap_err().kind(),
        ErrorKind::ValueValidation
    );
}
