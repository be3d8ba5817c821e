//! The tutorial prints the lines of its page, except for identifiers, times and the split between workers.

mod common;

use std::process::Output;

use common::run;

fn tutorial(arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_tutorial-17"), arguments)
}

/// The non-empty lines, with placeholders for the parts that differ from run to run.
fn normalized(output: &Output, prefix: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| normalize(line, prefix)).collect()
}

fn normalize(line: &str, prefix: &str) -> String {
    let line = line.replace(prefix, "<prefix>");
    if let Some((before, _)) = line.split_once(" at 20") {
        return format!("{before} at <time>");
    }
    let split = line.starts_with("Worker ");
    let word = |word: &str| {
        let id = word.trim_end_matches("...");
        let rest = &word[id.len()..];
        let hex = |c: char| c.is_ascii_hexdigit() || c == '-';
        if id.len() >= 8 && id.chars().all(hex) && id.chars().any(|c| c.is_ascii_digit()) {
            return format!("<id>{rest}");
        }
        if split && word.chars().all(|c| c.is_ascii_digit()) { "<n>".into() } else { word.to_owned() }
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Demo 2: each of the two workers gets its share of the six events. Both ask the server every 20 ms, so one may
/// happen to get all of them, but not five times in a row.
fn assert_shared(mut run: impl FnMut() -> Output) {
    let mut shares = Vec::new();
    for _ in 0..5 {
        let output = run();
        let text = String::from_utf8_lossy(&output.stdout);
        let share = |worker: &str| {
            let share = text.lines().find_map(|line| line.trim().strip_prefix(worker)?.strip_suffix(" events"))?;
            share.rsplit(' ').next()?.parse::<u32>().ok()
        };
        let (Some(one), Some(two)) = (share("Worker 1"), share("Worker 2")) else {
            panic!("no shares are printed: {text}");
        };
        assert_eq!(one + two, 6, "{text}");
        if one > 0 && two > 0 {
            return;
        }
        shares.push((one, two));
    }
    panic!("one worker got everything each time: {shares:?}");
}

fn assert_prints(output: &Output, prefix: &str, expected: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors, "", "nothing is logged at the level of warnings");
    let expected: Vec<_> = expected.lines().collect();
    let printed = normalized(output, prefix);
    for (at, (printed, expected)) in printed.iter().zip(&expected).enumerate() {
        assert_eq!(printed, expected, "line {} of {printed:#?}", at + 1);
    }
    assert_eq!(printed.len(), expected.len(), "{printed:#?}");
}

#[test]
fn the_short_edition_prints_the_expected_output() {
    assert_shared(|| {
        let prefix = eventbus_test::unique_name("tutorial");
        let output = tutorial(&["--bus", eventbus_test::redis_url(), "--prefix", &prefix]);
        assert_prints(&output, &prefix, include_str!("expected/tutorial-17-short.txt"));
        output
    });
}

#[test]
fn the_long_edition_prints_its_own_lines() {
    assert_shared(|| {
        let prefix = eventbus_test::unique_name("tutorial");
        let output = tutorial(&["--bus", eventbus_test::redis_url(), "--prefix", &prefix, "--edition", "long"]);
        assert_prints(&output, &prefix, include_str!("expected/tutorial-17-long.txt"));
        output
    });
}

#[test]
fn without_redis_it_says_how_to_start_one() {
    let url = format!("redis://:secret@127.0.0.1:{}", eventbus_test::internal::closed_port());
    let output = tutorial(&["--bus", &url]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("docker run -d --name redis -p 6379:6379 redis:7-alpine"), "{errors}");
    assert!(errors.contains("127.0.0.1") && !errors.contains("secret"), "{errors}");
}

#[test]
fn the_repository_saves_publishes_projects_and_rebuilds() {
    let prefix = eventbus_test::unique_name("tutorial");
    let database = eventbus_test::postgres();
    let output =
        tutorial(&["repository", "--store", database.url(), "--bus", eventbus_test::redis_url(), "--prefix", &prefix]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in ["created: version 1, position 1, published as ", "shipped: version 2, position 2, published as "] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.contains("total_orders: 1, total_revenue: 99.99, shipped_count: 1"), "{text}");
    assert!(text.contains("equal: true"), "{text}");
}
