//! A running web service, and its answers.

use std::time::Duration;

use eventstore_sqlite::rusqlite::Connection;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::common::{File, Process};

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    async fn of(response: Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        Ok(Self { status, headers, body })
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status and body; asserts that it is a problem as RFC 9457 has it.
    #[track_caller]
    pub fn problem(&self) -> (u16, &Value) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:#?}");
        assert_eq!(self.body["status"], self.status.as_u16(), "{self:#?}");
        assert_eq!(
            (&self.body["type"], &self.body["title"]),
            (&json!("about:blank"), &json!(self.status.canonical_reason()))
        );
        (self.status.as_u16(), &self.body)
    }
}

/// A running service. It is killed when this is dropped.
pub struct Web {
    pub process: Process,
    pub address: String,
    client: Client,
}

impl Web {
    /// Starts it on a free port, and waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let process = Process::start(env!("CARGO_BIN_EXE_web"), &arguments, &[]);
        process.until(&["listening on http://"]);
        let said = process.stdout();
        let address = said.iter().find_map(|line| line.strip_prefix("listening on http://")).unwrap().to_owned();
        let client = Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Self { process, address, client }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(self.url(path)).send().await.unwrap()).await.unwrap()
    }

    /// `POST /users`.
    pub async fn post(&self, user: &Value) -> Answer {
        self.try_post(user).await.unwrap()
    }

    /// `POST /users`; an error if no answer came.
    pub async fn try_post(&self, user: &Value) -> reqwest::Result<Answer> {
        Answer::of(self.client.post(self.url("/users")).json(user).send().await?).await
    }

    /// `POST /users` with the header `Idempotency-Key`.
    pub async fn post_once(&self, key: &str, user: &Value) -> Answer {
        let request = self.client.post(self.url("/users")).header("idempotency-key", key).json(user);
        Answer::of(request.send().await.unwrap()).await.unwrap()
    }

    /// `POST /users` with any body.
    pub async fn post_text(&self, content_type: &str, text: impl Into<reqwest::Body>) -> Answer {
        let request = self.client.post(self.url("/users")).header("content-type", content_type);
        Answer::of(request.body(text).send().await.unwrap()).await.unwrap()
    }

    pub async fn register(&self, name: &str, email: &str) -> Answer {
        self.post(&json!({ "name": name, "email": email })).await
    }

    /// Asks again until the answer has this status.
    pub async fn until_status(&self, path: &str, status: u16) -> Answer {
        self.until(path, |answer| answer.status.as_u16() == status).await
    }

    /// Repeats the request until the answer is the expected one.
    pub async fn until(&self, path: &str, is_it: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.get(path).await;
            if is_it(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "{answer:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it by a signal; returns `true` if it succeeded.
    pub fn end(&mut self, signal: &str) -> bool {
        self.process.signal(signal);
        self.process.end().success()
    }
}

pub async fn connect(database: &eventbus_test::Postgres) -> PgConnection {
    <PgConnection as sqlx::Connection>::connect(database.url()).await.unwrap()
}

/// The recipients in the order of their first mail, each with its number of mails.
pub async fn mails(database: &eventbus_test::Postgres) -> Vec<(String, i64)> {
    let count = "SELECT recipient, count(*) FROM welcome_mails GROUP BY recipient ORDER BY min(id)";
    sqlx::query_as(count).fetch_all(&mut connect(database).await).await.unwrap()
}

/// The recipients of the mails, in order.
pub fn recipients(file: &File) -> Vec<String> {
    let table = Connection::open(file.path()).unwrap();
    let mut rows = table.prepare("SELECT recipient FROM welcome_mails ORDER BY id").unwrap();
    rows.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}
