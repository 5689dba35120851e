//! What is taken and what is refused, each with the words of the refusal.

use super::*;

const HELLO: &str = include_str!("../../../image/workloads/hello/pillar.toml");

/// A minimal good file; the cases below spoil it.
const GOOD: &str = r#"
name = "w"
command = ["bin/w"]
[health]
tcp = { port = 80 }
"#;

#[test]
fn the_example_parses() {
    let (workload, builds) = parse(HELLO).expect("the example is good");
    assert_eq!(workload.name, "hello");
    assert_eq!(workload.ports, [8080]);
    assert_eq!(workload.health.check, Check::Http { port: 8080, path: "/health".to_owned() });
    assert_eq!(
        (workload.health.interval_ms, workload.health.timeout_ms, workload.health.failures),
        (5000, 2000, 3)
    );
    assert_eq!(workload.limits, Limits { memory_mib: 64, processes: 16, cpu_percent: 0, open_files: 256 });
    assert_eq!(builds, [Build { package: "pillar-hello".to_owned(), to: "bin/hello".to_owned() }]);
}

#[test]
fn json_round_trips() {
    let command = GOOD.replace("tcp = { port = 80 }", "command = { argv = [\"bin/check\"] }\nfailures = 7");
    for text in [HELLO, GOOD, &command] {
        let (workload, _) = parse(text).expect("good");
        let json = serde_json::to_string(&workload).expect("serialises");
        assert_eq!(serde_json::from_str::<Workload>(&json).expect(&json), workload, "{json}");
    }
}

