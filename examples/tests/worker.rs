//! Workers and their publisher, as their users run them.

mod common;

use common::{File, Process, Stream, printed, run};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

fn publish(stream: &Stream, count: u64) -> String {
    let count = count.to_string();
    let arguments = [&stream.arguments()[..], &["--count", &count, "--event", "TaskAssigned"]].concat();
    printed(&run(env!("CARGO_BIN_EXE_publisher"), &arguments))
}

fn worker(stream: &Stream, name: &str, more: &[&str], environment: &[(&str, &str)]) -> Process {
    let arguments = [&stream.arguments()[..], &["--group", "workers", "--consumer", name], more].concat();
    let worker = Process::start(env!("CARGO_BIN_EXE_worker"), &arguments, environment);
    worker.until(&[&format!("{name} joined workers of {}:stream", stream.prefix)]);
    worker
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn two_workers_share_the_events() {
    let mut stream = Stream::new();
    let start = |name| worker(&stream, name, &[], &[]);
    let mut workers = [start("worker-1"), start("worker-2")];
    let handled = |workers: &[Process]| -> Vec<String> { workers.iter().flat_map(Process::stdout).collect() };
    // on a busy machine one of them may take most of a hundred
    for published in 1..=20 {
        let said = publish(&stream, 100);
        assert!(said.starts_with("published 100 events, ") && said.contains("-0 to "), "{said}");
        let all = || handled(&workers).len() >= published * 100;
        assert!(common::until(all), "{:#?}", workers.each_ref().map(Process::stderr));
        if workers.iter().all(|worker| worker.stdout().len() >= 20) {
            break;
        }
    }
    for (worker, name) in workers.iter_mut().zip(["worker-1", "worker-2"]) {
        worker.signal("-TERM");
        assert!(worker.end().success());
        let share = worker.stdout().len();
        assert!(share >= 20, "{name} got {share} events");
        let split = format!("{name} is done: {share} events handled, 0 given up");
        assert_eq!(worker.stderr().last(), Some(&split));
    }
    assert_eq!(sorted(handled(&workers)), sorted(stream.payloads()), "each exactly once, as it is on the stream");
    assert_eq!(stream.pending("workers"), 0, "all acknowledged");
}

#[test]
fn a_worker_that_has_had_enough_leaves_the_rest_to_others() {
    let mut stream = Stream::new();
    publish(&stream, 10);
    let mut first = worker(&stream, "first", &["--exit-after", "3"], &[]);
    assert!(first.end().success());
    let mut second = worker(&stream, "second", &["--exit-after", "7"], &[]);
    assert!(second.end().success());
    let handled = sorted([first.stdout(), second.stdout()].concat());
    assert_eq!(handled, sorted(stream.payloads()), "each exactly once");
    assert_eq!(stream.pending("workers"), 0);
}

#[test]
fn a_worker_that_is_to_handle_nothing_ends_and_takes_nothing() {
    let mut stream = Stream::new();
    publish(&stream, 3);
    for more in [&["--exit-after", "0"][..], &["--exit-after", "0", "--fail"]] {
        let mut worker = worker(&stream, "idle", more, &[]);
        assert!(worker.end().success());
        assert_eq!(worker.stderr().last().unwrap(), "idle is done: 0 events handled, 0 given up");
    }
    assert_eq!(stream.payloads().len(), 3);
    let groups: Vec<redis::Value> = stream.run("XINFO GROUPS {}:stream");
    assert_eq!(groups, [], "it has joined no group");
    let mut next = worker(&stream, "next", &["--exit-after", "3"], &[]);
    assert!(next.end().success());
    assert_eq!(next.stdout(), stream.payloads());
}

/// Fails if the publisher gives the tutorial's types other fields, or another aggregate, than the tutorial does.
#[test]
fn the_publisher_publishes_the_orders_of_the_tutorial() {
    let (mut published, mut tutorial) = (Stream::new(), Stream::new());
    for event in ["OrderCreated", "OrderShipped"] {
        let arguments = [&published.arguments()[..], &["--count", "1", "--event", event]].concat();
        printed(&run(env!("CARGO_BIN_EXE_publisher"), &arguments));
    }
    printed(&run(env!("CARGO_BIN_EXE_tutorial-17"), &tutorial.arguments()));
    let prefix = tutorial.prefix.clone();
    tutorial.prefix = format!("{prefix}4"); // its fourth demonstration publishes both
    let shape = |payload: &String| {
        let mut payload: serde_json::Value = serde_json::from_str(payload).unwrap();
        let fields = payload.as_object_mut().unwrap();
        let names = ["event_type", "aggregate_type"].map(|name| fields[name].as_str().unwrap().to_owned());
        (names, fields.iter().map(|(name, value)| (name.clone(), std::mem::discriminant(value))).collect::<Vec<_>>())
    };
    let shapes = |stream: &mut Stream| stream.payloads().iter().map(shape).collect::<Vec<_>>();
    let (published, tutorial) = (shapes(&mut published), shapes(&mut tutorial));
    assert_eq!((published.len(), published), (2, tutorial));
}

/// A variable that no program reads does not stop the worker; one warning names it and the nearest known name.
#[test]
fn a_mistyped_variable_is_told_once_with_the_nearest_name() {
    let stream = Stream::new();
    let environment = [("EVENTBUS_BATCHSIZE", "sEcReT")];
    let mut worker = worker(&stream, "typo", &["--exit-after", "0"], &environment);
    assert!(worker.end().success());
    let told: Vec<_> = worker.stderr().into_iter().filter(|line| line.contains("EVENTBUS_BATCHSIZE")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("EVENTBUS_BATCH_SIZE") && !told[0].contains("sEcReT"), "{told:?}");
}

/// `--bus rediss://…`, and the authority from the environment: fails if the examples cannot speak TLS, or if a variable
/// is checked before the URL is known.
#[test]
fn a_worker_and_a_publisher_speak_tls_with_the_authority_that_a_variable_names() {
    let (authority, certificate, key) = (File::new("ca.pem"), File::new("server.pem"), File::new("server.key"));
    let mut issuer = CertificateParams::default();
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(issuer, KeyPair::generate().unwrap()).unwrap();
    let server_key = KeyPair::generate().unwrap();
    let shown = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    for (file, text) in [(&authority, issuer.pem()), (&certificate, shown.pem()), (&key, server_key.serialize_pem())] {
        std::fs::write(file.path(), text).unwrap();
    }
    let port = eventbus_test::internal::closed_port().to_string();
    let listen = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-ca-cert-file", authority.path()];
    let show = ["--tls-cert-file", certificate.path(), "--tls-key-file", key.path()];
    let server = eventbus_test::private_redis_with(&[&listen[..], &show].concat());
    let mut stream = Stream::on(server.url());
    let (url, environment) = (format!("rediss://127.0.0.1:{port}"), [("EVENTBUS_TLS_CA_FILE", authority.path())]);
    let bus = ["--bus", &url, "--prefix", &stream.prefix];

    let worker_of = |environment: &[(&str, &str)]| {
        let more = ["--group", "workers", "--consumer", "tls", "--exit-after", "2"];
        Process::start(env!("CARGO_BIN_EXE_worker"), &[&bus[..], &more].concat(), environment)
    };
    let mut stranger = worker_of(&[]);
    assert!(!stranger.end().success(), "nobody on this machine trusts that authority");
    stranger.until(&["certificate"]);
    let mut worker = worker_of(&environment);
    worker.until(&[&format!("tls joined workers of {}:stream", stream.prefix)]);
    let publish = [&bus[..], &["--count", "2", "--event", "TaskAssigned"]].concat();
    let mut publisher = Process::start(env!("CARGO_BIN_EXE_publisher"), &publish, &environment);
    assert!(publisher.end().success(), "{:#?}", publisher.stderr());
    assert!(worker.end().success());
    assert_eq!(sorted(worker.stdout()), sorted(stream.payloads()));
    assert_eq!((stream.payloads().len(), stream.pending("workers")), (2, 0));
}

#[test]
fn what_others_published_is_printed_as_they_wrote_it() {
    const PAYLOAD: &str = r#"{"event_id":"2376693e-5be9-4a85-a652-862d4b54c52d","event_type":"Größe","event_version":2,"occurred_at":"2026-11-20T06:57:24.243021Z","aggregate_id":"cd78027b-d3ec-44e7-8c0a-2d37ca2beef6","aggregate_type":"T","aggregate_version":7,"tenant_id":null,"actor_id":"Zoë","correlation_id":"cd78027b-d3ec-44e7-8c0a-2d37ca2beef6","causation_id":null,"metadata":{"b":1,"a":[]},"z":1.50,"a":{"y":null,"x":"\u00e9"}}"#;
    let mut stream = Stream::new();
    let _: String = stream.run(&format!("XADD {{}}:stream * event_type Größe payload {PAYLOAD}"));
    let mut worker = worker(&stream, "reader", &["--exit-after", "1"], &[]);
    assert!(worker.end().success());
    assert_eq!(worker.stdout(), [PAYLOAD]);
}

#[test]
fn what_a_worker_fails_ends_in_the_dead_letters() {
    let mut stream = Stream::new();
    publish(&stream, 3);
    let environment = [("EVENTBUS_MAX_RETRIES", "1"), ("EVENTBUS_RETRY_DELAY_MS", "1")];
    let mut worker = worker(&stream, "failing", &["--fail", "--exit-after", "3"], &environment);
    assert!(worker.end().success());
    assert_eq!(worker.stdout(), Vec::<String>::new());
    let fails = worker.stderr().iter().filter(|line| line.starts_with("failing fails TaskAssigned ")).count();
    assert_eq!(fails, 6, "each twice");
    assert_eq!(worker.stderr().last().unwrap(), "failing is done: 0 events handled, 3 given up");
    assert_eq!(stream.run::<u64>("XLEN {}:stream_dlq"), 3);
    assert_eq!(stream.pending("workers"), 0);
}
