//! How clients reach a PostgreSQL server, and their rights.

use std::time::Duration;

use eventbus::{ExpectedVersion, Name, NewEvent, StreamId};
use eventbus_cli::doctor::{Doctor, DoctorConfig, Severity::*};
use eventstore_postgres::{
    PgEventStore,
    sqlx::{Connection as _, Executor as _, PgConnection},
};
use rcgen::{CertificateParams, KeyPair};

use super::{
    common::{
        Store, config, expect_finding, expect_findings, expect_healthy, expect_only, of_security_page, pool, run_sql,
        serious, until,
    },
    postgres_server::Server,
};

#[tokio::test]
async fn a_connection_without_tls_over_an_untrusted_network_is_found() {
    let store = Store::new().await;
    expect_healthy(&store.doctor(), "pg-tls").await;
    let strict = store.doctor().config(DoctorConfig { trusted_networks: Vec::new(), ..config() });
    expect_finding(&strict, "pg-tls", Warning, "the connection to 127.0.0.1 has no TLS").await;
}

#[tokio::test]
async fn a_connection_with_tls_may_cross_any_network() {
    let server = eventbus_test::private_postgres();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    // the server writes its files: its folder may belong to a different user
    for (file, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
        let lines = format!("SELECT unnest(string_to_array($${}$$, chr(10)))", text.trim());
        run_sql(server.url(), &format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {file}'")).await;
    }
    run_sql(server.url(), "ALTER SYSTEM SET ssl = on").await;
    run_sql(server.url(), "SELECT pg_reload_conf()").await;
    let encrypted = pool(&format!("{}?sslmode=require", server.url()));
    until("the server offers TLS", async || encrypted.acquire().await.is_ok()).await;
    let doctor = |pool| {
        Doctor::new().config(DoctorConfig { trusted_networks: Vec::new(), ..config() }).postgres(pool, "eventbus")
    };
    expect_healthy(&doctor(encrypted), "pg-tls").await;
    let plain = pool(&format!("{}?sslmode=disable", server.url()));
    expect_finding(&doctor(plain), "pg-tls", Warning, "the connection to 127.0.0.1 has no TLS").await;
}

#[tokio::test]
async fn rules_that_need_no_password_are_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-hba").await;
    // the server writes the line: its folder may belong to a different user; the address is one for documentation
    for rule in ["host all all 192.0.2.0/24 trust", "host all all 192.0.2.0/24 password"] {
        let add = format!(
            "CREATE TABLE IF NOT EXISTS rules (rule text); TRUNCATE rules; INSERT INTO rules VALUES ('{rule}');
             DO $$ BEGIN EXECUTE format('COPY rules TO PROGRAM %L',
                 'cat >> \"' || current_setting('hba_file') || '\"'); END $$"
        );
        run_sql(server.url(), &add).await;
    }
    let report = expect_findings(&server.doctor(), "pg-hba").await;
    let [trust, password] = report.findings() else { panic!("{report}") };
    assert_eq!((trust.finding.severity, password.finding.severity), (Fault, Warning), "{report}");
    assert!(trust.finding.finding.contains("192.0.2.0 255.255.255.0 trust"), "{report}");
    // the file lists them until the lines are removed, loaded or not; the server fails if its rows are not read
    let remove = "DO $$ BEGIN EXECUTE format('COPY rules TO PROGRAM %L',
        'cat >/dev/null; sed -i /192.0.2.0/d \"' || current_setting('hba_file') || '\"'); END $$; DROP TABLE rules";
    run_sql(server.url(), remove).await;
    expect_healthy(&server.doctor(), "pg-hba").await;
}

/// Returns a role of the test's own, and the URL with which it connects.
async fn role(store: &Store, options: &str) -> (String, String) {
    let role = eventbus_test::unique_name("app");
    run_sql(store.url(), &format!("CREATE ROLE {role} LOGIN {options}")).await;
    let url = store.url().replace("postgres://postgres@", &format!("postgres://{role}@"));
    assert!(url.contains(&role), "the tests' server has the user `postgres`: {url}");
    (role, url)
}

/// The statements of SECURITY.md.
fn grants(role: &str) -> String {
    of_security_page("sql", "GRANT USAGE").replace(" app;", &format!(" {role};"))
}

/// The statement of SECURITY.md for the role of an operator.
fn grants_to_operator(role: &str, operator: &str) -> String {
    let grants = of_security_page("sql", "GRANT app");
    grants.replace("GRANT app", &format!("GRANT {role}")).replace("TO operator", &format!("TO {operator}"))
}