#[test]
fn json_with_unknown_keys_or_two_checks_is_refused() {
    let json = serde_json::to_string(&parse(GOOD).expect("good").0).expect("serialises");
    for (from, to, want) in [
        (r#""tcp":"#, r#""shell":true,"tcp":"#, "unknown field `shell`"),
        (r#""port":80"#, r#""port":80,"host":"x""#, "unknown field `host`"),
        (r#""tcp":"#, r#""command":{"argv":["x"]},"tcp":"#, "exactly one check"),
        (r#""tcp":{"port":80},"#, "", "exactly one check (http, tcp or command), found 0"),
    ] {
        let spoilt = json.replace(from, to);
        assert_ne!(spoilt, json, "{from}");
        let error = serde_json::from_str::<Workload>(&spoilt).expect_err(&spoilt).to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn bad_files_are_refused_with_the_reason() {
    let name = "name = \"w\"";
    let command = "command = [\"bin/w\"]";
    let check = "tcp = { port = 80 }";
    let long = format!("command = [\"bin/w\", \"{}\"]", "x".repeat(4097));
    let many =
        format!("ports = [{}]\n{command}", (1..=65).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    #[rustfmt::skip]
    let table: &[(&str, &str, &str)] = &[
        // Form.
        ("name = ", "name ", "line 2: `name \"w\"`: "),
        (name, "", "missing field `name`"),
        (command, "", "missing field `command`"),
        ("[health]\ntcp = { port = 80 }", "", "missing field `health`"),
        (name, "name = \"w\"\nnmae = \"v\"", "line 3: `nmae = \"v\"`: unknown field `nmae`, expected one of `name`, `command`, `environment`"),
        (check, "tcp = { port = 80, host = \"x\" }", "unknown field `host`, expected `port`"),
        (check, "tcp = { port = 80 }\ninterval = 5", "unknown field `interval`"),
        (check, "tcp = { port = 80 }\n[limits]\nmemory = 5", "unknown field `memory`, expected one of `memory_mib`"),
        (command, "command = \"bin/w\"", "line 3: `command = \"bin/w\"`: invalid type"),
        (check, "tcp = { port = \"80\" }", "line 5: `tcp = { port = \"80\" }`: invalid type"),
        // Name.
        (name, "name = \"\"", "`name` is empty: it must be a host name label"),
        (name, "name = \"My App\"", "`name` is \"My App\": it must be a host name label: 1 to 63 of a-z, 0-9 and -"),
        (name, "name = \"-w\"", "`name` is \"-w\""),
        // Command.
        (command, "command = []", "`command` is empty: it must name a program"),
        (command, "command = [\"\"]", "`command[0]` is empty: it must be the program's path"),
        (command, "command = [\"../w\"]", "`command[0]` is \"../w\": it must be the program's path inside"),
        (command, "command = [\"/usr/../bin/w\"]", "without empty, . or .. parts"),
        (command, "command = [\"bin/w\", \"a\\u0000b\"]", "`command[1]` is \"a?b\": it must not contain a NUL character"),
        (command, &long, "`command[1]` is 4097 bytes long: at most 4096 are allowed"),
        // Environment.
        (check, "tcp = { port = 80 }\n[environment]\n1A = \"x\"", "`environment.1A` is not a variable's name"),
        (check, "tcp = { port = 80 }\n[environment]\n\"A=B\" = \"x\"", "`environment.A=B` is not a variable's name: a name is 1 to 128 of"),
        (check, "tcp = { port = 80 }\n[environment]\nA = 5", "invalid type: integer `5`, expected a string"),
        // Health.
        (check, "", "`[health]` needs exactly one check, found 0: http = { port, path }"),
        (check, "tcp = { port = 80 }\nhttp = { port = 80, path = \"/\" }", "needs exactly one check, found 2"),
        (check, "tcp = { port = 0 }", "`health.tcp.port` is 0: allowed are 1 to 65535"),
        (check, "http = { port = 65536, path = \"/\" }", "`health.http.port` is 65536: allowed are 1 to 65535"),
        (check, "http = { port = 80, path = \"health\" }", "`health.http.path` is \"health\": it must begin with /"),
        (check, "http = { port = 80, path = \"/a b\" }", "without spaces"),
        (check, "http = { port = 80, path = \"/a\\r\\nb\" }", "`health.http.path` is \"/a??b\""),
        (check, "command = { argv = [] }", "`health.command.argv` is empty"),
        (check, "tcp = { port = 80 }\ninterval_ms = 5", "`health.interval_ms` is 5: allowed are 100 to 3600000"),
        (check, "tcp = { port = 80 }\ntimeout_ms = 60001", "`health.timeout_ms` is 60001: allowed are 10 to 60000"),
        (check, "tcp = { port = 80 }\nfailures = -1", "`health.failures` is -1: allowed are 1 to 100"),
        // Ports.
        (command, "command = [\"bin/w\"]\nports = [0]", "`ports[0]` is 0: allowed are 1 to 65535"),
        (command, "command = [\"bin/w\"]\nports = [80, 81, 80]", "`ports[2]` is 80: it is in the list already"),
        (command, "command = [\"bin/w\"]\nports = [7443]", "`ports[0]` is 7443: that port is the agent's"),
        (command, &many, "`ports` is 65 entries long: at most 64 are allowed"),
        // Limits.
        (check, "tcp = { port = 80 }\n[limits]\nmemory_mib = 0", "`limits.memory_mib` is 0: allowed are 4 to 1048576"),
        (check, "tcp = { port = 80 }\n[limits]\nprocesses = 0", "`limits.processes` is 0: allowed are 1 to 32768"),
        (check, "tcp = { port = 80 }\n[limits]\ncpu_percent = -5", "`limits.cpu_percent` is -5: allowed are 0 to 102400"),
        (check, "tcp = { port = 80 }\n[limits]\nopen_files = 3", "`limits.open_files` is 3: allowed are 16 to 1048576"),
        // Writable directories.
        (command, "command = [\"bin/w\"]\nwritable = [\"var/x\"]", "`writable[0]` is \"var/x\": it must be an absolute path"),
        (command, "command = [\"bin/w\"]\nwritable = [\"/\"]", "`writable[0]` is \"/\": it must be an absolute path"),
        (command, "command = [\"bin/w\"]\nwritable = [\"/var/../usr\"]", "without empty, . or .. parts"),
        (command, "command = [\"bin/w\"]\nwritable = [\"/var/x/\"]", "without empty, . or .. parts"),
        (command, "command = [\"bin/w\"]\nwritable = [\"/usr/lib/x\"]", "`writable[0]` is \"/usr/lib/x\": /usr is not the workload's to write"),
        (command, "command = [\"bin/w\"]\nwritable = [\"/proc\"]", "/proc is not the workload's to write"),
        (command, "command = [\"bin/w\"]\nwritable = [\"/var/x\", \"/var/x/y\"]", "`writable[1]` is \"/var/x/y\": it overlaps \"/var/x\""),
        // Builds.
        (check, "tcp = { port = 80 }\n[[build]]\npackage = \"--release\"\nto = \"x\"", "`build[0].package` is \"--release\""),
        (check, "tcp = { port = 80 }\n[[build]]\npackage = \"p\"\nto = \"/bin/x\"", "`build[0].to` is \"/bin/x\": it must be a path inside"),
        (check, "tcp = { port = 80 }\n[[build]]\npackage = \"p\"\nto = \"x/../../y\"", "`build[0].to` is \"x/../../y\""),
        (check, "tcp = { port = 80 }\n[[build]]\npackage = \"p\"\nto = \"x\"\n[[build]]\npackage = \"q\"\nto = \"x\"", "`build[1].to` is \"x\": another [[build]] goes there"),
        (check, "tcp = { port = 80 }\n[[build]]\npackage = \"p\"", "missing field `to`"),
    ];
    for (good, bad, want) in table {
        let text = GOOD.replace(good, bad);
        assert_ne!(text, GOOD, "{good} is part of the good file");
        let error = parse(&text).expect_err(&text).to_string();
        assert!(error.contains(want), "for {bad:?}\n  got  {error}\n  want {want}");
    }
}

#[test]
fn a_file_over_the_limit_is_refused_before_it_is_parsed() {
    let text = format!("{GOOD}# {}", "x".repeat(limit::FILE_BYTES));
    assert!(matches!(parse(&text), Err(Error::TooLarge { .. })));
}

#[test]
fn paths_that_only_look_sealed_are_taken() {
    let text = GOOD.replace("[health]", "writable = [\"/users/x\", \"/var/lib/w\", \"/tmp/w\"]\n[health]");
    assert_eq!(parse(&text).expect("good").0.writable.len(), 3);
}