#[tokio::test]
async fn rights_that_the_application_lacks_are_found() {
    let store = Store::new().await;
    let (role, url) = role(&store, "").await;
    let doctor = store.doctor().config(DoctorConfig { app_role: Some(role.clone()), ..config() });
    run_sql(store.url(), &grants(&role)).await;
    expect_healthy(&doctor, "pg-rights-few").await;
    // as the application itself
    let as_app = store.doctor().postgres(pool(&url), "eventbus");
    expect_healthy(&as_app, "pg-rights-few").await;
    let revoked = "REVOKE UPDATE ON checkpoints FROM {role}; REVOKE USAGE ON SEQUENCE events_position_seq FROM {role}";
    store.run(&revoked.replace("{role}", &role)).await;
    let found = expect_finding(&doctor, "pg-rights-few", Fault, &format!("the role `{role}` lacks rights")).await;
    let missing = ["UPDATE on \"eventbus\".checkpoints", "USAGE on SEQUENCE \"eventbus\".events_position_seq"];
    assert_eq!(found.finding.observed["missing"], serde_json::json!(missing));
    expect_finding(&as_app, "pg-rights-few", Fault, "lacks rights").await;
    store.run(&found.finding.repair).await;
    expect_healthy(&as_app, "pg-rights-few").await;
    let unknown = store.doctor().config(DoctorConfig { app_role: Some("nemo".into()), ..config() });
    let report = unknown.only(["pg-rights-few"]).unwrap().run().await;
    assert_eq!(report.not_checked()[0].reason, "there is no role `nemo`");
    store.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn rights_to_change_events_are_found() {
    let store = Store::new().await;
    let (role, url) = role(&store, "").await;
    run_sql(store.url(), &grants(&role)).await;
    run_sql(store.url(), &format!("GRANT UPDATE (tags) ON eventbus.events TO {role}")).await;
    expect_healthy(&store.doctor(), "pg-rights-many").await;
    // any role sees them
    expect_healthy(&store.doctor().postgres(pool(&url), "eventbus"), "pg-rights-many").await;
    let found = store
        .broken_by("GRANT DELETE ON events TO PUBLIC", "pg-rights-many", Warning, "`PUBLIC` has DELETE on `events`")
        .await;
    store.run(&found.finding.repair).await;
    let column = format!("GRANT UPDATE (payload) ON events TO {role}");
    let found = store
        .broken_by(&column, "pg-rights-many", Warning, &format!("`{role}` has UPDATE (payload) on `events`"))
        .await;
    store.run(&found.finding.repair).await;
    expect_healthy(&store.doctor(), "pg-rights-many").await;

    // a partition, which lies in a schema of its own
    run_sql(
        store.url(),
        "CREATE SCHEMA \"old Parts\";
         CREATE TABLE eventbus.parts (LIKE eventbus.events INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE (position);
         CREATE TABLE \"old Parts\".events_1 PARTITION OF eventbus.parts FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         ALTER SEQUENCE eventbus.events_position_seq OWNED BY NONE;
         DROP TABLE eventbus.events;
         ALTER TABLE eventbus.parts RENAME TO events",
    )
    .await;
    expect_healthy(&store.doctor(), "pg-rights-many").await;
    let partition = "\"old Parts\".events_1";
    run_sql(store.url(), &format!("GRANT DELETE, UPDATE (payload) ON {partition} TO {role}")).await;
    let text = format!("`{role}` has DELETE, UPDATE (payload) on `events_1`");
    let found = expect_finding(&store.doctor(), "pg-rights-many", Warning, &text).await;
    store.run(&found.finding.repair).await;
    expect_healthy(&store.doctor(), "pg-rights-many").await;
    store.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_superuser_is_noted() {
    let store = Store::new().await;
    expect_only(&store.doctor(), "pg-superuser", Note, "`postgres` is a superuser").await;
    let (role, url) = role(&store, "").await;
    expect_healthy(&store.doctor().postgres(pool(&url), "eventbus"), "pg-superuser").await;
    store.run(&format!("DROP ROLE {role}")).await;
}

/// What a role may not see is reported, not passed over.
#[tokio::test]
async fn what_a_role_may_not_see_is_not_healthy() {
    let store = Store::new().await;
    let (role, url) = role(&store, "").await;
    run_sql(store.url(), &grants(&role)).await;
    run_sql(store.url(), &format!("REVOKE SELECT ON eventbus.handler_rows FROM {role}")).await;
    // a session of a different role, which that role may not see
    let mut left = PgConnection::connect(store.url()).await.unwrap();
    left.execute("BEGIN").await.unwrap();
    let events = PgEventStore::connect(store.url()).await.unwrap();
    let event = NewEvent::new(Name::from_static("Deposited"), 1, "{}");
    let stream = StreamId::parse("Account", "eve").unwrap();
    events.append_in(&mut left, &stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    let report = store.doctor().postgres(pool(&url), "eventbus").run().await;
    let reason = |check: &str| {
        let not_checked = report.not_checked().iter().find(|not_checked| not_checked.check == check);
        not_checked.unwrap_or_else(|| panic!("{check}: {report}")).reason.clone()
    };
    assert!(reason("pg-dead-letter-age").starts_with("the role lacks a right: permission denied"), "{report}");
    // only a superuser may read it
    let hidden = report.skipped().iter().find(|skipped| skipped.check == "pg-hba").unwrap();
    assert!(hidden.reason.starts_with("only a superuser may read"), "{report}");
    assert!(reason("pg-disk").starts_with("the role lacks a right"), "{report}");
    assert!(reason("pg-long-transaction").contains("sessions of different roles are hidden"), "{report}");
    assert!(reason("pg-open-append").contains("of a different role is hidden"), "{report}");
    assert!(report.to_string().contains("NOT CHECKED pg-disk "), "{report}");

    // an operator sees these sessions
    run_sql(store.url(), &format!("GRANT SELECT ON eventbus.handler_rows TO {role}")).await;
    let operator = eventbus_test::unique_name("operator");
    run_sql(store.url(), &format!("CREATE ROLE {operator} LOGIN; {}", grants_to_operator(&role, &operator))).await;
    let of_operator = pool(&url.replace(&role, &operator));
    let of_operator = store.doctor().postgres(of_operator, "eventbus");
    let report = of_operator.run().await;
    assert_eq!((report.not_checked(), serious(&report)), (&[][..], vec![]), "{report}");
    let strict = DoctorConfig { long_transaction: Duration::ZERO, app_role: Some(role.clone()), ..config() };
    let strict = of_operator.config(strict);
    expect_findings(&strict, "pg-long-transaction").await;
    expect_healthy(&strict, "pg-rights-few").await;
    left.close().await.unwrap();
    events.close().await;
    store.run(&format!("DROP ROLE {operator}; DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
